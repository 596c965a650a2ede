package testkit

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"vfiofs/internal/fd"
	"vfiofs/internal/unixsock"
)

func TestMain(m *testing.M) { os.Exit(MainIdle(m)) }

// A run is a run of tests that ends with an exit code.
type run int

func (r run) Run() int { return int(r) }

func TestMains(t *testing.T) {
	for _, code := range []run{0, 1, 2} {
		if got := Main(code); got != int(code) {
			t.Errorf("Main of a run that ends with %d = %d", code, got)
		}
		if got := MainIdle(code); got != int(code) {
			t.Errorf("MainIdle of a run that ends with %d = %d", code, got)
		}
	}
}

func TestReport(t *testing.T) {
	none, some := func() string { return "" }, func() string { return "some" }
	for _, tt := range []struct {
		name string
		code int
		left []func() string
		want int
		text string
	}{
		{"good", 0, []func() string{none, none}, 0, ""},
		{"failed", 2, []func() string{none}, 2, ""},
		{"failed, and left something", 2, []func() string{some}, 2, ""},
		{"left something", 0, []func() string{none, some}, 1, "some\n"},
		{"left more", 0, []func() string{some, some}, 1, "some\n"},
	} {
		var b bytes.Buffer
		if got := report(&b, tt.code, tt.left...); got != tt.want || b.String() != tt.text {
			t.Errorf("%s: report() = %d, and says %q; want %d, %q", tt.name, got, b.String(), tt.want, tt.text)
		}
	}
}

func TestDescriptors(t *testing.T) {
	if got := descriptors(); got != "" {
		t.Errorf("descriptors() = %q; want nothing", got)
	}
	f, err := fd.NewEvent("bell")
	Check(t, err)
	defer f.Close()
	if got := descriptors(); !strings.Contains(got, f.String()) {
		t.Errorf("descriptors() = %q; want it to name %s", got, f)
	}
}

func TestGoroutines(t *testing.T) {
	n := runtime.NumGoroutine()
	stop := make(chan struct{})
	ended := Async(func() error { <-stop; return nil })
	if got := goroutines(n, 0); !strings.Contains(got, "TestGoroutines") {
		t.Errorf("goroutines() = %q; want it to name this test", got)
	}
	close(stop)
	Check(t, Receive(t, ended))
	if got := goroutines(n, Patience); got != "" {
		t.Errorf("goroutines() = %q; want nothing", got)
	}
}

// A failing test knows whether it has failed, and goes on.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper()               {}
func (f *failing) Fatal(...any)          { f.failed = true }
func (f *failing) Errorf(string, ...any) { f.failed = true }

func TestCheck(t *testing.T) {
	f := &failing{TB: t}
	if Check(f, nil); f.failed {
		t.Error("Check(nil) fails")
	}
	if Check(f, errors.New("an error")); !f.failed {
		t.Error("Check of an error does not fail")
	}
}

func TestNoAllocs(t *testing.T) {
	const runs = 100       // more than what others may allocate meanwhile
	const count = 1 + runs // calls of f for one count
	var kept []byte
	for _, tt := range []struct {
		name  string
		until int // the last call that allocates
		calls int
		fails bool
	}{
		{"never", 0, count, false},
		{"to warm up", 1, count, false},
		{"the first time", count, 2 * count, false},
		{"twice", 2 * count, 3 * count, false},
		{"always", 3 * count, 3 * count, true},
	} {
		if Race { // nothing is counted
			tt.calls, tt.fails = count, false
		}
		calls := 0
		f := &failing{TB: t}
		NoAllocs(f, runs, "f", func() {
			if calls++; calls <= tt.until {
				kept = make([]byte, 100+calls)
			}
		})
		if calls != tt.calls || f.failed != tt.fails {
			t.Errorf("allocates %s: %d calls, failed = %v; want %d, %v",
				tt.name, calls, f.failed, tt.calls, tt.fails)
		}
	}
	runtime.KeepAlive(kept)
}

func TestReceive(t *testing.T) {
	c := make(chan int, 1)
	c <- 7
	if got := Receive(t, c); got != 7 {
		t.Errorf("Receive() = %d; want 7", got)
	}
	f := &failing{TB: t}
	if receive(f, c, time.Nanosecond); !f.failed {
		t.Error("a value that does not come is no failure")
	}
	close(c)
	if got := Receive(t, c); got != 0 {
		t.Errorf("Receive() = %d when the channel is closed; want 0", got)
	}
}

func TestSend(t *testing.T) {
	a, b, err := unixsock.Pair()
	Check(t, err)
	defer b.Close()
	f, err := fd.NewEvent("sent")
	Check(t, err)
	defer f.Close()
	for n, files := range [][]*fd.FD{nil, {f}, {f, f}} {
		Check(t, Send(a, []byte("text"), files...))
		var got []*fd.FD
		text := make([]byte, 4)
		_, err := unixsock.ReadFull(b, text, unixsock.Control(4), 4, "received", &got)
		for _, g := range got {
			g.Close()
		}
		if err != nil || string(text) != "text" || len(got) != n {
			t.Errorf("received %q, %d descriptors, %v; want text, %d", text, len(got), err, n)
		}
	}
	Check(t, a.Close())
	if err := Send(a, []byte("text")); err == nil {
		t.Error("Send into a closed socket = nil")
	}
}
