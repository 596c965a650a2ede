package guestmem

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/testkit"
)

// contents returns all bytes of v.
func contents(v Vec) []byte {
	b := make([]byte, v.Len())
	v.CopyOut(b, 0)
	return b
}

// scatter cuts mem into a Vec of pieces of the given length, each followed by as many
// bytes that aren't part of it.
func scatter(mem []byte, length int) Vec {
	var v Vec
	for ; len(mem) >= length; mem = mem[min(2*length, len(mem)):] {
		v.Append(mem[:length])
	}
	return v
}

func TestVecAppendMerges(t *testing.T) {
	mem := numbered(64, 0)
	for _, tt := range []struct {
		name   string
		pieces [][]byte
		want   int // segments
	}{
		{"nothing", nil, 0},
		{"empty pieces", [][]byte{mem[:0], nil}, 0},
		{"neighbours", [][]byte{mem[:8], mem[8:16], mem[16:17]}, 1},
		{"gap", [][]byte{mem[:8], mem[9:16]}, 2},
		{"backwards", [][]byte{mem[8:16], mem[:8]}, 2},
		{"twice the same", [][]byte{mem[:8], mem[:8]}, 2},
		{"empty between neighbours", [][]byte{mem[:8], nil, mem[8:9]}, 1},
		{"another slice in between", [][]byte{mem[:8], mem[32:33], mem[8:16]}, 3},
		{"neighbour beyond the capacity", [][]byte{mem[:8:8], mem[8:16]}, 2},
		{"neighbour that reaches beyond the capacity", [][]byte{mem[:8:12], mem[8:16]}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v Vec
			var want []byte
			for _, p := range tt.pieces {
				v.Append(p)
				want = append(want, p...)
			}
			if got := v.Segments(); got != tt.want {
				t.Errorf("Segments() = %d; want %d", got, tt.want)
			}
			if got := contents(v); !bytes.Equal(got, want) {
				t.Errorf("contents = %x; want %x", got, want)
			}
		})
	}
}

func TestVecAppendToPiecePanics(t *testing.T) {
	v := scatter(numbered(64, 0), 8)
	defer func() {
		if recover() == nil {
			t.Error("Append to a piece returned; want a panic")
		}
	}()
	piece := v.Slice(0, 4)
	piece.Append([]byte{1})
}

// TestVecEverySlice compares each slice of a slice with the same of a plain copy.
func TestVecEverySlice(t *testing.T) {
	v := scatter(numbered(60, 0), 3)
	flat := contents(v)
	if len(flat) != 30 || v.Segments() != 10 {
		t.Fatalf("Vec of %d bytes in %d segments; want 30 in 10", len(flat), v.Segments())
	}
	for off := -1; off <= len(flat)+1; off++ {
		for n := -1; n <= len(flat)+1; n++ {
			var want []byte
			if off >= 0 && off < len(flat) && n > 0 {
				want = flat[off:min(off+n, len(flat))]
			}
			s := v.Slice(off, n)
			if got := contents(s); !bytes.Equal(got, want) {
				t.Fatalf("Slice(%d, %d) = %x; want %x", off, n, got, want)
			}
			var joined []byte
			for i := range s.Segments() {
				joined = append(joined, s.Segment(i)...)
			}
			if !bytes.Equal(joined, want) {
				t.Fatalf("segments of Slice(%d, %d) = %x; want %x", off, n, joined, want)
			}
			if len(want) < 4 {
				continue
			}
			if got := contents(s.Slice(1, 2)); !bytes.Equal(got, want[1:3]) {
				t.Fatalf("Slice(%d, %d).Slice(1, 2) = %x; want %x", off, n, got, want[1:3])
			}
		}
	}
}

