package passthrough

import (
	"bytes"
	"encoding/binary"

	"vfiofs/fuse"
)

// A way leads back to an inode whose node has no descriptor.
//
// The text is a string in the arena of the node's shard: the length of the name, the
// name, and the file handle as the kernel wants it (its type first). Either may be
// empty.
type way struct {
	parent  fuse.NodeID // directory that had the name; 0 if there is no name
	witness uint64      // tells the inode from a later one with its number; 0 if unknown
	born    uint64      // its birth, if that alone tells them apart (lasting); else 0
	text    uint32      // in the arena; 0 if there is neither name nor handle
}

const (
	maxWayName   = 255     // longer names, which no usual file system has, are no way back
	maxWayHandle = 4 + 128 // type and MAX_HANDLE_SZ
)

// name returns the name of a node's way.
func (s *shard) name(w *way) []byte {
	if w.text == 0 {
		return nil
	}
	b := s.arena.get(w.text)
	return b[1 : 1+int(b[0])]
}

// handle returns the file handle of a node's way.
func (s *shard) handle(w *way) []byte {
	if w.text == 0 {
		return nil
	}
	b := s.arena.get(w.text)
	return b[1+int(b[0]):]
}

// setName notes that a node was seen under a name below parent.
func (s *shard) setName(e *slot[node], parent fuse.NodeID, name []byte) {
	w := &e.v.way
	if len(name) == 0 || len(name) > maxWayName {
		return
	}
	if e.state.Load()&(slotFixed|slotUnnamed) != 0 {
		e.state.And(^uint64(slotFixed | slotUnnamed))
	}
	if w.parent == parent && bytes.Equal(s.name(w), name) {
		return
	}
	s.rewrite(w, name, s.handle(w))
	s.lead(w, parent)
}

// lead has a way begin at another directory, or nowhere if that is 0.
func (s *shard) lead(w *way, parent fuse.NodeID) {
	if w.parent != parent {
		s.table.join(parent)
		s.table.leave(w.parent)
		w.parent = parent
	}
}

// dropName notes that the name below parent is not the node's any more.
func (s *shard) dropName(e *slot[node], parent fuse.NodeID, name []byte) {
	w := &e.v.way
	if w.parent == parent && bytes.Equal(s.name(w), name) {
		s.rewrite(w, nil, s.handle(w))
		s.lead(w, 0)
	}
}

// setHandle stores a node's file handle.
func (s *shard) setHandle(e *slot[node], handle []byte) {
	w := &e.v.way
	s.rewrite(w, s.name(w), handle)
}

// dropWay forgets everything and reports whether there was a file handle.
func (s *shard) dropWay(n *node) bool {
	held := len(s.handle(&n.way)) > 0
	s.rewrite(&n.way, nil, nil)
	s.lead(&n.way, 0)
	n.way = way{}
	return held
}

func (s *shard) rewrite(w *way, name, handle []byte) {
	var buf [1 + maxWayName + maxWayHandle]byte
	buf[0] = byte(len(name))
	b := append(append(buf[:1], name...), handle...)
	if w.text != 0 {
		s.arena.drop(w.text)
		w.text = 0
	}
	if len(b) > 1 {
		w.text = s.arena.put(b)
	}
}

// A fileHandle is what name_to_handle_at and open_by_handle_at exchange: struct
// file_handle with room for the largest.
type fileHandle struct {
	size uint32 // bytes of data
	kind int32
	data [maxWayHandle - 4]byte
}

// appendTo appends the handle as a way keeps it.
func (h *fileHandle) appendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(h.kind))
	return append(b, h.data[:min(int(h.size), len(h.data))]...)
}

// set is the reverse of appendTo.
func (h *fileHandle) set(b []byte) {
	h.kind = int32(binary.NativeEndian.Uint32(b))
	h.size = uint32(copy(h.data[:], b[4:]))
}
