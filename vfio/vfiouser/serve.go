package vfiouser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/vfio"
)

// The life of a command on the server:
//
//  1. run receives it with its descriptors (conn.recv).
//  2. answer checks that it is a command, and that VERSION came first.
//  3. handle decodes it, obeys it, and appends the payload of the reply.
//  4. answer sends the reply, or the errno of a refusal; nothing if the client asked
//     for nothing.
//  5. run closes the descriptors that nobody took.
//
// One goroutine does this, so commands take effect in the order in which they came.

// A reply is what handle makes of a command.
type reply struct {
	payload []byte   // reused, as is
	files   []*fd.FD // that go along
	owned   bool     // files are ours to close, not the Model's
}

// close ends the use of files.
func (r *reply) close() {
	if r.owned {
		for _, f := range r.files {
			f.Close()
		}
	}
	clear(r.files)
	r.files, r.owned = r.files[:0], false
}

// answer does what m asks for and tells its sender.
func (s *session) answer(m *message) error {
	if m.flags&typeMask != 0 {
		return &PeerError{m.command, "reply to a command that was not sent"}
	}
	if s.bus == nil && m.command != Version {
		return &PeerError{m.command, "comes before VERSION"}
	}
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		s.log.Debug("vfio-user command", "command", m.command, "id", m.id, "flags", m.flags, "size", m.size, "files", len(m.files))
	}
	s.reply.payload = s.reply.payload[:0]
	defer s.reply.close()
	err := s.handle(m)
	if err != nil {
		s.refused(m, err)
	}
	if m.flags&flagNoReply == 0 {
		if sent := s.send(m, err); sent != nil {
			return sent
		}
	}
	if s.bus == nil {
		return &PeerError{m.command, err.Error()}
	}
	return nil
}

// refused logs a refusal, and not too many of them where a user sees it.
func (s *session) refused(m *message, err error) {
	level := slog.LevelWarn
	if s.refusals++; s.refusals > maxWarnings {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "vfio-user command refused", "command", m.command, "err", err)
}

// send sends the reply that handle made, or err.
func (s *session) send(m *message, err error) error {
	h := header{id: m.id, command: m.command, flags: flagReply}
	if err != nil {
		return s.conn.refuse(m, errnoOf(err))
	}
	return s.conn.send(h, s.reply.payload, nil, s.reply.files...)
}

// handle does what m asks for.
func (s *session) handle(m *message) error {
	if allowed := m.command.files(); len(m.files) > allowed {
		return fmt.Errorf("%d descriptors; want at most %d", len(m.files), allowed)
	}
	switch m.command {
	case Version:
		return s.version(m)
	case DMAMap:
		return s.dmaMap(m)
	case DMAUnmap:
		return s.dmaUnmap(m)
	case GetInfo:
		return s.getInfo(m)
	case GetRegionInfo:
		return s.getRegionInfo(m)
	case GetRegionIO:
		return s.getRegionIO(m)
	case GetIRQInfo:
		return s.getIRQInfo(m)
	case SetIRQs:
		return s.setIRQs(m)
	case RegionRead:
		return s.regionRead(m)
	case RegionWrite:
		return s.regionWrite(m)
	case WriteMulti:
		return s.writeMulti(m)
	case Reset:
		return s.reset(m)
	case IRQSource:
		return s.source(m)
	}
	return unix.ENOSYS
}

// files returns how many descriptors may come with a command.
func (c Command) files() int {
	switch c {
	case DMAMap:
		return 1
	case SetIRQs:
		return maxFiles
	}
	return 0
}

