package vfiouser

import (
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
)

// A naive is what intervals should be: addresses one by one. The address space ends
// at both ends of 64 bits: addresses below half are small, the others end at 2^64-1.
type naive [96]struct {
	file *file
	off  uint64
}

// addr returns the address of cell i.
func (n *naive) addr(i int) uint64 {
	if i < len(n)/2 {
		return uint64(i)
	}
	return math.MaxUint64 - uint64(len(n)-1-i)
}

// bytes returns what s says about each address.
func (n *naive) of(s *intervals) (got naive) {
	for i := range got {
		for e := range s.overlapping(n.addr(i), n.addr(i)) {
			got[i].file, got[i].off = e.file, e.off+n.addr(i)-e.first
		}
	}
	return got
}

// wellFormed reports an error unless s is in order, without overlap, and counts right.
func wellFormed(t *testing.T, s *intervals) {
	t.Helper()
	n := 0
	var before *entry
	for b, block := range s.blocks {
		if len(block) == 0 || len(block) > blockSize {
			t.Fatalf("block %d has %d entries", b, len(block))
		}
		if b > 0 && len(s.blocks[b-1])+len(block) <= blockSize/2 {
			t.Fatalf("blocks %d and %d have only %d entries", b-1, b, len(s.blocks[b-1])+len(block))
		}
		for i := range block {
			e := &block[i]
			if e.last < e.first || before != nil && e.first <= before.last {
				t.Fatalf("entry %#x-%#x after %+v", e.first, e.last, before)
			}
			before = e
			n++
		}
	}
	if n != s.n {
		t.Fatalf("n = %d; want %d", s.n, n)
	}
}

// TestIntervals compares random sequences of changes with the naive model.
func TestIntervals(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		files := [3]*file{{}, {}, {}}
		var s intervals
		var want naive
		for step := range 200 {
			i := r.IntN(len(want))
			half := len(want) / 2
			end := half
			if i >= half {
				end = len(want)
			}
			j := i + r.IntN(min(end-i, 1+r.IntN(12)))
			if r.IntN(10) == 0 {
				i, j = r.IntN(half), half+r.IntN(half) // nearly everything
			}
			first, last := want.addr(i), want.addr(j)
			f, off := files[r.IntN(3)], r.Uint64N(1<<20)
			any := false
			for k := i; k <= j; k++ {
				any = any || want[k].file != nil
			}
			if got := s.remove(first, last); got != any {
				t.Fatalf("seed %d step %d: remove(%#x, %#x) = %v; want %v", seed, step, first, last, got, any)
			}
			insert := r.IntN(3) > 0 && last-first < 1000
			if insert {
				s.insert(entry{first: first, last: last, file: f, off: off})
			}
			for k := i; k <= j; k++ {
				want[k].file, want[k].off = nil, 0
				if insert {
					want[k].file, want[k].off = f, off+want.addr(k)-first
				}
			}
			wellFormed(t, &s)
			if got := want.of(&s); got != want {
				t.Fatalf("seed %d step %d: after %#x-%#x inserted %v: got %v; want %v", seed, step, first, last, insert, got, want)
			}
		}
		s.remove(0, math.MaxUint64)
		wellFormed(t, &s)
		for i, f := range files {
			if f.entries != 0 {
				t.Errorf("seed %d: file %d is held %d times; want 0", seed, i, f.entries)
			}
		}
	}
}

