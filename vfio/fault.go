package vfio

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// A FaultError says that memory couldn't be accessed: the function behind a mapping is
// gone or doesn't decode its memory, or the file behind it is too short.
type FaultError struct{ Addr uintptr }

// Error names the address.
func (e *FaultError) Error() string { return fmt.Sprintf("fault at address %#x", e.Addr) }

// Guard calls f, and returns a *FaultError if f faulted on mapped memory. Other panics
// pass. It is for the goroutine that runs f, not for others that f starts.
func Guard(f func()) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if fault := faultOf(recover()); fault != nil {
			err = fault
		}
	}()
	f()
	return nil
}

// faultOf returns the fault behind a recovered panic, or nil if there was none; it
// panics again with anything else.
func faultOf(r any) *FaultError {
	if r == nil {
		return nil
	}
	// The runtime's error for a fault, and no other, knows an address.
	type fault interface {
		runtime.Error
		Addr() uintptr
	}
	if e, ok := r.(fault); ok {
		return &FaultError{e.Addr()}
	}
	panic(r)
}
