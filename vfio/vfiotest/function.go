// Package vfiotest is a PCI function in memory, for tests of drivers.
//
//	test                                 driver under test
//	 │ Options: regions, vectors            │ vfio.Device
//	 │ Mem, DMA, Trigger, Lose              ▼
//	 └───────────────► Function ◄───────────┘
//	     hooks see each register access; mappable regions are memory files;
//	     DMA memory is mapped a second time, as a device in another process would
//
// The Function owns its regions, and its own mappings of DMA memory until they are
// unmapped. Its lock is never held while a hook runs, so hooks may call everything but
// Close.
//
// Spec: package vfio's Device.
package vfiotest

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// ErrGone is what every access to a lost function returns.
var ErrGone = errors.New("function is gone")

// Options describe a Function. The zero value is one without regions and vectors.
type Options struct {
	// Regions are BARs and configuration space by index.
	Regions map[int]Region
	// Vectors are how many interrupts of a kind there are.
	Vectors map[vfio.IRQ]int
	// Ranges may be mapped for DMA; nil stands for 0x10000 to 4 GiB.
	Ranges []vfio.Range
	// Page is the granularity of DMA mappings in bytes; 0 stands for the system's.
	Page uint64
	// OnReset, if not nil, is called by Reset.
	OnReset func()
	// Fail, if not nil, is asked before each operation of the Device (its method's name, or
	// "ReadAt", "WriteAt", "Mmap"), and what it returns is the operation's error.
	Fail func(op string) error
}

// A Function is a vfio.Device. All methods may be called from any goroutine.
type Function struct {
	opt     Options
	regions [vfio.NumRegions]*region
	gone    chan struct{}

	mu     sync.Mutex // guards what follows
	lost   bool
	closed bool
	events map[vfio.IRQ][]*fd.FD
	dma    []mapping
}

// New makes a function. The test closes it, or the driver does.
func New(opt Options) (_ *Function, err error) {
	if opt.Page == 0 {
		opt.Page = uint64(os.Getpagesize())
	}
	if opt.Ranges == nil {
		opt.Ranges = []vfio.Range{{First: 0x1_0000, Last: 0xffff_ffff}}
	}
	f := &Function{opt: opt, gone: make(chan struct{}), events: make(map[vfio.IRQ][]*fd.FD)}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	for i, r := range opt.Regions {
		if i < 0 || i >= vfio.NumRegions {
			return nil, fmt.Errorf("region %d: no such index", i)
		}
		if f.regions[i], err = newRegion(f, i, r); err != nil {
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
	}
	for i := range f.regions {
		if f.regions[i] == nil {
			f.regions[i] = &region{f: f, index: i}
		}
	}
	return f, nil
}

// check returns the error of an operation that can't or shall not succeed.
func (f *Function) check(op string) error {
	f.mu.Lock()
	lost := f.lost || f.closed
	f.mu.Unlock()
	if lost {
		return fmt.Errorf("%s: %w", op, ErrGone)
	}
	if f.opt.Fail != nil {
		return f.opt.Fail(op)
	}
	return nil
}

// Region is vfio.Device.Region.
func (f *Function) Region(i int) (vfio.Region, error) {
	if err := f.check("Region"); err != nil {
		return nil, err
	}
	if i < 0 || i >= vfio.NumRegions {
		return nil, fmt.Errorf("region %d: no such index", i)
	}
	return f.regions[i], nil
}

// Vectors is vfio.Device.Vectors.
func (f *Function) Vectors(kind vfio.IRQ) (int, error) {
	if err := f.check("Vectors"); err != nil {
		return 0, err
	}
	return f.opt.Vectors[kind], nil
}

// SetIRQs is vfio.Device.SetIRQs.
func (f *Function) SetIRQs(kind vfio.IRQ, events []*fd.FD) error {
	if err := f.check("SetIRQs"); err != nil {
		return err
	}
	if n := f.opt.Vectors[kind]; len(events) > n {
		return fmt.Errorf("set %d interrupts of kind %d: there are %d", len(events), kind, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events[kind] = append([]*fd.FD(nil), events...)
	return nil
}

// Trigger raises an interrupt, and reports whether the driver listens for it.
func (f *Function) Trigger(kind vfio.IRQ, vector int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	events := f.events[kind]
	return vector >= 0 && vector < len(events) && events[vector].Signal() == nil
}

// Listening returns how many interrupts of a kind the driver listens for.
func (f *Function) Listening(kind vfio.IRQ) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.events[kind])
}

// Reset is vfio.Device.Reset.
func (f *Function) Reset() error {
	if err := f.check("Reset"); err != nil {
		return err
	}
	if f.opt.OnReset != nil {
		f.opt.OnReset()
	}
	return nil
}

// Lose makes the function disappear: Gone is closed, and accesses fail from now on.
// Mappings stay.
func (f *Function) Lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.lost {
		f.lost = true
		close(f.gone)
	}
}

// Gone is vfio.Device.Gone.
func (f *Function) Gone() <-chan struct{} { return f.gone }

// Close unmaps everything. The second and later calls do nothing.
func (f *Function) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var errs []error
	for _, m := range f.dma {
		errs = append(errs, m.unmap())
	}
	for _, r := range f.regions {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	clear(f.events)
	f.dma = nil
	return errors.Join(errs...)
}
