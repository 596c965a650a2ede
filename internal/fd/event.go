package fd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// one is what an eventfd takes per signal: a native-endian 64-bit 1.
var one = [8]byte{1}

// NewEvent makes a non-blocking eventfd with counter 0.
func NewEvent(name string) (*FD, error) {
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd %s: %w", name, err)
	}
	return New(n, name), nil
}

// Signal adds 1 to the eventfd's counter. A counter that is full already wakes
// its reader, so EAGAIN is success.
func (f *FD) Signal() error {
	for {
		_, err := unix.Write(f.Int(), one[:])
		switch err {
		case nil, unix.EAGAIN:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("signal %s: %w", f.name, err)
		}
	}
}

// Drain resets the eventfd's counter to 0 without blocking, provided that it was
// made non-blocking, as NewEvent does.
func (f *FD) Drain() {
	var b [8]byte
	for {
		if _, err := unix.Read(f.Int(), b[:]); err != unix.EINTR {
			return
		}
	}
}
