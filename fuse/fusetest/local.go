package fusetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"vfiofs/fuse"
	"vfiofs/virtio/guestmem"
)

// A Local carries requests to a server in the same process. What may not block runs
// on one locked thread and the rest on a second one, as in a device.
type Local struct {
	Server *fuse.Server
	// Cut scatters requests and replies into pieces of that many bytes; 0 leaves each
	// in one piece.
	Cut int

	ring, worker *thread
}

// NewLocal starts a server for fs; it ends with the test.
func NewLocal(tb testing.TB, fs fuse.FileSystem, opt fuse.Options) *Local {
	tb.Helper()
	l := &Local{Server: fuse.NewServer(fs, opt)}
	for _, t := range []**thread{&l.ring, &l.worker} {
		var err error
		if *t, err = startThread(l.Server); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup((*t).stop)
	}
	return l
}

// Client returns a client that uses l.
func (l *Local) Client() *Client { return NewClient(l.Transport) }

// Transport is a Transport that runs the request at once. It fails when the server
// breaks a promise of its own: a reply whose length isn't what its header says, or
// bytes stored outside the reply.
func (l *Local) Transport(in []byte, outSize int) ([]byte, error) {
	request, reply := NewScattered(in, l.Cut), NewReply(outSize, l.Cut)
	woken := make(chan struct{})
	r := fuse.Request{In: request.Vec, Out: reply.Vec, Wake: func() { close(woken) }}
	used, out := l.ring.serve(&r, false)
	switch out {
	case fuse.Blocks:
		used, out = l.worker.serve(&r, true)
	case fuse.Parked:
		<-woken
		used, out = l.ring.serve(&r, false)
	}
	if out != fuse.Done {
		return nil, fmt.Errorf("Serve() = outcome %d when the request has to be done", out)
	}
	return reply.Reply(used)
}

// A Scattered is memory in pieces, with guard bytes between them.
type Scattered struct {
	Vec    guestmem.Vec
	memory []byte
	cut, n int
}

const guard = 0x5a

// NewScattered lays data out in pieces of cut bytes, or in one if cut is 0.
func NewScattered(data []byte, cut int) *Scattered {
	if cut <= 0 {
		cut = max(len(data), 1)
	}
	s := &Scattered{cut: cut, n: len(data)}
	pieces := (len(data) + cut - 1) / cut
	s.memory = bytes.Repeat([]byte{guard}, len(data)+pieces)
	for at := 0; len(data) > 0; at += cut + 1 {
		n := copy(s.memory[at:at+min(cut, len(data))], data)
		s.Vec.Append(s.memory[at : at+n])
		data = data[n:]
	}
	return s
}

// filler is what reply memory holds before the server writes to it.
const filler = 0xa5

// NewReply returns memory for a reply of at most n bytes.
func NewReply(n, cut int) *Scattered {
	return NewScattered(bytes.Repeat([]byte{filler}, n), cut)
}

// Reply returns the reply in memory from NewReply, of which the server said that it
// has used bytes. It fails if the reply breaks a rule of fs-device.md C.6, or if other
// memory was changed.
func (s *Scattered) Reply(used int) ([]byte, error) {
	out, err := s.Bytes()
	if err != nil {
		return nil, err
	}
	if err := CheckReply(out, used); err != nil {
		return nil, err
	}
	// The file system may have stored data before it failed.
	failed := used > 0 && binary.LittleEndian.Uint32(out[4:]) != 0
	if rest := out[used:]; !failed && bytes.Count(rest, []byte{filler}) != len(rest) {
		return nil, fmt.Errorf("bytes after the reply's %d were changed", used)
	}
	return out[:used], nil
}

// CheckReply says what is wrong with the reply in out, of which the server said that
// it has used bytes (fs-device.md C.6).
func CheckReply(out []byte, used int) error {
	if used == 0 {
		return nil
	}
	if used < 16 || used > len(out) {
		return fmt.Errorf("used = %d; want 16 to %d", used, len(out))
	}
	size, errno := binary.LittleEndian.Uint32(out), int32(binary.LittleEndian.Uint32(out[4:]))
	switch {
	case int(size) != used:
		return fmt.Errorf("out_header.len = %d; want used length %d", size, used)
	case errno > 0 || errno < -511:
		return fmt.Errorf("out_header.error = %d; want -511 to 0", errno)
	case errno != 0 && used != 16:
		return fmt.Errorf("error reply has %d bytes; want 16", used)
	}
	return nil
}

// Bytes returns what the pieces hold. It fails if a guard byte was changed.
func (s *Scattered) Bytes() ([]byte, error) {
	var data []byte
	for at := 0; len(data) < s.n; at += s.cut + 1 {
		n := min(s.cut, s.n-len(data))
		data = append(data, s.memory[at:at+n]...)
		if s.memory[at+n] != guard {
			return nil, fmt.Errorf("memory after byte %d of the reply was changed", len(data))
		}
	}
	return data, nil
}

// A thread is a goroutine, locked to its OS thread, that serves requests.
type thread struct {
	jobs chan job
	done chan struct{}
}

type job struct {
	request  *fuse.Request
	mayBlock bool
	result   chan result
}

type result struct {
	used int
	out  fuse.Outcome
}

func startThread(s *fuse.Server) (*thread, error) {
	t := &thread{jobs: make(chan job), done: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(t.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ft, err := s.NewThread()
		ready <- err
		if err != nil {
			return
		}
		defer ft.Close()
		for j := range t.jobs {
			used, out := ft.Serve(j.request, j.mayBlock)
			j.result <- result{used, out}
		}
	}()
	return t, <-ready
}

func (t *thread) serve(r *fuse.Request, mayBlock bool) (used int, out fuse.Outcome) {
	j := job{r, mayBlock, make(chan result)}
	t.jobs <- j
	res := <-j.result
	return res.used, res.out
}

func (t *thread) stop() {
	close(t.jobs)
	<-t.done
}
