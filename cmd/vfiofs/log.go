package main

import (
	"io"
	"log/slog"

	"vfiofs/fuse"
)

// levels are the values of --log-level but "off", which discards everything.
var levels = map[string]slog.Level{
	"error": slog.LevelError,
	"warn":  slog.LevelWarn,
	"info":  slog.LevelInfo,
	"debug": slog.LevelDebug,
	"trace": fuse.LevelTrace,
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
