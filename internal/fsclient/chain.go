package fsclient

import (
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
)

// Room returns the shared memory for the caller's own layout, and its address. Its size
// is Options.Room.
func (c *Client) Room() ([]byte, guestmem.GPA) {
	return c.mem.Mem[c.room:], c.mem.GPA + guestmem.GPA(c.room)
}

// A Chain is a request laid out by the caller, in memory of Client.Room.
type Chain struct {
	Read, Write []virtq.Seg // the request; room for the reply
	// Table holds 16 bytes for each Seg, at TableAt. It belongs to the backend while the
	// request does.
	Table   []byte
	TableAt guestmem.GPA
}

// SubmitChain is Submit for a request that isn't laid out in a slot. Reap returns s,
// whose ID says which it was.
func (r *Ring) SubmitChain(s *Slot, c *Chain) bool {
	var head uint16
	var ok bool
	if r.indirect && len(c.Read)+len(c.Write) > 1 {
		head, ok = r.q.AddIndirect(c.Read, c.Write, c.Table, c.TableAt)
	} else {
		head, ok = r.q.Add(c.Read, c.Write)
	}
	if ok {
		r.slots[head] = s
	}
	return ok
}
