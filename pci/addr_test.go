package pci_test

import (
	"encoding/json"
	"strings"
	"testing"

	"vfiofs/pci"
)

func TestParseAddress(t *testing.T) {
	for _, test := range []struct {
		text string
		want pci.Address
		ok   bool
	}{
		{"0000:00:07.0", pci.Address{Device: 7}, true},
		{"00:07.0", pci.Address{Device: 7}, true},
		{"pci_0000_00_07_0", pci.Address{Device: 7}, true},
		{"abcd:ef:1f.7", pci.Address{Domain: 0xabcd, Bus: 0xef, Device: 0x1f, Function: 7}, true},
		{"ABCD:EF:1F.7", pci.Address{Domain: 0xabcd, Bus: 0xef, Device: 0x1f, Function: 7}, true},
		{"10000:01:00.0", pci.Address{Domain: 0x10000, Bus: 1}, true}, // as VMD makes up
		{"ffffffff:00:00.0", pci.Address{Domain: 1<<32 - 1}, true},
		{"", pci.Address{}, false},
		{"07.0", pci.Address{}, false},
		{"0:07.0", pci.Address{}, false},
		{"00:7.0", pci.Address{}, false},
		{"00:07", pci.Address{}, false},
		{"00:07.8", pci.Address{}, false},
		{"00:07.00", pci.Address{}, false},
		{"00:20.0", pci.Address{}, false},
		{"000:00:07.0", pci.Address{}, false},
		{"100000000:00:07.0", pci.Address{}, false},
		{"0000:00:07.0.0", pci.Address{}, false},
		{"0000:0000:00:07.0", pci.Address{}, false},
		{"+000:00:07.0", pci.Address{}, false},
		{"0_00:00:07.0", pci.Address{}, false},
		{" 0000:00:07.0", pci.Address{}, false},
		{"pci_0000_00_07", pci.Address{}, false},
		{"pci_0000_00_07_0_0", pci.Address{}, false},
		{"pci_0000:00_07_0", pci.Address{}, false},
		{"0000_00_07_0", pci.Address{}, false},
		{"/run/vvu.sock", pci.Address{}, false},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := pci.ParseAddress(test.text)
			if got != test.want || (err == nil) != test.ok {
				t.Errorf("ParseAddress(%q) = %v, %v; want %v, ok %v", test.text, got, err, test.want, test.ok)
			}
		})
	}
}

func TestAddressText(t *testing.T) {
	a := pci.Address{Domain: 0xa, Bus: 0xb, Device: 0xc, Function: 1}
	text, err := json.Marshal(map[pci.Address]pci.Address{a: a})
	if want := `{"000a:0b:0c.1":"000a:0b:0c.1"}`; err != nil || string(text) != want {
		t.Errorf("Marshal = %s, %v; want %s", text, err, want)
	}
	var back map[pci.Address]pci.Address
	if err := json.Unmarshal(text, &back); err != nil || back[a] != a {
		t.Errorf("Unmarshal(%s) = %v, %v; want %v", text, back, err, a)
	}
	if err := a.UnmarshalText([]byte("nonsense")); err == nil || !strings.Contains(err.Error(), `"nonsense" is no PCI address`) {
		t.Errorf("UnmarshalText = %v; want an error that quotes it", err)
	}
}

func TestAddressCompare(t *testing.T) {
	order := []string{"0000:00:00.0", "0000:00:00.1", "0000:00:1f.0", "0000:01:00.0", "0001:00:00.0", "ffffffff:00:00.0"}
	for i, x := range order {
		for j, y := range order {
			a, b := address(t, x), address(t, y)
			if got, want := a.Compare(b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%v.Compare(%v) = %d; want %d", a, b, got, want)
			}
		}
	}
}

// address parses text, which must be right.
func address(t testing.TB, text string) pci.Address {
	t.Helper()
	a, err := pci.ParseAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
