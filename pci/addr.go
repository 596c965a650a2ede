package pci

import (
	"fmt"
	"strconv"
	"strings"
)

// An Address names a PCI function as Linux does: 0000:00:07.0.
type Address struct {
	Domain   uint32 // 16 bits from firmware; some drivers make up larger ones
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParseAddress reads dddd:bb:dd.f, bb:dd.f (domain 0) or pci_dddd_bb_dd_f, with
// hexadecimal digits.
func ParseAddress(text string) (Address, error) {
	fields := text
	if rest, ok := strings.CutPrefix(text, "pci_"); ok {
		// libvirt's name of the same: three underscores for two colons and a dot.
		parts := strings.Split(rest, "_")
		if len(parts) != 4 {
			return Address{}, badAddress(text)
		}
		fields = parts[0] + ":" + parts[1] + ":" + parts[2] + "." + parts[3]
	}
	fields, function, ok := strings.Cut(fields, ".")
	parts := strings.Split(fields, ":")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return Address{}, badAddress(text)
	}
	if len(parts) == 2 {
		parts = append([]string{"0000"}, parts...)
	}
	domain, ok1 := hexField(parts[0], 4, 8, 1<<32-1)
	bus, ok2 := hexField(parts[1], 2, 2, 0xff)
	device, ok3 := hexField(parts[2], 2, 2, 0x1f)
	fn, ok4 := hexField(function, 1, 1, 7)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return Address{}, badAddress(text)
	}
	return Address{uint32(domain), uint8(bus), uint8(device), uint8(fn)}, nil
}

// hexField reads a number of minDigits to maxDigits hexadecimal digits.
func hexField(text string, minDigits, maxDigits int, limit uint64) (uint64, bool) {
	if len(text) < minDigits || len(text) > maxDigits {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 16, 64)
	return n, err == nil && n <= limit
}

func badAddress(text string) error {
	return fmt.Errorf("%q is no PCI address; write it like 0000:00:07.0, 00:07.0 or pci_0000_00_07_0", text)
}

// String returns the long form, as in sysfs.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Device, a.Function)
}

// MarshalText implements encoding.TextMarshaler with String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParseAddress.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAddress(string(text))
	return err
}

// Compare orders addresses by domain, bus, device and function.
func (a Address) Compare(b Address) int {
	for _, d := range [...]int64{
		int64(a.Domain) - int64(b.Domain),
		int64(a.Bus) - int64(b.Bus),
		int64(a.Device) - int64(b.Device),
		int64(a.Function) - int64(b.Function),
	} {
		switch {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
	}
	return 0
}
