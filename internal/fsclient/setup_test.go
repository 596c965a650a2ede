package fsclient_test

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"

	"vfiofs/internal/fsclient"
	"vfiofs/internal/testkit"
	"vfiofs/internal/unixsock"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
)

// A script is a backend that answers as told, and hangs up at a message.
type script struct {
	features virtio.Features
	protocol vhostuser.ProtocolFeatures
	queues   uint64
	config   []byte
	hangUp   vhostuser.Code
}

// play runs the script and returns the other end.
func (s script) play(t *testing.T) *net.UnixConn {
	t.Helper()
	back, conn, err := unixsock.Pair()
	testkit.Check(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		link := vhostuser.NewSocket(back)
		defer link.Close()
		for {
			m, err := link.Recv(t.Context())
			if err != nil {
				return
			}
			m.Close()
			if m.Code == s.hangUp {
				return
			}
			reply := s.reply(m)
			if reply == nil {
				continue
			}
			r := &vhostuser.Message{Code: m.Code, Flags: vhostuser.FlagVersion1 | vhostuser.FlagReply, Payload: reply}
			if link.Send(t.Context(), r) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { <-ended })
	return conn
}

// reply is the payload of the reply to m, nil if it has none.
func (s script) reply(m *vhostuser.Message) []byte {
	switch m.Code {
	case vhostuser.GetFeatures:
		return vhostuser.AppendU64(nil, uint64(s.features))
	case vhostuser.GetProtocolFeatures:
		return vhostuser.AppendU64(nil, uint64(s.protocol))
	case vhostuser.GetQueueNum:
		return vhostuser.AppendU64(nil, s.queues)
	case vhostuser.GetConfig:
		return vhostuser.Config{Size: uint32(len(s.config)), Data: s.config}.Append(nil)
	}
	if m.Flags&vhostuser.FlagNeedReply != 0 {
		return vhostuser.AppendU64(nil, 0)
	}
	return nil
}

const (
	modern   = virtio.FeatureVersion1 | vhostuser.FeatureProtocolFeatures
	protocol = vhostuser.ProtocolMQ | vhostuser.ProtocolConfig | vhostuser.ProtocolReplyAck
)

// config is configuration space.
func config(tag string, queues uint32) []byte {
	b := make([]byte, 36)
	copy(b, tag)
	return binary.LittleEndian.AppendUint32(b, queues)
}

func TestSetup(t *testing.T) {
	for _, test := range []struct {
		name   string
		script script
		limit  int
		rings  int
		tag    string
	}{
		{"one queue", script{features: modern, protocol: protocol, queues: 2, config: config("a", 1)}, 0, 2, "a"},
		{"tag of 36 bytes", script{features: modern, protocol: protocol, queues: 2, config: config(strings.Repeat("x", 36), 1)}, 0, 2, strings.Repeat("x", 36)},
		{"configuration space has fewer", script{features: modern, protocol: protocol, queues: 9, config: config("a", 3)}, 0, 4, "a"},
		{"configuration space has more", script{features: modern, protocol: protocol, queues: 3, config: config("a", 1<<31)}, 0, 3, "a"},
		{"absurdly many", script{features: modern, protocol: protocol, queues: 1 << 40, config: config("a", 1<<31)}, 0, 64, "a"},
		{"fewer wanted", script{features: modern, protocol: protocol, queues: 9, config: config("a", 8)}, 2, 3, "a"},
		{"no configuration space", script{features: modern, protocol: vhostuser.ProtocolMQ, queues: 5}, 0, 5, ""},
		{"no protocol features", script{features: virtio.FeatureVersion1}, 4, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := fsclient.Connect(test.script.play(t), fsclient.Options{Queues: test.limit, RingSize: 16, Slots: 1, Data: 4096})
			testkit.Check(t, err)
			if c.Rings() != test.rings || c.Tag() != test.tag {
				t.Errorf("connected: %d rings, tag %q; want %d, %q", c.Rings(), c.Tag(), test.rings, test.tag)
			}
			testkit.Check(t, c.Close())
		})
	}
}

func TestSetupRefused(t *testing.T) {
	good := script{features: modern, protocol: protocol, queues: 2, config: config("a", 1)}
	with := func(edit func(*script)) script {
		s := good
		edit(&s)
		return s
	}
	for _, test := range []struct {
		name   string
		script script
		want   string
	}{
		{"legacy device", with(func(s *script) { s.features = 0 }), "lack VIRTIO_F_VERSION_1"},
		{"one queue", with(func(s *script) { s.queues = 1 }), "1 queues; a virtio-fs device has at least 2"},
		{"no request queues", with(func(s *script) { s.config = config("a", 0) }), "0 request queues"},
		{"short configuration space", with(func(s *script) { s.config = make([]byte, 36) }), "GET_CONFIG"},
		{"hangs up at once", with(func(s *script) { s.hangUp = vhostuser.GetFeatures }), "GET_FEATURES: reply: EOF"},
		{"hangs up in the middle", with(func(s *script) { s.hangUp = vhostuser.SetMemTable }), "EOF"},
		{"hangs up at a ring", with(func(s *script) { s.hangUp = vhostuser.SetVringKick }), "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := fsclient.Connect(test.script.play(t), fsclient.Options{RingSize: 16, Slots: 1, Data: 4096})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Connect() = %v; want an error with %q", err, test.want)
			}
			if err == nil {
				c.Close()
			}
		})
	}
}
