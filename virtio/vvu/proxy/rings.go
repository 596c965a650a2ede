package proxy

import (
	"errors"
	"fmt"

	"vfiofs/vfio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiopci"
	"vfiofs/virtio/virtq"
)

// The two queues of the device, named from the driver's side.
const (
	rxQueue = 0 // messages to the driver
	txQueue = 1 // messages from the driver
)

// A ring is one of them while the driver has it running. Its memory is the device VM's.
type ring struct {
	queue *virtq.Queue
	chain virtq.Chain
	parts [3]part
}

// A part is a piece of the ring's memory, mapped.
type part struct {
	first, last vfio.IOVA
	unmap       func() error
}

// overlaps reports whether memory from first to last is part of the ring.
func (r *ring) overlaps(first, last vfio.IOVA) bool {
	for _, p := range r.parts {
		if p.unmap != nil && p.first <= last && first <= p.last {
			return true
		}
	}
	return false
}

// startRing maps queue i as the driver has set it up.
func (d *Device) startRing(i int) (_ *ring, err error) {
	q := d.block.Queue(i)
	if !q.Enabled {
		return nil, fmt.Errorf("queue %d is not enabled", i)
	}
	r := new(ring)
	defer func() {
		if err != nil {
			r.close()
			err = fmt.Errorf("queue %d: %w", i, err)
		}
	}()
	// Event indices are not offered: the rings end with their last element.
	size := int(q.Size)
	var mem [3][]byte
	for k, at := range [3]struct {
		iova uint64
		n    int
	}{{q.Desc, 16 * size}, {q.Avail, 4 + 2*size}, {q.Used, 4 + 8*size}} {
		b, unmap, err := d.bus.View(vfio.IOVA(at.iova), at.n)
		if err != nil {
			return nil, fmt.Errorf("memory at %#x: %w", at.iova, err)
		}
		mem[k] = b
		r.parts[k] = part{vfio.IOVA(at.iova), vfio.IOVA(at.iova) + vfio.IOVA(at.n-1), unmap}
	}
	err = guard(func() (err error) {
		r.queue, err = virtq.New(virtq.Config{
			Index: i, Size: size, Mem: d.bus.Snapshot(),
			Desc: mem[0], Avail: mem[1], Used: mem[2],
		})
		return err
	})
	return r, err
}

// close unmaps the ring's memory.
func (r *ring) close() {
	for _, p := range r.parts {
		if p.unmap != nil {
			p.unmap()
		}
	}
}

// stopRings takes the rings from the driver.
func (d *Device) stopRings() {
	for _, r := range []*ring{d.rx, d.tx} {
		if r != nil {
			r.close()
		}
	}
	d.rx, d.tx = nil, nil
}

// notified is called when the driver has kicked a queue. Before DRIVER_OK that means
// nothing: some drivers do it early.
func (d *Device) notified(int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed.Broadcast()
}

// pending reports whether the driver has made buffers of r available. A ring that can't
// be read breaks the device.
func (d *Device) pending(r *ring) (yes bool) {
	if r == nil {
		return false
	}
	err := guard(func() error {
		yes = r.queue.Pending()
		return nil
	})
	if err != nil {
		d.fail(err)
		return false
	}
	return yes
}

// next takes a chain of r, which is pending.
func (d *Device) next(r *ring) error {
	r.queue.SetMemory(d.bus.Snapshot())
	ok, err := r.queue.Next(&r.chain)
	switch {
	case err != nil:
		return err
	case !ok:
		return errors.New("available index went back")
	}
	return r.chain.Err
}

// done gives the chain back with n bytes written, and interrupts the driver if it wants
// that. Buffers are given back in the order in which they came, as drivers expect.
func (d *Device) done(r *ring, n int) {
	r.queue.Done(&r.chain, n)
	if r.queue.NeedCall() {
		d.block.RaiseISR(virtiopci.ISRQueue)
		d.interrupt(d.block.Queue(r.queue.Index()).Vector)
	}
}

// deliver puts a message into the receive ring, which is pending. It reports whether the
// device is still sound.
func (d *Device) deliver(message []byte) bool {
	r := d.rx
	err := guard(func() error {
		if err := d.next(r); err != nil {
			return err
		}
		if room := r.chain.Write.Len(); room < len(message) {
			return fmt.Errorf("receive buffer of %d bytes is too small for a message of %d", room, len(message))
		}
		r.chain.Write.CopyIn(message, 0)
		d.done(r, len(message))
		return nil
	})
	if err != nil {
		d.fail(err)
	}
	return err == nil
}

// collect takes a message out of the transmit ring, which is pending, and copies it to
// buf. It reports whether the device is still sound.
func (d *Device) collect(buf *[vhostuser.HeaderSize + vhostuser.MaxPayload]byte) (message []byte, ok bool) {
	r := d.tx
	err := guard(func() error {
		if err := d.next(r); err != nil {
			return err
		}
		n := r.chain.Read.Len()
		if n > len(buf) {
			return fmt.Errorf("message of %d bytes; at most %d are allowed", n, len(buf))
		}
		message = buf[:r.chain.Read.CopyOut(buf[:n], 0)]
		d.done(r, 0)
		return nil
	})
	if err != nil {
		d.fail(err)
	}
	return message, err == nil
}

// discard drops the messages of the transmit ring: they are for a sibling that isn't
// there any more.
func (d *Device) discard() {
	if d.tx == nil {
		return
	}
	for range d.tx.queue.Size() {
		if !d.pending(d.tx) {
			return
		}
		r := d.tx
		err := guard(func() error {
			if err := d.next(r); err != nil {
				return err
			}
			d.done(r, 0)
			return nil
		})
		if err != nil {
			d.fail(err)
			return
		}
	}
}

// guard calls f, which touches memory of the device VM. The device VM may have shrunk the
// file behind it: the fault is its error and not our end.
func guard(f func() error) (err error) {
	if fault := vfio.Guard(func() { err = f() }); fault != nil {
		return fault
	}
	return err
}
