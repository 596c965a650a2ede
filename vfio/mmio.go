package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Registers are a window of a region, accessed through a mapping where there is one.
// Each method is one access of its width. The compiler doesn't reorder accesses of
// registers, nor does the processor where they are a device's; between registers and
// memory, order is the caller's business: see Fence.
//
// An access that fails reads as all ones and writes nothing, as with a function that
// isn't there any more; Err tells. It fails if it is outside of the window or unaligned,
// if the mapping faults (memory decoding is off), or if the region returns an error.
//
// Methods may be called from any goroutine, and never panic. Writing doesn't allocate.
type Registers struct {
	region  Region
	off     int64 // of the window within the region
	size    int64
	mem     []byte // the window, or nil: use calls
	buffers sync.Pool
	failed  atomic.Pointer[error]
}

// NewRegisters makes a window of size bytes at offset off of a region. It uses the
// region's mapping if that reaches to the end of the window.
func NewRegisters(r Region, off, size int64) (*Registers, error) {
	if off < 0 || size <= 0 || off > r.Size() || size > r.Size()-off {
		return nil, fmt.Errorf("%#x bytes of registers at offset %#x: the region has %#x", size, off, r.Size())
	}
	w := &Registers{region: r, off: off, size: size}
	w.buffers.New = func() any { return new([8]byte) }
	mem, err := r.Mmap()
	switch {
	case errors.Is(err, ErrNotMappable):
	case err != nil:
		return nil, err
	case off+size <= int64(len(mem)):
		w.mem = mem[off:][:size:size]
	}
	return w, nil
}

// Size returns the size of the window in bytes.
func (w *Registers) Size() int64 { return w.size }

// Mapped reports whether accesses need no calls.
func (w *Registers) Mapped() bool { return w.mem != nil }

// Err returns the first failure of an access.
func (w *Registers) Err() error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Read8 reads the byte at off.
func (w *Registers) Read8(off int64) uint8 { return uint8(w.read(off, 1)) }

// Read16 reads the 16-bit register at off.
func (w *Registers) Read16(off int64) uint16 { return uint16(w.read(off, 2)) }

// Read32 reads the 32-bit register at off.
func (w *Registers) Read32(off int64) uint32 { return uint32(w.read(off, 4)) }

// Read64 reads the 64-bit register at off.
func (w *Registers) Read64(off int64) uint64 { return w.read(off, 8) }

// Write8 writes the byte at off.
func (w *Registers) Write8(off int64, v uint8) { w.write(off, 1, uint64(v)) }

// Write16 writes the 16-bit register at off.
func (w *Registers) Write16(off int64, v uint16) { w.write(off, 2, uint64(v)) }

// Write32 writes the 32-bit register at off.
func (w *Registers) Write32(off int64, v uint32) { w.write(off, 4, uint64(v)) }

// Write64 writes the 64-bit register at off.
func (w *Registers) Write64(off int64, v uint64) { w.write(off, 8, v) }

// read makes one access of n bytes.
func (w *Registers) read(off int64, n int) (v uint64) {
	if !w.check(off, n) {
		return ^uint64(0)
	}
	if w.mem != nil {
		return w.load(off, n)
	}
	b := w.buffers.Get().(*[8]byte)
	defer w.buffers.Put(b)
	clear(b[:])
	if _, err := w.region.ReadAt(b[:n], w.off+off); err != nil {
		w.fail(fmt.Errorf("read register %#x: %w", off, err))
		return ^uint64(0)
	}
	return binary.LittleEndian.Uint64(b[:])
}

// write makes one access of n bytes.
func (w *Registers) write(off int64, n int, v uint64) {
	if !w.check(off, n) {
		return
	}
	if w.mem != nil {
		w.store(off, n, v)
		return
	}
	b := w.buffers.Get().(*[8]byte)
	defer w.buffers.Put(b)
	binary.LittleEndian.PutUint64(b[:], v)
	if _, err := w.region.WriteAt(b[:n], w.off+off); err != nil {
		w.fail(fmt.Errorf("write register %#x: %w", off, err))
	}
}

// check reports whether an access is aligned and within the window.
func (w *Registers) check(off int64, n int) bool {
	if off >= 0 && off <= w.size-int64(n) && (w.off+off)%int64(n) == 0 {
		return true
	}
	w.fail(fmt.Errorf("register of %d bytes at offset %#x of %#x: outside or unaligned", n, off, w.size))
	return false
}

// load reads the mapping.
func (w *Registers) load(off int64, n int) (v uint64) {
	v = ^uint64(0) // if it faults
	defer w.caught(off, debug.SetPanicOnFault(true))
	return load(w.mem, off, n)
}

// store writes the mapping.
func (w *Registers) store(off int64, n int, v uint64) {
	defer w.caught(off, debug.SetPanicOnFault(true))
	store(w.mem, off, n, v)
}

// caught is deferred: it turns a fault into a failed access, and restores what the
// goroutine does about faults.
func (w *Registers) caught(off int64, before bool) {
	debug.SetPanicOnFault(before)
	if err := faultOf(recover()); err != nil {
		w.fail(fmt.Errorf("register %#x: %w", off, err))
	}
}

// fail keeps the first failure.
func (w *Registers) fail(err error) { w.failed.CompareAndSwap(nil, &err) }
