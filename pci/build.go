package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Layout says what the configuration space of a device model holds.
type Layout struct {
	Size                 int // 256 bytes, or 4096 with PCI Express
	Vendor, Device       uint16
	Revision             uint8
	Class                Class
	SubVendor, SubDevice uint16
	Pin                  uint8 // 1 to 4 for INTA to INTD; 0: MSI-X only
	BARs                 []BAR
	Caps                 []CapBuild // in the order of the list
}

// A CapBuild is a capability to be laid out.
type CapBuild struct {
	ID CapID
	// At is the offset in configuration space, a multiple of 4. 0 means right behind
	// the one before, or 0x40 for the first.
	At int
	// Body is what follows the capability's ID and the pointer to the next one.
	Body []byte
	// Writable has a 1 for each bit of Body that drivers can write. It may be shorter
	// than Body, or nil.
	Writable []byte
}

// Build lays out a configuration space and returns it as after reset.
//
// Drivers can write what a function without PCI Express needs: address bits of BARs
// as far as their size leaves them, the command bits for what exists, the interrupt
// line and the cache line size, and what capabilities allow. There is no expansion
// ROM: its BAR reads 0.
func (l Layout) Build() (*Space, error) {
	if l.Size != spaceSize && l.Size != maxSpaceSize {
		return nil, fmt.Errorf("configuration space of %d bytes; it has %d or %d", l.Size, spaceSize, maxSpaceSize)
	}
	s := &Space{reset: make([]byte, l.Size), writable: make([]byte, l.Size)}
	l.header(s)
	if err := l.bars(s); err != nil {
		return nil, err
	}
	if err := l.caps(s); err != nil {
		return nil, err
	}
	s.now = append(s.now, s.reset...)
	return s, nil
}

func (l Layout) header(s *Space) {
	le := binary.LittleEndian
	le.PutUint16(s.reset[offVendor:], l.Vendor)
	le.PutUint16(s.reset[offDevice:], l.Device)
	s.reset[offRevision] = l.Revision
	for i := range 3 {
		s.reset[offClass+i] = byte(l.Class >> (8 * i))
	}
	le.PutUint16(s.reset[offSubVendor:], l.SubVendor)
	le.PutUint16(s.reset[offSubDevice:], l.SubDevice)
	s.reset[offPin] = l.Pin

	command := CommandMaster | CommandINTxDisable
	for _, bar := range l.BARs {
		if bar.Kind == IO {
			command |= CommandIO
		} else {
			command |= CommandMemory
		}
	}
	le.PutUint16(s.writable[offCommand:], uint16(command))
	s.writable[offLine] = 0xff
	s.writable[offCacheLine] = 0xff
}

func (l Layout) bars(s *Space) error {
	var taken [maxBARs]bool
	for _, bar := range l.BARs {
		if err := bar.check(); err != nil {
			return err
		}
		value, writable := bar.encode()
		for i := bar.Index; i < bar.Index+bar.registers(); i++ {
			if taken[i] {
				return fmt.Errorf("BAR %d: its place is taken", bar.Index)
			}
			taken[i] = true
			binary.LittleEndian.PutUint32(s.reset[offBAR+4*i:], uint32(value))
			binary.LittleEndian.PutUint32(s.writable[offBAR+4*i:], uint32(writable))
			value, writable = value>>32, writable>>32
		}
	}
	return nil
}

func (l Layout) caps(s *Space) error {
	var taken [spaceSize]bool
	pointer, next := offCaps, endOfHeader
	for _, c := range l.Caps {
		at := c.At
		if at == 0 {
			at = next
		}
		end := at + 2 + len(c.Body)
		switch {
		case at < endOfHeader || end > spaceSize || at%4 != 0:
			return fmt.Errorf("capability %#02x of %d bytes doesn't fit at %#x", c.ID, end-at, at)
		case len(c.Writable) > len(c.Body):
			return fmt.Errorf("capability %#02x: %d writable bytes of %d", c.ID, len(c.Writable), len(c.Body))
		}
		for i := at; i < end; i++ {
			if taken[i] {
				return fmt.Errorf("capability %#02x at %#x overlaps another", c.ID, at)
			}
			taken[i] = true
		}
		s.reset[pointer] = byte(at)
		s.reset[at] = byte(c.ID)
		copy(s.reset[at+2:], c.Body)
		copy(s.writable[at+2:], c.Writable)
		pointer, next = at+1, (end+3)&^3
	}
	if len(l.Caps) > 0 {
		s.reset[offStatus] |= statusCaps
	}
	return nil
}

// A Space is the configuration space of a device model: bytes, some bits of which
// the driver can write. It never fails a driver: what it can't write stays.
type Space struct {
	now      []byte
	reset    []byte // what now is after a reset
	writable []byte // 1 for each bit that WriteAt changes
}

// errOutside says that an access lies outside of configuration space.
var errOutside = errors.New("outside of configuration space")

// Size returns the size in bytes.
func (s *Space) Size() int { return len(s.now) }

// ReadAt reads as the driver does.
func (s *Space) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errOutside
	}
	if off >= int64(len(s.now)) {
		return 0, io.EOF
	}
	n := copy(p, s.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes as the driver does. Bits that can't be written stay as they are.
func (s *Space) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(s.now)) || int64(len(p)) > int64(len(s.now))-off {
		return 0, errOutside
	}
	for i, b := range p {
		at := int(off) + i
		s.now[at] = s.now[at]&^s.writable[at] | b&s.writable[at]
	}
	return len(p), nil
}

// Set writes as the device does: any bits, until the next reset. The bytes must lie
// within the space.
func (s *Space) Set(off int, p []byte) { copy(s.now[off:off+len(p)], p) }

// Reset gives all bytes the values that they had after Build.
func (s *Space) Reset() { copy(s.now, s.reset) }
