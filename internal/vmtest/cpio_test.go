package vmtest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// entry is what an independent reader finds in an archive.
type entry struct {
	Name               string
	Mode, Major, Minor int
	Content            string
}

func TestArchive(t *testing.T) {
	onHost := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(onHost, []byte("12345"), 0o755); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	a := newArchive(&buf)
	a.bytes("/plan.json", 0o644, []byte("{}"))
	a.hostFile("/bin/a/tool", onHost)
	a.dir("/bin/a") // there already
	a.dir("/cov")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}

	got := readArchive(t, buf.Bytes())
	want := []entry{
		{Name: "dev", Mode: 0o040755},
		{Name: "dev/console", Mode: 0o020600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: 0o020600, Major: 1, Minor: 3},
		{Name: "plan.json", Mode: 0o100644, Content: "{}"},
		{Name: "bin", Mode: 0o040755},
		{Name: "bin/a", Mode: 0o040755},
		{Name: "bin/a/tool", Mode: 0o100755, Content: "12345"},
		{Name: "cov", Mode: 0o040755},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// readArchive reads an archive as the kernel does: by the lengths in its headers.
func readArchive(t *testing.T, b []byte) (entries []entry) {
	t.Helper()
	align := func(n int) int { return (n + 3) &^ 3 }
	for off := 0; ; {
		field := func(n int) int {
			v, err := strconv.ParseUint(string(b[off+6+8*n:][:8]), 16, 32)
			if err != nil {
				t.Fatalf("field %d at %#x: %v", n, off, err)
			}
			return int(v)
		}
		if magic := string(b[off:][:6]); magic != "070701" {
			t.Fatalf("magic at %#x = %q; want 070701", off, magic)
		}
		const header = 6 + 13*8
		name := string(b[off+header:][:field(11)-1])
		content := b[off+align(header+field(11)):][:field(6)]
		if name == "TRAILER!!!" {
			return entries
		}
		entries = append(entries, entry{name, field(1), field(9), field(10), string(content)})
		off += align(header+field(11)) + align(len(content))
	}
}

// TestArchiveHeader compares one record with the format, byte for byte (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst).
func TestArchiveHeader(t *testing.T) {
	var buf bytes.Buffer
	a := &archive{w: &buf, dirs: map[string]bool{"/": true}}
	a.bytes("/x", 0o600, []byte("abcde"))
	want := "070701" +
		"00000001" + "00008180" + "00000000" + "00000000" + // inode, mode, uid, gid
		"00000001" + "00000000" + "00000005" + // links, time, size
		"00000000" + "00000000" + "00000000" + "00000000" + // device, own device number
		"00000002" + "00000000" + "x\x00" + // length of the name, checksum, name
		"abcde" + "\x00\x00\x00"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestArchiveErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		add  func(*archive)
	}{
		{"no such file", func(a *archive) { a.hostFile("/x", "/does/not/exist") }},
		{"short file", func(a *archive) { a.file("/x", 0o644, 10, strings.NewReader("short")) }},
		{"broken file", func(a *archive) { a.file("/x", 0o644, 10, iotest.ErrReader(os.ErrClosed)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newArchive(io.Discard)
			test.add(a)
			a.hostFile("/y", "/neither/does/this")
			a.bytes("/z", 0o644, []byte("later"))
			if err := a.close(); err == nil || strings.Contains(err.Error(), "neither") {
				t.Errorf("close() = %v; want the first error", err)
			}
		})
	}
}
