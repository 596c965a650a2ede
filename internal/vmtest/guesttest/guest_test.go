package guesttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

var (
	dirFlag   = flag.String("dir", "", "the mounted directory")
	sizeFlag  = flag.Int64("size", 256<<20, "bytes that TestWrite, and each writer of TestWriteUnderLoad, writes")
	sumFlag   = flag.String("sum", "", "SHA-256 that TestRead expects")
	lacksFlag = flag.String("lacks", "", "cases that TestPosix may skip, between commas")
	countFlag = flag.Int("count", 10_000, "files that TestSmallFiles makes, boots that TestBoot expects")
)

// mounted returns the directory to test.
func mounted(t *testing.T) string {
	t.Helper()
	if *dirFlag == "" {
		t.Skip("runs in a guest: -dir is not set")
	}
	return *dirFlag
}

// TestPosix runs every case of go-fuse's posixtest, each in a directory of its own. A
// case that skips itself for want of a feature fails, unless it is known here.
func TestPosix(t *testing.T) {
	dir := mounted(t)
	broken := map[string]string{
		"FcntlFlockLocksFile": "the case is wrong: it fails on tmpfs and ext4 too",
	}
	maySkip := map[string]bool{
		"XAttrLarge": true, // ext4 has no room for 64 KiB of attributes
	}
	for _, name := range strings.Split(*lacksFlag, ",") {
		maySkip[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			if reason := broken[name]; reason != "" {
				t.Skip(reason)
			}
			own := filepath.Join(dir, "posix-"+name)
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Skipped() && !maySkip[name] {
					t.Error("skipped; want it to run")
				}
			})
			posixtest.All[name](t, own)
		})
	}
}

// TestWrite writes a large file and leaves its SHA-256 beside it for the host.
func TestWrite(t *testing.T) {
	dir := mounted(t)
	f, err := os.Create(filepath.Join(dir, "guest.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	random := rand.NewChaCha8([32]byte{'g', 'u', 'e', 's', 't'})
	copyAll(t, io.MultiWriter(f, sum), io.LimitReader(random, *sizeFlag))
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "guest.sum"), hex.AppendEncode(nil, sum.Sum(nil)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRead compares a file that the host has written with -sum.
func TestRead(t *testing.T) {
	dir := mounted(t)
	f, err := os.Open(filepath.Join(dir, "host.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	n := copyAll(t, sum, f)
	if got := hex.EncodeToString(sum.Sum(nil)); got != *sumFlag {
		t.Errorf("SHA-256 of host.bin, %d bytes = %s; want %s", n, got, *sumFlag)
	}
}

// copyAll copies in pieces of one mebibyte, and shows the host that it goes on.
func copyAll(t *testing.T, w io.Writer, r io.Reader) (n int64) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for {
		piece, err := io.ReadFull(r, buf)
		if _, err := w.Write(buf[:piece]); err != nil {
			t.Fatal(err)
		}
		if n += int64(piece); n%(64<<20) == 0 {
			t.Logf("%d MiB", n>>20)
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return n
		default:
			t.Fatal(err)
		}
	}
}

// TestSmallFiles makes many small files, a hundred to a directory, and walks them.
func TestSmallFiles(t *testing.T) {
	dir := filepath.Join(mounted(t), "small")
	name := func(i int) string {
		return filepath.Join(dir, fmt.Sprintf("d%03d", i/100), fmt.Sprintf("f%02d", i%100))
	}
	for i := range *countFlag {
		if i%1000 == 0 {
			t.Logf("%d files", i)
		}
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(name(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(name(i), []byte(name(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Let the kernel forget what it knows, so that the walk asks the server.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if path != name(seen) {
			return fmt.Errorf("walk came to %s; want %s", path, name(seen))
		}
		seen++
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Size() != int64(len(path)) {
			return fmt.Errorf("size of %s = %d; want %d", path, st.Size(), len(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != *countFlag {
		t.Errorf("files walked = %d; want %d", seen, *countFlag)
	}
}

// TestBoot adds a line to a file at each boot, and checks those of earlier ones.
func TestBoot(t *testing.T) {
	path := filepath.Join(mounted(t), "boots")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Fields(string(before)) {
		if want := fmt.Sprintf("boot-%d", i); line != want {
			t.Errorf("line %d of boots = %q; want %q", i, line, want)
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "boot-%d\n", len(strings.Fields(string(before)))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWriteUnderLoad has several writers, so that requests queue up. Each writes
// numbered records with checksums, and reads them back past the page cache, while the
// host stops and continues the machine.
func TestWriteUnderLoad(t *testing.T) {
	dir := mounted(t)
	var writers sync.WaitGroup
	for i := range LoadFiles {
		writers.Go(func() {
			if err := writeRecords(filepath.Join(dir, LoadFile(i)), *sizeFlag); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
}

func writeRecords(path string, size int64) error {
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	defer w.Close()
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	record, back := alignedBuffer(RecordSize), alignedBuffer(RecordSize)
	const batch = 8
	for i := range size / RecordSize {
		FillRecord(record, uint64(i))
		if _, err := w.Write(record); err != nil {
			return err
		}
		if i%batch != batch-1 {
			continue
		}
		if err := w.Sync(); err != nil {
			return err
		}
		for j := i - batch + 1; j <= i; j++ {
			if _, err := r.ReadAt(back, j*RecordSize); err != nil {
				return fmt.Errorf("read record %d: %w", j, err)
			}
			if err := CheckRecord(back, uint64(j)); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// TestEveryCPU reads past the page cache from every CPU in turn: the kernel maps CPUs
// to request queues.
func TestEveryCPU(t *testing.T) {
	path := filepath.Join(mounted(t), "queues.bin")
	want := bytes.Repeat([]byte("queue..."), 4096/8)
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // and never unlock: the thread's affinity changes
	for cpu := range runtime.NumCPU() {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Fatalf("move to CPU %d: %v", cpu, err)
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := alignedBuffer(len(want))
		for range 50 {
			if _, err := f.ReadAt(got, 0); err != nil {
				t.Fatalf("read on CPU %d: %v", cpu, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("read on CPU %d: wrong bytes", cpu)
			}
		}
	}
}
