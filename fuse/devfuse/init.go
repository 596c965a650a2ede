package devfuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
	"vfiofs/internal/fd"
	"vfiofs/internal/fsclient"
)

// INIT on its way to the backend and back (fs-device.md D.5). Linux fills in the same
// offer for /dev/fuse and for virtio-fs, down to flags that make no sense in a guest,
// such as SPLICE_READ and OVER_IO_URING; the only difference is SUBMOUNTS (linux
// fs/fuse/inode.c: fuse_new_init). So the offer goes through, and only the answer is
// cut:
//
//	                      offer   answer
//	SUBMOUNTS             added   dropped: the kernel follows them for virtio-fs only
//	SPLICE_*              as is   dropped: this program does not splice
//	MAP_ALIGNMENT         never   dropped: DAX needs a device
//	HAS_INODE_DAX         never   dropped: likewise
//	HAS_EXPIRE_ONLY       as is   dropped: a backend has no way to notify
//	HAS_RESEND            as is   dropped: likewise
//	PASSTHROUGH           as is   dropped: a file can't be passed through a ring
//	OVER_IO_URING         as is   dropped: this program reads and writes
//	not offered           -       dropped: the kernel would believe it
//	all others            as is   as is
//	max_write, max_pages          at most what a slot holds
//	max_stack_depth               0
//	max_readahead, max_background,
//	congestion_threshold,
//	time_gran, request_timeout    as is
//
// DESTROY is never asked for by /dev/fuse; Session sends it.
const dropped = fuse.Submounts | fuse.MapAlignment |
	1<<7 | 1<<8 | 1<<9 | // FUSE_SPLICE_WRITE, _MOVE, _READ
	1<<33 | // FUSE_HAS_INODE_DAX
	1<<35 | // FUSE_HAS_EXPIRE_ONLY
	1<<37 | // FUSE_PASSTHROUGH
	1<<39 | // FUSE_HAS_RESEND
	1<<41 // FUSE_OVER_IO_URING

// Sizes and offsets of INIT (linux/fuse.h: struct fuse_init_in, fuse_init_out).
const (
	initFlags   = inHeaderSize + 12 // flags in the request
	initInMin   = inHeaderSize + 16
	initOutSize = 64
	initOutMin  = 24 // up to max_write
	pageSize    = 4096
)

// agree passes the kernel's INIT to the backend, and its answer back.
func (s *Session) agree(dev *fd.FD) error {
	slot := s.client.Slots()[0]
	n, err := awaitInit(dev, slot)
	if err != nil {
		return err
	}
	req, err := parse(slot.In[:n])
	if err != nil {
		return err
	}
	offer, err := extendOffer(slot.In[:n])
	if err != nil {
		return err
	}
	ring := s.client.Ring(1)
	ring.Submit(slot, n, req.replyRoom(slot.In[:n]))
	if err := ring.Publish(); err != nil {
		return err
	}
	if err := ring.Wait(initTime); err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	_, n, ok := ring.Reap()
	if !ok {
		return ring.Err()
	}
	reply := append([]byte(nil), slot.Out[:n]...)
	copy(req.head[:], reply)
	switch errno, ok := req.check(n); {
	case !ok:
		return errors.New("the backend's reply to INIT is malformed")
	case errno != 0:
		return fmt.Errorf("the backend refused INIT: %w (its log may say why)", errno)
	}
	if err := limitAnswer(offer, reply[fsclient.OutHead:]); err != nil {
		return err
	}
	if _, err := unix.Write(dev.Int(), reply); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return nil
}

// awaitInit reads the first request of a connection, which is INIT.
func awaitInit(dev *fd.FD, slot *fsclient.Slot) (n int, err error) {
	end := time.Now().Add(initTime)
	for {
		n, err = unix.Read(dev.Int(), slot.In)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
		p := []unix.PollFd{{Fd: int32(dev.Int()), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, max(0, int(time.Until(end).Milliseconds()))); err != nil && err != unix.EINTR {
			return 0, err
		}
		if time.Now().After(end) {
			return 0, errors.New("the kernel does not begin with INIT")
		}
	}
	if err != nil {
		return 0, fmt.Errorf("read INIT: %w", err)
	}
	return n, nil
}

// extendOffer makes an INIT request look like one of virtio-fs, and returns the flags
// that the kernel itself offers.
func extendOffer(in []byte) (fuse.InitFlags, error) {
	if len(in) < initInMin || fuse.Opcode(le.Uint32(in[4:])) != fuse.OpInit {
		return 0, fmt.Errorf("the kernel begins with opcode %d in %d bytes; want INIT", le.Uint32(in[4:]), len(in))
	}
	flags := le.Uint32(in[initFlags:])
	offer := fuse.InitFlags(flags)
	if offer&fuse.InitExt != 0 && len(in) >= initInMin+4 {
		offer |= fuse.InitFlags(le.Uint32(in[initFlags+4:])) << 32
	}
	le.PutUint32(in[initFlags:], flags|uint32(fuse.Submounts))
	return offer, nil
}

// limitAnswer cuts the backend's answer to what the kernel offered and /dev/fuse can
// do. out is the payload of the reply.
func limitAnswer(offer fuse.InitFlags, out []byte) error {
	if len(out) < initOutMin || len(out) > initOutSize {
		return fmt.Errorf("the backend's answer to INIT has %d bytes; want %d to %d", len(out), initOutMin, initOutSize)
	}
	var whole [initOutSize]byte
	copy(whole[:], out)
	var v fuse.InitOut
	if _, err := binary.Decode(whole[:], le, &v); err != nil {
		return err
	}
	if v.Major != 7 {
		return fmt.Errorf("the backend speaks FUSE %d.%d; want 7: %w", v.Major, v.Minor, syscall.EPROTO)
	}
	flags := fuse.InitFlags(v.Flags)
	if flags&fuse.InitExt != 0 {
		flags |= fuse.InitFlags(v.Flags2) << 32
	}
	flags &= offer &^ dropped
	v.Flags, v.Flags2 = uint32(flags), uint32(flags>>32)
	v.MaxWrite = min(v.MaxWrite, maxWrite)
	v.MaxPages = min(v.MaxPages, maxWrite/pageSize)
	v.MapAlignment, v.MaxStackDepth = 0, 0
	if _, err := binary.Encode(whole[:], le, &v); err != nil {
		return err
	}
	copy(out, whole[:])
	return nil
}
