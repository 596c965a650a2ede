// Package virtiopci is the virtio PCI transport, modern only: where a function keeps
// its registers, and both ends of them.
//
//	configuration space ──ParseCaps──► Caps: which BAR, where, how long
//	                                     │
//	driver's side                        ▼             device's side
//	  Driver ──vfio.Registers──► common configuration ◄── Block ──► callbacks
//	                             ISR, notification
//
// A Driver trusts nothing that it reads: values are read back and checked, waits end.
// A Block takes any access of any width at any time and turns it into queue states,
// acknowledged features and a status; what that means is its owner's business.
//
// Ownership: a Driver borrows its registers. A Block has one lock, a leaf: it is never
// held while a callback runs.
//
// Spec: virtio 1.3, 4.1; virtio-vhost-user.md sections 3, 5.4, 8.1 and 11.
package virtiopci

import "strings"

// Offsets in bytes within the common configuration (virtio 1.3, 4.1.4.3).
const (
	regDeviceFeatureSelect = 0x00 // le32
	regDeviceFeature       = 0x04 // le32, read-only
	regDriverFeatureSelect = 0x08 // le32
	regDriverFeature       = 0x0c // le32
	regConfigVector        = 0x10 // le16 config_msix_vector
	regNumQueues           = 0x12 // le16, read-only
	regStatus              = 0x14 // u8 device_status
	regGeneration          = 0x15 // u8 config_generation, read-only
	regQueueSelect         = 0x16 // le16
	regQueueSize           = 0x18 // le16
	regQueueVector         = 0x1a // le16 queue_msix_vector
	regQueueEnable         = 0x1c // le16
	regQueueNotifyOff      = 0x1e // le16, read-only
	regQueueDesc           = 0x20 // le64
	regQueueDriver         = 0x28 // le64: available ring
	regQueueDevice         = 0x30 // le64: used ring

	// CommonSize is the length of the common configuration in bytes.
	CommonSize = 0x38
)

// NoVector stands for no interrupt at all (VIRTIO_MSI_NO_VECTOR).
const NoVector = 0xffff

// MaxQueueSize is the largest queue size that a Driver uses and a Block reports. Some
// drivers use the reported size as it is and have room for this many.
const MaxQueueSize = 256

// A Status is the device_status register (virtio 1.3, 2.1).
type Status uint8

// Bits of the status.
const (
	Acknowledge Status = 0x01 // ACKNOWLEDGE
	HasDriver   Status = 0x02 // DRIVER
	DriverOK    Status = 0x04 // DRIVER_OK
	FeaturesOK  Status = 0x08 // FEATURES_OK
	NeedsReset  Status = 0x40 // DEVICE_NEEDS_RESET, set by the device
	Failed      Status = 0x80 // FAILED

	// allOnes is what reads give when there is no device any more.
	allOnes Status = 0xff
)

// String names the bits, joined by "|".
func (s Status) String() string {
	if s == 0 {
		return "RESET"
	}
	var names []string
	for _, b := range []struct {
		bit  Status
		name string
	}{
		{Acknowledge, "ACKNOWLEDGE"},
		{HasDriver, "DRIVER"},
		{FeaturesOK, "FEATURES_OK"},
		{DriverOK, "DRIVER_OK"},
		{NeedsReset, "NEEDS_RESET"},
		{Failed, "FAILED"},
	} {
		if s&b.bit != 0 {
			names = append(names, b.name)
		}
	}
	return strings.Join(names, "|")
}

// Bits of the ISR (virtio 1.3, 4.1.4.5).
const (
	ISRQueue  = 0x1 // a buffer was used
	ISRConfig = 0x2 // configuration or status changed
)

// Feature bits that the transport needs itself (virtio 1.3, 6).
const (
	FeatureVersion1       = 1 << 32 // VIRTIO_F_VERSION_1
	FeatureAccessPlatform = 1 << 33 // VIRTIO_F_ACCESS_PLATFORM: addresses go through the IOMMU
)
