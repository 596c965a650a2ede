package unixsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := Pair()
	testkit.Check(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// send sends bytes with n descriptors.
func send(t *testing.T, c *net.UnixConn, b string, n int) {
	t.Helper()
	var fds []int
	for range n {
		fds = append(fds, int(os.Stderr.Fd()))
	}
	_, _, err := c.WriteMsgUnix([]byte(b), unix.UnixRights(fds...), nil)
	testkit.Check(t, err)
}

func closeAll(files []*fd.FD) {
	for _, f := range files {
		f.Close()
	}
}

func TestReadFull(t *testing.T) {
	const limit = 4
	for _, c := range []struct {
		name   string
		pieces []string // what is sent, each with files[i] descriptors
		files  []int
		want   string
		err    bool
		got    int // descriptors
	}{
		{"plain", []string{"abcdef"}, []int{0}, "abcdef", false, 0},
		{"with files", []string{"abcdef"}, []int{3}, "abcdef", false, 3},
		{"in pieces", []string{"ab", "cd", "ef"}, []int{1, 0, 2}, "abcdef", false, 3},
		{"too many in pieces", []string{"ab", "cd", "ef"}, []int{2, 2, 1}, "", true, 5},
		{"too many at once", []string{"abcdef"}, []int{9}, "", true, -1},
		{"cut short", []string{"abc"}, []int{1}, "", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			for i, p := range c.pieces {
				send(t, a, p, c.files[i])
			}
			a.Close()
			var files []*fd.FD
			buf := make([]byte, 6)
			n, err := ReadFull(b, buf, Control(limit), limit, "test", &files)
			defer closeAll(files)
			if (err != nil) != c.err || !c.err && string(buf[:n]) != c.want {
				t.Errorf("ReadFull() = %q, %v; want %q, error %v", buf[:n], err, c.want, c.err)
			}
			if c.got >= 0 && len(files) != c.got {
				t.Errorf("ReadFull() took %d descriptors; want %d", len(files), c.got)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	if !Ended(io.EOF) || !Ended(fmt.Errorf("read: %w", unix.ECONNRESET)) || Ended(io.ErrUnexpectedEOF) {
		t.Error("Ended() takes something else than EOF and ECONNRESET for the end")
	}
	if got := Inside(io.EOF); got != io.ErrUnexpectedEOF {
		t.Errorf("Inside(EOF) = %v; want %v", got, io.ErrUnexpectedEOF)
	}
	if e := errors.New("other"); Inside(e) != e {
		t.Error("Inside() changes other errors")
	}
}
