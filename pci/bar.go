package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// maxBARs is how many BARs a function has room for; a 64-bit one takes two.
const maxBARs = 6

// Bits of a BAR (PCI 3.0, 6.2.5.1).
const (
	barIO       = 1 << 0
	barTypeMask = 3 << 1
	barMem32    = 0 << 1
	barMemLow   = 1 << 1 // below 1 MiB, of PCI 2
	barMem64    = 2 << 1
	barPrefetch = 1 << 3
	barIOBits   = 0x3 // not part of the address
	barMemBits  = 0xf
)

// A BARKind says what a BAR answers to.
type BARKind uint8

// Kinds of BARs.
const (
	IO    BARKind = 1 // I/O ports
	Mem32 BARKind = 2 // memory below 4 GiB
	Mem64 BARKind = 3 // memory anywhere; takes the next BAR's place as well
)

// String returns "I/O", "32-bit" or "64-bit".
func (k BARKind) String() string {
	names := [...]string{IO: "I/O", Mem32: "32-bit", Mem64: "64-bit"}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("BARKind(%d)", uint8(k))
}

// MarshalText implements encoding.TextMarshaler with String.
func (k BARKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// A BAR is a window of a function.
type BAR struct {
	Index        int // 0 to 5
	Kind         BARKind
	Prefetchable bool
	Address      uint64 // on the bus; 0: none yet
	Size         uint64 // in bytes, a power of two; 0: not known
}

// registers returns how many BARs this one takes the place of.
func (b BAR) registers() int {
	if b.Kind == Mem64 {
		return 2
	}
	return 1
}

// BARs decodes the BARs. Their sizes are not known without writing to them. A BAR that
// reads 0 is not listed: there is none, or a 32-bit one without an address.
func (c Config) BARs() ([]BAR, error) {
	kind, err := c.read8(offHeaderType)
	if err != nil {
		return nil, err
	}
	count := 0
	switch kind & headerMask {
	case headerNormal:
		count = maxBARs
	case headerBridge:
		count = 2
	}
	raw := make([]byte, 4*count)
	if err := c.Read(raw, offBAR); err != nil {
		return nil, err
	}
	return decodeBARs(raw)
}

func decodeBARs(raw []byte) ([]BAR, error) {
	var bars []BAR
	for i := 0; i < len(raw)/4; i++ {
		low := binary.LittleEndian.Uint32(raw[4*i:])
		bar := BAR{Index: i}
		switch {
		case low == 0:
			continue
		case low&barIO != 0:
			bar.Kind, bar.Address = IO, uint64(low&^barIOBits)
		case low&barTypeMask == barMem32, low&barTypeMask == barMemLow:
			bar.Kind, bar.Address = Mem32, uint64(low&^barMemBits)
		case low&barTypeMask == barMem64 && i+1 < len(raw)/4:
			bar.Kind, bar.Address = Mem64, binary.LittleEndian.Uint64(raw[4*i:])&^barMemBits
			i++
		case low&barTypeMask == barMem64:
			return nil, fmt.Errorf("BAR %d is 64 bits wide and has no second half", i)
		default:
			return nil, fmt.Errorf("BAR %d has the reserved type 3", i)
		}
		bar.Prefetchable = bar.Kind != IO && low&barPrefetch != 0
		bars = append(bars, bar)
	}
	return bars, nil
}

// check says what is wrong with a BAR of a device model.
func (b BAR) check() error {
	least, most := uint64(16), uint64(1)<<63
	switch b.Kind {
	case IO:
		least, most = 4, 256
	case Mem32:
		most = 1 << 31
	case Mem64:
	default:
		return fmt.Errorf("BAR %d: kind %v is unknown", b.Index, b.Kind)
	}
	switch {
	case b.Index < 0 || b.Index+b.registers() > maxBARs:
		return fmt.Errorf("BAR %d: a %v BAR can't be there", b.Index, b.Kind)
	case bits.OnesCount64(b.Size) != 1 || b.Size < least || b.Size > most:
		return fmt.Errorf("BAR %d: size %#x; a %v BAR has a power of two from %#x to %#x", b.Index, b.Size, b.Kind, least, most)
	case b.Address%b.Size != 0 || b.Kind != Mem64 && b.Address>>32 != 0:
		return fmt.Errorf("BAR %d: address %#x doesn't suit a %v BAR of %#x bytes", b.Index, b.Address, b.Kind, b.Size)
	case b.Kind == IO && b.Prefetchable:
		return fmt.Errorf("BAR %d: I/O can't be prefetchable", b.Index)
	}
	return nil
}

// encode returns the BAR's registers and which of their bits can be written: all of
// the address that the size leaves, which is how a driver finds the size.
func (b BAR) encode() (value, writable uint64) {
	writable = -b.Size
	value = b.Address
	switch b.Kind {
	case IO:
		value |= barIO
	case Mem64:
		value |= barMem64
	}
	if b.Prefetchable {
		value |= barPrefetch
	}
	return value, writable
}
