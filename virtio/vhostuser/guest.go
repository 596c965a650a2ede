package vhostuser

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/virtio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// A GuestMemory is guest memory that a Frontend shares with the back-end: an anonymous
// file, mapped.
type GuestMemory struct {
	Region
	Mem  []byte
	File *fd.FD
}

// NewGuestMemory makes size bytes of guest memory at gpa.
func NewGuestMemory(gpa guestmem.GPA, size int) (*GuestMemory, error) {
	n, err := unix.MemfdCreate("vfiofs-guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("guest memory: %w", err)
	}
	file := fd.New(n, "guest memory")
	if err := unix.Ftruncate(n, int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("guest memory of %d bytes: %w", size, err), file.Close())
	}
	return mapGuestMemory(gpa, file, size)
}

// OpenGuestMemory makes the whole of a file guest memory at gpa.
func OpenGuestMemory(gpa guestmem.GPA, path string) (*GuestMemory, error) {
	n, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("guest memory %s: %w", path, err)
	}
	file := fd.New(n, "guest memory")
	var stat unix.Stat_t
	if err := unix.Fstat(n, &stat); err != nil {
		return nil, errors.Join(fmt.Errorf("guest memory %s: %w", path, err), file.Close())
	}
	return mapGuestMemory(gpa, file, int(stat.Size))
}

// mapGuestMemory maps size bytes of file, which it owns.
func mapGuestMemory(gpa guestmem.GPA, file *fd.FD, size int) (*GuestMemory, error) {
	mem, err := unix.Mmap(file.Int(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map guest memory of %d bytes: %w", size, err), file.Close())
	}
	// The front-end's addresses are numbers like the guest's. They are made different so
	// that mixing them up shows.
	const front = 0x7f00_0000_0000
	return &GuestMemory{
		Region: Region{GPA: gpa, Size: uint64(size), Addr: front + FrontAddr(gpa)},
		Mem:    mem,
		File:   file,
	}, nil
}

// Close unmaps the memory and closes its file.
func (m *GuestMemory) Close() error {
	err := unix.Munmap(m.Mem)
	m.Mem = nil
	return errors.Join(err, m.File.Close())
}

// Share is SET_MEM_TABLE with all of the guest's memory.
func (f *Frontend) Share(mems ...*GuestMemory) error {
	regions, files := make([]Region, len(mems)), make([]*fd.FD, len(mems))
	for i, m := range mems {
		regions[i], files[i] = m.Region, m.File
	}
	return f.SetMemTable(regions, files)
}

// A GuestRing is the driver's side of a ring that a Frontend drives. It owns its two
// eventfds and borrows its memory.
type GuestRing struct {
	*virtq.Driver
	Index int
	Size  int
	Addr  VringAddr
	Kick  *fd.FD
	Call  *fd.FD
}

// NewRing places a ring at offset off of mem, which is a multiple of 16, for the
// features that were acknowledged. virtq.Layout says how much memory it takes.
func (f *Frontend) NewRing(mem *GuestMemory, off, index, size int) (_ *GuestRing, err error) {
	l := virtq.Layout(size)
	if off < 0 || off > len(mem.Mem)-l.Total {
		return nil, fmt.Errorf("ring %d: %d bytes at %d in memory of %d", index, l.Total, off, len(mem.Mem))
	}
	desc, avail, used := l.Split(mem.Mem[off:])
	r := &GuestRing{Index: index, Size: size}
	r.Driver, err = virtq.NewDriver(virtq.DriverConfig{
		Index: index, Size: size, Desc: desc, Avail: avail, Used: used,
		EventIdx: f.features&virtio.FeatureEventIdx != 0,
		Indirect: f.features&virtio.FeatureIndirectDesc != 0,
	})
	if err != nil {
		return nil, err
	}
	at := mem.Addr + FrontAddr(off)
	r.Addr = VringAddr{
		Index: uint32(index),
		Desc:  at + FrontAddr(l.Desc.Off),
		Avail: at + FrontAddr(l.Avail.Off),
		Used:  at + FrontAddr(l.Used.Off),
		Log:   mem.GPA + guestmem.GPA(off+l.Used.Off),
	}
	if r.Kick, err = fd.NewEvent("kick"); err != nil {
		return nil, err
	}
	if r.Call, err = fd.NewEvent("call"); err != nil {
		return nil, errors.Join(err, r.Kick.Close())
	}
	return r, nil
}

// StartRing starts ring r at available index next, in the order that QEMU uses.
func (f *Frontend) StartRing(r *GuestRing, next uint16) error {
	steps := []func() error{
		func() error { return f.SetVringNum(r.Index, r.Size) },
		func() error { return f.SetVringBase(r.Index, next) },
		func() error { return f.SetVringAddr(r.Addr) },
		func() error { return f.SetVringKick(r.Index, r.Kick) },
		func() error { return f.SetVringCall(r.Index, r.Call) },
	}
	if f.features&FeatureProtocolFeatures != 0 {
		steps = append(steps, func() error { return f.SetVringEnable(r.Index, true) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Submit publishes what was added, and kicks if the device wants it.
func (r *GuestRing) Submit() error {
	r.Publish()
	if !r.NeedKick() {
		return nil
	}
	return r.Kick.Signal()
}

// Wait waits until a chain was completed, and reports whether that was in time.
func (r *GuestRing) Wait(timeout time.Duration) bool {
	end := time.Now().Add(timeout)
	for !r.ArmCalls() {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		p := []unix.PollFd{{Fd: int32(r.Call.Int()), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return false
		}
		r.Call.Drain()
	}
	return true
}

// Close closes the eventfds.
func (r *GuestRing) Close() error { return errors.Join(r.Kick.Close(), r.Call.Close()) }
