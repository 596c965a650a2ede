package proxy

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
)

// works checks that a reset makes the device as good as new, whatever was done to it.
func (r *rig) works() {
	r.t.Helper()
	r.dev.Reset()
	r.w16(vfio.ConfigRegion, 4, 6)
	for len(r.queue) > 0 { // siblings that nobody has served
		(<-r.queue).Close()
	}
	s := newCrosvm(r).start(2)
	var peers []*peer
	hello := func() {
		p := r.connect()
		p.send(message(vhostuser.SetFeatures, 1, vhostuser.AppendU64(nil, greeting+uint64(len(peers)))))
		peers = append(peers, p)
		s.backendUp()
	}
	hello()
	// Siblings that came before may have their turn first. They are shown the door.
	var p *peer
	for p == nil {
		switch got := s.receive(); {
		case len(got) == 0:
			s.backendUp()
		case len(got) == 20 && got[0] == byte(vhostuser.SetFeatures) && binary.LittleEndian.Uint64(got[12:])&^0xff == greeting:
			p = peers[got[12]]
		default:
			s.w32(0, deviceOff, 0)
			hello()
		}
	}
	s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, 1))
	p.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 1)))
}

// greeting is what a sibling says in works, plus its number.
const greeting = 0x5ca1ab1e00

// take takes n bytes off a script, zeros if there are fewer.
func take(script *[]byte, n int) []byte {
	b := make([]byte, n)
	*script = (*script)[copy(b, *script):]
	return b
}

// access is a step of FuzzRegisterWrites.
func access(kind, region uint8, off uint16, v uint64) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{kind, region}, off)
	return binary.LittleEndian.AppendUint64(b, v)
}

// Kinds of steps. Others are writes whose width is the number.
const (
	stepRead = 16 + iota
	stepUnmap
	stepReset
	stepConnect
	stepStart
)

// FuzzRegisterWrites is a hostile device VM at the registers.
func FuzzRegisterWrites(f *testing.F) {
	start := access(stepStart, 0, 0, 0)
	conn := append(append(start, access(4, 0, deviceOff, 1)...), access(stepConnect, 0, 0, 0)...)
	for _, more := range [][]byte{
		nil,
		access(1, 0, deviceStatus, 0),
		access(2, 2, 4, 1),
		access(4, 2, notificationOff, 7<<16|300),
		access(8, 0, queueDesc, ^uint64(0)),
		access(2, 7, 4, 0),
		access(2, 7, 0x9a, 0),
		access(stepRead, 7, 0, 256),
		access(stepUnmap, 0, 0, 0),
		access(stepReset, 0, 0, 0),
		access(1, 0, notifyOff, 0),
		access(stepRead, 0, isrOff, 1),
	} {
		f.Add(append(conn[:len(conn):len(conn)], more...))
		f.Add(append(start[:len(start):len(start)], more...))
		f.Add(more)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t, Options{})
		for n := 0; len(script) > 0 && n < 64; n++ {
			step := take(&script, 12)
			off, value := int64(binary.LittleEndian.Uint16(step[2:])), step[4:]
			region := []int{0, 2, memoryBAR, vfio.ConfigRegion}[step[1]%4]
			size := r.dev.Region(region).Size
			off %= size
			switch step[0] {
			case stepRead:
				n := int64(8)
				if region == vfio.ConfigRegion {
					n = configSize
				}
				r.read(region, off, int(min(n, size-off)))
			case stepUnmap:
				first := vfio.IOVA(binary.LittleEndian.Uint64(value))
				r.dev.Unmap(first, max(first, vfio.IOVA(off)<<12))
			case stepReset:
				r.dev.Reset()
			case stepConnect:
				if len(r.queue) < cap(r.queue) {
					r.connect().send(message(vhostuser.SetOwner, 1, nil))
				}
			case stepStart:
				r.w16(vfio.ConfigRegion, 4, 6)
				newCrosvm(r).start(2)
			default:
				n := min(int64(1)<<(step[0]%4), size-off)
				r.dev.Write(region, value[:n], off)
			}
		}
		r.works()
	})
}

