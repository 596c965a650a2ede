package virtq

import "fmt"

// A ProtocolError says that the other side broke the rules of the ring so that the
// ring can't be trusted any more: it has to be stopped.
type ProtocolError struct {
	Ring   int // index of the ring in its device
	Reason string
}

// Error implements error.
func (e *ProtocolError) Error() string { return fmt.Sprintf("ring %d: %s", e.Ring, e.Reason) }

// A ChainError says why one chain can't be trusted; the ring goes on.
type ChainError string

// Error implements error.
func (e ChainError) Error() string { return string(e) }

// What can be wrong with a chain (virtio 1.3, 2.7.4.2 and 2.7.5).
const (
	ErrLong       ChainError = "descriptor chain: longer than its table"
	ErrNext       ChainError = "descriptor chain: next outside the table"
	ErrOrder      ChainError = "descriptor chain: readable after writable"
	ErrAddress    ChainError = "descriptor chain: address outside guest memory"
	ErrLength     ChainError = "descriptor chain: more than 4 GiB"
	ErrNoIndirect ChainError = "descriptor chain: indirect table not negotiated"
	ErrNested     ChainError = "descriptor chain: indirect table within an indirect table"
	ErrMixed      ChainError = "descriptor chain: indirect table and next in one descriptor"
	ErrTable      ChainError = "descriptor chain: bad length of the indirect table"
)
