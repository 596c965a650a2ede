package proxy

import (
	"bytes"
	"encoding/binary"
	"testing"

	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
)

// A script is a driver as old ones are written: it lays its rings out by hand, completes
// strictly in order, and never looks back.
type script struct {
	*rig
	size     int // of both queues
	vectors  [2]int
	kick     func(queue int)
	rx, tx   int // next entries to look at
	rxBuffer int // bytes
}

// Registers in BAR 0.
const (
	deviceFeatureSelect = 0x00
	deviceFeature       = 0x04
	driverFeatureSelect = 0x08
	driverFeature       = 0x0c
	msixConfig          = 0x10
	deviceStatus        = 0x14
	queueSelect         = 0x16
	queueSize           = 0x18
	queueVector         = 0x1a
	queueEnable         = 0x1c
	queueNotifyOff      = 0x1e
	queueDesc           = 0x20
	queueAvail          = 0x28
	queueUsed           = 0x30
)

// Layout of a queue's block (virtio-vhost-user.md 11.5), for 256 entries.
const (
	rxBlock    = 0x100000
	txBlock    = 0x200000
	availAt    = 0x1000
	usedAt     = 0x1208
	bufferAt   = 0x1c00
	bufferSize = 1024
	blockSize  = 0x42000
)

// block returns the memory of a queue's block.
func (s *script) block(queue int) []byte {
	at := rxBlock
	if queue == txQueue {
		at = txBlock
	}
	return s.bus.ram[at-ramBase:][:blockSize]
}

// layOut writes the rings: identity available rings, all rx buffers posted.
func (s *script) layOut(rxPosted int) {
	s.rx, s.tx = 0, 0
	le := binary.LittleEndian
	for queue, at := range []uint64{rxBlock, txBlock} {
		b := s.block(queue)
		clear(b)
		for i := range s.size {
			d := b[16*i:]
			le.PutUint64(d, at+bufferAt+uint64(bufferSize*i))
			if queue == rxQueue {
				le.PutUint32(d[8:], uint32(s.rxBuffer))
				le.PutUint16(d[12:], 2)
			}
			le.PutUint16(b[availAt+4+2*i:], uint16(i))
		}
	}
	le.PutUint16(s.block(rxQueue)[availAt+2:], uint16(rxPosted))
}

// newCrosvm returns a driver like crosvm's that has not begun.
func newCrosvm(r *rig) *script {
	s := &script{rig: r, size: 256, vectors: [2]int{0, 1}, rxBuffer: bufferSize}
	s.kick = func(queue int) { s.w8(0, notifyOff+4*int64(queue), 0) }
	return s
}

// steps are the register transcript of crosvm's driver for n vrings
// (virtio-vhost-user.md 11.6), up to the step before BACKEND_UP.
func (s *script) steps(n int) []func() {
	t := s.t
	steps := []func(){
		func() { s.w8(0, deviceStatus, 0); want(t, "device_status", s.r8(0, deviceStatus), 0) },
		func() { s.w8(0, deviceStatus, 3) },
		func() { s.w32(0, deviceFeatureSelect, 0); want(t, "low features", s.r32(0, deviceFeature), 0) },
		func() { s.w32(0, deviceFeatureSelect, 1); want(t, "high features", s.r32(0, deviceFeature), 3) },
		func() {
			for i := range uint32(2) {
				s.w32(0, driverFeatureSelect, i)
				s.w32(0, driverFeature, i)
			}
		},
		func() { want(t, "device_status", s.r8(0, deviceStatus), 3); s.w8(0, deviceStatus, 0x0b) },
		func() { s.layOut(s.size) },
	}
	for i, at := range []uint32{rxBlock, txBlock} {
		steps = append(steps, func() {
			s.w16(0, queueSelect, uint16(i))
			want(t, "queue_size", s.r16(0, queueSize), 256)
			for _, a := range []struct {
				reg int64
				v   uint32
			}{{queueDesc, at}, {queueAvail, at + availAt}, {queueUsed, at + usedAt}} {
				s.w32(0, a.reg, a.v)
				s.w32(0, a.reg+4, 0)
			}
			want(t, "queue_notify_off", s.r16(0, queueNotifyOff), uint16(i))
			s.kick(i)
		})
	}
	steps = append(steps, func() { s.w16(0, msixConfig, 0); want(t, "msix_config", s.r16(0, msixConfig), 0) },
		func() { s.w16(vfio.ConfigRegion, 0x9a, 0xc0ff); s.w16(vfio.ConfigRegion, 0x9a, 0x80ff) })
	for i := range 2 {
		steps = append(steps, func() {
			s.w16(0, queueSelect, uint16(i))
			s.w16(0, queueVector, uint16(i))
			want(t, "queue_msix_vector", s.r16(0, queueVector), uint16(i))
		})
	}
	for i := range uint16(n) {
		steps = append(steps, func() {
			s.w16(2, notificationOff, i)
			want(t, "notification_select", s.r16(2, notificationOff), i)
			s.w16(2, notificationOff+2, 2+i)
			want(t, "notification_msix_vector", s.r16(2, notificationOff+2), 2+i)
		})
	}
	for i := range uint16(2) {
		steps = append(steps, func() { s.w16(0, queueSelect, i); s.w16(0, queueEnable, 1) })
	}
	return append(steps, func() { want(t, "device_status", s.r8(0, deviceStatus), 0x0b); s.w8(0, deviceStatus, 0x0f) })
}

