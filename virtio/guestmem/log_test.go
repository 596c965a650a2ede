package guestmem

import (
	"math"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogMark(t *testing.T) {
	for _, tt := range []struct {
		name string
		addr GPA
		n    uint64
		want []int // pages
	}{
		{"nothing", 0, 0, nil},
		{"first byte", 0, 1, []int{0}},
		{"last byte of a page", 4095, 1, []int{0}},
		{"two bytes, two pages", 4095, 2, []int{0, 1}},
		{"exactly a page", 4096, 4096, []int{1}},
		{"across words", 31 * 4096, 2 * 4096, []int{31, 32}},
		{"whole words", 30 * 4096, 67 * 4096, seq(30, 97)},
		{"last page", 103 * 4096, 1, []int{103}},
		{"beyond the bitmap", 104 * 4096, 1, nil},
		{"into the end of the bitmap", 102 * 4096, 1 << 40, []int{102, 103}},
		{"wraps", 102 * 4096, math.MaxUint64, []int{102, 103}},
		{"far outside", math.MaxUint64, 1, nil},
		{"everything", 0, math.MaxUint64, seq(0, 104)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for skew := range 5 {
				// The bitmap needs no alignment, and what is around it isn't ours.
				mem := make([]byte, 32)
				bits := mem[skew : skew+13]
				NewLog(bits).Mark(tt.addr, tt.n)
				var got []int
				for i := range len(mem) * 8 {
					if mem[i/8]>>(i%8)&1 != 0 {
						got = append(got, i-8*skew)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("Mark(%#x, %#x) at skew %d: pages (-want +got)\n%s", uint64(tt.addr), tt.n, skew, diff)
				}
			}
		})
	}
}

// seq returns the numbers from lo to hi-1.
func seq(lo, hi int) []int {
	var s []int
	for ; lo < hi; lo++ {
		s = append(s, lo)
	}
	return s
}

func TestLogNil(t *testing.T) {
	(*Log)(nil).Mark(0, 1) // doesn't panic
	NewLog(nil).Mark(0, 1)
}

// TestLogMarkTogether loses bits if Mark isn't atomic.
func TestLogMarkTogether(t *testing.T) {
	bits := make([]byte, 4)
	log := NewLog(bits)
	for range 500 {
		clear(bits)
		var wg sync.WaitGroup
		for g := range 2 {
			wg.Go(func() {
				for p := g; p < 32; p += 2 {
					log.Mark(GPA(p)<<12, 1)
				}
			})
		}
		wg.Wait()
		if !cmp.Equal(bits, []byte{0xff, 0xff, 0xff, 0xff}) {
			t.Fatalf("bits = %x; want all set", bits)
		}
	}
}
