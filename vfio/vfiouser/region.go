package vfiouser

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// A region is a vfio.Region of a client.
type region struct {
	client *client
	index  uint32
	size   int64

	// What can be mapped, from the region's start on; file is nil if nothing can.
	file   *fd.FD
	offset int64 // in file
	length int64
	mem    []byte // the mapping, once there is one
}

// learn asks the server about the region, and again with more room as long as the
// answer doesn't fit (vfio-user.md 5.2).
func (r *region) learn() error {
	for room, need := uint32(0), uint32(regionInfoSize); room < need; {
		room = need
		ask := regionInfo{argsz: room, index: r.index}
		err := r.client.ask(GetRegionInfo, ask.append(nil, false), func(m *message) error {
			info, err := decodeRegionInfo(m.payload)
			switch {
			case err != nil:
				return err
			case info.index != r.index || info.size > math.MaxInt64 || info.argsz > maxRegionInfo:
				return fmt.Errorf("%#x bytes in region %d, described in %d bytes", info.size, info.index, info.argsz)
			case info.argsz > room:
				need = info.argsz
				return nil
			}
			r.size = int64(info.size)
			return r.mappable(info, m)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mappable learns which part of the region can be mapped, and takes the file out of m
// if there is one.
func (r *region) mappable(info regionInfo, m *message) error {
	if info.flags&regionMmap == 0 || len(m.files) == 0 {
		return nil
	}
	a := area{0, info.size}
	if info.areas != nil {
		i := slices.IndexFunc(info.areas, func(a area) bool { return a.offset == 0 })
		if i < 0 {
			return nil // no part begins where the region does
		}
		a = info.areas[i]
	}
	switch off := info.offset; {
	case a.size > info.size || off > math.MaxInt64 || a.size > math.MaxInt64-off:
		return fmt.Errorf("area of %#x bytes in a region of %#x, at %#x of its file", a.size, info.size, off)
	case a.size > 0:
		r.file, r.offset, r.length = m.take(0), int64(off), int64(a.size)
	}
	return nil
}

// Size is vfio.Region.Size.
func (r *region) Size() int64 { return r.size }

// cut returns as much of n bytes at off as lies in the region, and io.EOF if that
// isn't all.
func (r *region) cut(n int, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("offset %d: %w", off, unix.EINVAL)
	case off >= r.size:
		return 0, io.EOF
	case int64(n) > r.size-off:
		return int(r.size - off), io.EOF
	}
	return n, nil
}

// ReadAt is vfio.Region.ReadAt. Up to the length of a message it is one access.
func (r *region) ReadAt(p []byte, off int64) (n int, err error) {
	limit, end := r.cut(len(p), off)
	r.client.calls.Lock()
	defer r.client.calls.Unlock()
	for n < limit {
		piece := p[n:min(limit, n+r.client.transferSize())]
		if err := r.read(piece, off+int64(n)); err != nil {
			return n, fmt.Errorf("read %d bytes at %#x of region %d: %w", len(piece), off+int64(n), r.index, err)
		}
		n += len(piece)
	}
	return n, end
}

// transferSize returns how many bytes fit into one access.
func (c *client) transferSize() int { return int(min(c.peer.MaxTransfer, maxTransfer)) }

// read reads with one message. The caller holds calls.
func (r *region) read(p []byte, off int64) error {
	var b [accessSize]byte
	ask := access{uint64(off), r.index, uint32(len(p))}
	m, err := r.client.call(RegionRead, ask.append(b[:0]), nil)
	if err != nil {
		return err
	}
	defer m.close()
	got, data, err := decodeAccess(m.payload)
	if err != nil || got != ask || len(data) != len(p) {
		return r.client.broken(RegionRead, fmt.Sprintf("%d bytes in reply to a question about %d", len(data), len(p)))
	}
	copy(p, data)
	return nil
}

// WriteAt is vfio.Region.WriteAt. Up to the length of a message it is one access.
//
// Writes of registers in BARs are posted, as those of a real function are: WriteAt
// returns when the message is sent, without having waited for anything that is under
// way, and errors are lost. All later accesses come after it.
func (r *region) WriteAt(p []byte, off int64) (n int, err error) {
	limit, end := r.cut(len(p), off)
	if limit == len(p) && limit <= 8 && r.index < vfio.ROMRegion {
		if err := r.post(p, off); err != nil {
			return 0, fmt.Errorf("write %d bytes at %#x of region %d: %w", len(p), off, r.index, err)
		}
		return len(p), end
	}
	r.client.calls.Lock()
	defer r.client.calls.Unlock()
	for n < limit {
		piece := p[n:min(limit, n+r.client.transferSize())]
		if err := r.write(piece, off+int64(n)); err != nil {
			return n, fmt.Errorf("write %d bytes at %#x of region %d: %w", len(piece), off+int64(n), r.index, err)
		}
		n += len(piece)
	}
	if errors.Is(end, io.EOF) {
		end = io.ErrShortWrite
	}
	return n, end
}

// post writes without waiting.
func (r *region) post(p []byte, off int64) error {
	var b [accessSize]byte
	a := access{uint64(off), r.index, uint32(len(p))}
	err := r.client.conn.send(header{command: RegionWrite, flags: flagNoReply}, a.append(b[:0]), p)
	if err != nil {
		r.client.conn.expire()
		<-r.client.gone
		return r.client.lost()
	}
	return nil
}

// write writes with one message and waits. The caller holds calls.
func (r *region) write(p []byte, off int64) error {
	var b [accessSize]byte
	a := access{uint64(off), r.index, uint32(len(p))}
	m, err := r.client.call(RegionWrite, a.append(b[:0]), p)
	if err != nil {
		return err
	}
	m.close()
	return nil
}

// Mmap is vfio.Region.Mmap. A file that is too short isn't mapped: touching what it
// lacks would raise SIGBUS. Whoever serves the region can still shrink the file later;
// the user of the mapping contains the fault.
func (r *region) Mmap() ([]byte, error) {
	r.client.calls.Lock()
	defer r.client.calls.Unlock()
	switch {
	case r.mem != nil:
		return r.mem, nil
	case r.file == nil:
		return nil, fmt.Errorf("region %d: %w", r.index, vfio.ErrNotMappable)
	case r.client.closed:
		return nil, fmt.Errorf("region %d: %w", r.index, os.ErrClosed)
	}
	var st unix.Stat_t
	if err := unix.Fstat(r.file.Int(), &st); err != nil {
		return nil, fmt.Errorf("region %d: stat %s: %w", r.index, r.file, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size < r.offset+r.length {
		return nil, fmt.Errorf("region %d: its file has %d bytes and lacks some of %#x at %#x: %w", r.index, st.Size, r.length, r.offset, vfio.ErrNotMappable)
	}
	mem, err := unix.Mmap(r.file.Int(), r.offset, int(r.length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("region %d: map %#x bytes at %#x of its file: %v: %w", r.index, r.length, r.offset, err, vfio.ErrNotMappable)
	}
	r.mem = mem
	return mem, nil
}

// close unmaps the region and closes its file.
func (r *region) close() error {
	errs := []error{r.file.Close()}
	if r.mem != nil {
		errs = append(errs, unix.Munmap(r.mem))
		r.mem = nil
	}
	return errors.Join(errs...)
}
