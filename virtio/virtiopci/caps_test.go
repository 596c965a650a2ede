package virtiopci

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/pci"
)

// A space is configuration space that can't be written.
type space struct{ *bytes.Reader }

func (space) WriteAt([]byte, int64) (int, error) { return 0, errors.New("read-only") }

// config returns configuration space with the given bytes.
func config(b []byte) pci.Config { return pci.Config{Registers: space{bytes.NewReader(b)}} }

// dump makes 256 bytes of configuration space of lines "offset: bytes", as in
// virtio-vhost-user.md 11; the list of capabilities starts at first.
func dump(t testing.TB, first byte, lines string) []byte {
	t.Helper()
	b := make([]byte, 256)
	b[0x06], b[0x34] = 0x10, first
	for line := range strings.Lines(lines) {
		offset, text, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		at, err := strconv.ParseUint(offset, 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		copy(b[at:], raw)
	}
	return b
}

// Capability lists of virtio-vhost-user.md 11.1 to 11.3.
const (
	crosvmCaps = `
		40: 09 50 10 01 00 00 00 00 00 00 00 00 38 00 00 00
		50: 09 60 10 03 00 00 00 00 00 10 00 00 01 00 00 00
		60: 09 70 10 04 00 00 00 00 00 20 00 00 00 10 00 00
		70: 09 84 14 02 00 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00
		84: 09 94 10 05 00 00 00 00 00 00 00 00 00 00 00 00
		94: 11 a0 12 00 00 60 00 00 00 70 00 00
		a0: 09 b4 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00
		b4: 09 c4 10 07 02 00 00 00 00 20 00 00 00 10 00 00
		c4: 09 00 10 08 04 00 00 00 00 00 00 00 00 00 00 80`
	qemuCaps = `
		cc: 11 b8 02 04 01 00 00 00 31 40 00 00
		b8: 09 a4 14 05 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		a4: 09 94 14 02 04 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00
		94: 09 84 10 04 04 00 00 00 00 20 00 00 00 10 00 00
		84: 09 74 10 03 04 00 00 00 00 10 00 00 00 10 00 00
		74: 09 64 10 01 04 00 00 00 00 00 00 00 00 10 00 00
		64: 09 54 10 08 02 00 00 00 00 30 00 00 00 10 00 00
		54: 09 40 10 07 02 00 00 00 00 20 00 00 00 10 00 00
		40: 09 00 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00`
	ourCaps = `
		40: 09 50 10 01 00 00 00 00 00 00 00 00 38 00 00 00
		50: 09 60 10 03 00 00 00 00 00 10 00 00 01 00 00 00
		60: 09 70 10 04 00 00 00 00 00 20 00 00 00 10 00 00
		70: 09 84 14 02 00 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00
		84: 09 98 14 05 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		98: 11 a4 ff 00 00 60 00 00 00 70 00 00
		a4: 09 b8 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00
		b8: 09 c8 10 07 02 00 00 00 00 20 00 00 00 10 00 00
		c8: 09 00 18 08 04 01 00 00 00 00 00 00 00 00 00 80 00 00 00 00 01 00 00 00`
)

// registers returns the structures that all devices have, in one BAR.
func registers(bar int, common, isr uint64) Caps {
	return Caps{
		Common: &Cap{Type: CapCommon, BAR: bar, Length: common},
		ISR:    &Cap{Type: CapISR, BAR: bar, Offset: 0x1000, Length: isr},
		Device: &Cap{Type: CapDevice, BAR: bar, Offset: 0x2000, Length: 0x1000},
		Notify: &Cap{Type: CapNotify, BAR: bar, Offset: 0x3000, Length: 0x1000, Multiplier: 4},

		Doorbell:     &Cap{Type: CapDoorbell, BAR: 2, Length: 0x2000, Multiplier: 4},
		Notification: &Cap{Type: CapNotification, BAR: 2, Offset: 0x2000, Length: 0x1000},
	}
}

func TestParseCaps(t *testing.T) {
	crosvm := registers(0, 0x38, 1)
	crosvm.Memory = &Cap{Type: CapMemory, BAR: 4, Length: 0x8000_0000}
	crosvmLarge := registers(0, 0x38, 1)
	crosvmLarge.Memory = &Cap{Type: CapMemory, BAR: 4}
	qemu := registers(4, 0x1000, 0x1000)
	qemu.Memory = &Cap{Type: CapMemory, BAR: 2, Offset: 0x3000, Length: 0x1000}
	ours := registers(0, 0x38, 1)
	ours.Memory = &Cap{Type: CapMemory, BAR: 4, ID: 1, Length: 0x1_8000_0000}
	byID := registers(0, 0x38, 1)
	byID.Memory = &Cap{Type: CapMemory, BAR: 4, ID: 1, Offset: 0x5000, Length: 0x6000}
	other := registers(0, 0x38, 1)
	other.Memory = &Cap{Type: CapMemory, BAR: 4, ID: 2, Length: 0x1_8000_0000}

	for _, test := range []struct {
		name  string
		first byte
		lines string
		want  Caps
	}{
		{"crosvm", 0x40, crosvmCaps, crosvm},
		{"crosvm, length cut to 32 bits", 0x40, crosvmCaps + "\nc4: 09 00 10 08 04 00 00 00 00 00 00 00 00 00 00 00", crosvmLarge},
		{"qemu", 0xcc, qemuCaps, qemu},
		{"ours", 0x40, ourCaps, ours},
		{"unknown type", 0x40, ourCaps + "\nc9: e0\ne0: 09 00 10 09 00 00", ours},
		{"unknown type with bad numbers", 0x40, ourCaps + "\nc9: e0\ne0: 09 00 01 77 09", ours},
		{"memory 2 is not preferred to 1", 0x40, ourCaps + "\nc9: e0\ne0: 09 00 10 08 04 02 00 00 00 50 00 00 00 60 00 00", ours},
		{"memory 1 is preferred to 2", 0x40, ourCaps + "\ncd: 02\nc9: e0\ne0: 09 00 10 08 04 01 00 00 00 50 00 00 00 60 00 00", byID},
		{"memory 2 alone", 0x40, ourCaps + "\ncd: 02", other},
		{"a second common configuration", 0x40, ourCaps + "\nc9: e0\ne0: 09 00 10 01 03 00 00 00 00 50 00 00 00 60 00 00", ours},
		{"none", 0, "", Caps{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseCaps(config(dump(t, test.first, test.lines)))
			if err != nil {
				t.Fatalf("ParseCaps = %v; want nil", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("ParseCaps: -want +got:\n%s", diff)
			}
		})
	}
}

func TestParseCapsRefuses(t *testing.T) {
	for _, test := range []struct {
		name, lines, want string
	}{
		{"loop", ourCaps + "\nc9: 40", "loops"},
		{"bar 6", ourCaps + "\n44: 06", "BAR is 6"},
		{"overflow", ourCaps + "\n48: 00 f0 ff ff 00 20 00 00", "offset 0xfffff000 + length 0x2000 overflows"},
		{"overflow of 64 bits", ourCaps + "\nd0: 00 f0 ff ff 00 20 00 00 ff ff ff 7f", "overflows"},
		{"too short", ourCaps + "\n42: 0f", "length is 15"},
		{"no room for the multiplier", ourCaps + "\n72: 10", "length is 16; want 20"},
		{"past the end", ourCaps + "\nc9: f4\nf4: 09 00 10 01", "length is 16; want 16 to 12"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseCaps(config(dump(t, 0x40, test.lines)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ParseCaps = %v; want %q in it", err, test.want)
			}
		})
	}
	if _, err := ParseCaps(config(nil)); err == nil {
		t.Error("ParseCaps of nothing = nil; want an error")
	}
}

func TestCapTypeString(t *testing.T) {
	if got := CapDoorbell.String(); got != "doorbells" {
		t.Errorf("String() = %q; want doorbells", got)
	}
	if got := CapType(77).String(); got != "type 77" {
		t.Errorf("String() = %q; want type 77", got)
	}
}

func FuzzCaps(f *testing.F) {
	f.Add(dump(f, 0x40, crosvmCaps))
	f.Add(dump(f, 0xcc, qemuCaps))
	f.Add(dump(f, 0x40, ourCaps))
	f.Add(dump(f, 0x40, ourCaps+"\nc9: 40"))
	f.Fuzz(func(t *testing.T, b []byte) {
		caps, err := ParseCaps(config(b))
		if err != nil {
			return
		}
		for _, c := range []*Cap{caps.Common, caps.Notify, caps.ISR, caps.Device, caps.Doorbell, caps.Notification, caps.Memory} {
			if c != nil && (c.BAR < 0 || c.BAR > 5 || c.Offset+c.Length < c.Offset) {
				t.Errorf("ParseCaps accepts %+v", *c)
			}
		}
	})
}