// version is VERSION. QEMU takes no reply that is longer than its own request of 214
// bytes (vfio-user.md 3.2).
func (s *session) version(m *message) error {
	if s.bus != nil {
		return errors.New("comes a second time")
	}
	v, err := decodeVersion(m.payload)
	if err != nil {
		return err
	}
	if v.major != majorVersion {
		return fmt.Errorf("version %d.%d; want %d.x", v.major, v.minor, majorVersion)
	}
	s.peerFiles = int(min(v.capabilities.MaxFiles, maxFiles))
	s.attach()
	ours := version{majorVersion, minorVersion, capabilities{MaxTransfer: maxTransfer, MaxFiles: defaultFiles, WriteMulti: true}}
	s.reply.payload = ours.append(s.reply.payload)
	return nil
}

// dmaMap is DMA_MAP. What was there gives way: QEMU doesn't tell its guest about
// errors (vfio-user.md 4.2).
func (s *session) dmaMap(m *message) error {
	r, err := decodeDMAMap(m.payload)
	if err != nil {
		return err
	}
	last, err := r.last()
	if err != nil {
		return err
	}
	var f *fd.FD
	if len(m.files) > 0 {
		if r.offset > math.MaxInt64 || r.size > math.MaxInt64-r.offset {
			return fmt.Errorf("%#x bytes at %#x are no part of a file", r.size, r.offset)
		}
		f = m.take(0)
	}
	e := entry{first: r.address, last: last, off: r.offset, flags: r.flags & (dmaRead | dmaWrite)}
	replaced, err := s.bus.dma.add(e, f)
	if err == nil && replaced {
		s.model.Unmap(vfio.IOVA(e.first), vfio.IOVA(e.last))
	}
	return err
}

// dmaUnmap is DMA_UNMAP: it ends the mappings of a range, however many there are.
func (s *session) dmaUnmap(m *message) error {
	r, err := decodeDMAUnmap(m.payload)
	if err != nil {
		return err
	}
	first, last := uint64(0), uint64(math.MaxUint64)
	switch {
	case r.flags == 0:
		first = r.address
		if last, err = r.last(); err != nil {
			return err
		}
	case r.flags != dmaAll || r.address != 0 || r.size != 0:
		return fmt.Errorf("flags %#x, %#x bytes at %#x", r.flags, r.size, r.address)
	}
	removed, err := s.bus.dma.remove(first, last)
	if err != nil {
		return err
	}
	if removed {
		s.model.Unmap(vfio.IOVA(first), vfio.IOVA(last))
	}
	s.reply.payload = append(s.reply.payload, m.payload...)
	return nil
}

// getInfo is DEVICE_GET_INFO.
func (s *session) getInfo(m *message) error {
	if _, err := decodeDeviceInfo(m.payload); err != nil {
		return err
	}
	info := deviceInfo{flags: infoReset | infoPCI, regions: vfio.NumRegions, irqs: uint32(irqKinds)}
	s.reply.payload = info.append(s.reply.payload)
	return nil
}

// getRegionInfo is DEVICE_GET_REGION_INFO. A client without room for everything gets
// the length of everything, and asks again (vfio-user.md 5.2).
func (s *session) getRegionInfo(m *message) error {
	if err := wantSize(m.payload, regionInfoSize); err != nil {
		return err
	}
	ask, err := decodeRegionInfo(m.payload)
	if err != nil {
		return err
	}
	if ask.index >= vfio.NumRegions {
		return fmt.Errorf("region %d", ask.index)
	}
	r := &s.regions[ask.index]
	info := regionInfo{index: ask.index, size: uint64(r.Size)}
	if r.Size > 0 {
		info.flags = regionRead | regionWrite
	}
	mappable := r.File != nil && (r.Areas == nil || len(r.Areas) > 0)
	if mappable {
		info.flags |= regionMmap
		for _, a := range r.Areas {
			info.areas = append(info.areas, area{uint64(a.Offset), uint64(a.Size)})
		}
	}
	info.argsz = info.length()
	whole := info.argsz <= ask.argsz
	if mappable && whole {
		s.reply.files = append(s.reply.files, r.File)
	}
	s.reply.payload = info.append(s.reply.payload, whole)
	return nil
}