// FuzzSiblingMessages is a hostile sibling: bytes and descriptors in any order.
func FuzzSiblingMessages(f *testing.F) {
	step := func(files uint8, b []byte) []byte {
		return append(binary.LittleEndian.AppendUint16([]byte{files}, uint16(len(b))), b...)
	}
	const need = vhostuser.FlagVersion1 | vhostuser.FlagNeedReply
	ack := step(0, message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, 8)))
	table := vhostuser.AppendMemTable(nil, []vhostuser.Region{{Size: 0x10000, Addr: user}, {GPA: 1 << 32, Size: 0x1000, Addr: user, Offset: 0x10000}})
	for _, s := range [][]byte{
		step(0, message(vhostuser.GetFeatures, 1, nil)),
		step(0x50, message(vhostuser.SetMemTable, need, table)),
		step(0x10, message(vhostuser.SetMemTable, need, table)),
		step(0x01, message(vhostuser.SetVringKick, need, vhostuser.VringFile{Index: 1}.Append(nil))),
		step(0x02, message(vhostuser.SetVringCall, need, vhostuser.VringFile{Index: 255}.Append(nil))),
		step(0x03, message(vhostuser.SetVringErr, need, vhostuser.VringFile{Index: 1}.Append(nil))),
		step(0x01, message(vhostuser.SetLogFD, 1, nil)),
		step(0, message(vhostuser.GetVringBase, 1, vhostuser.VringState{Index: 1}.Append(nil))),
		step(0, message(vhostuser.SetConfig, 1, make([]byte, 1012))),
		step(0, []byte{1, 0, 0, 0, 9}),
		step(0x01, message(vhostuser.SetBackendReqFD, need, nil)),
		step(0, message(99, 1, nil)),
	} {
		f.Add(s)
		f.Add(append(ack[:len(ack):len(ack)], s...))
		f.Add(append(s[:len(s):len(s)], ack...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		s, p := connected(t, Options{})
		kinds := []*fd.FD{nil, event(t, 0), event(t, unix.EFD_NONBLOCK), s.memory.file}
		for n := 0; len(script) > 0 && n < 64; n++ {
			head := take(&script, 3)
			b := take(&script, int(binary.LittleEndian.Uint16(head[1:]))%2048)
			var files []*fd.FD
			for k := head[0]; k != 0 && len(b) > 0; k >>= 2 {
				if file := kinds[k&3]; file != nil {
					files = append(files, file)
				}
			}
			if err := testkit.Send(p.conn, b, files...); err != nil {
				break // dropped
			}
		}
		p.Close()
		s.waitState(stateReady)
		s.dev.doorbell(1)
		s.works()
	})
}

// FuzzDriverMessages is a hostile device VM in the rings: any bytes in them and in the
// messages.
func FuzzDriverMessages(f *testing.F) {
	step := func(queue uint8, at uint16, b []byte) []byte {
		return append(append(binary.LittleEndian.AppendUint16([]byte{queue}, at), uint8(len(b))), b...)
	}
	one := step(txQueue, availAt+2, []byte{1, 0})
	for _, s := range [][]byte{
		one,
		append(append(step(txQueue, bufferAt, message(vhostuser.GetFeatures, 5, make([]byte, 8))), step(txQueue, 8, []byte{20})...), one...),
		append(append(step(txQueue, bufferAt, message(vhostuser.GetVringBase, 5, make([]byte, 8))), step(txQueue, 8, []byte{20})...), one...),
		append(append(step(txQueue, bufferAt, message(99, 1, nil)), step(txQueue, 8, []byte{12})...), one...),
		append(step(txQueue, 12, []byte{1, 0, 1, 0}), one...),
		append(step(txQueue, 12, []byte{4}), one...),
		step(txQueue, availAt+2, []byte{0, 128}),
		step(rxQueue, availAt+2, []byte{0xff, 0xff}),
		step(rxQueue, 8, []byte{1, 0}),
		step(rxQueue, availAt+4, []byte{1, 0, 1, 0}),
		step(rxQueue, usedAt, []byte{1, 2, 3, 4}),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		s, p := connected(t, Options{})
		for n := 0; len(script) > 0 && n < 64; n++ {
			head := take(&script, 4)
			queue := int(head[0] % 2)
			b := take(&script, int(head[3]))
			copy(s.block(queue)[binary.LittleEndian.Uint16(head[1:]):], b)
			s.kick(queue)
			p.conn.Write(message(vhostuser.SetOwner, 1, nil))
		}
		p.Close()
		s.works()
	})
}
