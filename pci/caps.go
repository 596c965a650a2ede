package pci

import "fmt"

// maxCaps is how many capabilities fit: one per 4 bytes from 0x40 to 0xff. A longer
// list has a loop.
const maxCaps = (spaceSize - endOfHeader) / 4

// A CapID says what a capability is.
type CapID uint8

// Capabilities that matter to us (PCI Code and ID Assignment, section 2).
const (
	CapVendor CapID = 0x09 // vendor specific; virtio's structures
	CapMSIX   CapID = 0x11
)

// A Capability is an entry of the list: its first byte is at Offset, in the first 256
// bytes of configuration space.
type Capability struct {
	ID     CapID
	Offset int
}

// Capabilities returns the capability list in its order. A list that leaves its place
// or never ends is an error (PCI 3.0, 6.7).
func (c Config) Capabilities() ([]Capability, error) {
	status, err := c.read16(offStatus)
	if err != nil || status&statusCaps == 0 {
		return nil, err
	}
	next, err := c.read8(offCaps)
	if err != nil {
		return nil, err
	}
	var caps []Capability
	for from := offCaps; ; {
		at := int(next &^ 3) // the low bits are reserved
		switch {
		case at == 0:
			return caps, nil
		case at < endOfHeader:
			return nil, fmt.Errorf("capability list: the pointer at %#x leads into the header, to %#x", from, at)
		case len(caps) == maxCaps:
			return nil, fmt.Errorf("capability list: more than %d entries: it loops", maxCaps)
		}
		var b [2]byte
		if err := c.Read(b[:], at); err != nil {
			return nil, fmt.Errorf("capability list: %w", err)
		}
		caps = append(caps, Capability{CapID(b[0]), at})
		next, from = b[1], at+1
	}
}
