// Package vhostuser is the vhost-user protocol: the back-end's state machine, which
// connects a virtio.Device to a front-end (a VMM), and the front-end's side of it for
// tests, benchmarks and mounts.
//
//	front-end ──messages, descriptors──► Link ──Message──► session ──► ring ──► Device
//	                                      │ Map                │ start, stop
//	                                      ▼                    ▼
//	                                   Mapping ───────────► memory (a map of the guest)
//
// The state machine is written once, above Link. A ring runs if and only if it is
// configured (size, addresses, kick, memory), enabled and not broken. Messages change
// what is known about rings; one function, settle, compares that with what the device
// runs and starts or stops the ring. What a running ring depends on (memory, kick,
// dirty log) is changed by stopping it, which drains it, and starting it again at its
// next available index. Only its bells are exchanged while it runs.
//
// Ownership: a session owns the Link, every received descriptor, the mappings and the
// rings, and has given all of it back when Serve returns: rings stopped, Device reset,
// memory unmapped, descriptors closed, connection closed, in this order. The order
// makes the end of the connection the sign that guest memory is left alone.
//
// One goroutine, the caller of Serve, does everything. A device calls Ring.Call and
// Ring.Fail from its own threads; both reach only a bell, whose lock is a leaf, and an
// atomic flag.
//
// Spec: vhost-user protocol (QEMU docs/interop/vhost-user.rst, 2026); virtio 1.3, 2.7.
package vhostuser

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"vfiofs/virtio"
)

// Options adjusts a Backend. The zero value is ready for use.
type Options struct {
	Log *slog.Logger // nil discards
}

// A Backend connects one Device to one front-end at a time.
type Backend struct {
	dev         virtio.Device
	log         *slog.Logger
	drainNotice time.Duration // how often to say that a ring is still draining
}

// NewBackend returns a Backend for dev.
func NewBackend(dev virtio.Device, opt Options) *Backend {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Backend{dev: dev, log: opt.Log, drainNotice: 10 * time.Second}
}

// Serve talks to one front-end until it leaves, breaks the protocol, or ctx ends. It
// owns link and closes it. The result is nil when the peer left between messages; a
// *PeerError when it broke the protocol; ctx's cause when that ended. In any case the
// device is reset and holds no ring when Serve returns, which waits for requests in
// progress.
//
// Calls must not overlap: they share the Device.
func (b *Backend) Serve(ctx context.Context, link Link) error {
	s := newSession(b, link)
	err := s.run(ctx)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if endErr := s.end(); err == nil {
		err = endErr
	}
	return err
}

// features returns the feature bits that are offered over link.
func (b *Backend) features(link Link) virtio.Features {
	f := b.dev.Features() | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx |
		virtio.FeatureVersion1 | FeatureProtocolFeatures
	if link.PassesFiles() {
		f |= FeatureLogAll
	}
	return f
}

// protocolFeatures returns the protocol features that are offered over link.
func (b *Backend) protocolFeatures(link Link) ProtocolFeatures {
	p := ProtocolMQ | ProtocolReplyAck | ProtocolResetDevice
	if b.dev.ConfigSize() > 0 {
		p |= ProtocolConfig
	}
	if link.PassesFiles() {
		p |= ProtocolLogShmFD | ProtocolBackendReq | ProtocolBackendSendFD | ProtocolConfigureMemSlots
	}
	return p
}
