package proxy

import (
	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
)

// A driver without a VM, on the other side of a vfio-user socket, can use the sibling's
// eventfds itself, and then requests and their completions don't come by here:
//
//	sibling ── kick ──► driver      instead of      kicks.go ──► MSI-X ──► driver
//	        ◄── call ──                             ◄── doorbell register ──
//
// It gets nothing that a back-end on the other side of a vhost-user socket wouldn't have.
// The client of a device VM's VMM doesn't ask.

// Events is vfiouser.Model's: the calls of the sibling's rings are behind the doorbells.
func (d *Device) Events(region, max int) (events []vfiouser.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if region != doorbellBAR || d.peer == nil {
		return nil
	}
	for i := range d.peer.vrings {
		call := d.peer.vrings[i].call
		if call == nil || len(events) == max {
			continue
		}
		if file := d.duplicate(call); file != nil {
			events = append(events, vfiouser.Event{Offset: doorbellOff + int64(i)*doorbellMultiplier, File: file})
		}
	}
	return events
}

// Source is vfiouser.Model's: the kick of the only ring that raises a vector. We don't
// watch it any more, until the sibling gives another or the driver chooses another vector.
func (d *Device) Source(kind vfio.IRQ, vector int) *fd.FD {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind != vfio.MSIX || d.peer == nil {
		return nil
	}
	var v *vring
	for i := range d.peer.vrings {
		switch w := &d.peer.vrings[i]; {
		case w.kick == nil || int(d.vector(i)) != vector:
		case v != nil:
			return nil
		default:
			v = w
		}
	}
	if v == nil {
		return nil
	}
	file := d.duplicate(v.kick)
	if file != nil && !v.given {
		d.kicks.remove(v.kick)
		d.serial++
		v.serial, v.given = d.serial, true // what is on its way must not take the kick
	}
	return file
}

// takeBack watches the kick of a ring again.
func (d *Device) takeBack(ring int) {
	if d.peer == nil || ring >= len(d.peer.vrings) || !d.peer.vrings[ring].given {
		return
	}
	v := &d.peer.vrings[ring]
	v.given = false
	if err := d.kicks.add(v.kick, int32(ring), v.serial); err != nil {
		d.log.Warn("kicks of a ring are lost", "ring", ring, "err", err)
	}
}

// duplicate returns another descriptor of an eventfd, or nil.
func (d *Device) duplicate(event *fd.FD) *fd.FD {
	n, err := unix.FcntlInt(uintptr(event.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		d.log.Warn("the driver can't have an eventfd of the sibling's", "eventfd", event, "err", err)
		return nil
	}
	return fd.New(n, "copy of "+event.String())
}
