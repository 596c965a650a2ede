package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// What the shared directory holds. The benchmark makes it on the host, so that all
// backends serve the same files from the same page cache.
const (
	readFile   = "data"
	writeFile  = "written"
	filesDir   = "files"
	treeDir    = "tree"
	smallDir   = "thousand"
	bigDir     = "ten-thousand"
	scratchDir = "scratch"

	dataSize     = 128 << 20 // bytes of each data file
	numFiles     = 4096
	treeDirs     = 32
	treeFiles    = 32
	smallFile    = 1000 // bytes of each file of the tree
	smallEntries = 1000
	bigEntries   = 10_000
)

// parts are all of them.
var parts = [...]string{readFile, writeFile, filesDir, treeDir, smallDir, bigDir, scratchDir}

// stage makes parts of the shared directory in dir, which is new and empty.
func stage(dir string, want ...string) error {
	makers := map[string]func(name string) error{
		filesDir:   func(name string) error { return fill(name, numFiles, 0) },
		smallDir:   func(name string) error { return fill(name, smallEntries, 0) },
		bigDir:     func(name string) error { return fill(name, bigEntries, 0) },
		scratchDir: func(name string) error { return fill(name, 0, 0) },
		treeDir: func(name string) error {
			for i := range treeDirs {
				if err := fill(filepath.Join(name, nameOf('d', i)), treeFiles, smallFile); err != nil {
					return err
				}
			}
			return nil
		},
		readFile:  rewrite,
		writeFile: rewrite,
	}
	for _, part := range parts {
		if slices.Contains(want, part) {
			if err := makers[part](filepath.Join(dir, part)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill makes a directory with n files of size bytes.
func fill(dir string, n, size int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the benchmark's files: %w", err)
	}
	content := make([]byte, size)
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, nameOf('f', i)), content, 0o644); err != nil {
			return fmt.Errorf("make the benchmark's files: %w", err)
		}
	}
	return nil
}

// rewrite writes a data file anew. That puts it into the page cache as large folios,
// which a read finds several times faster than those of readahead: without it, whoever
// comes first would measure something else.
func rewrite(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write the benchmark's data: %w", err)
	}
	block := make([]byte, maxData)
	for off := 0; off < dataSize; off += len(block) {
		pattern(block, uint64(off))
		if _, err := f.Write(block); err != nil {
			f.Close()
			return fmt.Errorf("write the benchmark's data to %s: %w", name, err)
		}
	}
	if err := f.Sync(); err != nil { // so that the disk is idle later
		f.Close()
		return fmt.Errorf("write the benchmark's data to %s: %w", name, err)
	}
	return f.Close()
}

// hold keeps the pages of a data file in the page cache as they are until they are
// released: who empties the cache meanwhile leaves mapped pages alone. Read again, the file
// would have small folios.
func hold(name string) (release func() error, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("hold the benchmark's data: %w", err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, dataSize, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("hold the benchmark's data: map %s: %w", name, err)
	}
	return func() error { return unix.Munmap(b) }, nil
}

// pattern fills b with what the data file holds at an offset: each 8 bytes are a number
// made of their own place.
func pattern(b []byte, offset uint64) {
	for i := 0; i+8 <= len(b); i += 8 {
		le.PutUint64(b[i:], (offset+uint64(i))*0x9e3779b97f4a7c15+1)
	}
}

// isEmpty reports whether a directory holds nothing.
func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if err == io.EOF {
		return true, nil
	}
	return false, err
}
