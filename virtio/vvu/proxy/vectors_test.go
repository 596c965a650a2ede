package proxy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/pci"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
)

// TestConfigSpace is virtio-vhost-user.md 11.3.
func TestConfigSpace(t *testing.T) {
	space, err := newConfigSpace(deviceIDCrosvm, 6<<30)
	testkit.Check(t, err)
	got := make([]byte, configSize)
	_, err = space.ReadAt(got, 0)
	testkit.Check(t, err)
	for at, dump := range map[int]string{
		0x00: "f4 1a 7d 10",
		0x08: "01 00 ff 00",
		0x10: "00*4 00*4 04 00*3 00*4 0c 00*3 00*4",
		0x2c: "f4 1a 7d 10",
		0x30: "00*4 40",
		0x3d: "00",
		0x40: "09 50 10 01 00 00 00 00 00 00 00 00 38 00 00 00",
		0x50: "09 60 10 03 00 00 00 00 00 10 00 00 01 00 00 00",
		0x60: "09 70 10 04 00 00 00 00 00 20 00 00 00 10 00 00",
		0x70: "09 84 14 02 00 00 00 00 00 30 00 00 00 10 00 00 04 00 00 00",
		0x84: "09 98 14 05 00*16",
		0x98: "11 a4 ff 00 00 60 00 00 00 70 00 00",
		0xa4: "09 b8 14 06 02 00 00 00 00 00 00 00 00 20 00 00 04 00 00 00",
		0xb8: "09 c8 10 07 02 00 00 00 00 20 00 00 00 10 00 00",
		0xc8: "09 00 18 08 04 01 00 00 00 00 00 00 00 00 00 80 00 00 00 00 01 00 00 00",
	} {
		want := hex(t, dump)
		if b := got[at:][:len(want)]; !bytes.Equal(b, want) {
			t.Errorf("configuration space at %#x = %x; want %x", at, b, want)
		}
	}
	caps, err := virtiopci.ParseCaps(pci.Config{Registers: space})
	testkit.Check(t, err)
	if caps.Memory.Length != 6<<30 || caps.Doorbell.Multiplier != 4 {
		t.Errorf("ParseCaps() = memory %+v, doorbell %+v", caps.Memory, caps.Doorbell)
	}
	if size := barSize(6 << 30); size != 0x200000000 {
		t.Errorf("barSize(6 GiB) = %#x; want 0x200000000", size)
	}
	if dpdk, err := newConfigSpace(deviceIDDPDK, 1<<30); err != nil || id(dpdk) != 0x1058 {
		t.Errorf("device id for DPDK = %#x, %v; want 0x1058", id(dpdk), err)
	}
}

// id reads the device id.
func id(s *pci.Space) uint16 {
	h, _ := pci.Config{Registers: s}.Header()
	return h.Device
}

func TestRegions(t *testing.T) {
	r := newRig(t, Options{})
	for i, want := range [vfio.NumRegions]vfiouser.RegionInfo{
		0: {Size: 0x8000},
		2: {Size: 0x4000},
		4: {Size: 1 << 20, File: r.memory.file, Areas: []vfiouser.Area{{Offset: 0, Size: 1 << 20}}},
		7: {Size: 256},
	} {
		if got := r.dev.Region(i); !cmp.Equal(got, want, cmp.Comparer(func(a, b *fd.FD) bool { return a == b })) {
			t.Errorf("Region(%d) = %+v; want %+v", i, got, want)
		}
	}
	for kind, want := range map[vfio.IRQ]int{vfio.INTx: 0, vfio.MSI: 0, vfio.MSIX: 256, vfio.Err: 1, vfio.Req: 1} {
		if got := r.dev.Vectors(kind); got != want {
			t.Errorf("Vectors(%d) = %d; want %d", kind, got, want)
		}
	}
	for _, at := range []struct {
		bar int
		off int64
	}{{0, 0x4000}, {0, 0x7ff8}, {2, 0x404}, {2, 0x3ff8}, {4, 0}} {
		r.w32(at.bar, at.off, ^uint32(0))
		want := uint32(0)
		if got := r.r32(at.bar, at.off); got != want {
			t.Errorf("BAR %d at %#x = %#x; want 0", at.bar, at.off, got)
		}
	}
}