// TestVecStores checks that CopyIn and Clear write what they should and nothing else.
func TestVecStores(t *testing.T) {
	for off := 0; off <= 32; off++ {
		for n := 0; n <= 33; n++ {
			mem := bytes.Repeat([]byte{0xee}, 64)
			v := scatter(mem, 4)
			src := numbered(n, 1)
			want := max(0, min(n, 32-off))
			if got := v.CopyIn(src, off); got != want {
				t.Fatalf("CopyIn(%d bytes, %d) = %d; want %d", n, off, got, want)
			}
			model := bytes.Repeat([]byte{0xee}, 64)
			at := func(i int) int { return (i/4)*8 + i%4 }
			for i := range want {
				model[at(off+i)] = src[i]
			}
			if !bytes.Equal(mem, model) {
				t.Fatalf("CopyIn(%d bytes, %d) left %x; want %x", n, off, mem, model)
			}
			v.Clear(off, n)
			for i := range want {
				model[at(off+i)] = 0
			}
			if !bytes.Equal(mem, model) {
				t.Fatalf("Clear(%d, %d) left %x; want %x", off, n, mem, model)
			}
		}
	}
}

func TestVecReset(t *testing.T) {
	v := scatter(numbered(64, 0), 8)
	v.Reset()
	if v.Len() != 0 || v.Segments() != 0 {
		t.Errorf("after Reset: %d bytes, %d segments; want none", v.Len(), v.Segments())
	}
	v.Append([]byte{7})
	if got := contents(v); !bytes.Equal(got, []byte{7}) {
		t.Errorf("after Reset and Append: %x; want 07", got)
	}
}

// file returns an open file with the given contents.
func file(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestVecPreadv reads into slices of a Vec; H020 is the unaligned ones.
func TestVecPreadv(t *testing.T) {
	data := numbered(4096, 3)
	f := file(t, data)
	for _, tt := range []struct {
		name           string
		length         int // of the segments
		off, n         int // of the slice
		fileOff, flags int
		want           int
	}{
		{"H020 one segment, odd", 4096, 0x7ff, 100, 1, 0, 100},
		{"one segment", 4096, 0, 4096, 0, 0, 4096},
		{"one segment with flags", 4096, 5, 100, 1, unix.RWF_HIPRI, 100},
		{"piece of one segment of many", 16, 35, 7, 9, 0, 7},
		{"two halves", 16, 8, 16, 9, 0, 16},
		{"H020 odd ends", 16, 5, 1000, 3, 0, 1000},
		{"end of file", 16, 0, 2048, 4000, 0, 96},
		{"past the end of file", 16, 0, 2048, 5000, 0, 0},
		{"H019 1024 segments", 1, 0, 1024, 0, 0, 1024},
		{"H019 more than 1024 segments", 1, 0, 2000, 0, 0, 1024},
		{"H019 more than 1024 segments, odd ends", 3, 1, 4000, 0, 0, 3*1024 - 1},
		{"nothing", 16, 0, 0, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := bytes.Repeat([]byte{0xee}, 16384)
			whole := scatter(mem, tt.length)
			before := contents(whole)
			v := whole.Slice(tt.off, tt.n)
			n, errno := v.Preadv(int(f.Fd()), int64(tt.fileOff), tt.flags)
			if n != tt.want || errno != 0 {
				t.Fatalf("Preadv() = %d, %v; want %d, 0", n, errno, tt.want)
			}
			copy(before[tt.off:], data[min(tt.fileOff, len(data)):][:n])
			if got := contents(whole); !bytes.Equal(got, before) {
				t.Errorf("Preadv() left other bytes than expected (segments not restored?)\n%s", cmp.Diff(before, got))
			}
			for i := tt.length; i+tt.length <= len(mem); i += 2 * tt.length {
				if !bytes.Equal(mem[i:i+tt.length], bytes.Repeat([]byte{0xee}, tt.length)) {
					t.Fatalf("Preadv() wrote between the segments, at %d", i)
				}
			}
		})
	}
}

