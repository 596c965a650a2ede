package passthrough

import (
	"math"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// TestIDMapForms has each type of rule, and what it does in both directions.
func TestIDMapForms(t *testing.T) {
	const eperm = math.MaxUint32 // in the place of an id
	for _, test := range []struct {
		rules           []string
		toHost, toGuest map[uint32]uint32
	}{
		{nil, map[uint32]uint32{0: 0, 5: 5, math.MaxUint32 - 1: math.MaxUint32 - 1}, map[uint32]uint32{0: 0, 5: 5}},
		{[]string{"guest:1000:2000:10"}, map[uint32]uint32{999: 999, 1000: 2000, 1009: 2009, 1010: 1010}, map[uint32]uint32{2000: 2000, 1000: 1000}},
		{[]string{"host:2000:1000:10"}, map[uint32]uint32{1000: 1000, 2000: 2000}, map[uint32]uint32{1999: 1999, 2000: 1000, 2009: 1009, 2010: 2010}},
		{[]string{"squash-guest:0:65534:1000"}, map[uint32]uint32{0: 65534, 999: 65534, 1000: 1000}, map[uint32]uint32{65534: 65534}},
		{[]string{"squash-host:0:65534:1000"}, map[uint32]uint32{0: 0, 65534: 65534}, map[uint32]uint32{0: 65534, 999: 65534, 1000: 1000}},
		{[]string{"forbid-guest:0:1000"}, map[uint32]uint32{0: eperm, 999: eperm, 1000: 1000}, map[uint32]uint32{0: 0, 999: 999}},
		{[]string{"map:0:100000:1000"}, map[uint32]uint32{0: 100000, 999: 100999, 1000: 1000}, map[uint32]uint32{100000: 0, 100999: 999, 101000: 101000}},
		{[]string{"MAP/0/7/1"}, map[uint32]uint32{0: 7}, map[uint32]uint32{7: 0}},
		{[]string{"Squash-Guest→0→7→2"}, map[uint32]uint32{0: 7, 1: 7}, nil},
		{[]string{"map:5:50:5", "map:0:100:5", "forbid-guest:10:4294967286"}, map[uint32]uint32{0: 100, 4: 104, 5: 50, 9: 54, 10: eperm, math.MaxUint32: eperm}, map[uint32]uint32{50: 5, 100: 0}},
		{[]string{"guest:0:1:1", "host:0:1:1"}, map[uint32]uint32{0: 1}, map[uint32]uint32{0: 1}},
		{[]string{"squash-guest:1000:0:4294966295"}, map[uint32]uint32{1000: 0, math.MaxUint32 - 1: 0}, nil},
	} {
		m, err := ParseIDMap(test.rules)
		if err != nil {
			t.Errorf("ParseIDMap(%q): %v", test.rules, err)
		}
		for id, want := range test.toHost {
			got, e := m.host(id)
			if e == unix.EPERM {
				got = eperm
			} else if e != 0 {
				t.Errorf("%q: host(%d) = %v", test.rules, id, e)
			}
			if got != want {
				t.Errorf("%q: host(%d) = %d; want %d", test.rules, id, got, want)
			}
		}
		for id, want := range test.toGuest {
			if got := m.guest(id); got != want {
				t.Errorf("%q: guest(%d) = %d; want %d", test.rules, id, got, want)
			}
		}
	}
}

func TestIDMapErrors(t *testing.T) {
	for _, test := range []struct {
		rules []string
		want  string
	}{
		{[]string{"swap:0:1:2"}, "Invalid ID map prefix swap"},
		{[]string{""}, "Invalid ID map prefix "},
		{[]string{"map"}, "Invalid ID map length (expected 3 elements, got 0 elements)"},
		{[]string{"map-0-1-2"}, "Invalid ID map prefix map-0-1-2"},
		{[]string{"map:0:1"}, "Invalid ID map length (expected 3 elements, got 2 elements)"},
		{[]string{"forbid-guest:0:1:2"}, "Invalid ID map length (expected 2 elements, got 3 elements)"},
		{[]string{"map:0:1:2:"}, "Invalid ID map length (expected 3 elements, got 4 elements)"},
		{[]string{"map:x:1:2"}, "Invalid value x in ID map"},
		{[]string{"map:0:-1:2"}, "Invalid value -1 in ID map"},
		{[]string{"map:0/1:2"}, "Invalid ID map length"},
		{[]string{"map:0:4294967296:2"}, "Invalid value 4294967296 in ID map"},
		{[]string{"map:0:0:0"}, "Invalid value 0 in ID map: a range has one id"},
		{[]string{"map:4294967295:0:2"}, "range overflow"},
		{[]string{"map:0:4294967295:2"}, "range overflow"},
		{[]string{"guest:0:4294967295:1"}, "4294967295 means no id"},
		{[]string{"squash-guest:0:4294967295:5"}, "4294967295 means no id"},
		{[]string{"map:4294967295:0:1"}, "4294967295 means no id"},
		{[]string{"guest:0:0:5", "guest:4:9:5"}, `it translates id 4, as an earlier rule does (in "guest:4:9:5"`},
		{[]string{"guest:10:0:5", "forbid-guest:0:11"}, "translates id 10, as an earlier rule does"},
		{[]string{"map:0:10:5", "host:14:0:1"}, "translates id 14, as an earlier rule does"},
		{[]string{"host:14:0:1", "map:0:10:5"}, "translates id 14, as an earlier rule does"},
	} {
		if _, err := ParseIDMap(test.rules); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ParseIDMap(%q) = %v; want %q", test.rules, err, test.want)
		}
	}
}

