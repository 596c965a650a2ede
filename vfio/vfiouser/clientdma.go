package vfiouser

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// pageSize is the granularity of MapDMA. There is no IOMMU that would give another
// one; this suits servers that map what they get.
const pageSize = 4096

// A dmaMemory is memory that the server may reach, at first to last.
type dmaMemory struct {
	first, last uint64
	mem         []byte // borrowed from MapDMA to UnmapDMA
}

// PageSize is vfio.Device.PageSize.
func (c *client) PageSize() uint64 { return pageSize }

// Ranges is vfio.Device.Ranges: all but the window in which x86 sees interrupts, and
// the last page, so that no range ends at 2^64.
func (c *client) Ranges() []vfio.Range {
	return []vfio.Range{
		{First: 0, Last: 0xfedf_ffff},
		{First: 0xfef0_0000, Last: 0xffff_ffff_ffff_efff},
	}
}

// MapDMA is vfio.Device.MapDMA. Without a file the server reaches mem by messages, if
// it does so at all.
func (c *client) MapDMA(iova vfio.IOVA, mem []byte, file *fd.FD, off int64) error {
	r := dmaRange{flags: dmaRead | dmaWrite, address: uint64(iova), size: uint64(len(mem)), offset: uint64(off)}
	last, err := r.last()
	if err != nil {
		return fmt.Errorf("map DMA memory: %w", err)
	}
	if off < 0 || (r.address|r.size|r.offset)%pageSize != 0 || !slices.ContainsFunc(c.Ranges(), func(w vfio.Range) bool {
		return iova >= w.First && last <= uint64(w.Last)
	}) {
		return fmt.Errorf("map %#x bytes of DMA memory at %#x, from %#x of the file: %w", r.size, r.address, off, unix.EINVAL)
	}
	var files []*fd.FD
	if file != nil {
		files = []*fd.FD{file}
	} else {
		r.offset = 0
	}
	// First, because the server may use it before its reply is here.
	if !c.addMemory(dmaMemory{r.address, last, mem}) {
		return fmt.Errorf("map %#x bytes of DMA memory at %#x: %w", r.size, r.address, unix.EEXIST)
	}
	if err := c.tell(DMAMap, r.appendMap(nil), files...); err != nil {
		c.dropMemory(r.address)
		return err
	}
	return nil
}

// UnmapDMA is vfio.Device.UnmapDMA, for ranges that cover whole MapDMAs. Servers may
// want to hear of each by itself (vfio-user.md 4.2).
func (c *client) UnmapDMA(iova vfio.IOVA, size uint64) error {
	whole := dmaRange{address: uint64(iova), size: size}
	last, err := whole.last()
	if err != nil {
		return fmt.Errorf("unmap DMA memory: %w", err)
	}
	found := c.memoryIn(uint64(iova), last)
	if len(found) == 0 {
		return fmt.Errorf("unmap %#x bytes of DMA memory at %#x: %w", size, whole.address, unix.ENOENT)
	}
	for _, m := range found {
		if m.first < whole.address || m.last > last {
			return fmt.Errorf("unmap %#x bytes of DMA memory at %#x: part of a mapping: %w", size, whole.address, unix.EINVAL)
		}
	}
	for _, m := range found {
		if err := c.tell(DMAUnmap, dmaRange{address: m.first, size: m.last - m.first + 1}.appendUnmap(nil)); err != nil {
			return err
		}
		c.dropMemory(m.first)
	}
	return nil
}

// addMemory lets the server reach m, unless that overlaps other memory.
func (c *client) addMemory(m dmaMemory) bool {
	c.dma.Lock()
	defer c.dma.Unlock()
	i := c.findMemory(m.first)
	if i < len(c.dma.maps) && c.dma.maps[i].first <= m.last {
		return false
	}
	c.dma.maps = slices.Insert(c.dma.maps, i, m)
	return true
}

// dropMemory takes away what begins at first.
func (c *client) dropMemory(first uint64) {
	c.dma.Lock()
	defer c.dma.Unlock()
	c.dma.maps = slices.DeleteFunc(c.dma.maps, func(m dmaMemory) bool { return m.first == first })
}

// memoryIn returns what overlaps first to last.
func (c *client) memoryIn(first, last uint64) []dmaMemory {
	c.dma.Lock()
	defer c.dma.Unlock()
	i := c.findMemory(first)
	j := i
	for j < len(c.dma.maps) && c.dma.maps[j].first <= last {
		j++
	}
	return slices.Clone(c.dma.maps[i:j])
}

// findMemory returns the index of the first memory that ends at addr or behind it. The
// caller holds dma.
func (c *client) findMemory(addr uint64) int {
	i, _ := slices.BinarySearchFunc(c.dma.maps, addr, func(m dmaMemory, addr uint64) int {
		if m.last < addr {
			return -1
		}
		return 1
	})
	return i
}

// serve obeys a command of the server's (vfio-user.md section 8).
func (c *client) serve(m *message) error {
	switch {
	case m.flags&typeMask != 0:
		return &PeerError{m.command, fmt.Sprintf("flags are %#x", m.flags)}
	case m.command == DMARead || m.command == DMAWrite:
		return c.serveDMA(m)
	case m.flags&flagNoReply != 0:
		return nil
	}
	return c.conn.refuse(m, unix.ENOSYS)
}

// serveDMA is DMA_READ and DMA_WRITE: for memory that the server couldn't map. Nothing
// is copied unless all of it is there.
func (c *client) serveDMA(m *message) error {
	a, data, err := decodeDMAAccess(m.payload)
	if err != nil {
		return &PeerError{m.command, err.Error()}
	}
	c.dma.Lock()
	defer c.dma.Unlock()
	errno := error(nil)
	switch {
	case a.count > maxTransfer:
		errno = unix.E2BIG
	case m.command == DMARead && len(data) == 0:
		c.dma.data = slices.Grow(c.dma.data[:0], int(a.count))[:a.count]
		data, errno = c.dma.data, c.transfer(a.address, c.dma.data, func(p, mem []byte) { copy(p, mem) })
	case m.command == DMAWrite && uint64(len(data)) == a.count:
		data, errno = nil, c.transfer(a.address, data, func(p, mem []byte) { copy(mem, p) })
	default:
		errno = unix.EINVAL
	}
	switch {
	case m.flags&flagNoReply != 0:
		return nil
	case errno != nil:
		return c.conn.refuse(m, errnoOf(errno))
	}
	return c.conn.send(header{id: m.id, command: m.command, flags: flagReply}, m.payload[:accessSize], data)
}

// transfer copies between p and the memory at addr. The caller holds dma.
func (c *client) transfer(addr uint64, p []byte, do func(p, mem []byte)) error {
	if len(p) == 0 {
		return nil
	}
	last := addr + uint64(len(p)) - 1
	begin := c.findMemory(addr)
	end := begin
	for at := addr; ; end++ {
		if end == len(c.dma.maps) || c.dma.maps[end].first > at || last < addr {
			return unix.ENODEV
		}
		if c.dma.maps[end].last >= last {
			break
		}
		at = c.dma.maps[end].last + 1
	}
	for _, m := range c.dma.maps[begin : end+1] {
		mem := m.mem[addr-m.first:]
		n := min(len(p), len(mem))
		do(p[:n], mem[:n])
		p, addr = p[n:], addr+uint64(n)
	}
	return nil
}