func TestVecPwritev(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int
		off, n int
		flags  int
		want   int
	}{
		{"one segment", 4096, 0x7ff, 100, 0, 100},
		{"one segment with flags", 4096, 5, 100, unix.RWF_DSYNC, 100},
		{"odd ends", 16, 5, 1000, 0, 1000},
		{"more than 1024 segments", 1, 0, 2000, 0, 1024},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := file(t, nil)
			whole := scatter(numbered(16384, 1), tt.length)
			before := contents(whole)
			n, errno := whole.Slice(tt.off, tt.n).Pwritev(int(f.Fd()), 10, tt.flags)
			if n != tt.want || errno != 0 {
				t.Fatalf("Pwritev() = %d, %v; want %d, 0", n, errno, tt.want)
			}
			got := make([]byte, n)
			if _, err := f.ReadAt(got, 10); err != nil {
				t.Fatal(err)
			}
			if want := before[tt.off : tt.off+n]; !bytes.Equal(got, want) {
				t.Errorf("Pwritev() wrote other bytes than expected\n%s", cmp.Diff(want, got))
			}
			if got := contents(whole); !bytes.Equal(got, before) {
				t.Error("Pwritev() didn't restore the segments")
			}
		})
	}
}

func TestVecTransferErrors(t *testing.T) {
	f := file(t, numbered(64, 0))
	one, many := scatter(numbered(8, 0), 8), scatter(numbered(64, 0), 8)
	for _, tt := range []struct {
		name string
		v    Vec
		fd   int
		off  int64
		want syscall.Errno
	}{
		{"bad descriptor, one segment", one, -1, 0, unix.EBADF},
		{"bad descriptor, many segments", many, -1, 0, unix.EBADF},
		{"negative offset, one segment", one, int(f.Fd()), -1, unix.EINVAL},
		{"negative offset, many segments", many, int(f.Fd()), -1, unix.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, errno := tt.v.Preadv(tt.fd, tt.off, 0); n != 0 || errno != tt.want {
				t.Errorf("Preadv(%d, %d) = %d, %v; want 0, %v", tt.fd, tt.off, n, errno, tt.want)
			}
			if n, errno := tt.v.Pwritev(tt.fd, tt.off, 0); n != 0 || errno != tt.want {
				t.Errorf("Pwritev(%d, %d) = %d, %v; want 0, %v", tt.fd, tt.off, n, errno, tt.want)
			}
		})
	}
}

// TestNoAllocations covers the request path, with buffers on the stack.
func TestNoAllocations(t *testing.T) {
	tab := table(t)
	f := file(t, numbered(64, 0))
	fd := int(f.Fd())
	var v Vec
	log := NewLog(make([]byte, 64))
	testkit.NoAllocs(t, 100, "a request", func() {
		var header [16]byte
		v.Reset()
		tab.Append(&v, 0x1008, 16)
		tab.Append(&v, 0x2000, 16)
		v.CopyOut(header[:], 4)
		v.CopyIn(header[:], 0)
		v.Slice(1, 8).Clear(0, 2)
		v.Slice(1, 20).Preadv(fd, 0, 0)
		v.Slice(1, 2).Pwritev(fd, 0, 0)
		log.Mark(0x1008, 16)
	})
}

// FuzzVec applies random slices and copies to a Vec and to a plain copy of its bytes.
func FuzzVec(f *testing.F) {
	f.Add([]byte{3, 0, 5, 200, 1}, 2, 9)
	f.Fuzz(func(t *testing.T, cuts []byte, off, n int) {
		mem := numbered(512, 0)
		var v Vec
		var flat []byte
		for i, at := 0, 0; i+1 < len(cuts) && i < 64; i += 2 {
			at = (at + int(cuts[i])) % len(mem)
			b := mem[at:min(at+int(cuts[i+1]), len(mem))]
			at += len(b)
			v.Append(b)
			flat = append(flat, b...)
		}
		s := v.Slice(off, n)
		var want []byte
		if off >= 0 && off < len(flat) && n > 0 {
			want = flat[off:]
			want = want[:min(n, len(want))]
		}
		if got := contents(s); !bytes.Equal(got, want) {
			t.Fatalf("Slice(%d, %d) = %x; want %x", off, n, got, want)
		}
	})
}
