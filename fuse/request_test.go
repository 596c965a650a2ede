package fuse

import "testing"

// message returns the bytes of a request.
func message(op Opcode, body []byte) []byte {
	head := InHeader{Len: uint32(inHeaderSize + len(body)), Opcode: op, Unique: 2, Node: RootID, UID: 1, GID: 1}
	return append(append([]byte(nil), bytesOf(&head)...), body...)
}

// The private copy takes what the operation looks at, grows to what is needed, and
// shrinks again.
func TestPrivateCopy(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []byte
		args int // bytes that are copied after the header
	}{
		{"fixed arguments only", message(OpGetAttr, make([]byte, 1000)), 16},
		{"payload stays where it is", message(OpWrite, make([]byte, 1000)), 40},
		{"names", message(OpLookup, make([]byte, 1000)), 1000},
		{"nothing", message(OpStatFS, make([]byte, 1000)), 0},
		{"unknown", message(99, make([]byte, 1000)), 0},
		{"large", message(OpSetXattr, make([]byte, 1<<20)), 1 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			r.In.Append(test.in)
			r.Out.Append(make([]byte, 200))
			r.decode()
			if len(r.args) != test.args {
				t.Errorf("copied %d bytes of arguments; want %d", len(r.args), test.args)
			}
			r.Reset()
			if cap(r.copy) > keepCopy {
				t.Errorf("%d bytes are kept; want at most %d", cap(r.copy), keepCopy)
			}
			if r.decoded || r.names[0] != nil || r.args != nil || r.rest != nil {
				t.Error("Reset() left something of the request behind")
			}
		})
	}
}
