package pci_test

import (
	"testing"

	"vfiofs/pci"
)

// FuzzConfig reads any configuration space in all ways: nothing panics, and what is
// returned is in range.
func FuzzConfig(f *testing.F) {
	f.Add(config(f, forks()).Registers.(registers).data)
	s := build(f, proxy(f))
	whole := make([]byte, s.Size())
	s.ReadAt(whole, 0)
	f.Add(whole)
	f.Add(whole[:64])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := pci.Config{Registers: registers{t: t, data: data}}
		caps, err := c.Capabilities()
		if err != nil && caps != nil || len(caps) > 48 {
			t.Errorf("Capabilities = %v, %v; want one of both, and at most 48", caps, err)
		}
		seen := map[int]bool{}
		for _, entry := range caps {
			if entry.Offset < 0x40 || entry.Offset > 0xfc || entry.Offset%4 != 0 || seen[entry.Offset] {
				t.Errorf("capability at %#x; want it in place and once", entry.Offset)
			}
			seen[entry.Offset] = true
		}
		if m, ok, err := c.MSIX(); ok && (err != nil || m.Vectors < 1 || m.Vectors > 2048 || m.TableBAR > 5 || m.PBABAR > 5 || (m.TableOffset|m.PBAOffset)%8 != 0) {
			t.Errorf("MSIX = %+v, %v; want it in range", m, err)
		}
		bars, err := c.BARs()
		if err != nil && bars != nil {
			t.Errorf("BARs = %v, %v; want one of both", bars, err)
		}
		for i, b := range bars {
			if b.Index < 0 || b.Index > 5 || i > 0 && b.Index <= bars[i-1].Index || b.Kind == pci.Mem64 && b.Index == 5 {
				t.Errorf("BARs = %+v; want them in order and in place", bars)
			}
		}
		c.Header()
	})
}

// FuzzSpace writes anything anywhere: what a driver can't write stays, and the
// capability list still stands.
func FuzzSpace(f *testing.F) {
	f.Add(int64(0x10), []byte{0xff, 0xff, 0xff, 0xff}, int64(0x30), []byte{0, 0xf8, 0xff, 0xff})
	f.Add(int64(0xfe), []byte{1, 2, 3, 4}, int64(-1), []byte{1})
	f.Fuzz(func(t *testing.T, at1 int64, p1 []byte, at2 int64, p2 []byte) {
		s := build(t, proxy(t))
		want, _ := pci.Config{Registers: s}.Capabilities()
		s.WriteAt(p1, at1)
		s.WriteAt(p2, at2)
		got, err := pci.Config{Registers: s}.Capabilities()
		if err != nil || len(got) != len(want) {
			t.Errorf("Capabilities after writes = %v, %v; want %v", got, err, want)
		}
		if m, ok, err := (pci.Config{Registers: s}).MSIX(); !ok || err != nil || m.Vectors != 256 {
			t.Errorf("MSIX after writes = %+v, %v, %v; want 256 vectors", m, ok, err)
		}
		if bars, err := (pci.Config{Registers: s}).BARs(); err != nil || len(bars) > 3 {
			t.Errorf("BARs after writes = %+v, %v; want at most 3", bars, err)
		}
	})
}

// FuzzParseAddress checks that what is accepted is in range and survives String.
func FuzzParseAddress(f *testing.F) {
	for _, text := range []string{"0000:00:07.0", "00:07.0", "pci_0000_00_07_0", "10000:ff:1f.7", "::.", "pci____"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := pci.ParseAddress(text)
		if err != nil {
			return
		}
		if a.Device > 31 || a.Function > 7 {
			t.Errorf("ParseAddress(%q) = %v; want it in range", text, a)
		}
		if back, err := pci.ParseAddress(a.String()); back != a || err != nil {
			t.Errorf("ParseAddress(%q) = %v, %v; want %v", a.String(), back, err, a)
		}
	})
}
