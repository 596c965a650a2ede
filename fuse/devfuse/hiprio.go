package devfuse

import (
	"sync"

	"vfiofs/internal/fsclient"
)

// hiprio is the ring for requests without a reply: FORGET, BATCH_FORGET and INTERRUPT
// (virtio 1.3, 5.11.6.1). All loops use it. Completions free slots and nothing else,
// so nobody waits for them: each request takes in those of earlier ones.
type hiprio struct {
	mu    sync.Mutex
	ring  *fsclient.Ring
	spare []*fsclient.Slot
}

// send passes the request in the first n bytes of a slot to the backend, and returns
// another slot in exchange. It returns nil, and has done nothing, if the backend is so
// slow that it has all of them.
func (h *hiprio) send(s *fsclient.Slot, n int) (*fsclient.Slot, error) {
	other, kick := h.exchange(s, n)
	if kick {
		return other, h.ring.Kick()
	}
	return other, nil
}

func (h *hiprio) exchange(s *fsclient.Slot, n int) (other *fsclient.Slot, kick bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		done, _, ok := h.ring.Reap()
		if !ok {
			break
		}
		h.spare = append(h.spare, done)
	}
	last := len(h.spare) - 1
	if last < 0 || !h.ring.Submit(s, n, 0) {
		return nil, false
	}
	other, h.spare = h.spare[last], h.spare[:last]
	return other, h.ring.Show()
}
