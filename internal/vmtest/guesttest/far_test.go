package guesttest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var farFlag = flag.String("far", "", "the directory that is shared, in a device VM")

// shared returns the directory on the far side.
func shared(t *testing.T) string {
	t.Helper()
	if *farFlag == "" {
		t.Skip("runs in a device VM: -far is not set")
	}
	return *farFlag
}

// TestFarPrepare makes the file that TestRead reads.
func TestFarPrepare(t *testing.T) {
	f, err := os.Create(filepath.Join(shared(t), FarFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := FarBytes(f, *sizeFlag); err != nil {
		t.Fatal(err)
	}
}

// TestFarCheck looks at what the other guest has written.
func TestFarCheck(t *testing.T) {
	dir := shared(t)
	for _, test := range []struct {
		name  string
		check func() error
	}{
		{"WrittenFile", func() error { return CheckWrite(dir, *sizeFlag) }},
		{"DirectFile", func() error { return CheckRecords(filepath.Join(dir, directFile), directSize) }},
		{"SmallFiles", func() error { return CheckSmallFiles(dir, *countFlag) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What TestDirect writes.
const (
	directFile = "direct.bin"
	directSize = 16 << 20
)

// TestDirect writes and reads past all page caches, in pieces from one sector to many
// pages, and finds that it is the same file for those who use the cache.
func TestDirect(t *testing.T) {
	path := filepath.Join(mounted(t), directFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := alignedBuffer(RecordSize)
	for n := range int64(directSize / RecordSize) {
		FillRecord(buf, uint64(n))
		if _, err := f.WriteAt(buf, n*RecordSize); err != nil {
			t.Fatalf("write record %d: %v", n, err)
		}
	}
	for _, piece := range []int{RecordSize, 4096, 512} {
		for n := range int64(directSize / RecordSize) {
			if piece < RecordSize && n%16 != 0 {
				continue // small pieces cost a request each
			}
			clear(buf)
			for off := 0; off < RecordSize; off += piece {
				if _, err := f.ReadAt(buf[off:off+piece], n*RecordSize+int64(off)); err != nil {
					t.Fatalf("read %d bytes of record %d at %d: %v", piece, n, off, err)
				}
			}
			if err := CheckRecord(buf, uint64(n)); err != nil {
				t.Errorf("read in pieces of %d bytes: %v", piece, err)
			}
		}
	}
	last := int64(directSize - RecordSize)
	if n, err := f.ReadAt(buf, last+4096); n != RecordSize-4096 || err == nil {
		t.Errorf("read across the end = %d, %v; want %d and EOF", n, err, RecordSize-4096)
	}
	if err := CheckRecords(path, directSize); err != nil {
		t.Errorf("through the page cache: %v", err)
	}
}

// TestOnce writes one file, reads it back from the server and leaves it.
func TestOnce(t *testing.T) {
	path := filepath.Join(mounted(t), "once")
	want := bytes.Repeat([]byte("once more "), 1000)
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); !bytes.Equal(got, want) || err != nil {
		t.Errorf("read back %d bytes, %v; want the %d that were written", len(got), err, len(want))
	}
}

// TestBusy writes and reads until it is killed.
func TestBusy(t *testing.T) {
	path := filepath.Join(mounted(t), "busy")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := alignedBuffer(RecordSize)
	for n := uint64(0); ; n++ {
		FillRecord(buf, n)
		if _, err := f.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			fmt.Println("busy")
		}
		if _, err := f.ReadAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		if err := CheckRecord(buf, n); err != nil {
			t.Fatal(err)
		}
	}
}
