package vvu

import (
	"fmt"

	"vfiofs/vfio"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtiopci"
	"vfiofs/virtio/virtq"
)

// The device's own queues (virtio-vhost-user.md 5).
const (
	rxIndex = 0 // device to driver
	txIndex = 1 // driver to device
)

// Memory of a queue in bytes. Each part of a ring has a page of its own, so that it is
// contiguous for a device without an IOMMU.
const (
	page      = 4096
	ringPages = 3
	rxSize    = 4096 // of a buffer: more than the largest message that devices pass on
	txSize    = 1024 // of a buffer: more than our largest message
)

// queueMemory returns how much memory a queue with buffers of a size takes.
func queueMemory(size int) int { return ringPages*page + virtiopci.MaxQueueSize*size }

// A queue is one of the device's own queues: a ring, and buffers of equal size that are
// with the device or free. A buffer is one descriptor.
type queue struct {
	index  int
	mem    []byte
	iova   vfio.IOVA
	size   int  // of a buffer
	device bool // the device writes the buffers

	ring   *virtq.Driver
	owner  []int // which buffer the device has under a head
	free   []int // buffers
	notify int64 // where to tell the device
}

// part returns part i of the ring.
func (q *queue) part(i int) []byte { return q.mem[i*page : (i+1)*page : (i+1)*page] }

// buffer returns buffer k.
func (q *queue) buffer(k int) []byte {
	at := ringPages*page + k*q.size
	return q.mem[at : at+q.size : at+q.size]
}

// reset makes the ring anew, for n buffers, all of them free. The device is in reset.
func (q *queue) reset(n int) (virtiopci.Queue, error) {
	ring, err := virtq.NewDriver(virtq.DriverConfig{
		Index: q.index, Size: n, Desc: q.part(0), Avail: q.part(1), Used: q.part(2),
	})
	if err != nil {
		return virtiopci.Queue{}, fmt.Errorf("queue %d: %w", q.index, err)
	}
	q.ring, q.owner, q.free = ring, make([]int, n), make([]int, n)
	for k := range q.free {
		q.free[k] = k
	}
	return virtiopci.Queue{
		Size:  uint16(n),
		Desc:  uint64(q.iova),
		Avail: uint64(q.iova) + page,
		Used:  uint64(q.iova) + 2*page,
	}, nil
}

// get takes a free buffer.
func (q *queue) get() (k int, ok bool) {
	if len(q.free) == 0 {
		return 0, false
	}
	k = q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	return k, true
}

// put gives the first n bytes of buffer k, which was taken, to the device.
func (q *queue) put(k, n int) {
	seg := []virtq.Seg{{
		Addr: guestmem.GPA(q.iova) + guestmem.GPA(ringPages*page+k*q.size),
		Len:  uint32(n),
	}}
	var head uint16
	var ok bool
	if q.device {
		head, ok = q.ring.Add(nil, seg)
	} else {
		head, ok = q.ring.Add(seg, nil)
	}
	if ok { // else the device has broken the ring
		q.owner[head] = k
	}
	q.ring.Publish()
}

// used takes a buffer back from the device, which has written n bytes of it.
func (q *queue) used() (k, n int, ok bool) {
	head, written, ok := q.ring.Used()
	if !ok {
		return 0, 0, false
	}
	return q.owner[head], int(written), true
}

// reclaim frees the buffers that the device is done with.
func (q *queue) reclaim() {
	for {
		k, _, ok := q.used()
		if !ok {
			return
		}
		q.free = append(q.free, k)
	}
}

// fill gives all free buffers to the device.
func (q *queue) fill() {
	for {
		k, ok := q.get()
		if !ok {
			return
		}
		q.put(k, q.size)
	}
}