// TestIntervalsLarge fills many blocks in different orders, and takes them out again
// in one piece, in halves and one by one.
func TestIntervalsLarge(t *testing.T) {
	const n = 5000
	random := rand.New(rand.NewPCG(1, 2)).Perm(n)
	for _, order := range []struct {
		name string
		at   func(i int) int
	}{
		{"ascending", func(i int) int { return i }},
		{"descending", func(i int) int { return n - 1 - i }},
		{"random", func(i int) int { return random[i] }},
	} {
		t.Run(order.name, func(t *testing.T) {
			var s intervals
			fill := func() {
				for i := range n {
					first := uint64(order.at(i)) << 12
					s.insert(entry{first: first, last: first + 0xfff})
				}
				wellFormed(t, &s)
				if s.n != n {
					t.Fatalf("%d entries; want %d", s.n, n)
				}
			}
			left := func(want ...uint64) {
				t.Helper()
				wellFormed(t, &s)
				var got []uint64
				for e := range s.overlapping(0, math.MaxUint64) {
					got = append(got, e.first, e.last)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("entries left (-want +got)\n%s", diff)
				}
			}
			fill()
			s.remove(0, math.MaxUint64)
			left()
			fill()
			s.remove(0x800, (n-1)<<12+0x7ff)
			left(0, 0x7ff, (n-1)<<12+0x800, (n-1)<<12+0xfff)
			s.remove(0, math.MaxUint64)
			fill()
			for i := range n {
				if first := uint64(order.at(n-1-i)) << 12; !s.remove(first, first) || !s.remove(first+1, first+0xfff) {
					t.Fatalf("remove(%#x) found nothing", first)
				}
			}
			left()

			// Random pieces of whole pages.
			fill()
			r := rand.New(rand.NewPCG(5, 6))
			there := map[uint64]bool{}
			for i := range uint64(n) {
				there[i] = true
			}
			for step := range 400 {
				first := r.Uint64N(n)
				last := first + r.Uint64N(uint64(1)<<r.IntN(10))
				s.remove(first<<12, last<<12+0xfff)
				for i := first; i <= last; i++ {
					delete(there, i)
				}
				if step%16 == 0 {
					wellFormed(t, &s)
				}
			}
			var want []uint64
			for _, i := range slices.Sorted(maps.Keys(there)) {
				want = append(want, i<<12, i<<12+0xfff)
			}
			left(want...)
		})
	}
}

// TestTooManyRanges wants a client to be limited in what it makes us remember, also
// when it cuts holes.
func TestTooManyRanges(t *testing.T) {
	var d dmaMap
	const last = 3 * uint64(maxEntries-1)
	for i := range uint64(maxEntries) {
		d.entries.insert(entry{first: 3 * i, last: 3*i + 2})
	}
	if _, err := d.add(entry{first: 1 << 40, last: 1<<40 + 1}, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("add() = %v; want ENOSPC", err)
	}
	if _, err := d.add(entry{first: 3, last: 4}, nil); err != nil {
		t.Errorf("add() of what is there = %v; want nil", err)
	}
	if removed, err := d.remove(last+1, last+1); removed || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("remove() that leaves two = %v, %v; want ENOSPC", removed, err)
	}
	for _, at := range []uint64{last, last + 2, 1 << 40} {
		if _, err := d.remove(at, at); err != nil {
			t.Errorf("remove(%#x) = %v; want nil", at, err)
		}
	}
	if removed, err := d.remove(0, 2); !removed || err != nil {
		t.Errorf("remove() = %v, %v; want true", removed, err)
	}
	if removed, err := d.remove(4, 4); !removed || err != nil {
		t.Errorf("remove() that leaves two, below the limit = %v, %v; want true", removed, err)
	}
	wellFormed(t, &d.entries)
}

// cpuTime returns how long the process has computed.
func cpuTime(t *testing.T) time.Duration {
	var u unix.Rusage
	testkit.Check(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestManyRanges is what a vIOMMU with small pages does: 70,000 maps in whatever
// order, with scattered memory, and unmaps in powers of two.
func TestManyRanges(t *testing.T) {
	n := 70000
	if testing.Short() {
		n = 7000
	}
	ram := newMemfd(t, int64(n)<<13)
	id, err := identify(ram)
	testkit.Check(t, err)
	for _, order := range []struct {
		name string
		at   []int
	}{
		{"descending", nil},
		{"random", rand.New(rand.NewPCG(3, 4)).Perm(n)},
	} {
		t.Run(order.name, func(t *testing.T) {
			begin := cpuTime(t)
			f := &file{id: id, fd: ram}
			d := dmaMap{files: []*file{f}}
			for i := range n {
				at := uint64(n - 1 - i)
				if order.at != nil {
					at = uint64(order.at[i])
				}
				d.entries.insert(entry{first: at << 12, last: at<<12 + 0xfff, file: f, off: at << 13, flags: dmaRead | dmaWrite})
			}
			if _, ok := d.snapshot().Slice(guestmem.GPA(n-1)<<12, 0x1000); !ok {
				t.Error("the last page isn't in the Table")
			}
			for size := uint64(1); size < uint64(n); size *= 2 {
				_, err := d.remove(size<<12, 2*size<<12-1)
				testkit.Check(t, err)
			}
			if d.remove(0, 0xfff); f.entries != 0 || d.entries.n != 0 {
				t.Errorf("%d entries are left, and the file is held %d times; want none", d.entries.n, f.entries)
			}
			if took := cpuTime(t) - begin; took > time.Second {
				t.Errorf("%d maps took %v; want less than a second", n, took)
			}
			for _, m := range f.maps {
				testkit.Check(t, unix.Munmap(m))
			}
		})
	}
}
