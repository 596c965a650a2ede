// Package proxy is the device model of virtio-vhost-user: a PCI function that shows a
// vhost-user front-end to a driver in a device VM.
//
//	sibling's VMM                       proxy                         device VM
//	(front-end)          ┌───────────────────────────────────┐      (vfiouser.Bus)
//	     messages ──────►│ sibling.go ─ filter.go ─► rx ring │─────► driver
//	              ◄──────│ transmit.go ◄─ filter.go ─ tx ring│◄─────
//	     kick ──────────►│ kicks.go ──► notification vector  │─────► MSI-X
//	     call, err ◄─────│ bells.go ◄── doorbell register    │◄───── BAR 2
//	     guest memory ══ file F (memory.go, table.go) ═══════════════ BAR 4
//	                     └───────────────────────────────────┘
//
// A Device is a relay that does what its driver can't: it holds the descriptors of the
// sibling (memory, kick, call, err), shows the sibling's memory as a BAR, and turns
// eventfds into interrupts and doorbells into eventfds. All decisions of the protocol
// are made by the driver. One that can use the eventfds itself gets them (giveaway.go).
//
// The sibling and the device VM are two attackers. Neither is trusted with more than its
// own connection: what they send is checked, nothing that they do blocks a register
// access, and every state leads back to reset.
//
// Ownership: a Device owns three goroutines (siblings, outgoing messages, kicks) and the
// descriptors that a sibling sends; the memory file and the listener are its caller's.
// Registers are accessed by the goroutine of the vfio-user server.
//
// Locks: Device.mu guards the state machine and all use of the device VM's memory, so
// that whoever holds it can take the rings away. It is never held across anything that
// waits for a sibling or a VM. Device.mu before ringer.mu; Device.mu before the locks of
// virtiopci.Block and vfiouser.Bus. The Block calls back without its lock.
//
// Spec: virtio-vhost-user.md, "our proxy" in sections 2 to 8, and section 10;
// vfio-user.md sections 1.3 and 10.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"vfiofs/pci"
	"vfiofs/virtio/virtiopci"
)

// MaxQueues is the largest number of vrings: 2 * 1023 + 1 doorbells fit their area.
const MaxQueues = 1023

// DefaultQueues is the number of vrings unless Options says otherwise. Some drivers ask
// for as many (virtio-vhost-user.md 8.10, K2).
const DefaultQueues = 256

// A Listener is where siblings come from.
type Listener interface {
	// Accept waits for the next sibling, or for the end of ctx.
	Accept(ctx context.Context) (*net.UnixConn, error)
}

// Options describes a Device to New.
type Options struct {
	// Listener is where siblings connect.
	Listener Listener
	// Memory is the file that siblings use as their RAM.
	Memory *Memory
	// Profile says what kind of driver to expect.
	Profile Profile
	// Rule places the regions of a sibling's memory; the zero Rule is the profile's own.
	Rule Rule
	// DeviceID is the PCI device id; 0 is the profile's own.
	DeviceID uint16
	// Queues is the number of vrings, 1 to MaxQueues; 0 means DefaultQueues.
	Queues int
	// UUID is what the device's configuration shows to the driver.
	UUID [16]byte
	// Log takes messages; nil discards them.
	Log *slog.Logger
}

// A Device is the PCI function, a vfiouser.Model. It serves one device VM after another,
// and to each one sibling after another.
type Device struct {
	opt    Options
	log    *slog.Logger
	block  *virtiopci.Block
	kicks  *kicks
	ringer *ringer

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	owned  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	changed  sync.Cond  // something that a goroutine may wait for has happened
	closed   bool
	bus      bus // nil: no client
	pci      *pci.Space
	state    state
	status   uint32   // status of the device's configuration
	reason   reason   // of the last disconnect
	selected uint16   // notification_select
	vectors  []uint16 // by vring, as written: see vector
	rx, tx   *ring    // nil unless activated
	peer     *sibling // nil unless connected
	serial   int32    // of what kicks watches, so that old events are told from new ones
	dropped  uint64   // kicks that no vector was set for
}

// New returns a device without a client.
func New(opt Options) (*Device, error) {
	if opt.Queues == 0 {
		opt.Queues = DefaultQueues
	}
	if opt.Queues < 1 || opt.Queues > MaxQueues {
		return nil, fmt.Errorf("%d queues; want 1 to %d", opt.Queues, MaxQueues)
	}
	if opt.Listener == nil || opt.Memory == nil {
		return nil, errors.New("a proxy needs a listener and a memory file")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Rule == 0 {
		opt.Rule = opt.Profile.rule()
	}
	if opt.DeviceID == 0 {
		opt.DeviceID = opt.Profile.deviceID()
	}
	space, err := newConfigSpace(opt.DeviceID, opt.Memory.Size())
	if err != nil {
		return nil, err
	}
	kicks, err := newKicks()
	if err != nil {
		return nil, err
	}
	d := &Device{
		opt: opt, log: opt.Log, kicks: kicks, ringer: newRinger(), pci: space,
		vectors: make([]uint16, opt.Queues),
	}
	d.changed.L = &d.mu
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.block = virtiopci.NewBlock(virtiopci.BlockConfig{
		Features: virtiopci.FeatureVersion1 | virtiopci.FeatureAccessPlatform,
		Sizes:    []int{virtiopci.MaxQueueSize, virtiopci.MaxQueueSize},
		Vectors:  numVectors,
		OnStatus: d.statusChanged,
		OnReset:  d.Reset,
		OnNotify: d.notified,
	})
	d.mu.Lock()
	d.reset(reasonNone)
	d.mu.Unlock()
	d.owned.Go(d.serveSiblings)
	d.owned.Go(d.transmit)
	d.owned.Go(d.watchKicks)
	return d, nil
}

// Close ends the device and returns when its goroutines have ended. Its client is gone
// already, or finds a function in reset that doesn't answer any more.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	d.reset(reasonLost)
	d.mu.Unlock()
	d.cancel()
	d.kicks.end()
	d.owned.Wait()
	return d.kicks.close()
}
