package fuse

import (
	"encoding/binary"
	"testing"
)

// Extensions that are accepted lie within their area, and a label has a name.
func FuzzExtensions(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{16, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0})
	f.Add([]byte{24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 'a', 0, 'v', 'v', 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var x extensions
		ok := x.parse(b)
		if !ok {
			return
		}
		if (x.label == nil) != (x.labelAs == nil) || x.label != nil && (len(x.label) == 0 || len(x.labelAs) == 0) {
			t.Errorf("parse(%v) = label %q as %q; want both or none", b, x.label, x.labelAs)
		}
		if len(x.label)+len(x.labelAs)+len(x.groups) > len(b) {
			t.Errorf("parse(%v) found more than there is", b)
		}
		if len(x.groups)%4 != 0 || len(x.groups)/4 > maxGroups {
			t.Errorf("parse(%v) = %d bytes of groups; want whole groups", b, len(x.groups))
		}
	})
}

func TestParseExtensions(t *testing.T) {
	area := []byte{
		24, 0, 0, 0, // size
		32, 0, 0, 0, // type: groups
		2, 0, 0, 0, // nr_groups
		0xf4, 1, 0, 0, // 500
		0xff, 0xff, 0xff, 0xff, // 2^32-1
		0, 0, 0, 0, // padding
		32, 0, 0, 0, // size
		1, 0, 0, 0, // type: one security context
		3, 0, 0, 0, // size of the value
		0, 0, 0, 0, // padding
		's', 'e', 'c', 0, // name
		'v', 'a', 'l', // value
		0, 0, 0, 0, 0, 0, 0, 0, 0, // padding
	}
	var x extensions
	if !x.parse(area) {
		t.Fatal("parse() = false; want true")
	}
	if string(x.label) != "val" || string(x.labelAs) != "sec" {
		t.Errorf("label = %q as %q; want val as sec", x.label, x.labelAs)
	}
	var th Thread
	got := th.takeGroups(x.groups)
	if len(got) != 2 || got[0] != 500 || got[1] != 1<<32-1 {
		t.Errorf("groups = %v; want 500, 4294967295", got)
	}
	if got := th.takeGroups(nil); got != nil {
		t.Errorf("takeGroups(nil) = %v; want nil", got)
	}

	many := make([]byte, 8+4+4*maxGroups+4)
	binary.LittleEndian.PutUint32(many, uint32(len(many)))
	many[4] = extGroups
	binary.LittleEndian.PutUint32(many[8:], maxGroups)
	if !x.parse(many) || len(th.takeGroups(x.groups)) != maxGroups {
		t.Errorf("parse(%d groups) failed; want success", maxGroups)
	}
	if got := th.takeGroups([]byte{1, 0, 0, 0}); len(got) != 1 || cap(got) > 100 {
		t.Errorf("after a long list, memory for %d groups is kept; want few", cap(got))
	}
}
