package vhostuser

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
)

// Migration isn't offered (docs/cases.md), so the cases of fs-device.md H.13 ask that it
// is refused where it would begin: the connection goes on, the rings too, and nothing is
// written to or read from the descriptor that came along.

// protocolDeviceState is VHOST_USER_PROTOCOL_F_DEVICE_STATE.
const protocolDeviceState ProtocolFeatures = 1 << 19

// Messages after POSTCOPY_ADVISE.
const (
	postcopyListen Code = 29
	postcopyEnd    Code = 30
)

// The direction of SET_DEVICE_STATE_FD.
const (
	stateSave = 0
	stateLoad = 1
)

// deviceState asks for a transfer through file, and wants it refused.
func (r *rig) deviceState(direction uint32, file *fd.FD) {
	r.t.Helper()
	payload := binary.LittleEndian.AppendUint32(nil, direction)
	payload = binary.LittleEndian.AppendUint32(payload, 0) // phase: stopped
	r.emptyReply(SetDeviceStateFD, payload, file)
}

// emptyReply sends a message whose answer can't say no but by having no content.
func (r *rig) emptyReply(code Code, payload []byte, files ...*fd.FD) {
	r.t.Helper()
	if reply, err := r.front.ask(code, payload, files...); err != nil || len(reply) != 0 {
		r.t.Errorf("%s = %x, %v; want an empty reply", code, reply, err)
	}
	r.alive()
}

// statePipe returns both ends of a pipe; nobody reads or writes for the back-end.
func statePipe(t *testing.T) (read, write *fd.FD) {
	t.Helper()
	var p [2]int
	testkit.Check(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	read, write = fd.New(p[0], "state, read"), fd.New(p[1], "state, write")
	t.Cleanup(func() {
		testkit.Check(t, read.Close())
		testkit.Check(t, write.Close())
	})
	return read, write
}

func TestDeviceStateRefused(t *testing.T) {
	t.Run("H220 save", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.echo(g, 3)
		read, write := statePipe(t)
		_, err := r.front.VringBase(1)
		testkit.Check(t, err)
		r.deviceState(stateSave, write)
		if n, err := unix.Read(read.Int(), make([]byte, 16)); err != unix.EAGAIN {
			t.Errorf("stream = %d bytes, %v; want nothing written", n, err)
		}
	})
	t.Run("H221 check", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		r.emptyReply(CheckDeviceState, nil)
	})
	t.Run("H222 dirty log begins and ends without one", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		for _, features := range []bool{true, false} {
			offered, err := r.front.Features()
			testkit.Check(t, err)
			if !features {
				offered &^= FeatureLogAll
			}
			testkit.Check(t, r.front.SetFeatures(offered))
			r.echo(g, 2)
			_, write := statePipe(t)
			r.deviceState(stateSave, write)
		}
	})
	t.Run("H223 load", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		read, write := statePipe(t)
		_, err := unix.Write(write.Int(), []byte("state of another device"))
		testkit.Check(t, err)
		r.deviceState(stateLoad, read)
		r.emptyReply(CheckDeviceState, nil)
		r.echo(r.started(), 2)
	})
	t.Run("H224 nonsense to load", func(t *testing.T) {
		for _, stream := range [][]byte{nil, {0}, make([]byte, 4096), []byte("\xff\xff\xff\xff\xff\xff\xff\xff")} {
			r := newRig(t, allFeatures, allProtocol)
			read, write := statePipe(t)
			_, err := unix.Write(write.Int(), stream)
			testkit.Check(t, err)
			r.deviceState(stateLoad, read)
			if n, err := unix.Read(read.Int(), make([]byte, 8192)); len(stream) > 0 && (err != nil || n != len(stream)) {
				t.Errorf("stream has %d bytes left, %v; want all %d: nothing may be read", n, err, len(stream))
			}
		}
		for _, payload := range [][]byte{nil, make([]byte, 7), make([]byte, 9), {9, 0, 0, 0, 9, 0, 0, 0}} {
			r := newRig(t, allFeatures, allProtocol)
			_, write := statePipe(t)
			r.emptyReply(SetDeviceStateFD, payload, write)
			r.emptyReply(SetDeviceStateFD, payload)
			r.emptyReply(SetDeviceStateFD, payload, write, write)
			r.emptyReply(CheckDeviceState, payload)
		}
	})
	t.Run("H225 while rings run, twice, and without a transfer", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		g := r.started()
		r.emptyReply(CheckDeviceState, nil)
		read, write := statePipe(t)
		r.dev.setHold(true)
		r.submit(g, 4)
		r.deviceState(stateSave, write)
		r.deviceState(stateLoad, read)
		r.deviceState(stateLoad, read)
		r.emptyReply(CheckDeviceState, nil)
		r.dev.setHold(false)
		r.used(g, 4)
	})
	t.Run("H226 not negotiable", func(t *testing.T) {
		r := newRig(t, allFeatures, allProtocol)
		offered, err := r.front.ProtocolFeatures()
		testkit.Check(t, err)
		if offered&protocolDeviceState != 0 {
			t.Errorf("protocol features = %#x; want none for device state", uint64(offered))
		}
		// What wasn't offered is taken for a mistake and ignored (fs-device.md B.4).
		testkit.Check(t, r.front.SetProtocolFeatures(offered|protocolDeviceState))
		_, write := statePipe(t)
		r.deviceState(stateSave, write)
	})
}

// Postcopy is migration, too.
func TestPostcopyRefused(t *testing.T) {
	r := newRig(t, allFeatures, allProtocol)
	r.emptyReply(PostcopyAdvise, nil)
	for _, code := range []Code{postcopyListen, postcopyEnd} {
		r.refused(fmt.Sprint("postcopy ", code), r.front.tell(code, nil))
		r.alive()
	}
}
