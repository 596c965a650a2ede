package proxy

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
)

// TestDriverKilled is virtio-vhost-user.md 11.10, 1, for all that shows that a driver is
// gone.
func TestDriverKilled(t *testing.T) {
	r := newRig(t, Options{})
	for i, kill := range []func(){
		func() { r.w16(vfio.ConfigRegion, 4, 2) },
		func() { r.w16(vfio.ConfigRegion, 0x9a, 0x00ff) },
		func() { r.dev.Unmap(rxBlock+usedAt, rxBlock+usedAt) },
		func() { r.dev.Unmap(0, ^vfio.IOVA(0)) },
		func() { r.dev.Unmap(txBlock-0x1000, txBlock) },
		func() { r.w8(0, deviceStatus, 0) },
		func() { r.dev.Reset() },
		func() { r.dev.Detach(); r.dev.attach(r.bus) },
	} {
		for range 10 {
			r.w16(vfio.ConfigRegion, 4, 6)
			s := newCrosvm(r).start(2)
			s.backendUp()
			p := r.connect()
			s.waitState(stateConn)
			p.send(message(vhostuser.GetFeatures, 1, nil))
			s.receive()
			kill()
			want(t, fmt.Sprintf("state after kill %d", i), r.state(), stateReset)
			want(t, "device_status", r.r8(0, deviceStatus), 0)
			want(t, "status", r.r32(0, deviceOff), 0)
			want(t, "reason", r.r32(0, deviceOff+0x48), uint32(reasonLost))
			p.expectEnd()
		}
	}
}

// TestLossWithoutDriver is nothing to take note of.
func TestLossWithoutDriver(t *testing.T) {
	r := newRig(t, Options{})
	r.w8(0, deviceStatus, 3)
	r.w16(vfio.ConfigRegion, 4, 2)
	r.w16(vfio.ConfigRegion, 4, 6)
	r.dev.Unmap(0, ^vfio.IOVA(0))
	want(t, "device_status", r.r8(0, deviceStatus), 3)
}

// TestResetAnywhere is 11.10, 2.
func TestResetAnywhere(t *testing.T) {
	r := newRig(t, Options{})
	for i := range newCrosvm(r).steps(2) {
		for _, step := range newCrosvm(r).steps(2)[:i+1] {
			step()
		}
		r.w8(0, deviceStatus, 0)
		want(t, fmt.Sprintf("device_status after a reset behind step %d", i), r.r8(0, deviceStatus), 0)
	}
	s := newCrosvm(r).start(2)
	s.backendUp()
	p := r.connect()
	p.send(message(vhostuser.SetOwner, 1, nil))
	s.expectMessage(message(vhostuser.SetOwner, 1, nil))
}

// TestBackPressure is 11.10, 3.
func TestBackPressure(t *testing.T) {
	s, p := connectedWith(t, Options{}, 0)
	for i := range uint64(3) {
		p.send(message(vhostuser.SetFeatures, 1, vhostuser.AppendU64(nil, i)))
	}
	s.waitState(stateConn)
	want(t, "used index without buffers", s.usedIdx(rxQueue), 0)
	for i := range uint64(3) {
		s.repost(1)
		got := s.receive()
		if want := message(vhostuser.SetFeatures, 1, vhostuser.AppendU64(nil, i)); string(got) != string(want) {
			t.Errorf("message %d = %x; want %x", i, got, want)
		}
	}
}

// TestHangUp is a sibling that leaves while nothing of what it has sent can be relayed.
func TestHangUp(t *testing.T) {
	t.Run("no receive buffers", func(t *testing.T) {
		s, p := connectedWith(t, Options{}, 0)
		s.waitState(stateConn)
		p.send(message(vhostuser.SetOwner, 1, nil))
		p.send(message(vhostuser.SetOwner, 1, nil))
		p.Close()
		s.waitState(stateReady)
	})
	t.Run("a reply that never comes", func(t *testing.T) {
		s, p := connected(t, Options{})
		p.send(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, uint64(vhostuser.ProtocolReplyAck))))
		p.send(message(vhostuser.GetFeatures, 1, nil))
		p.send(message(vhostuser.GetInflightFD, 9, nil))
		s.receive()
		s.receive()
		p.Close()
		s.waitState(stateReady)
		s.backendUp()
		s.connect()
		s.waitState(stateConn)
	})
}

