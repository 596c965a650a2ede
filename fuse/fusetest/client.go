// Package fusetest is the other side of package fuse, for tests: a client, a file
// system in memory, and a suite of what any file system has to do.
//
//	Run (suite) ──► Client ──► Transport ──► Local ──► fuse.Server ──► FileSystem
//	                               └───────► a real ring, a socket, a VM ...
//
// A Client builds requests as bytes and reads replies from bytes, with its own idea
// of the layouts where that is cheap: it must not share the server's mistakes. It
// checks every reply as a Linux 7.1 guest does: length and unique have to agree.
//
// A Client and its Transport belong to one goroutine at a time. Replies are owned by
// the caller.
//
// Spec: fs-device.md C.6, D.3, D.4; linux/fuse.h 7.45.
package fusetest

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"vfiofs/fuse"
)

// A Transport carries one request to a server and returns its reply, cut to the used
// length: nothing for requests without reply. outSize is the number of writable bytes
// that the server gets.
type Transport func(in []byte, outSize int) (out []byte, err error)

// A Client sends requests. Errors of its methods are syscall.Errno if the server said
// so, and something else if the server or the transport is broken.
type Client struct {
	Transport Transport
	// Caller speaks in the requests; NewClient sets the ids of the process.
	Caller fuse.Caller
	// Ext goes to the end of requests that create something.
	Ext []byte
	// Flags are those that INIT agreed on.
	Flags fuse.InitFlags

	unique uint64
}

// NewClient returns a client that uses t.
func NewClient(t Transport) *Client {
	return &Client{
		Transport: t,
		Caller:    fuse.Caller{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: uint32(os.Getpid())},
	}
}

// Pack concatenates parts: []byte as they are, strings with a NUL, anything else as a
// little-endian structure.
func Pack(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(append(b, p...), 0)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, p); err != nil {
				panic(err)
			}
		}
	}
	return b
}

// Unpack stores the start of b in v, a pointer to a fixed-size structure, and returns
// the rest.
func Unpack(b []byte, v any) (rest []byte, err error) {
	n, err := binary.Decode(b, binary.LittleEndian, v)
	if err != nil {
		return nil, fmt.Errorf("reply of %d bytes is too short for %T", len(b), v)
	}
	return b[n:], nil
}

// Message returns the bytes of a request with the next unique.
func (c *Client) Message(op fuse.Opcode, node fuse.NodeID, parts ...any) []byte {
	c.unique += 2
	body := Pack(parts...)
	ext := 0
	switch op {
	case fuse.OpSymlink, fuse.OpMkNod, fuse.OpMkDir, fuse.OpCreate, fuse.OpTmpFile:
		body = append(body, c.Ext...)
		ext = len(c.Ext) / 8
	}
	head := fuse.InHeader{
		Len: uint32(40 + len(body)), Opcode: op, Unique: c.unique, Node: node,
		UID: c.Caller.UID, GID: c.Caller.GID, PID: c.Caller.PID, ExtUnits: uint16(ext),
	}
	return append(Pack(head), body...)
}

// Raw sends the bytes in as they are and returns the reply's payload. reply is false
// if there was none.
func (c *Client) Raw(in []byte, outSize int) (payload []byte, reply bool, err error) {
	out, err := c.Transport(in, outSize)
	if err != nil || len(out) == 0 {
		return nil, false, err
	}
	var head fuse.OutHeader
	payload, err = Unpack(out, &head)
	if err != nil {
		return nil, true, err
	}
	var unique uint64
	if len(in) >= 40 {
		unique = binary.LittleEndian.Uint64(in[8:])
	}
	switch {
	case int(head.Len) != len(out):
		return nil, true, fmt.Errorf("reply says it has %d bytes; used length is %d", head.Len, len(out))
	case head.Unique != unique:
		return nil, true, fmt.Errorf("reply to request %#x; want %#x", head.Unique, unique)
	case head.Error != 0:
		return nil, true, syscall.Errno(-head.Error)
	}
	return payload, true, nil
}

// Call sends a request with room for a payload of size bytes and returns the payload.
func (c *Client) Call(op fuse.Opcode, node fuse.NodeID, size int, parts ...any) ([]byte, error) {
	payload, reply, err := c.Raw(c.Message(op, node, parts...), 16+size)
	if err == nil && !reply {
		err = fmt.Errorf("%v was not answered", op)
	}
	return payload, err
}

