package vmtest

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// A qmp is a client of QEMU's control socket (QEMU, docs/interop/qmp-spec.rst): one
// command at a time, events dropped.
type qmp struct {
	conn net.Conn
	dec  *json.Decoder
}

// newQMP reads the greeting and leaves the negotiation mode.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, dec: json.NewDecoder(conn)}
	var greeting struct{ QMP json.RawMessage }
	if err := q.dec.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("read QMP greeting: %w", err)
	}
	_, err := q.execute("qmp_capabilities", time.Minute)
	return q, err
}

// execute runs a command without arguments and returns its result.
func (q *qmp) execute(command string, limit time.Duration) (json.RawMessage, error) {
	if err := q.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(q.conn).Encode(map[string]string{"execute": command}); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
			Event  string
		}
		if err := q.dec.Decode(&reply); err != nil {
			return nil, fmt.Errorf("QMP %s: %w", command, err)
		}
		switch {
		case reply.Event != "":
		case reply.Error != nil:
			return nil, fmt.Errorf("QMP %s: %s", command, reply.Error.Desc)
		default:
			return reply.Return, nil
		}
	}
}