// FuzzParseIDMap parses two rules, and what comes out must translate nothing to "no id",
// and each id of a map there and back.
func FuzzParseIDMap(f *testing.F) {
	f.Add("map:0:100000:65536", "forbid-guest:65536:4294901760")
	f.Add("squash-guest:0:1:5", "squash-host:9:0:1")
	f.Add("guest/4294967294/0/1", "HOST:0:0:1")
	f.Add("map:1:2", "\xff")
	f.Fuzz(func(t *testing.T, rule1, rule2 string) {
		m, err := ParseIDMap([]string{rule1, rule2})
		if err != nil {
			return
		}
		for _, ranges := range [][]idRange{m.toHost, m.toGuest} {
			for i, r := range ranges {
				if r.last < r.first || i > 0 && r.first <= ranges[i-1].last {
					t.Fatalf("ParseIDMap(%q, %q): ranges %v are no order", rule1, rule2, ranges)
				}
				for _, id := range []uint32{r.first, r.last} {
					if to, e := translate(ranges, id); e == 0 && to == math.MaxUint32 {
						t.Errorf("ParseIDMap(%q, %q) translates %d to no id", rule1, rule2, id)
					}
				}
			}
		}
		if m, err = ParseIDMap([]string{rule1}); err == nil && strings.HasPrefix(strings.ToLower(rule1), "map") {
			for _, r := range m.toHost {
				if to, _ := m.host(r.last); m.guest(to) != r.last {
					t.Errorf("%q: %d becomes %d and does not come back", rule1, r.last, to)
				}
			}
		}
	})
}

// translated returns options that translate user and group ids.
func translated(t *testing.T, rules ...string) func(*Options) fuse.InitFlags {
	m, err := ParseIDMap(rules)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) fuse.InitFlags {
		o.TranslateUID, o.TranslateGID = m, m
		return fuse.CreateSuppGroup
	}
}

// owner returns who owns a file on the host.
func (g *guest) owner(name string) (uid, gid uint32) {
	g.Helper()
	var st unix.Stat_t
	must(g, unix.Lstat(g.path(name), &st))
	return st.Uid, st.Gid
}

