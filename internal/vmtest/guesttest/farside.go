package guesttest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The far side of a share is where its directory is: the host, or a device VM.

// FarFile is the file that TestRead reads, made by the far side with FarBytes.
const FarFile = "host.bin"

// FarBytes writes size bytes and returns their SHA-256. They are the same each time.
func FarBytes(w io.Writer, size int64) (string, error) {
	sum := sha256.New()
	_, err := io.CopyN(io.MultiWriter(w, sum), rand.NewChaCha8([32]byte{'h', 'o', 's', 't'}), size)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// CheckWrite checks on the far side what TestWrite has written.
func CheckWrite(dir string, size int64) error {
	want, err := os.ReadFile(filepath.Join(dir, "guest.sum"))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, "guest.bin"))
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != string(want) || n != size {
		return fmt.Errorf("SHA-256 of guest.bin, %d bytes = %s; want %s, %d bytes", n, got, want, size)
	}
	return nil
}

// CheckSmallFiles checks on the far side what TestSmallFiles has made below /mnt.
func CheckSmallFiles(dir string, count int) error {
	files, err := filepath.Glob(filepath.Join(dir, "small", "d*", "f*"))
	if err != nil {
		return err
	}
	if len(files) != count {
		return fmt.Errorf("small files = %d; want %d", len(files), count)
	}
	for _, f := range files {
		rel, err := filepath.Rel(dir, f)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if want := "/mnt/" + rel; string(got) != want {
			return fmt.Errorf("%s holds %q; want %q", rel, got, want)
		}
	}
	return nil
}

// CheckRecords checks that a file holds records, as TestDirect and TestWriteUnderLoad
// write them, and nothing else.
func CheckRecords(path string, size int64) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if int64(len(b)) != size {
		return fmt.Errorf("size of %s = %d; want %d", path, len(b), size)
	}
	for n := range uint64(size / RecordSize) {
		if err := CheckRecord(b[n*RecordSize:][:RecordSize], n); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
