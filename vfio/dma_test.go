package vfio

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// checkSpace checks that free and used pages are whole, in order, apart from each other
// and within ranges.
func checkSpace(t *testing.T, s *Space, ranges []Range) {
	t.Helper()
	all := slices.Clone(s.free)
	for i := 1; i < len(all); i++ {
		if all[i].First <= all[i-1].Last || all[i].First-all[i-1].Last == 1 {
			t.Fatalf("free %#x: %d and %d are out of order or touch", all, i-1, i)
		}
	}
	for iova, n := range s.used {
		all = append(all, Range{iova, iova + IOVA(n) - 1})
	}
	slices.SortFunc(all, func(a, b Range) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	mask := IOVA(s.page - 1)
	for i, r := range all {
		if i > 0 && r.First <= all[i-1].Last {
			t.Fatalf("%#x and %#x overlap", all[i-1], r)
		}
		if r.First == 0 || r.First&mask != 0 || r.Last&mask != mask || r.First > r.Last {
			t.Fatalf("%#x isn't of whole pages of %#x, without 0", r, s.page)
		}
		for _, at := range []IOVA{r.First, r.Last} {
			if !slices.ContainsFunc(ranges, func(w Range) bool { return w.First <= at && at <= w.Last }) {
				t.Fatalf("%#x isn't within %#x", at, ranges)
			}
		}
	}
}

func TestSpace(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ranges []Range
		want   []Range // free
	}{
		{"nothing", nil, nil},
		{"a PC", []Range{{0, 0xfedfffff}, {0xfef00000, 1<<48 - 1}}, []Range{{0x1000, 0xfedfffff}, {0xfef00000, 1<<48 - 1}}},
		{"not of whole pages", []Range{{0x1001, 0x2fff}, {0x4000, 0x5ffe}, {0x8001, 0x9ffe}}, []Range{{0x2000, 0x2fff}, {0x4000, 0x4fff}}},
		{"less than a page", []Range{{0, 0xfff}, {0x1001, 0x1500}, {0x2000, 0x2ffe}}, nil},
		{"everything", []Range{{0, 1<<64 - 1}}, []Range{{0x1000, 1<<64 - 1}}},
		{"the last page", []Range{{1<<64 - 0x1000, 1<<64 - 1}}, []Range{{1<<64 - 0x1000, 1<<64 - 1}}},
		{"the last page, not whole", []Range{{1<<64 - 0xfff, 1<<64 - 1}, {1<<64 - 0x1000, 1<<64 - 2}}, nil},
		{"backwards", []Range{{0x5000, 0x1000}}, nil},
		{"overlapping and out of order", []Range{{0x5000, 0x7fff}, {0x1000, 0x2fff}, {0x3000, 0x5fff}}, []Range{{0x1000, 0x7fff}}},
		{"in the middle", []Range{{0x1000, 0x1fff}, {0x9000, 0x9fff}, {0x5000, 0x5fff}}, []Range{{0x1000, 0x1fff}, {0x5000, 0x5fff}, {0x9000, 0x9fff}}},
	} {
		s := NewSpace(tt.ranges, 0x1000)
		checkSpace(t, s, tt.ranges)
		if !slices.Equal(s.free, tt.want) {
			t.Errorf("%s: free %#x; want %#x", tt.name, s.free, tt.want)
		}
	}
}

func TestAlloc(t *testing.T) {
	s := NewSpace([]Range{{0x1000, 0x2fff}, {0x10000, 0x1ffff}}, 0x1000)
	for _, tt := range []struct {
		size uint64
		want string
	}{
		{0, "none"},
		{1 << 63, "none"},
		{1<<64 - 1, "none"},
		{0x3000, "0x10000"}, // in one piece
		{1, "0x1000"},
		{0x1000, "0x2000"},
		{0x1001, "0x13000"},
		{0xc000, "none"},
		{0xb000, "0x15000"},
		{1, "none"},
	} {
		got := "none"
		if iova, err := s.Alloc(tt.size); err == nil {
			got = fmt.Sprintf("%#x", iova)
		}
		if got != tt.want {
			t.Errorf("Alloc(%#x) = %s; want %s", tt.size, got, tt.want)
		}
	}
	s.Free(0x14000) // the middle of one
	s.Free(0)
	if len(s.free) != 0 {
		t.Errorf("free %#x after Free of nothing; want none", s.free)
	}
}

// TestSpaceProperties plays random calls: what is given out never overlaps, and
// everything comes back.
func TestSpaceProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var ranges []Range
		for range 1 + rng.IntN(4) {
			first := rng.Uint64() >> rng.IntN(50)
			ranges = append(ranges, Range{IOVA(first), IOVA(first) + IOVA(rng.Uint64N(1<<17))})
		}
		ranges = slices.DeleteFunc(ranges, func(r Range) bool { return r.First > r.Last })
		s := NewSpace(ranges, 0x1000)
		before := slices.Clone(s.free)
		var held []IOVA
		for range 200 {
			if len(held) > 0 && rng.IntN(2) == 0 {
				i := rng.IntN(len(held))
				s.Free(held[i])
				held = slices.Delete(held, i, i+1)
			} else if iova, err := s.Alloc(1 + rng.Uint64N(0x5000)); err == nil {
				held = append(held, iova)
			}
			checkSpace(t, s, ranges)
		}
		for _, iova := range held {
			s.Free(iova)
		}
		if !slices.Equal(s.free, before) {
			t.Fatalf("after all was freed: free %#x; want %#x", s.free, before)
		}
	}
}
