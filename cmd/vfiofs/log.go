package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"

	"vfiofs/fuse"
	"vfiofs/internal/syslog"
)

// levels are the values of --log-level but "off", which discards everything.
var levels = map[string]slog.Level{
	"error": slog.LevelError,
	"warn":  slog.LevelWarn,
	"info":  slog.LevelInfo,
	"debug": slog.LevelDebug,
	"trace": fuse.LevelTrace,
}

// openLog returns the logger of --log-level, --log-format and --syslog; the system's log
// is at path.
func (s *Serve) openLog(stderr io.Writer, path string) (*slog.Logger, error) {
	if !s.Syslog || s.LogLevel == "off" {
		return newLog(stderr, s.LogLevel, s.LogFormat), nil
	}
	h, err := syslog.New(path, cmp.Or(s.name, "vfiofs"), slog.HandlerOptions{Level: levels[s.LogLevel], ReplaceAttr: nameTrace})
	if err != nil {
		return nil, fmt.Errorf("`--syslog`: %w", err)
	}
	return slog.New(h), nil
}

// newLog returns the logger of --log-level and --log-format, which were checked by
// the command line.
func newLog(w io.Writer, level, format string) *slog.Logger {
	least, ok := levels[level]
	if !ok {
		return slog.New(slog.DiscardHandler)
	}
	options := &slog.HandlerOptions{Level: least, ReplaceAttr: nameTrace}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// nameTrace prints the trace level by its name and not as DEBUG-4.
func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey && a.Value.Any() == fuse.LevelTrace {
		a.Value = slog.StringValue("TRACE")
	}
	return a
}