// getIRQInfo is DEVICE_GET_IRQ_INFO.
func (s *session) getIRQInfo(m *message) error {
	ask, err := decodeIRQInfo(m.payload)
	if err != nil {
		return err
	}
	if ask.index >= uint32(irqKinds) {
		return fmt.Errorf("interrupts of kind %d", ask.index)
	}
	info := irqInfo{flags: irqEventfd, index: ask.index, count: uint32(len(s.bus.irqs.kinds[ask.index]))}
	s.reply.payload = info.append(s.reply.payload)
	return nil
}

// setIRQs is DEVICE_SET_IRQS.
func (s *session) setIRQs(m *message) error {
	set, err := decodeIRQSet(m.payload)
	if err != nil {
		return err
	}
	return s.bus.irqs.set(set, m)
}

// check reports an error unless a lies within its region.
func (s *session) check(a access) error {
	if a.region >= vfio.NumRegions {
		return fmt.Errorf("region %d", a.region)
	}
	size := uint64(s.regions[a.region].Size)
	if a.count > maxTransfer || a.offset > size || uint64(a.count) > size-a.offset {
		return fmt.Errorf("%d bytes at %#x of region %d, which has %#x", a.count, a.offset, a.region, size)
	}
	return nil
}

// regionRead is REGION_READ.
func (s *session) regionRead(m *message) error {
	a, rest, err := decodeAccess(m.payload)
	if err != nil {
		return err
	}
	if err := errors.Join(wantSize(rest, 0), s.check(a)); err != nil {
		return err
	}
	s.reply.payload = a.append(s.reply.payload)
	s.reply.payload = append(s.reply.payload, make([]byte, a.count)...)
	s.pieces(a, s.reply.payload[accessSize:], s.model.Read)
	return nil
}

// regionWrite is REGION_WRITE.
func (s *session) regionWrite(m *message) error {
	a, data, err := decodeAccess(m.payload)
	if err != nil {
		return err
	}
	if err := errors.Join(wantSize(data, int(a.count)), s.check(a)); err != nil {
		return err
	}
	s.pieces(a, data, s.model.Write)
	s.reply.payload = a.append(s.reply.payload)
	return nil
}

// pieces makes accesses of p that a Model understands: those to BARs have at most 8
// bytes, and long ones are cut at multiples of 8.
func (s *session) pieces(a access, p []byte, do func(region int, p []byte, off int64)) {
	region, off := int(a.region), int64(a.offset)
	if len(p) <= 8 || region == vfio.ConfigRegion {
		if len(p) > 0 {
			do(region, p, off)
		}
		return
	}
	for len(p) > 0 {
		n := min(len(p), 8-int(off%8))
		do(region, p[:n:n], off)
		p, off = p[n:], off+int64(n)
	}
}

// writeMulti is REGION_WRITE_MULTI: writes of up to 8 bytes each, in order, up to the
// first one that is wrong (vfio-user.md 7.2).
func (s *session) writeMulti(m *message) error {
	if len(m.payload) < 8 {
		return wantSize(m.payload, 8)
	}
	n, rest := u64(m.payload, 0), m.payload[8:]
	if n > maxMessage/multiSize || len(rest) != int(n)*multiSize {
		return fmt.Errorf("%d writes in %d bytes", n, len(rest))
	}
	for ; len(rest) > 0; rest = rest[multiSize:] {
		a, data, err := decodeAccess(rest[:multiSize])
		if err != nil {
			return err
		}
		if a.count > multiData {
			return fmt.Errorf("write of %d bytes", a.count)
		}
		if err := s.check(a); err != nil {
			return err
		}
		s.pieces(a, data[:a.count], s.model.Write)
	}
	s.reply.payload = appendU64s(s.reply.payload, n)
	return nil
}

// reset is DEVICE_RESET. Memory and eventfds stay: they are the client's.
func (s *session) reset(m *message) error {
	if err := wantSize(m.payload, 0); err != nil {
		return err
	}
	s.bus.irqs.reset()
	s.model.Reset()
	return nil
}