// call is Call for replies that are one structure, of which out points to room.
func (c *Client) call(op fuse.Opcode, node fuse.NodeID, out any, parts ...any) error {
	size := 0
	if out != nil {
		size = binary.Size(out)
	}
	payload, err := c.Call(op, node, size, parts...)
	if err != nil || out == nil {
		return err
	}
	rest, err := Unpack(payload, out)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%v was answered with %d bytes too many", op, len(rest))
	}
	return err
}

// send sends a request that has no reply.
func (c *Client) send(op fuse.Opcode, node fuse.NodeID, parts ...any) error {
	_, reply, err := c.Raw(c.Message(op, node, parts...), 0)
	if err == nil && reply {
		err = fmt.Errorf("%v was answered", op)
	}
	return err
}

// AllFlags are the flags that a current Linux offers over virtio.
const AllFlags = fuse.AsyncRead | fuse.PosixLocks | fuse.AtomicOTrunc | fuse.ExportSupport |
	fuse.BigWrites | fuse.DontMask | fuse.FlockLocks | fuse.HasIoctlDir | fuse.AutoInvalData |
	fuse.DoReaddirplus | fuse.ReaddirplusAuto | fuse.AsyncDIO | fuse.WritebackCache |
	fuse.NoOpenSupport | fuse.ParallelDirops | fuse.HandleKillpriv | fuse.PosixACL |
	fuse.AbortError | fuse.MaxPages | fuse.CacheSymlinks | fuse.NoOpendirSupport |
	fuse.ExplicitInvalData | fuse.Submounts | fuse.HandleKillprivV2 | fuse.SetxattrExt |
	fuse.InitExt | fuse.SecurityCtx | fuse.CreateSuppGroup | fuse.DirectIOAllowMmap | fuse.AllowIdmap

// Init sends INIT as Linux 7.45 would, with an offer of flags.
func (c *Client) Init(flags fuse.InitFlags) (fuse.InitOut, error) {
	in := fuse.InitIn{
		Major: 7, Minor: 45, MaxReadahead: 128 << 10,
		Flags: uint32(flags), Flags2: uint32(flags >> 32),
	}
	var out fuse.InitOut
	err := c.call(fuse.OpInit, 0, &out, in)
	c.Flags = fuse.InitFlags(out.Flags) | fuse.InitFlags(out.Flags2)<<32
	return out, err
}

// Destroy sends DESTROY.
func (c *Client) Destroy() error { return c.call(fuse.OpDestroy, 0, nil) }

// Lookup sends LOOKUP.
func (c *Client) Lookup(parent fuse.NodeID, name string) (fuse.EntryOut, error) {
	var out fuse.EntryOut
	err := c.call(fuse.OpLookup, parent, &out, name)
	return out, err
}

// Forget sends FORGET.
func (c *Client) Forget(node fuse.NodeID, lookups uint64) error {
	return c.send(fuse.OpForget, node, fuse.ForgetIn{Lookups: lookups})
}

// BatchForget sends BATCH_FORGET.
func (c *Client) BatchForget(list ...fuse.ForgetOne) error {
	return c.send(fuse.OpBatchForget, 0, fuse.BatchForgetIn{Count: uint32(len(list))}, list)
}

// GetAttr sends GETATTR, with a handle unless h is 0.
func (c *Client) GetAttr(node fuse.NodeID, h fuse.Handle) (fuse.AttrOut, error) {
	in := fuse.GetAttrIn{Handle: h}
	if h != 0 {
		in.Flags = fuse.GetAttrHandle
	}
	var out fuse.AttrOut
	err := c.call(fuse.OpGetAttr, node, &out, in)
	return out, err
}

// SetAttr sends SETATTR.
func (c *Client) SetAttr(node fuse.NodeID, in fuse.SetAttrIn) (fuse.AttrOut, error) {
	var out fuse.AttrOut
	err := c.call(fuse.OpSetAttr, node, &out, in)
	return out, err
}

// Access sends ACCESS.
func (c *Client) Access(node fuse.NodeID, mask uint32) error {
	return c.call(fuse.OpAccess, node, nil, fuse.AccessIn{Mask: mask})
}

// StatFS sends STATFS.
func (c *Client) StatFS(node fuse.NodeID) (fuse.StatFS, error) {
	var out fuse.StatFS
	err := c.call(fuse.OpStatFS, node, &out)
	return out, err
}

// SyncFS sends SYNCFS.
func (c *Client) SyncFS(node fuse.NodeID) error {
	return c.call(fuse.OpSyncFS, node, nil, uint64(0))
}
