// Package pci knows PCI functions: their addresses, their configuration space from
// the driver's side and from the device's, and what Linux tells and does about them
// in sysfs. It knows nothing of virtio or VFIO beyond their names.
//
//	driver                                    device model
//	  Config: header, Command,                  Layout ─► Build ─► Space
//	  Capabilities, MSIX, BARs                                      │
//	     │ reads and writes of 1, 2, 4 bytes                        │
//	     └──► Registers: a file of sysfs, a vfio.Region ◄───────────┘
//
//	Sysfs: List, Function, Group (who blocks it), Bind, Unbind, Reset
//
// What a device says is not trusted: the walk over capabilities is bounded, and
// numbers that cannot be right are errors. What the kernel says in sysfs is.
//
// Nothing here is kept open. A Config borrows its Registers; a Space belongs to one
// goroutine at a time. There are no locks.
//
// Spec: PCI Local Bus 3.0, section 6; Linux, Documentation/ABI/testing/sysfs-bus-pci;
// virtio-vhost-user.md sections 2, 3 and 11.
package pci

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Offsets in configuration space (PCI 3.0, 6.1).
const (
	offVendor     = 0x00 // le16
	offDevice     = 0x02 // le16
	offCommand    = 0x04 // le16
	offStatus     = 0x06 // le16
	offRevision   = 0x08
	offClass      = 0x09 // programming interface, subclass, base class
	offCacheLine  = 0x0c
	offHeaderType = 0x0e
	offBAR        = 0x10 // 6 of le32; 2 in a bridge
	offSubVendor  = 0x2c // le16
	offSubDevice  = 0x2e // le16
	offCaps       = 0x34
	offLine       = 0x3c
	offPin        = 0x3d
	endOfHeader   = 0x40
	spaceSize     = 0x100  // of conventional PCI
	maxSpaceSize  = 0x1000 // of PCI Express
)

// Command bits (PCI 3.0, 6.2.2).
type Command uint16

// What a driver may switch on in a function.
const (
	CommandIO          Command = 1 << 0  // answer to I/O BARs
	CommandMemory      Command = 1 << 1  // answer to memory BARs
	CommandMaster      Command = 1 << 2  // access memory, send MSI and MSI-X
	CommandINTxDisable Command = 1 << 10 // never raise INTx
)

// statusCaps in the status register says that there is a capability list.
const statusCaps = 1 << 4

// Header types (PCI 3.0, 6.2.1), without the bit for several functions.
const (
	headerNormal = 0
	headerBridge = 1
	headerMask   = 0x7f
	multiFunc    = 0x80
)

// A Class is base class, subclass and programming interface: 0xBBSSPP.
type Class uint32

// Base returns the base class.
func (c Class) Base() uint8 { return uint8(c >> 16) }

// Sub returns the subclass.
func (c Class) Sub() uint8 { return uint8(c >> 8) }

// String returns base class and subclass as lspci -n does.
func (c Class) String() string { return fmt.Sprintf("%04x", uint32(c)>>8) }

// bridge reports whether functions of this class lead to other buses.
func (c Class) bridge() bool { return c>>8 == 0x0604 || c>>8 == 0x0607 }

// Registers are what holds configuration space: a file of sysfs, a vfio.Region, or a
// Space. Accesses are 1, 2 or 4 naturally aligned bytes.
type Registers interface {
	io.ReaderAt
	io.WriterAt
}

// A Config is a driver's view of configuration space.
type Config struct{ Registers }

// A Header is the part of configuration space that all functions have, and the
// subsystem, which bridges lack.
type Header struct {
	Vendor, Device       uint16
	Command              Command
	Revision             uint8
	Class                Class
	Type                 uint8 // 0 function, 1 bridge
	MultiFunction        bool  // other functions of the device may exist
	SubVendor, SubDevice uint16
	Pin                  uint8 // 1 to 4 for INTA to INTD; 0 none
}

// Header reads the header.
func (c Config) Header() (Header, error) {
	var b [endOfHeader]byte
	if err := c.Read(b[:], 0); err != nil {
		return Header{}, err
	}
	le := binary.LittleEndian
	h := Header{
		Vendor:        le.Uint16(b[offVendor:]),
		Device:        le.Uint16(b[offDevice:]),
		Command:       Command(le.Uint16(b[offCommand:])),
		Revision:      b[offRevision],
		Class:         Class(le.Uint32(b[offRevision:]) >> 8),
		Type:          b[offHeaderType] & headerMask,
		MultiFunction: b[offHeaderType]&multiFunc != 0,
		Pin:           b[offPin],
	}
	if h.Vendor == 0xffff {
		return Header{}, fmt.Errorf("read configuration space: no function answers")
	}
	if h.Type == headerNormal {
		h.SubVendor, h.SubDevice = le.Uint16(b[offSubVendor:]), le.Uint16(b[offSubDevice:])
	}
	return h, nil
}

// SetCommand switches command bits on and leaves the others as they are.
func (c Config) SetCommand(bits Command) error { return c.changeCommand(bits, 0) }

// ClearCommand switches command bits off and leaves the others as they are.
func (c Config) ClearCommand(bits Command) error { return c.changeCommand(0, bits) }

func (c Config) changeCommand(set, clear Command) error {
	now, err := c.read16(offCommand)
	if err != nil {
		return err
	}
	next := Command(now)&^clear | set
	if next == Command(now) {
		return nil
	}
	return c.write16(offCommand, uint16(next))
}

// Read fills p from offset off on, in accesses that are as wide as alignment allows
// and at most 4 bytes.
func (c Config) Read(p []byte, off int) error {
	for len(p) > 0 {
		n := accessWidth(off, len(p))
		switch got, err := c.ReadAt(p[:n], int64(off)); {
		case got == n:
		case err == nil || err == io.EOF:
			return fmt.Errorf("read %#x of configuration space: %w", off, io.ErrUnexpectedEOF)
		default:
			return fmt.Errorf("read %#x of configuration space: %w", off, err)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// accessWidth returns the widest access at off that transfers no more than n bytes.
func accessWidth(off, n int) int {
	switch {
	case off%4 == 0 && n >= 4:
		return 4
	case off%2 == 0 && n >= 2:
		return 2
	}
	return 1
}

func (c Config) read8(off int) (uint8, error) {
	var b [1]byte
	err := c.Read(b[:], off)
	return b[0], err
}

func (c Config) read16(off int) (uint16, error) {
	var b [2]byte
	err := c.Read(b[:], off)
	return binary.LittleEndian.Uint16(b[:]), err
}

func (c Config) write16(off int, v uint16) error {
	if _, err := c.WriteAt(binary.LittleEndian.AppendUint16(nil, v), int64(off)); err != nil {
		return fmt.Errorf("write %#x of configuration space: %w", off, err)
	}
	return nil
}
