package vfiouser

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/vfio"
)

// TestSetIRQs is vfio-user.md section 6, with 4 eventfds for vectors 0 to 3 of 8.
func TestSetIRQs(t *testing.T) {
	const msix = uint32(vfio.MSIX)
	set := func(flags, start, count uint32, data ...byte) irqSet {
		return irqSet{flags: flags, index: msix, start: start, count: count, data: data}
	}
	assign := set(irqEvents|irqTrigger, 0, 4)
	for _, tt := range []struct {
		name  string
		sets  []irqSet // without descriptors, after assign
		raise []int
		want  [4]uint64
	}{
		{"nothing", nil, nil, [4]uint64{}},
		{"two of four", nil, []int{1, 3, 3}, [4]uint64{0, 1, 0, 2}},
		{"vectors without eventfds", nil, []int{-1, 4, 7, 8, 1000}, [4]uint64{}},
		{"loopback", []irqSet{set(irqNone|irqTrigger, 1, 2)}, nil, [4]uint64{0, 1, 1, 0}},
		{"loopback of some", []irqSet{set(irqBool|irqTrigger, 1, 3, 1, 0, 9)}, nil, [4]uint64{0, 1, 0, 1}},
		{"all off", []irqSet{set(irqNone|irqTrigger, 0, 0)}, []int{0, 1, 2, 3}, [4]uint64{}},
		{"one off", []irqSet{set(irqEvents|irqTrigger, 2, 1)}, []int{0, 1, 2, 3}, [4]uint64{1, 1, 0, 1}},
		{"masked", []irqSet{set(irqNone|irqMask, 0, 2)}, []int{0, 1, 2, 3}, [4]uint64{0, 0, 1, 1}},
		{"masked and off", []irqSet{set(irqNone|irqMask, 0, 8), set(irqNone|irqTrigger, 0, 4), set(irqNone|irqTrigger, 0, 0), set(irqNone|irqUnmask, 0, 8)}, nil, [4]uint64{}},
		{"unmasked with some pending", []irqSet{
			set(irqNone|irqMask, 0, 4), set(irqNone|irqTrigger, 1, 1), set(irqNone|irqTrigger, 1, 2), set(irqBool|irqUnmask, 0, 2, 1, 1),
		}, nil, [4]uint64{0, 1, 0, 0}},
		{"mask of some", []irqSet{set(irqBool|irqMask, 0, 4, 0, 1, 0, 1)}, []int{0, 1, 2, 3}, [4]uint64{1, 0, 1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestModel(t)
			r, _ := greeted(t, m)
			events := []*fd.FD{newEvent(t), newEvent(t), newEvent(t), newEvent(t)}
			r.must(SetIRQs, assign.append(nil), events...)
			for _, s := range tt.sets {
				r.must(SetIRQs, s.append(nil))
			}
			for _, n := range tt.raise {
				m.attached().Trigger(vfio.MSIX, n)
			}
			var got [4]uint64
			for i, e := range events {
				got[i] = count(t, e)
			}
			if got != tt.want {
				t.Errorf("interrupts = %v; want %v", got, tt.want)
			}
		})
	}
}

