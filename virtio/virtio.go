// Package virtio names the one edge between a device and the transport that
// connects it to a driver.
//
//	Transport (vhostuser.Backend) ──► Device (virtiofs.Device)
//
// The transport owns memory, messages and bells; the device owns requests. A
// transport calls a device and never the other way round, except through the Ring
// that it hands over. All methods of one Device are called by one goroutine.
//
// Spec: virtio 1.3, chapter 2 and 5.11; vhost-user protocol.
package virtio

import "vfiofs/virtio/virtq"

// Features are virtio feature bits (virtio 1.3, 6).
type Features uint64

// Transport-independent feature bits.
const (
	FeatureIndirectDesc Features = 1 << 28 // VIRTIO_RING_F_INDIRECT_DESC
	FeatureEventIdx     Features = 1 << 29 // VIRTIO_RING_F_EVENT_IDX
	FeatureVersion1     Features = 1 << 32 // VIRTIO_F_VERSION_1
)

// A Notifier rings the driver's bell for one ring: it says that used buffers wait.
type Notifier interface{ Notify() error }

// A Ring is one running virtqueue with its bells, lent to a Device from StartQueue
// to StopQueue.
type Ring struct {
	Queue *virtq.Queue
	// Kick is an eventfd that becomes readable when the driver made buffers available.
	// Its file status flags are shared with the peer and must not be changed: wait for
	// it with edge-triggered epoll and don't read it.
	Kick int
	// Call may be used from any one goroutine at a time.
	Call Notifier
	// Fail tells the transport that the ring can no longer be trusted; the device has
	// already stopped using it. May be called from any goroutine, once.
	Fail func(error)
}

// A Device is what a driver talks to, whatever the transport.
type Device interface {
	// Queues returns the number of virtqueues.
	Queues() int
	// Features returns the device-specific feature bits; the transport adds its own.
	Features() Features
	// ReadConfig copies configuration space from offset off on; zeros past its end.
	ReadConfig(p []byte, off int)
	// ConfigSize returns the length of configuration space in bytes, or 0 if the device
	// has none to offer through the transport.
	ConfigSize() int
	// StartQueue hands over ring n. The device looks at it at once, without waiting for
	// a kick: kicks may have come before.
	StartQueue(n int, r Ring) error
	// StopQueue takes ring n back: it returns once every request popped from it has been
	// completed and nothing will touch its memory again. Stopping a ring that isn't
	// running does nothing.
	StopQueue(n int)
	// Reset drops all state that the driver gave the device. All rings are stopped.
	Reset()
}
