package pci

import (
	"encoding/binary"
	"fmt"
)

const (
	msixSize       = 12      // bytes of the capability
	msixVectors    = 0x07ff  // in message control: vectors minus 1
	msixMasked     = 1 << 14 // in message control: all vectors are masked
	msixEnabled    = 1 << 15 // in message control
	msixBIR        = 7       // in an offset: which BAR
	maxMSIXVectors = msixVectors + 1
	msixEntrySize  = 16 // bytes per vector in the table
)

// An MSIX says how many interrupts a function has and where their tables are (PCI
// 3.0, 6.8.2).
type MSIX struct {
	Vectors            int // 1 to 2048
	TableBAR, PBABAR   int // 0 to 5
	TableOffset        uint32
	PBAOffset          uint32 // of the pending bits; offsets are in the BAR, 8-aligned
	Enabled, AllMasked bool
}

// TableSize returns the bytes of the vector table.
func (m MSIX) TableSize() int { return m.Vectors * msixEntrySize }

// PBASize returns the bytes of the pending bits.
func (m MSIX) PBASize() int { return (m.Vectors + 63) / 64 * 8 }

// MSIX reads the MSI-X capability; ok is false if there is none. Whether the tables lie
// within their BARs is not checked, because sizes of BARs are not known here.
func (c Config) MSIX() (m MSIX, ok bool, err error) {
	caps, err := c.Capabilities()
	if err != nil {
		return MSIX{}, false, err
	}
	for _, capability := range caps {
		if capability.ID == CapMSIX {
			m, err = c.msixAt(capability.Offset)
			return m, err == nil, err
		}
	}
	return MSIX{}, false, nil
}

func (c Config) msixAt(at int) (MSIX, error) {
	var b [msixSize]byte
	if at+len(b) > spaceSize {
		return MSIX{}, fmt.Errorf("MSI-X capability at %#x: it doesn't fit", at)
	}
	if err := c.Read(b[:], at); err != nil {
		return MSIX{}, fmt.Errorf("MSI-X capability: %w", err)
	}
	le := binary.LittleEndian
	control, table, pba := le.Uint16(b[2:]), le.Uint32(b[4:]), le.Uint32(b[8:])
	m := MSIX{
		Vectors:     int(control&msixVectors) + 1,
		TableBAR:    int(table & msixBIR),
		TableOffset: table &^ msixBIR,
		PBABAR:      int(pba & msixBIR),
		PBAOffset:   pba &^ msixBIR,
		Enabled:     control&msixEnabled != 0,
		AllMasked:   control&msixMasked != 0,
	}
	if m.TableBAR >= maxBARs || m.PBABAR >= maxBARs {
		return MSIX{}, fmt.Errorf("MSI-X capability at %#x: BAR %d doesn't exist", at, max(m.TableBAR, m.PBABAR))
	}
	return m, nil
}

// Build returns the capability for a Layout.
func (m MSIX) Build() (CapBuild, error) {
	switch {
	case m.Vectors < 1 || m.Vectors > maxMSIXVectors:
		return CapBuild{}, fmt.Errorf("MSI-X: %d vectors; there may be 1 to %d", m.Vectors, maxMSIXVectors)
	case m.TableBAR < 0 || m.TableBAR >= maxBARs || m.PBABAR < 0 || m.PBABAR >= maxBARs:
		return CapBuild{}, fmt.Errorf("MSI-X: table in BAR %d, pending bits in BAR %d; there are 0 to %d", m.TableBAR, m.PBABAR, maxBARs-1)
	case (m.TableOffset|m.PBAOffset)&msixBIR != 0:
		return CapBuild{}, fmt.Errorf("MSI-X: offsets %#x and %#x; both must be multiples of 8", m.TableOffset, m.PBAOffset)
	}
	le := binary.LittleEndian
	body := le.AppendUint16(nil, uint16(m.Vectors-1))
	body = le.AppendUint32(body, m.TableOffset|uint32(m.TableBAR))
	body = le.AppendUint32(body, m.PBAOffset|uint32(m.PBABAR))
	writable := make([]byte, len(body))
	le.PutUint16(writable, msixEnabled|msixMasked)
	return CapBuild{ID: CapMSIX, Body: body, Writable: writable}, nil
}
