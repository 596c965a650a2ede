package vvu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/vfio"
	"vfiofs/vfio/vfiotest"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
	"vfiofs/virtio/virtq"
)

// A shape is where a fake has its parts.
type shape struct {
	id           uint16
	registers    int   // BAR of common configuration (0), ISR (0x1000), device (0x2000), notify (0x3000)
	caps         bool  // doorbells in BAR 2 at 0, notification registers at 0x2000
	memory       int   // BAR of the shared memory
	memoryOffset int64 // in it
	ext          bool  // with the extension block
	rule         MemRule
}

// Shapes of existing devices.
var (
	ourShape    = shape{id: 0x107d, caps: true, memory: 4, ext: true, rule: RuleDirect}
	crosvmShape = shape{id: 0x107d, caps: true, memory: 4}
	oldCrosvm   = shape{id: 0x107d, caps: true, memory: 2, memoryOffset: 0x3000}
	qemuShape   = shape{id: 0x106b, registers: 4, caps: true, memory: 2, memoryOffset: 0x3000}
	firstQEMU   = shape{id: 0x1058, registers: 4, memory: 2, memoryOffset: 0x1000}
)

const (
	windowSize = 1 << 20 // of the shared memory, bytes
	extSize    = 1 << 19 // of what is behind it, by the extension block
)

// options of a fake.
type options struct {
	shape
	queueSize int
	vectors   int
	maxRings  uint32
	features  uint64
	quiet     bool // FRONTEND_UP and config interrupts never come
	noVector  bool // notification registers take no vector
	sick      bool // NEEDS_RESET is set at once
	held      bool // tx messages are kept until release
}

// A fake is a virtio-vhost-user device in memory, with the test as front-end.
type fake struct {
	*vfiotest.Function
	t     testing.TB
	opt   options
	block *virtiopci.Block

	mu       sync.Mutex
	status   uint32 // of the device configuration
	selected uint16
	vectors  map[uint16]uint16
	bells    []int64 // offsets of doorbells that were rung
	rx, tx   *virtq.Queue
	sent     [][]byte // messages from tx
	kept     []*virtq.Chain
	resets   int
	ups      int // times that BACKEND_UP was set
	dead     bool
	changed  chan struct{}
}

// newFake makes a device; the zero values of opt stand for ours.
func newFake(t testing.TB, opt options) *fake {
	t.Helper()
	if opt.id == 0 {
		opt.shape = ourShape
	}
	opt.queueSize, opt.vectors = defaults(opt.queueSize, 256), defaults(opt.vectors, 256)
	opt.maxRings = uint32(defaults(int(opt.maxRings), 256))
	if opt.features == 0 {
		opt.features = virtiopci.FeatureVersion1 | virtiopci.FeatureAccessPlatform
	}
	f := &fake{t: t, opt: opt, vectors: map[uint16]uint16{}, changed: make(chan struct{}, 1)}
	f.block = virtiopci.NewBlock(virtiopci.BlockConfig{
		Features: opt.features, Sizes: []int{opt.queueSize, opt.queueSize}, Vectors: opt.vectors,
		OnStatus: f.onStatus,
		OnReset:  f.onReset,
		OnNotify: func(queue int) {
			if queue == txIndex {
				f.receive()
			}
		},
	})
	regions := map[int]vfiotest.Region{
		opt.registers:     {Size: 0x8000, Read: f.read, Write: f.write},
		vfio.ConfigRegion: {Init: opt.space()},
	}
	if opt.memory == 4 {
		regions[4] = vfiotest.Region{Size: windowSize, Mappable: true}
		regions[2] = vfiotest.Region{Size: 0x4000, Read: f.readBells, Write: f.writeBells}
	} else {
		regions[2] = vfiotest.Region{Size: opt.memoryOffset + windowSize, Mappable: true}
	}
	function, err := vfiotest.New(vfiotest.Options{Regions: regions, Vectors: map[vfio.IRQ]int{vfio.MSIX: opt.vectors}})
	if err != nil {
		t.Fatal(err)
	}
	f.Function = function
	t.Cleanup(func() { function.Close() })
	return f
}

// defaults returns n, or another number for 0.
func defaults(n, or int) int {
	if n == 0 {
		return or
	}
	return n
}

