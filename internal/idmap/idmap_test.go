package idmap

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParseH232H233 has both forms of maps that are right.
func TestParseH232H233(t *testing.T) {
	for _, test := range []struct {
		values []string
		want   Map
	}{
		{nil, nil},
		{[]string{"0 100000 65536"}, Map{{0, 100000, 65536}}},
		{[]string{"0 0 1,1 100000 10"}, Map{{0, 0, 1}, {1, 100000, 10}}},
		{[]string{" 0 0  1 ,\t1 100000 10\t"}, Map{{0, 0, 1}, {1, 100000, 10}}},
		{[]string{":0:100000:65536:"}, Map{{0, 100000, 65536}}},
		{[]string{":0:0:1:", "/1/100000/10/"}, Map{{0, 0, 1}, {1, 100000, 10}}},
		{[]string{"→0→0→1→"}, Map{{0, 0, 1}}},
		{[]string{",0,0,1,", "1 100000 10,11 5 2"}, Map{{0, 0, 1}, {1, 100000, 10}, {11, 5, 2}}},
		{[]string{"0 0 4294967295"}, Map{{0, 0, math.MaxUint32}}},
		{[]string{"4294967294 7 1"}, Map{{4294967294, 7, 1}}},
		{[]string{"10 10 10,0 0 10,20 20 10"}, Map{{10, 10, 10}, {0, 0, 10}, {20, 20, 10}}},
	} {
		got, err := Parse(test.values...)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.values, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", test.values, diff)
		}
	}
}

// TestParseErrorsH232 has maps that are wrong, and what must be said about them.
func TestParseErrorsH232(t *testing.T) {
	for _, test := range []struct {
		values []string
		want   string
	}{
		{[]string{""}, `id map "": write INSIDE OUTSIDE COUNT`},
		{[]string{" \t"}, "write INSIDE OUTSIDE COUNT"},
		{[]string{"root"}, "write INSIDE OUTSIDE COUNT"},
		{[]string{"\xff0\xff0\xff1\xff"}, "write INSIDE OUTSIDE COUNT"},
		{[]string{"0 0"}, "3 numbers, not 2"},
		{[]string{"0 0 1,"}, "3 numbers, not 0"},
		{[]string{"0 0 1 2"}, "3 numbers, not 4"},
		{[]string{":0:0:1"}, `begins with ':' and must end with it`},
		{[]string{":"}, `begins with ':' and must end with it`},
		{[]string{"::"}, "3 numbers, not 1"},
		{[]string{":0:0:1:2:"}, "3 numbers, not 4"},
		{[]string{":0:0::"}, `"" is no number`},
		{[]string{":0:0/1:"}, "3 numbers, not 2"},
		{[]string{"0 0 -1"}, `"-1" is no number`},
		{[]string{"0 0x0 1"}, `"0x0" is no number`},
		{[]string{"0 4294967296 1"}, `"4294967296" is no number`},
		{[]string{"0 0 0"}, "range 0 0 0 holds no id"},
		{[]string{"4294967295 0 1"}, "goes beyond 4294967294"},
		{[]string{"0 4294967295 1"}, "goes beyond 4294967294"},
		{[]string{"1 0 4294967295"}, "goes beyond 4294967294"},
		{[]string{"0 1 4294967295"}, "goes beyond 4294967294"},
		{[]string{"0 0 2,1 100 1"}, "ranges 0 0 2 and 1 100 1 share ids inside"},
		{[]string{"5 100 1,0 0 10"}, "share ids inside"},
		{[]string{"0 0 2", ":7:1:1:"}, `id map ":7:1:1:": ranges 0 0 2 and 7 1 1 share ids outside`},
		{[]string{extents(MaxExtents + 1)}, "more than 340 ranges"},
	} {
		m, err := Parse(test.values...)
		if err == nil || !strings.Contains(err.Error(), test.want) || m != nil {
			t.Errorf("Parse(%q) = %v, %v; want an error with %q", test.values, m, err, test.want)
		}
	}
	if m, err := Parse(extents(MaxExtents)); err != nil || len(m) != MaxExtents {
		t.Errorf("%d ranges: got %d, %v", MaxExtents, len(m), err)
	}
}

// extents returns a map of n ranges of one id.
func extents(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%d %d 1", i, i)
	}
	return strings.Join(list, ",")
}

func TestMap(t *testing.T) {
	m := Map{{1, 100000, 10}, {1000, 500, 1}}
	if got, want := m.String(), "1 100000 10\n1000 500 1\n"; got != want {
		t.Errorf("String = %q; want %q", got, want)
	}
	for _, test := range []struct {
		inside, outside uint32
		ok              bool
	}{
		{1, 100000, true},
		{10, 100009, true},
		{1000, 500, true},
		{0, 99999, false},
		{11, 100010, false},
		{1001, 501, false},
		{math.MaxUint32, math.MaxUint32, false},
	} {
		if got, ok := m.Outside(test.inside); ok != test.ok || ok && got != test.outside {
			t.Errorf("Outside(%d) = %d, %v; want %d, %v", test.inside, got, ok, test.outside, test.ok)
		}
		if got, ok := m.Inside(test.outside); ok != test.ok || ok && got != test.inside {
			t.Errorf("Inside(%d) = %d, %v; want %d, %v", test.outside, got, ok, test.inside, test.ok)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		m          Map
		asked, own uint32
		want       uint32
		ok         bool
	}{
		{Map{{0, 100000, 10}}, 0, 1000, 0, true},
		{Map{{0, 100000, 10}}, 7, 1000, 7, true},
		{Map{{0, 100000, 10}}, 10, 1000, 10, false},
		{Map{{1000, 1000, 1}}, 0, 1000, 1000, true},
		{Map{{5, 1000, 1}}, 0, 1000, 5, true},
		{Map{{5, 1000, 1}}, 0, 1001, 0, false},
		{nil, 0, 0, 0, false},
	} {
		if got, ok := test.m.Choose(test.asked, test.own); got != test.want || ok != test.ok {
			t.Errorf("%v.Choose(%d, %d) = %d, %v; want %d, %v", test.m, test.asked, test.own, got, ok, test.want, test.ok)
		}
	}
}

// FuzzParse parses what it gets, and what comes out must be a map in the kernel's eyes.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "0 100000 65536", "0 0 1,1 100000 10", ":0:0:1:", "::", "4294967294 0 1", "0 0 2,1 1 1", "\xff1\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		m, err := Parse(value)
		if err != nil {
			return
		}
		if len(m) == 0 || len(m) > MaxExtents {
			t.Fatalf("Parse(%q) has %d extents", value, len(m))
		}
		for _, e := range m {
			for _, d := range []uint32{0, e.Count - 1} {
				if got, ok := m.Outside(e.Inside + d); !ok || got != e.Outside+d {
					t.Errorf("Parse(%q).Outside(%d) = %d, %v; want %d: ranges overlap", value, e.Inside+d, got, ok, e.Outside+d)
				}
				if got, ok := m.Inside(e.Outside + d); !ok || got != e.Inside+d {
					t.Errorf("Parse(%q).Inside(%d) = %d, %v; want %d: ranges overlap", value, e.Outside+d, got, ok, e.Inside+d)
				}
			}
		}
		again, err := Parse(strings.ReplaceAll(strings.TrimSuffix(m.String(), "\n"), "\n", ","))
		if diff := cmp.Diff(m, again); err != nil || diff != "" {
			t.Errorf("Parse of String: %v (-want +got):\n%s", err, diff)
		}
	})
}