// TestWrap sends more messages than the ring holds.
func TestWrap(t *testing.T) {
	s, p := connected(t, Options{})
	for i := range uint64(600) {
		m := message(vhostuser.SetFeatures, 1, vhostuser.AppendU64(nil, i))
		p.send(m)
		s.expectMessage(m)
		s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, i&0xffff))
		p.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, i&0xffff)))
	}
}

// TestEarlySibling is 11.10, 4: nothing is read before BACKEND_UP.
func TestEarlySibling(t *testing.T) {
	r := newRig(t, Options{})
	p := r.connect()
	p.send(message(vhostuser.SetOwner, 1, nil))
	s := newCrosvm(r).start(2)
	want(t, "state", r.state(), stateReady)
	want(t, "status", r.r32(0, deviceOff), 0)
	s.vectors = [2]int{0, 1}
	before := r.bus.count(0)
	s.backendUp()
	s.wait("first interrupt", func() bool { return r.bus.count(0) > before })
	want(t, "FRONTEND_UP", r.r32(0, deviceOff), 3)
	if isr := r.r8(0, isrOff); isr&virtiopci.ISRConfig == 0 {
		t.Errorf("ISR at the first interrupt = %#x; want the bit for the configuration", isr)
	}
	s.expectMessage(message(vhostuser.SetOwner, 1, nil))

	// The next one waits until this one has left and the driver wants it.
	next := r.connect()
	next.send(message(vhostuser.GetFeatures, 1, nil))
	p.Close()
	s.waitState(stateReady)
	s.expectMessage([]byte{}) // the end, as crosvm's driver learns it
	want(t, "used index", s.usedIdx(rxQueue), uint16(s.rx))
	s.backendUp()
	s.expectMessage(message(vhostuser.GetFeatures, 1, nil))
}

// TestRememberBackendUp is BACKEND_UP before DRIVER_OK.
func TestRememberBackendUp(t *testing.T) {
	r := newRig(t, Options{})
	s := newCrosvm(r)
	driverOK := s.prepare(2)
	s.backendUp()
	want(t, "state", r.state(), stateReset)
	s.w32(0, deviceOff, 0)
	want(t, "status after a change of mind", s.r32(0, deviceOff), 0)
	s.backendUp()
	driverOK()
	want(t, "state", r.state(), stateWait)
	s.w32(0, deviceOff, 0)
	want(t, "state", r.state(), stateReady)
}

// TestSiblingLeaves is 11.10, 5, for both profiles.
func TestSiblingLeaves(t *testing.T) {
	for _, profile := range []Profile{Crosvm, DPDK} {
		t.Run(profile.String(), func(t *testing.T) {
			s, p := connectedWith(t, Options{Profile: profile}, 1)
			for range 3 {
				p.send(message(vhostuser.SetOwner, 1, nil))
			}
			s.wait("first message", func() bool { return s.usedIdx(rxQueue) == 1 })
			p.Close()
			// The driver says something to nobody, and makes room too late.
			s.post(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 1)))
			s.rx = 1
			s.w32(0, deviceOff, 0)
			s.waitState(stateReady)
			want(t, "status", s.r32(0, deviceOff), 0)
			s.eventually("message to nobody taken back", func() bool { return s.usedIdx(txQueue) == 1 })
			s.repost(8)

			// The next sibling hears and says nothing of all that.
			s.backendUp()
			next := s.connect()
			next.send(message(vhostuser.GetFeatures, 1, nil))
			s.expectMessage(message(vhostuser.GetFeatures, 1, nil))
			s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, 2))
			next.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 2)))

			// With buffers at hand, one of them tells of the end in profile crosvm.
			next.Close()
			s.waitState(stateReady)
			used := uint16(s.rx)
			if profile == Crosvm {
				s.expectMessage([]byte{})
				used++
			}
			want(t, "used index", s.usedIdx(rxQueue), used)
		})
	}
}