// space builds configuration space (virtio-vhost-user.md 3).
func (s *shape) space() []byte {
	b := make([]byte, 256)
	le := binary.LittleEndian
	le.PutUint16(b, 0x1af4)
	le.PutUint16(b[2:], s.id)
	b[0x06] = 0x10
	at := 0x34
	add := func(t virtiopci.CapType, bar int, off, length uint32, more ...uint32) {
		next := max(0x40, (at+3)&^3)
		if at == 0x34 {
			b[at] = 0x40
		} else {
			next = at + int(b[at+2])
			b[at+1] = byte(next)
		}
		at = next
		copy(b[at:], []byte{0x09, 0, byte(16 + 4*len(more)), byte(t), byte(bar), 1})
		le.PutUint32(b[at+8:], off)
		le.PutUint32(b[at+12:], length)
		for i, v := range more {
			le.PutUint32(b[at+16+4*i:], v)
		}
	}
	add(virtiopci.CapCommon, s.registers, 0, virtiopci.CommonSize)
	add(virtiopci.CapDevice, s.registers, 0x2000, 0x1000)
	add(virtiopci.CapNotify, s.registers, 0x3000, 0x1000, virtiopci.NotifyMultiplier)
	if s.caps {
		add(virtiopci.CapDoorbell, 2, 0, 0x2000, 4)
		add(virtiopci.CapNotification, 2, 0x2000, 0x1000)
		add(virtiopci.CapMemory, s.memory, uint32(s.memoryOffset), 0x1000)
	}
	return b
}

// read is a read of the BAR with the registers.
func (f *fake) read(p []byte, off int64) {
	f.mu.Lock()
	dead := f.dead
	config := make([]byte, 0x1000)
	le := binary.LittleEndian
	le.PutUint32(config, f.status)
	le.PutUint32(config[4:], f.opt.maxRings)
	f.mu.Unlock()
	if f.opt.ext {
		le.PutUint32(config[extMagicAt:], extMagic)
		le.PutUint16(config[extVersionAt:], extVersion)
		le.PutUint16(config[extRuleAt:], uint16(f.opt.rule))
		le.PutUint64(config[extMemoryAt:], extSize)
	}
	switch {
	case dead:
		copy(p, bytes.Repeat([]byte{0xff}, len(p)))
	case off < virtiopci.CommonSize:
		f.block.ReadCommon(p, off)
	case off >= 0x2000 && off < 0x3000:
		copy(p, config[off-0x2000:])
	}
}

// write is a write to the BAR with the registers.
func (f *fake) write(p []byte, off int64) {
	switch {
	case off < virtiopci.CommonSize:
		f.block.WriteCommon(p, off)
	case off >= 0x2000 && off < 0x2004:
		f.setStatus(p[0])
	case off >= 0x3000 && off < 0x4000:
		f.block.WriteNotify(off - 0x3000)
	}
}

// setStatus is the driver's write to the status of the device configuration.
func (f *fake) setStatus(v byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case v&backendUp == 0 && f.status&backendUp != 0:
		f.status = 0
	case v&backendUp != 0 && f.status&backendUp == 0:
		f.status = backendUp
		f.ups++
	}
	f.note()
}

// readBells and writeBells are accesses to doorbells and notification registers.
func (f *fake) readBells(p []byte, off int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := uint16(0)
	switch off {
	case 0x2000:
		v = f.selected
	case 0x2002:
		v = virtiopci.NoVector
		if got, ok := f.vectors[f.selected]; ok {
			v = got
		}
	}
	copy(p, binary.LittleEndian.AppendUint16(nil, v))
}

func (f *fake) writeBells(p []byte, off int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := binary.LittleEndian.Uint16(append(bytes.Clone(p), 0, 0))
	switch {
	case off == 0x2000:
		f.selected = v
	case off == 0x2002 && !f.opt.noVector:
		f.vectors[f.selected] = v
	case off < 0x2000:
		f.bells = append(f.bells, off)
	}
	f.note()
}

