package guesttest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// LoadFiles is the number of files that TestWriteUnderLoad writes at once.
const LoadFiles = 4

// LoadFile returns the name of file i of TestWriteUnderLoad.
func LoadFile(i int) string { return fmt.Sprintf("load-%d.bin", i) }

// RecordSize is the size of the records of TestWriteUnderLoad, in bytes: 32 pages,
// so that a request that is cut short shows.
const RecordSize = 128 << 10

// FillRecord makes record number n: the number, bytes that depend on it, and a
// checksum over both.
func FillRecord(b []byte, n uint64) {
	x := n*0x9e3779b97f4a7c15 + 1
	binary.LittleEndian.PutUint64(b, n)
	body := b[8 : len(b)-8]
	for ; len(body) >= 8; body = body[8:] {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(body, x)
	}
	binary.LittleEndian.PutUint64(b[len(b)-8:], uint64(crc32.ChecksumIEEE(b[:len(b)-8])))
}

// CheckRecord reports whether b is record n, whole.
func CheckRecord(b []byte, n uint64) error {
	if got := binary.LittleEndian.Uint64(b); got != n {
		return fmt.Errorf("record %d has number %d", n, got)
	}
	want := binary.LittleEndian.Uint64(b[len(b)-8:])
	if got := uint64(crc32.ChecksumIEEE(b[:len(b)-8])); got != want {
		return fmt.Errorf("record %d: checksum = %#x; want %#x", n, got, want)
	}
	return nil
}

// alignedBuffer returns n bytes that O_DIRECT accepts. It comes from mmap and stays
// for the life of the process.
func alignedBuffer(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}
