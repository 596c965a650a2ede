package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"vfiofs/fuse"
)

// Verify checks that each backend reads and writes what it should, at all sizes that the
// benchmark uses and at odd ones, and prints a line for each. What the host sees and
// what comes through the ring are compared in both directions.
func Verify(ctx context.Context, o Options, w io.Writer) error {
	o.Cases, o.Rounds, o.Time, o.Inodes, o.Life = nil, 1, 1, 0, false
	if err := o.check(); err != nil {
		return err
	}
	for _, b := range o.Backends {
		if b.Bare {
			return fmt.Errorf("backend %s has no server to verify", b.Name)
		}
	}
	return withField(ctx, o, func(f *field) error {
		for i, r := range f.backends {
			v := &verifier{r.session, o.Dir, uint64(i+1) << 40, 0}
			for _, check := range []func() error{v.reads, v.writes, v.names} {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := check(); err != nil {
					return fmt.Errorf("backend %s: %w", r.Name, r.explain(err))
				}
			}
			if _, err := fmt.Fprintf(w, "%s: ok, %d MiB compared\n", r.Name, v.compared>>20); err != nil {
				return err
			}
		}
		return nil
	})
}

// A verifier checks one backend.
type verifier struct {
	s        *session
	dir      string
	seed     uint64 // what it writes differs from what others wrote
	compared int    // bytes
}

// sizes are those of the transfers, and odd ones with odd places.
var transfers = [...]struct{ size, offset, step int }{
	{4 << 10, 0, 1 << 20},
	{64 << 10, 0, 1 << 20},
	{128 << 10, 0, 256 << 10},
	{1 << 20, 0, 1 << 20},
	{1, 4095, 9 << 20},
	{5000, 1240, 1 << 20},
	{1<<20 - 8, 16, 8 << 20},
}

// reads checks READ against what stage wrote.
func (v *verifier) reads() error {
	f, err := v.s.openData(false)
	if err != nil {
		return err
	}
	for _, t := range transfers {
		for at := t.offset; at+t.size <= dataSize; at += t.step {
			if err := v.read(f, at, t.size, 0); err != nil {
				return err
			}
		}
	}
	// At the end there is less, and behind it nothing.
	if err := v.short(f, dataSize-100, 100); err != nil {
		return err
	}
	return firstError(v.short(f, dataSize, 0), f.close())
}

// read reads a piece through the ring and compares it.
func (v *verifier) read(f *dataFile, at, size int, seed uint64) error {
	ln := v.s.one
	for _, p := range ln.pages {
		clear(p.mem)
	}
	ln.node, ln.handle = f.node, f.handle
	ln.readAt(fuse.OpRead, uint64(at), size)
	if err := v.s.call(ln); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", size, at, err)
	}
	if got := ln.length - outHeader; got != size {
		return fmt.Errorf("read %d bytes at %d: got %d", size, at, got)
	}
	return v.compare(ln.bytes(size), at, seed, "the ring")
}

// compare compares what somebody shows with the pattern.
func (v *verifier) compare(got []byte, at int, seed uint64, who string) error {
	first := at &^ 7
	want := make([]byte, len(got)+16)
	pattern(want, seed+uint64(first))
	want = want[at-first:][:len(got)]
	v.compared += len(got)
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("wrong data: %s has %#x at %d; want %#x (in a piece of %d bytes at %d)", who, got[i], at+i, want[i], len(got), at)
		}
	}
	return nil
}

// bytes returns the first n bytes of the payload in one piece.
func (ln *lane) bytes(n int) []byte {
	b := make([]byte, 0, n+pageSize)
	for i := 0; len(b) < n; i++ {
		b = append(b, ln.pages[i].mem...)
	}
	return b[:n]
}

// short checks a read of one page that finds less.
func (v *verifier) short(f *dataFile, at, want int) error {
	ln := v.s.one
	ln.node, ln.handle = f.node, f.handle
	ln.readAt(fuse.OpRead, uint64(at), pageSize)
	if err := v.s.call(ln); err != nil {
		return err
	}
	if got := ln.length - outHeader; got != want {
		return fmt.Errorf("read at %d, near the end of the file: got %d bytes; want %d", at, got, want)
	}
	return nil
}