// TestBreakage is 11.10, 6 and 7, and all else that a driver can break.
func TestBreakage(t *testing.T) {
	table := vhostuser.AppendMemTable(nil, []vhostuser.Region{{Size: 1 << 20}})
	owner := message(vhostuser.SetOwner, 1, nil)
	for _, tt := range []struct {
		name string
		do   func(s *script, p *peer)
	}{
		{"size field 9 and 20 bytes", func(s *script, p *peer) { s.post(hex(s.t, "01 00 00 00 05 00 00 00 09 00 00 00 00*8")) }},
		{"no header", func(s *script, p *peer) { s.post(make([]byte, 11)) }},
		{"empty message", func(s *script, p *peer) { s.post(nil) }},
		{"version 2", func(s *script, p *peer) { s.post(message(1, 6, nil)) }},
		{"message too long", func(s *script, p *peer) {
			b := s.block(txQueue)
			b[8], b[9] = 0xff, 0xff // its bytes are what is in memory
			s.tx++
			b[availAt+2] = 1
			s.kick(txQueue)
		}},
		{"index jump", func(s *script, p *peer) { s.block(txQueue)[availAt+3] = 0x40; s.kick(txQueue) }},
		{"descriptor nowhere", func(s *script, p *peer) { s.block(txQueue)[5] = 1; s.post(owner) }},
		{"descriptor loop", func(s *script, p *peer) { s.block(txQueue)[12] = 1; s.post(owner) }},
		{"receive buffer too small", func(s *script, p *peer) {
			s.block(rxQueue)[9], s.block(rxQueue)[8] = 0, 16
			p.send(message(vhostuser.SetMemTable, 1, table), s.memory.file)
		}},
		{"receive buffer that is to be read", func(s *script, p *peer) {
			s.block(rxQueue)[12] = 0
			p.send(owner)
		}},
		{"receive buffer unmapped", func(s *script, p *peer) {
			s.bus.remap(s.t, guestmem.Region{GPA: ramBase, Mem: s.bus.ram[:bufferAt]}, guestmem.Region{GPA: txBlock, Mem: s.block(txQueue)})
			s.dev.Unmap(ramBase+bufferAt, txBlock-1) // not the rings
			p.send(owner)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := newCrosvm(r).start(2)
			s.backendUp()
			p := r.connect()
			s.waitState(stateConn)
			s.bus.mu.Lock()
			before := s.bus.fired[0]
			s.bus.mu.Unlock()
			tt.do(s, p)
			s.waitState(stateFailed)
			p.expectEnd()
			want(t, "device_status", s.r8(0, deviceStatus), 0x4f)
			want(t, "status", s.r32(0, deviceOff), 0)
			if s.bus.count(0) == before {
				t.Error("no interrupt for the failure")
			}
			s.backendUp()
			s.notified()
			want(t, "state after BACKEND_UP", s.state(), stateFailed)

			s.bus.remap(t, guestmem.Region{GPA: ramBase, Mem: s.bus.ram})
			s = newCrosvm(r).start(2)
			s.backendUp()
			next := r.connect()
			next.send(owner)
			s.expectMessage(owner)
		})
	}
}

// notified kicks both queues.
func (s *script) notified() { s.kick(rxQueue); s.kick(txQueue) }

