package workload

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config says where a checker works and what it may expect there.
type Config struct {
	// Dir is an empty directory on the file system under test.
	Dir string
	// Host is the same directory in the share, "" if it cannot be reached.
	Host string
	// Seed makes the run repeatable.
	Seed uint64
	// Writeback: the host sees data only after fsync.
	Writeback bool
	// Coherent: what is done on the host is seen on Dir at once.
	Coherent bool
	// Direct: half of the descriptors are opened with O_DIRECT.
	Direct bool

	// tamper is called after each operation with the directory, and may put in a fault.
	tamper func(dir string, op Op)
}

// fullCheckEvery is how many operations lie between two comparisons of everything.
const fullCheckEvery = 64

// A checker does operations on a directory and on a model of it, and compares.
type checker struct {
	Config
	names   [nameCount]*file
	handles [handleCount]*handle
	buf     []byte // aligned scratch of maxSize bytes
	wide    []byte // for what the host has
	count   int
}

// newChecker makes the directories that the names lie in.
func newChecker(c Config) (*checker, error) {
	for _, dir := range []string{"d0", "d1"} {
		if err := os.Mkdir(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", c.Dir, err)
		}
	}
	buf, err := unix.Mmap(-1, 0, maxSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("memory for transfers: %w", err)
	}
	return &checker{Config: c, buf: buf, wide: make([]byte, maxSize+1)}, nil
}

// close lets go of descriptors, mappings and memory.
func (c *checker) close() error {
	var errs []error
	for i := range c.handles {
		errs = append(errs, c.closeHandle(i))
	}
	return errors.Join(append(errs, unix.Munmap(c.buf))...)
}

// name returns the path of a name below a root.
func name(root string, n int) string {
	return filepath.Join(root, fmt.Sprintf("d%d", n%2), fmt.Sprintf("f%d", n))
}

func (c *checker) path(n int) string { return name(c.Dir, n) }

// do does one operation and compares what it touched; now and then everything.
func (c *checker) do(op Op) error {
	if err := c.step(op); err != nil {
		return fmt.Errorf("%v: %w", op, err)
	}
	if c.tamper != nil {
		c.tamper(c.Dir, op)
	}
	if c.count++; c.count%fullCheckEvery == 0 {
		if err := c.checkAll(); err != nil {
			return fmt.Errorf("after %v: %w", op, err)
		}
	}
	return nil
}

// step calls the method for an operation.
func (c *checker) step(op Op) error {
	switch op.kind {
	case opOpen:
		return c.open(op.a, op.b%handleCount, op.how)
	case opTruncate:
		return c.truncate(op.a, op.size)
	case opRename:
		return c.rename(op.a, op.b, op.how)
	case opLink:
		return c.link(op.a, op.b)
	case opUnlink:
		return c.unlink(op.a)
	case opStat:
		return c.stat(op.a)
	case opHostRead, opHostWrite, opHostTruncate, opHostRename, opHostUnlink:
		return c.onHost(op)
	}
	i := op.a % handleCount
	h := c.handles[i]
	if h == nil || op.off+op.size > maxSize {
		return nil
	}
	switch op.kind {
	case opClose:
		return c.closeHandle(i)
	case opRead:
		return c.read(h, op.off, op.size, op.how)
	case opWrite:
		return c.write(h, op.off, op.size, op.how, op.fill)
	case opMap:
		return c.mmap(h)
	case opUnmap:
		return c.munmap(h)
	case opMapRead:
		return c.mapRead(h, op.off, op.size)
	case opMapWrite:
		return c.mapWrite(h, op.off, op.size, op.fill)
	case opSync:
		return c.sync(h, op.how)
	case opFtruncate:
		return c.ftruncate(h, op.size)
	case opAllocate:
		return c.allocate(h, op.how, op.off, op.size)
	case opCopy:
		if to := c.handles[op.b%handleCount]; to != nil && op.to+op.size <= maxSize {
			return c.copy(h, to, op.off, op.to, op.size)
		}
		return nil
	case opSeek:
		return c.seek(h, op.off, op.how)
	}
	return fmt.Errorf("unknown operation")
}

// expect compares an error with the errnos that the model allows; none means success.
func expect(err error, errnos ...error) error {
	if len(errnos) == 0 {
		if err != nil {
			return fmt.Errorf("%w; want success", err)
		}
		return nil
	}
	for _, e := range errnos {
		if errors.Is(err, e) {
			return nil
		}
	}
	return fmt.Errorf("%s; want %v", result(err), errnos)
}

func result(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// checkAll compares the directories and every file that can be reached.
func (c *checker) checkAll() error {
	for d := range 2 {
		if err := c.checkDir(d); err != nil {
			return err
		}
	}
	for n, f := range c.names {
		if f == nil {
			continue
		}
		if err := c.checkPath(c.path(n), f); err != nil {
			return err
		}
		if c.Host != "" && !c.Writeback && !f.dirty {
			if err := c.checkPath(name(c.Host, n), f); err != nil {
				return fmt.Errorf("on the host: %w", err)
			}
		}
	}
	for _, h := range c.handles {
		if h == nil || !h.readable() {
			continue
		}
		if err := c.read(h, 0, maxSize, 1); err != nil {
			return fmt.Errorf("through a descriptor: %w", err)
		}
	}
	return nil
}

// checkDir compares the names of a directory.
func (c *checker) checkDir(d int) error {
	entries, err := os.ReadDir(filepath.Join(c.Dir, fmt.Sprintf("d%d", d)))
	if err != nil {
		return err
	}
	var got, want []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	for n, f := range c.names {
		if f != nil && n%2 == d {
			want = append(want, filepath.Base(c.path(n)))
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("directory d%d holds %v; want %v", d, got, want)
	}
	return nil
}

// checkPath compares a file by its name: bytes, size and number of links.
func (c *checker) checkPath(path string, f *file) error {
	fd, err := openAt(path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := readFull(fd, c.wide, 0)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := differ(path, 0, c.wide[:n], f.data); err != nil {
		return err
	}
	return checkAttr(path, fd, f)
}

func checkAttr(what string, fd int, f *file) error {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return fmt.Errorf("fstat %s: %w", what, err)
	}
	if st.Size != f.size() || int(st.Nlink) != f.links {
		return fmt.Errorf("fstat %s: size %d, %d links; want %d, %d", what, st.Size, st.Nlink, f.size(), f.links)
	}
	return nil
}

// openAt opens a path without what os.OpenFile adds.
func openAt(path string, flags int) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// readFull reads until b is full or the file ends.
func readFull(fd int, b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Pread(fd, b[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, nil
		}
		done += n
	}
	return done, nil
}

// ignoringEINTR repeats a call while a signal, such as the Go scheduler's, ends it.
func ignoringEINTR(call func() error) error {
	for {
		err := call()
		if err != unix.EINTR {
			return err
		}
	}
}

// newGenerator returns the source of a checker's operations.
func newGenerator(c *checker) generator {
	return generator{rand.New(rand.NewPCG(c.Seed, 0x66737821)), c}
}