func TestSetIRQsRefused(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	event := newEvent(t)
	kept := newEvent(t)
	r.must(SetIRQs, irqSet{flags: irqEvents | irqTrigger, index: uint32(vfio.MSIX), count: 1}.append(nil), kept)
	for _, tt := range []struct {
		name  string
		set   irqSet
		files int
		want  unix.Errno
	}{
		{"kind", irqSet{flags: irqNone | irqTrigger, index: 5}, 0, unix.EINVAL},
		{"kind without vectors", irqSet{flags: irqEvents | irqTrigger, index: 0, count: 1}, 1, unix.EINVAL},
		{"vector", irqSet{flags: irqEvents | irqTrigger, index: 2, start: 8, count: 1}, 1, unix.EINVAL},
		{"vectors wrap", irqSet{flags: irqEvents | irqTrigger, index: 2, start: 1<<32 - 1, count: 1<<32 - 1}, 0, unix.EINVAL},
		{"fewer files", irqSet{flags: irqEvents | irqTrigger, index: 2, count: 2}, 1, unix.EINVAL},
		{"more files", irqSet{flags: irqEvents | irqTrigger, index: 2, count: 1}, 2, unix.EINVAL},
		{"files without use", irqSet{flags: irqNone | irqTrigger, index: 2, count: 1}, 1, unix.EINVAL},
		{"data without use", irqSet{flags: irqNone | irqTrigger, index: 2, count: 1, data: []byte{1}}, 0, unix.EINVAL},
		{"less data", irqSet{flags: irqBool | irqTrigger, index: 2, count: 2, data: []byte{1}}, 0, unix.EINVAL},
		{"two kinds of data", irqSet{flags: irqNone | irqBool | irqTrigger, index: 2, count: 1, data: []byte{1}}, 0, unix.EINVAL},
		{"no kind of data", irqSet{flags: irqTrigger, index: 2, count: 1}, 0, unix.EINVAL},
		{"two actions", irqSet{flags: irqNone | irqTrigger | irqMask, index: 2, count: 1}, 0, unix.EINVAL},
		{"no action", irqSet{flags: irqNone, index: 2, count: 1}, 0, unix.EINVAL},
		{"unknown action", irqSet{flags: irqNone | 64, index: 2, count: 1}, 0, unix.EINVAL},
		{"mask of none", irqSet{flags: irqNone | irqMask, index: 2}, 0, unix.EINVAL},
		{"none from 1 on", irqSet{flags: irqNone | irqTrigger, index: 2, start: 1}, 0, unix.EINVAL},
		{"mask by eventfd", irqSet{flags: irqEvents | irqMask, index: 2, count: 1}, 1, unix.ENOTSUP},
	} {
		files := []*fd.FD{event, event}[:tt.files]
		if errno, _ := r.ask(SetIRQs, tt.set.append(nil), files...); errno != tt.want {
			t.Errorf("%s: SET_IRQS = %v; want %v", tt.name, errno, tt.want)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 19), make([]byte, 20)} {
		if errno, _ := r.ask(SetIRQs, b); errno != unix.EINVAL {
			t.Errorf("SET_IRQS %x = %v; want EINVAL", b, errno)
		}
	}
	m.attached().Trigger(vfio.MSIX, 0)
	m.attached().Trigger(vfio.IRQ(-1), 0)
	m.attached().Trigger(vfio.IRQ(5), 0)
	if got := count(t, kept); got != 1 {
		t.Errorf("%d interrupts after refused commands; want 1", got)
	}
}

// TestTriggerNeverBlocks gives the server descriptors that would make it wait: a full
// eventfd and a full pipe, both blocking.
func TestTriggerNeverBlocks(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	testkit.Check(t, err)
	event := fd.New(n, "blocking eventfd")
	defer event.Close()
	full := bytes.Repeat([]byte{0xff}, 8)
	full[0] = 0xfe
	_, err = unix.Write(n, full)
	testkit.Check(t, err)
	var p [2]int
	testkit.Check(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	reader, writer := fd.New(p[0], "pipe"), fd.New(p[1], "pipe")
	defer reader.Close()
	defer writer.Close()
	for err == nil {
		_, err = unix.Write(p[1], make([]byte, 4096))
	}
	testkit.Check(t, unix.SetNonblock(p[1], false))

	r.must(SetIRQs, irqSet{flags: irqEvents | irqTrigger, index: uint32(vfio.MSIX), count: 3}.append(nil), event, writer, newMemfd(t, 0))
	for i := range 3 {
		m.attached().Trigger(vfio.MSIX, i)
	}
}

// TestReset wants DEVICE_RESET to unmask, and to leave eventfds where they are.
func TestReset(t *testing.T) {
	m := newTestModel(t)
	r, _ := greeted(t, m)
	event := newEvent(t)
	all := irqSet{flags: irqEvents | irqTrigger, index: uint32(vfio.MSIX), count: 1}
	r.must(SetIRQs, all.append(nil), event)
	all.flags = irqNone | irqMask
	r.must(SetIRQs, all.append(nil))
	m.attached().Trigger(vfio.MSIX, 0)
	r.must(Reset, nil)
	m.wantCalls(t, "reset")
	if got := count(t, event); got != 0 {
		t.Errorf("%d interrupts after a reset; want 0", got)
	}
	m.attached().Trigger(vfio.MSIX, 0)
	if got := count(t, event); got != 1 {
		t.Errorf("%d interrupts; want 1", got)
	}
	if errno, _ := r.ask(Reset, []byte{0}); errno != unix.EINVAL {
		t.Errorf("DEVICE_RESET with payload = %v; want EINVAL", errno)
	}
}