// TestShrunkMemory is a device VM that shrinks the file behind its memory.
func TestShrunkMemory(t *testing.T) {
	r := newRig(t, Options{})
	n, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	testkit.Check(t, err)
	file := fd.New(n, "memory of the device VM")
	t.Cleanup(func() { file.Close() })
	testkit.Check(t, unix.Ftruncate(n, ramSize))
	ram, err := unix.Mmap(n, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	testkit.Check(t, err)
	t.Cleanup(func() { unix.Munmap(ram) })
	r.bus.ram = ram
	r.bus.remap(t, guestmem.Region{GPA: ramBase, Mem: ram})
	for _, touch := range []func(s *script, p *peer){
		func(s *script, p *peer) { s.kick(txQueue) },
		func(s *script, p *peer) { p.send(message(vhostuser.SetOwner, 1, nil)) },
		func(s *script, p *peer) { p.Close() },
		func(s *script, p *peer) { s.w32(0, deviceOff, 0) },
	} {
		s := newCrosvm(r).start(2)
		s.backendUp()
		p := r.connect()
		s.waitState(stateConn)
		testkit.Check(t, unix.Ftruncate(n, 0))
		touch(s, p)
		s.waitState(stateFailed)
		p.expectEnd()
		testkit.Check(t, unix.Ftruncate(n, ramSize))
		r.dev.Reset()
	}
	testkit.Check(t, unix.Ftruncate(n, 0))
	r.w8(0, deviceStatus, 3)
	for i, at := range []uint32{rxBlock, txBlock} {
		r.w16(0, queueSelect, uint16(i))
		r.w32(0, queueDesc, at)
		r.w32(0, queueAvail, at+availAt)
		r.w32(0, queueUsed, at+usedAt)
		r.w16(0, queueEnable, 1)
	}
	r.w8(0, deviceStatus, 0x0f)
	want(t, "device_status", r.r8(0, deviceStatus), 0x4f)
}

// TestActivation refuses what can't run.
func TestActivation(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(r *rig)
		log  string
	}{
		{"no bus mastering", func(r *rig) { r.w16(vfio.ConfigRegion, 4, 2) }, "bus mastering"},
		{"rings nowhere", func(r *rig) { r.bus.remap(r.t) }, "queue 0"},
		{"second ring nowhere", func(r *rig) {
			r.bus.remap(r.t, guestmem.Region{GPA: ramBase, Mem: r.bus.ram[:blockSize]})
		}, "queue 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := newCrosvm(r)
			s.prepare(2)
			tt.do(r)
			s.w8(0, deviceStatus, 0x0f)
			want(t, "device_status", s.r8(0, deviceStatus), 0x4f)
			if !strings.Contains(s.logged(), tt.log) {
				t.Errorf("log is %q; want it to name %q", s.logged(), tt.log)
			}
			r.w8(0, deviceStatus, 0)
			r.w16(vfio.ConfigRegion, 4, 6)
			r.bus.remap(t, guestmem.Region{GPA: ramBase, Mem: r.bus.ram})
			newCrosvm(r).start(2)
		})
	}
	t.Run("queue not enabled", func(t *testing.T) {
		r := newRig(t, Options{})
		r.w8(0, deviceStatus, 0x0f)
		want(t, "device_status", r.r8(0, deviceStatus), 0x4f)
	})
}

// TestRestartOfSibling is 11.10, 8: the start of a modern QEMU, and a reboot of its guest.
func TestRestartOfSibling(t *testing.T) {
	for _, profile := range []Profile{Crosvm, DPDK} {
		t.Run(profile.String(), func(t *testing.T) {
			s, p := connected(t, Options{Profile: profile})
			call, kick := event(t, unix.EFD_NONBLOCK), event(t, unix.EFD_NONBLOCK)
			for ring := range uint8(2) {
				s.vring(p, vhostuser.SetVringCall, ring, call)
				s.vring(p, vhostuser.SetVringErr, ring, call)
			}
			s.vring(p, vhostuser.SetVringKick, 1, kick)
			s.vring(p, vhostuser.SetVringCall, 1, call) // unmasked
			for range 2 {
				p.send(message(vhostuser.GetVringBase, 1, vhostuser.VringState{Index: 1}.Append(nil)))
				s.receive()
				s.reply(vhostuser.GetVringBase, vhostuser.VringState{Index: 1, Num: 3}.Append(nil))
				p.expect(message(vhostuser.GetVringBase, 5, vhostuser.VringState{Index: 1, Num: 3}.Append(nil)))

				p.send(message(vhostuser.SetVringKick, 1, vhostuser.VringFile{Index: 1}.Append(nil)), kick)
				if profile == Crosvm {
					s.expectMessage(hex(t, "0d 00 00 00 01 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00"))
				}
				s.expectMessage(message(vhostuser.SetVringKick, 1, vhostuser.VringFile{Index: 1}.Append(nil)))
				s.w8(2, 4, 1)
				want(t, "call after the reboot", counter(t, call), 1)
				before := s.bus.count(3)
				testkit.Check(t, kick.Signal())
				s.wait("kick after the reboot", func() bool { return s.bus.count(3) > before })
			}
			// Once only: the second kick needs no call before it.
			s.vring(p, vhostuser.SetVringKick, 1, kick)
		})
	}
}

