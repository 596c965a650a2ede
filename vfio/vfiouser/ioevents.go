package vfiouser

import (
	"errors"
	"fmt"
	"syscall"

	"vfiofs/internal/fd"
)

// Writing a register costs a message, and wakes the server. If all that the server does
// then is to signal somebody's eventfd, the client may as well do it (protocol 0.0,
// VFIO_USER_DEVICE_GET_REGION_IO_FDS; QEMU 11.1.3 never asks: vfio-user.md 5.4):
//
//	client ── GET_REGION_IO_FDS ──► Model.Events
//	       ◄─ offsets, eventfds ───
//	       ── write ───────────────────────────► whoever waits for the eventfd

// An Event is a register of a Model where a write, whatever its width and value, signals
// File. The Server closes File.
type Event struct {
	Offset int64 // in the region
	File   *fd.FD
}

// The payload of GET_REGION_IO_FDS is argsz, flags, region and number of entries. The
// reply has the entries behind it: offset and width (le64), number of the descriptor, kind
// and flags (le32), padding, value to match (le64).
const (
	ioHeaderSize = 16
	ioEntrySize  = 40
	ioEventfd    = 0 // the kind
)

// maxIOReply is the longest reply that we ask for, in bytes.
const maxIOReply = ioHeaderSize + maxFiles*ioEntrySize

// getRegionIO is DEVICE_GET_REGION_IO_FDS. A client without room for everything gets the
// length of everything.
func (s *session) getRegionIO(m *message) error {
	if err := wantArgs(m.payload, ioHeaderSize); err != nil {
		return err
	}
	room, index := u32(m.payload, 0), u32(m.payload, 8)
	if int64(index) >= int64(len(s.regions)) {
		return fmt.Errorf("region %d", index)
	}
	events := s.model.Events(int(index), s.peerFiles)
	s.reply.owned = true
	for _, e := range events {
		s.reply.files = append(s.reply.files, e.File)
	}
	need := uint32(ioHeaderSize + len(events)*ioEntrySize)
	if need > room {
		s.reply.close()
		events = nil
	}
	s.reply.payload = appendU32s(s.reply.payload, need, 0, index, uint32(len(events)))
	for i, e := range events {
		s.reply.payload = appendU64s(s.reply.payload, uint64(e.Offset), 0)
		s.reply.payload = appendU32s(s.reply.payload, uint32(i), ioEventfd, 0, 0)
		s.reply.payload = appendU64s(s.reply.payload, 0)
	}
	return nil
}

// WriteEvent returns an eventfd to be signalled in place of a write to the register at
// off, or nil if the server knows none now. The caller closes it. Its flags may be those
// of somebody whom the server serves, so that a write may block.
func (r *region) WriteEvent(off int64) (event *fd.FD, err error) {
	ask := appendU32s(nil, maxIOReply, 0, r.index, 0)
	err = r.client.ask(GetRegionIO, ask, func(m *message) error {
		i, err := findIOEvent(m.payload, r.index, len(m.files), uint64(off))
		if err == nil && i >= 0 {
			event = m.take(i)
		}
		return err
	})
	if _, refused := errors.AsType[syscall.Errno](err); refused {
		return nil, nil
	}
	return event, err
}

// findIOEvent looks in a reply about a region for the eventfd of any write at off. It
// returns its number among the descriptors that came along, or -1.
func findIOEvent(b []byte, region uint32, files int, off uint64) (int, error) {
	if len(b) < ioHeaderSize {
		return -1, fmt.Errorf("payload has %d bytes; want at least %d", len(b), ioHeaderSize)
	}
	argsz, index, n := u32(b, 0), u32(b, 8), u32(b, 12)
	switch {
	case index != region:
		return -1, fmt.Errorf("reply about region %d to a question about %d", index, region)
	case n == 0, int64(argsz) > int64(len(b)): // nothing, or too much
		return -1, nil
	}
	entries := b[ioHeaderSize:]
	size := len(entries) / int(n) // may grow in later versions of the protocol
	if size < ioEntrySize {
		return -1, fmt.Errorf("%d eventfds in %d bytes", n, len(entries))
	}
	for ; len(entries) >= size; entries = entries[size:] {
		file, kind, flags := u32(entries, 16), u32(entries, 20), u32(entries, 24)
		if int64(file) >= int64(files) {
			return -1, fmt.Errorf("eventfd %d of %d", file, files)
		}
		if u64(entries, 0) == off && u64(entries, 8) == 0 && kind == ioEventfd && flags == 0 {
			return int(file), nil
		}
	}
	return -1, nil
}