// TestTranslatedIDs creates, changes and looks at files with ids that differ.
func TestTranslatedIDs(t *testing.T) {
	needRoot(t)
	g := newGuest(t, translated(t, "map:0:100000:1000", "forbid-guest:5000:10", "squash-guest:6000:42:10", "squash-host:70000:7:10"))
	must(t, os.Chmod(g.dir, 0o777))

	for _, test := range []struct {
		name      string
		uid, host uint32
		seen      uint32
		err       syscall.Errno
	}{
		{"root", 0, 100000, 0, 0},
		{"user", 999, 100999, 999, 0},
		{"unknown", 1000, 1000, 1000, 0},
		{"squashed", 6003, 42, 42, 0},
		{"forbidden", 5000, 0, 0, syscall.EPERM},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := g.thread(t)
			e, err := g.as(test.uid, test.uid, 1).mkdirat(fuse.RootID, test.name, 0o755)
			if test.err != 0 {
				want(t, "MkDir", err, test.err)
				if _, err := os.Lstat(g.path(test.name)); err == nil {
					t.Error("the directory is there")
				}
				return
			}
			must(t, err)
			uid, gid := g.owner(test.name)
			same(t, "owner on the host", [2]uint32{uid, gid}, [2]uint32{test.host, test.host})
			same(t, "owner in the guest", [2]uint32{e.Attr.UID, e.Attr.GID}, [2]uint32{test.seen, test.seen})
		})
	}

	t.Run("SetAttr", func(t *testing.T) {
		g := g.thread(t)
		g.file("f", "", 0o644)
		n := g.find("f").Node
		var a fuse.Attr
		in := fuse.SetAttr{Valid: fuse.SetAttrUID | fuse.SetAttrGID, UID: 5, GID: 6}
		_, err := g.fs.SetAttr(g.c, n, &in, &a)
		must(t, err)
		uid, gid := g.owner("f")
		same(t, "owner on the host", [2]uint32{uid, gid}, [2]uint32{100005, 100006})
		same(t, "owner in the guest", [2]uint32{a.UID, a.GID}, [2]uint32{5, 6})
		for _, in := range []fuse.SetAttr{{Valid: fuse.SetAttrUID, UID: 5009}, {Valid: fuse.SetAttrGID, GID: 5009}} {
			_, err = g.fs.SetAttr(g.c, n, &in, &a)
			want(t, "SetAttr of a forbidden id", err, unix.EPERM)
		}
	})
	t.Run("host", func(t *testing.T) {
		g := g.thread(t)
		g.file("h", "", 0o644)
		must(t, os.Chown(g.path("h"), 70009, 100001))
		a := g.find("h").Attr
		same(t, "owner in the guest", [2]uint32{a.UID, a.GID}, [2]uint32{7, 1})
		var x fuse.Statx
		_, err := g.fs.Statx(g.c, g.find("h").Node, 0, unix.STATX_BASIC_STATS, 0, &x)
		must(t, err)
		same(t, "owner in STATX", [2]uint32{x.UID, x.GID}, [2]uint32{7, 1})
	})
	t.Run("groups", func(t *testing.T) {
		g := g.thread(t)
		must(t, os.Mkdir(g.path("team"), 0o700))
		must(t, os.Chown(g.path("team"), 0, 100077))
		must(t, os.Chmod(g.path("team"), 0o770))
		as := g.as(1, 1, 1)
		as.c.Groups = []uint32{88, 5001}
		_, err := as.mkdirat(g.find("team").Node, "d", 0o755)
		want(t, "MkDir with a forbidden group", err, unix.EPERM)
		as.c.Groups = []uint32{}
		local(as.c).hostGroups = nil
		if _, _, groups, e := g.fs.hostIDs(local(as.c), as.c); e != 0 || groups == nil {
			t.Errorf("hostIDs of no groups = %v, %v; want an empty list", groups, e)
		}
		as.c.Groups = []uint32{88, 77}
		_, _, groups, e := g.fs.hostIDs(local(as.c), as.c)
		if e != 0 || len(groups) != 2 || groups[0] != 100088 || groups[1] != 100077 {
			t.Errorf("hostIDs: groups = %v, %v; want 100088 100077", groups, e)
		}
	})
}