// TestDeviceConfig is virtio-vhost-user.md 11.4.
func TestDeviceConfig(t *testing.T) {
	config := func(s *rig, want string) {
		t.Helper()
		if got, want := s.read(0, deviceOff, 24), hex(t, want); !bytes.Equal(got, want) {
			t.Fatalf("device configuration = %x; want %x", got, want)
		}
	}
	const idle, up, conn = "00 00 00 00 00 01 00 00 00*16", "01 00 00 00 00 01 00 00 00*16", "03 00 00 00 00 01 00 00 00*16"

	t.Run("a connection", func(t *testing.T) {
		r := newRig(t, Options{})
		s := newCrosvm(r).start(2)
		config(r, idle)
		s.backendUp()
		config(r, up)
		generation := s.r8(0, 0x15)
		p := s.connect()
		s.waitState(stateConn)
		config(r, conn)
		want(t, "ISR", s.r8(0, isrOff), virtiopci.ISRConfig)
		if got := s.r8(0, 0x15); got == generation {
			t.Errorf("config_generation = %d, as before the connection", got)
		}
		s.w32(0, deviceOff, 3) // means nothing while connected
		config(r, conn)
		generation = s.r8(0, 0x15)
		p.Close()
		s.waitState(stateReady)
		config(r, idle)
		want(t, "ISR", s.r8(0, isrOff)&virtiopci.ISRConfig, virtiopci.ISRConfig)
		if got := s.r8(0, 0x15); got == generation {
			t.Errorf("config_generation = %d, as before the end of the connection", got)
		}
	})
	t.Run("byte by byte", func(t *testing.T) {
		r := newRig(t, Options{})
		newCrosvm(r).start(2)
		for i, v := range []uint8{1, 0, 0, 0} {
			r.w8(0, deviceOff+int64(i), v)
		}
		config(r, up)
	})
	t.Run("the driver ends it", func(t *testing.T) {
		s, p := connected(t, Options{})
		s.w32(0, deviceOff, 0)
		p.expectEnd()
		config(s.rig, idle)
		want(t, "reason", s.r32(0, deviceOff+0x48), uint32(reasonAsked))
	})
	t.Run("what can't be written", func(t *testing.T) {
		r := newRig(t, Options{UUID: [16]byte{1, 2, 3}})
		before := r.read(0, deviceOff, 8)
		for off := int64(4); off < 0x60; off++ {
			r.w8(0, deviceOff+off, 0xff)
		}
		r.w32(0, deviceOff, 0xfffffffe)
		if got := r.read(0, deviceOff, 8); !bytes.Equal(got, before) {
			t.Errorf("device configuration = %x; want %x", got, before)
		}
		if got := r.read(0, deviceOff+8, 8); !bytes.Equal(got, []byte{1, 2, 3, 0, 0, 0, 0, 0}) {
			t.Errorf("uuid = %x; want 010203...", got)
		}
	})
	t.Run("extension", func(t *testing.T) {
		file, err := OpenMemory(t.TempDir()+"/memory", 6<<30)
		testkit.Check(t, err)
		t.Cleanup(func() { file.Close() })
		r := newRig(t, Options{Memory: file})
		want := hex(t, "76 76 76 66 01 00 01 00 00 00 00 00 00 00 00 00 00 00 00 80 01 00 00 00")
		if got := r.read(0, deviceOff+0x40, 24); !bytes.Equal(got, want) {
			t.Errorf("extension = %x; want %x", got, want)
		}
		if got := r.read(0, deviceOff+0x58, 8); !bytes.Equal(got, make([]byte, 8)) {
			t.Errorf("behind the extension = %x; want zeros", got)
		}
	})
}