// writes checks WRITE: the host must see what was written, and so must READ.
func (v *verifier) writes() error {
	f, err := v.s.openData(true)
	if err != nil {
		return err
	}
	host, err := os.Open(filepath.Join(v.dir, writeFile))
	if err != nil {
		return err
	}
	defer host.Close()
	buf := make([]byte, maxData)
	for i, t := range transfers {
		seed := v.seed + uint64(i)<<32
		for at := t.offset; at+t.size <= dataSize; at += t.step {
			if err := v.write(f, at, t.size, seed); err != nil {
				return err
			}
		}
		for at := t.offset; at+t.size <= dataSize; at += t.step {
			if _, err := host.ReadAt(buf[:t.size], int64(at)); err != nil {
				return err
			}
			err := firstError(v.compare(buf[:t.size], at, seed, "the host"), v.read(f, at, t.size, seed))
			if err != nil {
				return err
			}
		}
	}
	return f.close()
}

// write writes the pattern through the ring.
func (v *verifier) write(f *dataFile, at, size int, seed uint64) error {
	ln := v.s.one
	first := at &^ 7
	b := make([]byte, size+16)
	pattern(b, seed+uint64(first))
	b = b[at-first:][:size]
	for i := 0; len(b) > 0; i++ {
		b = b[copy(ln.pages[i].mem, b):]
	}
	ln.writeAt(f.node, f.handle, uint64(at), size)
	if err := v.s.call(ln); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", size, at, err)
	}
	if got := int(le.Uint32(ln.body())); got != size {
		return fmt.Errorf("write %d bytes at %d: wrote %d", size, at, got)
	}
	return nil
}

// names checks names: listings, attributes, creation and removal.
func (v *verifier) names() error {
	dir, err := v.s.walk(bigDir)
	if err != nil {
		return err
	}
	nodes, err := v.s.listNodes(dir)
	if err != nil {
		return err
	}
	if len(nodes) != bigEntries {
		return fmt.Errorf("READDIRPLUS of %s names %d nodes; the host has %d entries", bigDir, len(nodes), bigEntries)
	}
	if err := firstError(v.s.forgetAll(nodes, 1), v.s.forgetAll([]fuse.NodeID{dir}, 1)); err != nil {
		return err
	}
	for _, name := range []string{readFile, bigDir, treeDir + "/" + nameOf('d', 0) + "/" + nameOf('f', 0)} {
		if err := v.attributes(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return v.createAndRemove()
}

// attributes compares GETATTR with the host's stat.
func (v *verifier) attributes(name string) error {
	var want syscall.Stat_t
	if err := syscall.Stat(filepath.Join(v.dir, name), &want); err != nil {
		return err
	}
	node, err := v.s.walk(name)
	if err != nil {
		return err
	}
	ln := v.s.one
	ln.begin(fuse.OpGetAttr, node, 16, 104)
	clear(ln.args()[:16])
	if err := v.s.call(ln); err != nil {
		return err
	}
	attr := ln.body()[16:]
	got := [...]uint64{le.Uint64(attr), le.Uint64(attr[8:]), le.Uint64(attr[32:]), uint64(le.Uint32(attr[60:])), uint64(le.Uint32(attr[64:]))}
	if w := [...]uint64{want.Ino, uint64(want.Size), uint64(want.Mtim.Sec), uint64(want.Mode), uint64(want.Nlink)}; got != w {
		return fmt.Errorf("inode, size, mtime, mode, links are %v; the host says %v", got, w)
	}
	return v.s.forget(node, 1)
}

// createAndRemove runs the steps of create+unlink and looks at the host in between.
func (v *verifier) createAndRemove() error {
	p, err := prepareCreate(v.s)
	if err != nil {
		return err
	}
	ln := v.s.one
	ln.id, ln.lanes, ln.count = 0, 1, 0
	name := filepath.Join(v.dir, scratchDir, nameOf('c', 0))
	for i, exists := range []bool{true, true, false, false} {
		p.steps[i].fill(ln)
		if err := v.s.roundTrip(ln); err != nil {
			return err
		}
		if ln.errno != 0 {
			return fmt.Errorf("%v: %w", ln.opcode(), syscall.Errno(ln.errno))
		}
		if p.steps[i].check != nil {
			if _, err := p.steps[i].check(ln); err != nil {
				return err
			}
		}
		if _, err := os.Lstat(name); exists != (err == nil) {
			return fmt.Errorf("after %v the host says %v about the new file", ln.opcode(), errors.Join(err))
		}
	}
	return p.finish()
}