// TestBusMasterOff is 11.10, 9 and 10: no memory is touched, and the sibling is closed
// once.
func TestBusMasterOff(t *testing.T) {
	s, p := connected(t, Options{})
	s.w16(vfio.ConfigRegion, 4, 2)
	s.w16(vfio.ConfigRegion, 4, 6)
	p.expectEnd()
	before := string(s.block(rxQueue))
	s.notified()
	next := s.connect()
	next.send(message(vhostuser.SetOwner, 1, nil))
	if string(s.block(rxQueue)) != before {
		t.Error("rings have changed while the function was off")
	}
	if n := strings.Count(s.logged(), "sibling disconnected"); n != 1 {
		t.Errorf("sibling was disconnected %d times; want 1", n)
	}
}

// TestDPDK is a driver that writes bytes, uses vector 0 for all, and drops what comes
// before it knows of the sibling (virtio-vhost-user.md 8.10, K3 and K6).
func TestDPDK(t *testing.T) {
	r := newRig(t, Options{Profile: DPDK})
	want(t, "device id", r.r16(vfio.ConfigRegion, 2), 0x1058)
	s := newCrosvm(r)
	s.kick = func(queue int) { r.w16(0, notifyOff+4*int64(queue), uint16(queue)) }
	for _, step := range s.steps(0)[:9] {
		step()
	}
	want(t, "FEATURES_OK", s.r8(0, deviceStatus), 0x0b)
	if n := r.r32(0, deviceOff+4); n < 256 {
		t.Fatalf("max_vhost_queues = %d; want 256 or more", n)
	}
	for i := range uint16(2) { // enabled before there are vectors
		s.w16(0, queueSelect, i)
		s.w16(0, queueEnable, 1)
	}
	s.kick(rxQueue)
	s.w16(0, msixConfig, 0)
	for i := range uint16(2) {
		s.w16(0, queueSelect, i)
		s.w16(0, queueVector, 0)
	}
	s.w8(0, deviceStatus, 0x0f)
	want(t, "device_status", s.r8(0, deviceStatus), 0x0f)
	for i, v := range []uint8{1, 0, 0, 0} {
		s.w8(0, deviceOff+int64(i), v)
	}
	p := r.connect()
	p.send(message(vhostuser.GetFeatures, 1, nil))
	s.wait("interrupt", func() bool { return r.bus.count(0) > 0 })
	s.wait("configuration interrupt in the ISR", func() bool { return s.r8(0, isrOff)&2 != 0 })
	want(t, "status", s.r32(0, deviceOff), 3)
	s.expectMessage(message(vhostuser.GetFeatures, 1, nil))
	s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, 1<<32))
	p.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 1<<32)))
	s.eventually("queue interrupt in the ISR", func() bool { return s.r8(0, isrOff)&1 != 0 || s.r8(0, isrOff) == 0 })

	// Requests of the driver's own have nowhere to go.
	s.send(message(2, 1, nil))
	s.reply(vhostuser.GetFeatures, vhostuser.AppendU64(nil, 5))
	p.expect(message(vhostuser.GetFeatures, 5, vhostuser.AppendU64(nil, 5)))
	p.Close()
	s.wait("end", func() bool { return s.r32(0, deviceOff) == 0 })
	want(t, "used index", s.usedIdx(rxQueue), uint16(s.rx)) // no empty message
}