// TestNotification is virtio-vhost-user.md 7.2 and 11.9.
func TestNotification(t *testing.T) {
	r := newRig(t, Options{})
	at := func(ring uint16) uint16 {
		r.w16(2, notificationOff, ring)
		want(t, "notification_select", r.r16(2, notificationOff), ring)
		return r.r16(2, notificationOff+2)
	}
	want(t, "vector at first", at(0), 0xffff)
	want(t, "vector of vring 300", at(300), 0xffff)
	r.w16(2, notificationOff+2, 5)
	want(t, "vector of vring 300 after a write", at(300), 0xffff)
	at(5)
	r.w16(2, notificationOff+2, 999)
	want(t, "vector 999 of 256", at(5), 0xffff)
	r.w32(2, notificationOff, 7<<16|6)
	want(t, "vector of vring 6 in one access", at(6), 7)
	r.w8(2, notificationOff+2, 9)
	want(t, "vector after a write of a byte", at(6), 9)
	at(8)
	r.w8(2, notificationOff+2, 11)
	r.w8(2, notificationOff+3, 0)
	want(t, "vector written byte by byte", at(8), 11)
	at(6)
	want(t, "both in one access", r.r32(2, notificationOff), 9<<16|6)
	want(t, "behind them", r.r32(2, notificationOff+4), 0)
	r.w8(0, deviceStatus, 0)
	want(t, "select after reset", r.r16(2, notificationOff), 0)
	want(t, "vector after reset", at(6), 0xffff)
}

// TestWindow reaches registers through the configuration access window.
func TestWindow(t *testing.T) {
	r := newRig(t, Options{})
	aim := func(bar uint8, off, n uint32) {
		r.w8(vfio.ConfigRegion, 0x88, bar)
		r.w32(vfio.ConfigRegion, 0x8c, off)
		r.w32(vfio.ConfigRegion, 0x90, n)
	}
	aim(0, commonOff+queueSize, 2)
	want(t, "queue_size", r.r32(vfio.ConfigRegion, 0x94), 256)
	aim(0, deviceOff, 4)
	r.w32(vfio.ConfigRegion, 0x94, 1)
	want(t, "status", r.r32(0, deviceOff), 1)
	for _, bad := range [][3]uint32{{0, 0, 3}, {0, bar0Size, 1}, {0, bar0Size - 2, 4}, {4, 0, 4}, {9, 0, 4}, {0, 0, 0xffffffff}, {0, 0xffffffff, 4}} {
		aim(uint8(bad[0]), bad[1], bad[2])
		r.w32(vfio.ConfigRegion, 0x94, 0x55)
		want(t, fmt.Sprint("data of a bad window ", bad), r.r32(vfio.ConfigRegion, 0x94), 0x55)
	}
}

// message is a message as it travels.
func message(code vhostuser.Code, flags vhostuser.Flags, payload []byte) []byte {
	return encode(&vhostuser.Message{Code: code, Flags: flags, Payload: payload})
}

