package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"vfiofs/internal/jail"
	"vfiofs/virtio/vhostuser"
)

// A state is what a service manager is told. It is also how a jailed server says so to
// its launcher: a byte, because whoever takes the server over must not choose what the
// manager hears (MAINPID=, FDSTORE= and so on of sd_notify(3)).
type state byte

// The states.
const (
	ready    state = 'r' // clients may come
	waiting  state = 'w' // the client has left
	serving  state = 's'
	alive    state = 'a' // for the watchdog
	stopping state = 'e'
)

// text returns the message of sd_notify(3), or "" for what is no state.
func (s state) text() string {
	switch s {
	case ready:
		return systemd.SdNotifyReady + "\nSTATUS=Waiting for a client"
	case waiting:
		return "STATUS=Waiting for a client"
	case serving:
		return "STATUS=Serving a client"
	case alive:
		return systemd.SdNotifyWatchdog
	case stopping:
		return systemd.SdNotifyStopping + "\nSTATUS=Ending"
	}
	return ""
}

// A notifier tells the service manager how this process is. Only the process that the
// manager has started may (NotifyAccess=main), so the states of a jailed server go through
// its launcher:
//
//	server ── state, over a pipe ─► launcher ── text, over $NOTIFY_SOCKET ─► manager
//
// The zero notifier has nobody to tell. What is connected here stays so: inside the jail
// no new connection can be made. It ends with the process.
type notifier struct {
	manager  net.Conn      // this process was started by the manager, or nil
	launcher *os.File      // it was started by a launcher, or nil
	watchdog time.Duration // how often the manager wants to hear that we are alive, or 0
	busy     atomic.Int64  // since when a message of the client is worked on, in Unix ns, or 0
}

// newNotifier makes the notifier of a process that serves; its launcher, if there is one,
// has passed the pipe as descriptor n. A manager that can't be told is no reason not to
// serve.
func newNotifier(cell *jail.Cell, n int, log *slog.Logger) (*notifier, error) {
	nf := new(notifier)
	if cell != nil {
		pipe, err := cell.Take(n)
		if err != nil {
			return nil, err
		}
		nf.launcher = os.NewFile(uintptr(pipe), "pipe to the launcher")
	} else if err := nf.dial(); err != nil {
		log.Warn("the service manager can't be told that the service is up; correct NOTIFY_SOCKET, or unset it", "err", err)
	}
	var err error
	if nf.watchdog, err = systemd.SdWatchdogEnabled(false); err != nil {
		log.Warn("there will be no watchdog; correct WATCHDOG_USEC and WATCHDOG_PID, or unset them", "err", err)
	}
	return nf, nil
}

// dial connects to the manager, if there is one.
func (nf *notifier) dial() (err error) {
	if name := os.Getenv("NOTIFY_SOCKET"); name != "" {
		nf.manager, err = net.Dial("unixgram", name)
	}
	return err
}

// tell passes a state on.
func (nf *notifier) tell(s state) {
	if nf.launcher != nil {
		nf.launcher.Write([]byte{byte(s)})
	}
	if nf.manager != nil && s.text() != "" {
		io.WriteString(nf.manager, s.text())
	}
}

// watch tells the manager that we are alive until ctx ends: as long as the goroutine that
// serves clients comes back for the next message. A request that waits for a disk is no
// reason to be killed, so rings don't count.
func (nf *notifier) watch(ctx context.Context) {
	if nf.watchdog == 0 {
		return
	}
	tick := time.NewTicker(max(nf.watchdog/3, time.Millisecond))
	defer tick.Stop()
	for {
		since := nf.busy.Load()
		if since == 0 || time.Since(time.Unix(0, since)) < nf.watchdog {
			nf.tell(alive)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// observe returns link, and has the watchdog know when its messages come and are done with.
func (nf *notifier) observe(link vhostuser.Link) vhostuser.Link {
	if nf.watchdog == 0 {
		return link
	}
	return &observed{link, nf}
}

// An observed link notes whether its messages are worked on.
type observed struct {
	vhostuser.Link
	nf *notifier
}

// Recv implements vhostuser.Link.
func (o *observed) Recv(ctx context.Context) (*vhostuser.Message, error) {
	o.nf.busy.Store(0)
	m, err := o.Link.Recv(ctx)
	o.nf.busy.Store(time.Now().UnixNano())
	return m, err
}

// Close implements vhostuser.Link.
func (o *observed) Close() error {
	o.nf.busy.Store(0)
	return o.Link.Close()
}

// launchNotified is jail.Plan.Launch with a pipe as the last of the files, which carries
// states of the server.
func launchNotified(ctx context.Context, p *jail.Plan, files ...*os.File) (code int, err error) {
	states, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	var nf notifier
	if nf.dial() != nil {
		nf = notifier{} // the server goes on all the same
	}
	if interval, err := systemd.SdWatchdogEnabled(false); interval == 0 || err != nil {
		os.Unsetenv("WATCHDOG_USEC") // it is for another process
	}
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		nf.relay(states)
	}()
	code, err = p.Launch(ctx, append(files, theirs)...)
	err = errors.Join(err, theirs.Close())
	<-relayed
	return code, errors.Join(err, states.Close())
}

// relay tells what comes from the server until it has ended.
func (nf *notifier) relay(states io.Reader) {
	buf := make([]byte, 64)
	for {
		n, err := states.Read(buf)
		for _, b := range buf[:n] {
			nf.tell(state(b))
		}
		if err != nil {
			return
		}
	}
}