// note wakes until; f.mu is held.
func (f *fake) note() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// until waits for a condition, which is evaluated with f.mu held.
func (f *fake) until(what string, done func() bool) {
	f.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		ok := done()
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-f.changed:
		case <-timeout:
			f.t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func (f *fake) onReset() {
	f.mu.Lock()
	f.status, f.rx, f.tx, f.kept = 0, nil, nil, nil
	clear(f.vectors)
	f.resets++
	f.note()
	f.mu.Unlock()
	f.block.Reset()
}

// onStatus starts the rings at DRIVER_OK.
func (f *fake) onStatus(_, to virtiopci.Status) {
	if to&virtiopci.DriverOK == 0 {
		return
	}
	var regions []guestmem.Region
	for _, r := range f.Mapped() {
		mem, err := f.DMA(r.First, int(r.Last-r.First)+1)
		if err != nil {
			f.t.Error(err)
			return
		}
		regions = append(regions, guestmem.Region{GPA: guestmem.GPA(r.First), Mem: mem})
	}
	table, err := guestmem.NewTable(regions)
	if err != nil {
		f.t.Error(err)
		return
	}
	var queues [2]*virtq.Queue
	for i := range queues {
		q := f.block.Queue(i)
		part := func(addr uint64, n int) []byte {
			b, ok := table.Slice(guestmem.GPA(addr), uint64(n))
			if !ok || addr%page+uint64(n) > page {
				f.t.Errorf("queue %d: %d bytes at %#x are not mapped, or not in one page", i, n, addr)
			}
			return b
		}
		size := int(q.Size)
		if !q.Enabled {
			f.t.Errorf("queue %d is not enabled at DRIVER_OK", i)
		}
		queues[i], err = virtq.New(virtq.Config{
			Index: i, Size: size, Mem: table,
			Desc: part(q.Desc, 16*size), Avail: part(q.Avail, 6+2*size), Used: part(q.Used, 6+8*size),
		})
		if err != nil {
			f.t.Error(err)
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rx, f.tx = queues[rxIndex], queues[txIndex]
	if f.opt.sick {
		f.block.SetNeedsReset()
	}
	f.note()
}

// receive takes messages off the tx queue.
func (f *fake) receive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.tx != nil {
		c := new(virtq.Chain)
		if ok, err := f.tx.Next(c); err != nil || !ok {
			if err != nil {
				f.t.Error(err)
			}
			return
		}
		b := make([]byte, c.Read.Len())
		c.Read.CopyOut(b, 0)
		f.sent = append(f.sent, b)
		f.note()
		if f.opt.held {
			f.kept = append(f.kept, c)
			continue
		}
		f.done(c)
	}
}

// done completes a tx chain; f.mu is held.
func (f *fake) done(c *virtq.Chain) {
	f.tx.Done(c, 0)
	if f.tx.NeedCall() {
		f.Trigger(vfio.MSIX, int(f.block.Queue(txIndex).Vector))
	}
}

// release completes what is held, the last first, and holds no more.
func (f *fake) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range slices.Backward(f.kept) {
		f.done(c)
	}
	f.kept, f.opt.held = nil, false
}

// push puts bytes into an rx buffer.
func (f *fake) push(b []byte) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var c virtq.Chain
	ok, err := f.rx.Next(&c)
	if err != nil || !ok {
		f.t.Errorf("no rx buffer: %v", err)
		return
	}
	c.Write.CopyIn(b, 0)
	f.rx.Done(&c, len(b))
	if f.rx.NeedCall() {
		f.Trigger(vfio.MSIX, int(f.block.Queue(rxIndex).Vector))
	}
}

// say sends a message of the front-end.
func (f *fake) say(code vhostuser.Code, flags vhostuser.Flags, payload []byte) {
	f.t.Helper()
	f.push(message(code, flags|vhostuser.FlagVersion1, payload))
}

// message encodes a message.
func message(code vhostuser.Code, flags vhostuser.Flags, payload []byte) []byte {
	return append(vhostuser.Header{Code: code, Flags: flags, Size: uint32(len(payload))}.Append(nil), payload...)
}

// connect lets a front-end connect once the driver is ready.
func (f *fake) connect() {
	f.t.Helper()
	f.until("BACKEND_UP", func() bool { return f.status&backendUp != 0 })
	f.config(backendUp | frontendUp)
}

// config changes the status as the device does.
func (f *fake) config(status uint32) {
	f.mu.Lock()
	f.status = status
	f.note()
	f.mu.Unlock()
	f.block.ConfigChanged()
	if !f.opt.quiet {
		f.Trigger(vfio.MSIX, int(f.block.ConfigVector()))
	}
}

// die makes all registers read as ones.
func (f *fake) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

// await returns message n that the driver has sent.
func (f *fake) await(n int) []byte {
	f.t.Helper()
	f.until("message of the driver", func() bool { return len(f.sent) > n })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent[n]
}

// open opens a driver of f and closes it with the test.
func (f *fake) open(opt Options) *Driver {
	f.t.Helper()
	if opt.Rings == 0 {
		opt.Rings = 2
	}
	d, err := Open(f.t.Context(), f.Function, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			f.t.Errorf("Close() = %v; want nil", err)
		}
	})
	return d
}

// accept connects a front-end to d.
func (f *fake) accept(d *Driver) vhostuser.Link {
	f.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f.connect() }()
	l, err := d.Accept(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	<-done
	return l
}

// readable reports whether an eventfd has been signalled.
func readable(event int) bool {
	p := []unix.PollFd{{Fd: int32(event), Events: unix.POLLIN}}
	n, _ := unix.Poll(p, 0)
	return n == 1
}

var errTest = errors.New("test")