// TestMessages is virtio-vhost-user.md 11.7.
func TestMessages(t *testing.T) {
	s, p := connected(t, Options{})
	kick := event(t, unix.EFD_NONBLOCK)

	p.send(hex(t, "01 00 00 00 01 00 00 00 00 00 00 00"))
	s.expectMessage(hex(t, "01 00 00 00 01 00 00 00 00 00 00 00"))
	s.send(hex(t, "01 00 00 00 05 00 00 00 08 00 00 00 00 00 00 74 03 00 00 00"))
	p.expect(hex(t, "01 00 00 00 05 00 00 00 08 00 00 00 00 00 00 70 01 00 00 00"))

	p.send(hex(t, "0f 00 00 00 01 00 00 00 00 00 00 00"))
	s.expectMessage(hex(t, "0f 00 00 00 01 00 00 00 00 00 00 00"))
	s.send(hex(t, "0f 00 00 00 05 00 00 00 08 00 00 00 ff*8"))
	p.expect(hex(t, "0f 00 00 00 05 00 00 00 08 00 00 00 5d 22 01 00 00 00 00 00"))
	s.send(hex(t, "0f 00 00 00 0d 00 00 00 08 00 00 00 01 02 00 00 00 00 00 00")) // NEED_REPLY in a reply
	p.expect(hex(t, "0f 00 00 00 05 00 00 00 08 00 00 00 01 02 00 00 00 00 00 00"))

	s.send(message(vhostuser.GetQueueNum, 5, vhostuser.AppendU64(nil, 1000)))
	p.expect(message(vhostuser.GetQueueNum, 5, vhostuser.AppendU64(nil, 256)))

	p.send(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, 0xffff)))
	s.expectMessage(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, 0x225d)))

	for _, tt := range []struct {
		name  string
		dump  string
		files []*fd.FD
	}{
		{"SET_FEATURES", "02 00 00 00 01 00 00 00 08 00 00 00 00 00 00 60 01 00 00 00", nil},
		{"SET_OWNER", "03 00 00 00 01 00 00 00 00 00 00 00", nil},
		{"SET_PROTOCOL_FEATURES", "10 00 00 00 01 00 00 00 08 00 00 00 09 00 00 00 00 00 00 00", nil},
		{"SET_VRING_KICK", "0c 00 00 00 01 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00", []*fd.FD{kick}},
		{"SET_VRING_CALL without a descriptor", "0d 00 00 00 01 00 00 00 08 00 00 00 01 01 00 00 00 00 00 00", nil},
		{"SET_VRING_ERR", "0e 00 00 00 01 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00", []*fd.FD{kick}},
		{"SET_LOG_FD", "07 00 00 00 01 00 00 00 00 00 00 00", []*fd.FD{kick}},
		{"GET_VRING_BASE", "0b 00 00 00 01 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00", nil},
		{"SET_VRING_ENABLE", "12 00 00 00 09 00 00 00 08 00 00 00 01 00 00 00 01 00 00 00", nil},
		{"SET_VRING_ADDR", `09 00 00 00 01 00 00 00 28 00 00 00 01 00 00 00 00 00 00 00
			00 00 00 01 12 7f 00 00  00 30 00 01 12 7f 00 00  00 20 00 01 12 7f 00 00  00*8`, nil},
	} {
		p.send(hex(t, tt.dump), tt.files...)
		if got, want := s.receive(), hex(t, tt.dump); !bytes.Equal(got, want) {
			t.Errorf("%s: driver got %x; want %x", tt.name, got, want)
		}
	}
	for _, dump := range []string{
		"0b 00 00 00 05 00 00 00 08 00 00 00 01 00 00 00 55 00 00 00",
		"12 00 00 00 05 00 00 00 08 00 00 00 00 00 00 00 00 00 00 00",
	} {
		s.send(hex(t, dump))
		p.expect(hex(t, dump))
	}
}

