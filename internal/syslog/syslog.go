// Package syslog is a log/slog handler that writes to the system's log.
//
//	slog.Logger ─► Handler ─ "<30>Jan  2 15:04:05 vfiofs[7]: msg key=value" ─► /dev/log
//
// One record is one datagram, or one string that ends in NUL if the log's socket is a
// stream. The connection is made before a jail closes; if the log restarts after that,
// it is made anew where that is possible, and records get lost where it is not. One
// mutex guards the connection; handlers made by WithAttrs and WithGroup share it.
//
// There is no specification of what /dev/log takes but its users: the form is that of
// RFC 3164, as syslog(3) writes it.
package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Path is where the system's log listens.
const Path = "/dev/log"

// facility is LOG_DAEMON.
const facility = 3 << 3

// A Handler is a connection to the log. It implements slog.Handler.
type Handler struct {
	text slog.Handler // writes the message and its attributes to to.line
	to   *target
}

// A target is what handlers with different attributes share.
type target struct {
	path, tag string

	mu   sync.Mutex
	conn net.Conn
	line bytes.Buffer // one record
}

// New connects to the log at path; tag is the program's name there. Options are as for
// slog's own handlers; time and level of a record are part of the log's own form.
func New(path, tag string, opt slog.HandlerOptions) (*Handler, error) {
	to := &target{path: path, tag: tag}
	if err := to.dial(); err != nil {
		return nil, err
	}
	replace := opt.ReplaceAttr
	opt.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		if replace != nil {
			a = replace(groups, a)
		}
		return a
	}
	return &Handler{slog.NewTextHandler(&to.line, &opt), to}, nil
}

// dial connects, in the way that the log wants.
func (t *target) dial() error {
	conn, err := net.Dial("unixgram", t.path)
	if errors.Is(err, syscall.EPROTOTYPE) {
		conn, err = net.Dial("unix", t.path)
	}
	if err != nil {
		return fmt.Errorf("connect to the system's log: %w; start a log service, or log to standard error", err)
	}
	t.conn = conn
	return nil
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.text.WithAttrs(attrs), h.to}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.text.WithGroup(name), h.to}
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	t := h.to
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line.Reset()
	fmt.Fprintf(&t.line, "<%d>%s %s[%d]: ", facility|severity(r.Level), r.Time.Format(time.Stamp), t.tag, os.Getpid())
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	t.line.Truncate(t.line.Len() - 1) // the end of the line
	return t.write()
}

// write sends the line, to a log that has restarted if need be.
func (t *target) write() error {
	if t.conn.LocalAddr().Network() == "unix" {
		t.line.WriteByte(0)
	}
	_, err := t.conn.Write(t.line.Bytes())
	if err == nil {
		return nil
	}
	old := t.conn
	if t.dial() != nil {
		return err
	}
	old.Close()
	_, err = t.conn.Write(t.line.Bytes())
	return err
}

// Close ends the connection.
func (h *Handler) Close() error {
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	return h.to.conn.Close()
}

// severity is what the log calls a level.
func severity(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return 3 // LOG_ERR
	case level >= slog.LevelWarn:
		return 4 // LOG_WARNING
	case level >= slog.LevelInfo:
		return 6 // LOG_INFO
	default:
		return 7 // LOG_DEBUG
	}
}