// prepare runs all steps but the last, DRIVER_OK, and returns that.
func (s *script) prepare(n int) (driverOK func()) {
	steps := s.steps(n)
	for _, step := range steps[:len(steps)-1] {
		step()
	}
	return steps[len(steps)-1]
}

// start runs all steps.
func (s *script) start(n int) *script {
	s.prepare(n)()
	want(s.t, "device_status", s.r8(0, deviceStatus), 0x0f)
	return s
}

// backendUp sets BACKEND_UP.
func (s *script) backendUp() { s.w32(0, deviceOff, s.r32(0, deviceOff)|1) }

// want compares a register with what it should be.
func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s = %#v; want %#v", what, got, want)
	}
}

// usedIdx returns how many entries the device has used, as 16 bits.
func (s *script) usedIdx(queue int) uint16 {
	return binary.LittleEndian.Uint16(s.block(queue)[usedAt+2:])
}

// receive waits for the next message and returns it. Its buffer goes back at once.
func (s *script) receive() []byte {
	s.t.Helper()
	s.wait("message for the driver", func() bool { return s.usedIdx(rxQueue) != uint16(s.rx) })
	b := s.block(rxQueue)
	slot := s.rx % s.size
	elem := b[usedAt+4+8*slot:]
	id, n := binary.LittleEndian.Uint32(elem), binary.LittleEndian.Uint32(elem[4:])
	if int(id) != slot {
		s.t.Fatalf("used id = %d; want %d: completion is not in order", id, slot)
	}
	m := append([]byte{}, b[bufferAt+bufferSize*slot:][:n]...)
	s.rx++
	s.repost(1)
	return m
}

// repost makes n more rx buffers available.
func (s *script) repost(n uint16) {
	b := s.block(rxQueue)[availAt+2:]
	binary.LittleEndian.PutUint16(b, binary.LittleEndian.Uint16(b)+n)
	s.kick(rxQueue)
}

// expectMessage waits for a message and compares it.
func (s *script) expectMessage(want []byte) {
	s.t.Helper()
	if got := s.receive(); !bytes.Equal(got, want) {
		s.t.Fatalf("driver got %x; want %x", got, want)
	}
}

// send sends a message, and waits until its buffer is back.
func (s *script) send(message []byte) {
	s.t.Helper()
	s.post(message)
	s.wait("message taken from the driver", func() bool { return s.usedIdx(txQueue) == uint16(s.tx) })
}

// post sends a message.
func (s *script) post(message []byte) {
	b := s.block(txQueue)
	slot := s.tx % s.size
	copy(b[bufferAt+bufferSize*slot:], message)
	binary.LittleEndian.PutUint32(b[16*slot+8:], uint32(len(message)))
	s.tx++
	binary.LittleEndian.PutUint16(b[availAt+2:], uint16(s.tx))
	s.kick(txQueue)
}

// reply sends the reply to a request.
func (s *script) reply(code vhostuser.Code, payload []byte) {
	s.t.Helper()
	s.send(encode(&vhostuser.Message{Code: code, Flags: 5, Payload: payload}))
}

// connected returns a driver and a sibling that are connected.
func connected(t testing.TB, opt Options) (*script, *peer) {
	t.Helper()
	r := newRig(t, opt)
	s := newCrosvm(r).start(2)
	s.backendUp()
	p := r.connect()
	s.waitState(stateConn)
	return s, p
}

// connectedWith is connected with a driver that has posted only n receive buffers, and
// does not wait for the connection.
func connectedWith(t testing.TB, opt Options, n int) (*script, *peer) {
	t.Helper()
	s := newCrosvm(newRig(t, opt))
	driverOK := s.prepare(2)
	s.layOut(n)
	driverOK()
	s.backendUp()
	return s, s.connect()
}