// TestBadMessages are what ends a connection.
func TestBadMessages(t *testing.T) {
	const need = vhostuser.FlagVersion1 | vhostuser.FlagNeedReply
	one := vhostuser.VringFile{Index: 1}.Append(nil)
	for _, tt := range []struct {
		name   string
		bytes  []byte
		files  int
		reason reason
		log    string
	}{
		{"version 0", message(1, 0, nil), 0, reasonProtocol, "version"},
		{"version 2", message(1, 2, nil), 0, reasonProtocol, "version"},
		{"reserved flag", message(1, 0x11, nil), 0, reasonProtocol, "reserved"},
		{"size 1013", message(vhostuser.SetConfig, need, make([]byte, 1013)), 0, reasonProtocol, "1013"},
		{"request 0", message(0, need, nil), 0, reasonProtocol, "unknown"},
		{"request 99", message(99, need, nil), 0, reasonProtocol, "unknown"},
		{"reply", message(1, 5, nil), 0, reasonProtocol, "reply"},
		{"descriptor where none belongs", message(1, 1, nil), 1, reasonProtocol, "descriptors"},
		{"kick without its descriptor", message(vhostuser.SetVringKick, need, one), 0, reasonProtocol, "descriptors"},
		{"kick that is short", message(vhostuser.SetVringKick, need, one[:4]), 1, reasonProtocol, "4"},
		{"log base", message(vhostuser.SetLogBase, 1, make([]byte, 16)), 1, reasonProtocol, "SET_LOG_BASE"},
		{"back-end channel", message(vhostuser.SetBackendReqFD, 1, nil), 1, reasonProtocol, "SET_BACKEND_REQ_FD"},
		{"memory slots", message(vhostuser.AddMemReg, 1, make([]byte, 40)), 1, reasonProtocol, "ADD_MEM_REG"},
		{"protocol features that are short", message(vhostuser.SetProtocolFeatures, 1, make([]byte, 4)), 0, reasonProtocol, "4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, p := connected(t, Options{})
			// Even with acknowledgements these end the connection.
			p.send(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, uint64(vhostuser.ProtocolReplyAck))))
			s.receive()
			var files []*fd.FD
			for range tt.files {
				files = append(files, event(t, 0))
			}
			p.send(tt.bytes, files...)
			p.expectEnd()
			s.waitState(stateReady)
			want(t, "reason", s.r32(0, deviceOff+0x48), uint32(tt.reason))
			if !strings.Contains(s.logged(), tt.log) {
				t.Errorf("log is %q; want it to name %q", s.logged(), tt.log)
			}
			// The next one is served.
			s.backendUp()
			s.connect()
			s.waitState(stateConn)
		})
	}
}

// TestNack refuses what can be refused, in order.
func TestNack(t *testing.T) {
	const need = vhostuser.FlagVersion1 | vhostuser.FlagNeedReply
	nack := func(code vhostuser.Code) []byte { return message(code, 5, vhostuser.AppendU64(nil, 1)) }
	s, p := connected(t, Options{Queues: 4})
	p.send(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, uint64(vhostuser.ProtocolReplyAck))))
	s.receive()

	p.send(message(vhostuser.GetFeatures, 1, nil))
	p.send(message(vhostuser.SetVringNum, need, vhostuser.VringState{Index: 1, Num: 2}.Append(nil)))
	p.send(message(vhostuser.SetBackendReqFD, need, nil), event(t, 0))
	s.receive()
	s.receive()
	s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, 7))
	p.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 7)))
	s.reply(vhostuser.SetVringNum, vhostuser.AppendU64(nil, 0))
	p.expect(message(vhostuser.SetVringNum, 5, vhostuser.AppendU64(nil, 0)))
	p.expect(nack(vhostuser.SetBackendReqFD)) // after what the driver owed

	pipe := make([]int, 2)
	testkit.Check(t, unix.Pipe2(pipe, unix.O_CLOEXEC))
	reader, writer := fd.New(pipe[0], "pipe"), fd.New(pipe[1], "pipe")
	defer reader.Close()
	defer writer.Close()
	for _, code := range []vhostuser.Code{vhostuser.SetVringKick, vhostuser.SetVringCall, vhostuser.SetVringErr} {
		p.send(message(code, need, vhostuser.VringFile{Index: 1}.Append(nil)), writer)
		p.expect(nack(code))
		p.send(message(code, need, vhostuser.VringFile{Index: 4}.Append(nil)), event(t, 0))
		p.expect(nack(code))
	}
	p.send(message(vhostuser.SetLogFD, need, nil), reader)
	p.expect(nack(vhostuser.SetLogFD))
	p.send(message(vhostuser.GetInflightFD, need, make([]byte, 24)))
	p.expect(nack(vhostuser.GetInflightFD))

	// The connection is still good, and the driver has seen nothing of all that.
	p.send(message(vhostuser.SetOwner, 1, nil))
	s.expectMessage(message(vhostuser.SetOwner, 1, nil))
}
