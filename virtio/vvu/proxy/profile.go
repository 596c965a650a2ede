package proxy

import "fmt"

// A Profile is a family of drivers. What they expect differs in ways that no device can
// satisfy at once (virtio-vhost-user.md 6.4 and 10).
type Profile int

// Profiles.
const (
	// Crosvm is for our own driver and crosvm's: memory by the direct rule, and an empty
	// message when the sibling has left.
	Crosvm Profile = iota
	// DPDK is for the drivers of DPDK, SPDK and QEMU's prototype: memory by the stack rule,
	// and never an empty message.
	DPDK
)

// String returns the profile's name on the command line.
func (p Profile) String() string {
	if p == DPDK {
		return "dpdk"
	}
	return "crosvm"
}

// UnmarshalText parses a name.
func (p *Profile) UnmarshalText(text []byte) error {
	switch string(text) {
	case "crosvm":
		*p = Crosvm
	case "dpdk":
		*p = DPDK
	default:
		return fmt.Errorf("profile %q: want crosvm or dpdk", text)
	}
	return nil
}

// PCI device ids (virtio-vhost-user.md 2.1).
const (
	deviceIDCrosvm = 0x107d
	deviceIDDPDK   = 0x1058
)

// deviceID returns the id by which drivers of the profile find the device.
func (p Profile) deviceID() uint16 {
	if p == DPDK {
		return deviceIDDPDK
	}
	return deviceIDCrosvm
}

// rule returns how drivers of the profile find memory.
func (p Profile) rule() Rule {
	if p == DPDK {
		return Stack
	}
	return Direct
}
