package vmtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vfiofs/internal/vmtest/plan"
)

// listen keeps what the guest says.
func (m *Machine) listen() {
	in := bufio.NewScanner(m.ctl)
	for in.Scan() {
		m.mu.Lock()
		if m.lines = append(m.lines, in.Text()); in.Text() == plan.Off {
			m.offAt = time.Now()
		}
		close(m.changed)
		m.changed = make(chan struct{})
		m.mu.Unlock()
	}
}

// Expect waits for the guest to say a line that begins with the given words, and
// returns the whole line. Lines before it are passed over. It is an error if the
// guest fails, if QEMU ends, or if the guest is silent for longer than limit, on
// both its control and its output port.
func (m *Machine) Expect(limit time.Duration, words ...string) (string, error) {
	want := strings.Join(words, " ")
	silence := m.watch(limit)
	defer silence.stop()
	for {
		line, found, changed := m.find(want)
		if strings.HasPrefix(line, plan.Fail+" ") {
			return line, m.errorf("expect %q: guest said %q", want, line)
		}
		if found {
			return line, nil
		}
		select {
		case <-changed:
		case <-silence.tick.C:
			if silence.over() {
				return "", m.errorf("expect %q: nothing happens for %s", want, silence.limit)
			}
		case <-m.exited:
			// Its last words may still be on their way through the socket.
			select {
			case <-changed:
			case <-time.After(100 * time.Millisecond):
				return "", m.errorf("expect %q: QEMU has ended", want)
			}
		}
	}
}

// A silence measures how long a guest has said nothing. What a test may take depends
// on the host's load; that it goes on does not.
type silence struct {
	m     *Machine
	limit time.Duration // stretched by the machine's scale
	tick  *time.Ticker
	said  int64 // lines of the control port, bytes of the output port
	since time.Time
}

func (m *Machine) watch(limit time.Duration) *silence {
	return &silence{
		m: m, limit: time.Duration(float64(limit) * m.scale),
		tick: time.NewTicker(50 * time.Millisecond), said: m.said(), since: time.Now(),
	}
}

func (s *silence) stop() { s.tick.Stop() }

// over looks whether the guest has said something since the last look.
func (s *silence) over() bool {
	if said := s.m.said(); said != s.said {
		s.said, s.since = said, time.Now()
	}
	return time.Since(s.since) > s.limit
}

func (m *Machine) said() int64 {
	m.mu.Lock()
	n := int64(len(m.lines))
	m.mu.Unlock()
	if st, err := os.Stat(filepath.Join(m.dir, "out")); err == nil {
		n += st.Size()
	}
	return n
}

// find looks for a line among those not seen yet, and stops at a failure.
func (m *Machine) find(want string) (line string, found bool, changed chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.next < len(m.lines) {
		line := m.lines[m.next]
		m.next++
		if line == want || strings.HasPrefix(line, want+" ") {
			return line, true, nil
		}
		if strings.HasPrefix(line, plan.Fail+" ") {
			return line, false, nil
		}
	}
	return "", false, m.changed
}

// Send says a line to the guest, such as plan.Go and a step's name.
func (m *Machine) Send(words ...string) error {
	if _, err := fmt.Fprintln(m.ctl, strings.Join(words, " ")); err != nil {
		return m.errorf("send %q: %w", words, err)
	}
	return nil
}

// Status returns the exit status of a step, and how long it took; ok is false if it
// has not ended. After a reboot it is that of the last run.
func (m *Machine) Status(step string) (status int, took time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range slices.Backward(m.lines) {
		var seconds float64
		if n, _ := fmt.Sscanf(line, plan.Exit+" "+step+" %d %f", &status, &seconds); n == 2 {
			return status, time.Duration(seconds * float64(time.Second)), true
		}
	}
	return 0, 0, false
}

// Output returns what a step has printed so far.
func (m *Machine) Output(step string) ([]byte, error) {
	all, err := os.ReadFile(filepath.Join(m.dir, "out"))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for line := range bytes.Lines(all) {
		if text, ok := bytes.CutPrefix(line, []byte(step+plan.Tag)); ok {
			out.Write(text)
		}
	}
	return out.Bytes(), nil
}

// Files returns the tar of VM.Collect. It is complete after Wait.
func (m *Machine) Files() (*os.File, error) { return os.Open(filepath.Join(m.dir, "art.tar")) }
