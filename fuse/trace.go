package fuse

import (
	"context"
	"log/slog"
	"syscall"
)

// LevelTrace is the level of one log line per request.
const LevelTrace = slog.Level(-8)

// trace logs r, which has been answered.
func (t *Thread) trace(r *Request, used int, errno syscall.Errno) {
	attrs := []slog.Attr{
		slog.String("op", r.op.name),
		slog.Uint64("unique", r.head.Unique),
		slog.Uint64("node", uint64(r.head.Node)),
		slog.Int("uid", int(int32(r.head.UID))),
		slog.Int("gid", int(int32(r.head.GID))),
		slog.Int("pid", int(r.head.PID)),
		slog.Int("len", int(r.head.Len)),
	}
	for i, key := range [...]string{"name", "name2"} {
		if r.names[i] != nil {
			attrs = append(attrs, slog.String(key, string(r.names[i])))
		}
	}
	switch r.head.Opcode {
	case OpRead, OpWrite, OpReadDir, OpReadDirPlus:
		// READ and WRITE arguments have the same shape.
		if in, _, ok := take[ReadIn](r.args); ok {
			attrs = append(attrs, slog.Uint64("fh", uint64(in.Handle)),
				slog.Uint64("offset", in.Offset), slog.Uint64("size", uint64(in.Size)))
		}
	case OpOpen, OpOpenDir, OpCreate:
		// Their arguments start with the flags.
		if in, _, ok := take[OpenIn](r.args); ok {
			attrs = append(attrs, slog.Uint64("flags", uint64(in.Flags)))
		}
	}
	attrs = append(attrs, slog.Int("used", used))
	if errno != 0 {
		attrs = append(attrs, slog.String("err", errno.Error()))
	}
	t.s.log.LogAttrs(context.Background(), LevelTrace, "request", attrs...)
}
