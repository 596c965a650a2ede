package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"vfiofs/virtio/guestmem"
)

// A FrontAddr is an address in the front-end's process: what SET_VRING_ADDR and
// the memory table hold. It is neither a guest-physical address nor one of ours.
type FrontAddr uint64

// AppendU64 adds the payload of messages that carry one number.
func AppendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

// DecodeU64 takes the number out of a payload of one number.
func DecodeU64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, sizeError("number", len(b), 8)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// A Region describes guest memory (vhost-user, "Memory region description").
// 32 bytes.
type Region struct {
	GPA    guestmem.GPA // where the guest sees it
	Size   uint64       // bytes, not 0
	Addr   FrontAddr    // where the front-end sees it
	Offset uint64       // bytes from the start of the file behind it
}

const regionSize = 32

// check reports whether the region's numbers make sense on their own.
func (r Region) check() error {
	switch {
	case r.Size == 0:
		return errors.New("size is 0")
	case uint64(r.GPA) > math.MaxUint64-r.Size:
		return fmt.Errorf("guest address %#x + size %#x overflows", uint64(r.GPA), r.Size)
	case uint64(r.Addr) > math.MaxUint64-r.Size:
		return fmt.Errorf("front-end address %#x + size %#x overflows", uint64(r.Addr), r.Size)
	case r.Offset > math.MaxInt64 || r.Size > math.MaxInt64-r.Offset:
		return fmt.Errorf("file offset %#x + size %#x overflows", r.Offset, r.Size)
	}
	return nil
}

// append adds the encoded region to b.
func (r Region) append(b []byte) []byte {
	b = AppendU64(b, uint64(r.GPA))
	b = AppendU64(b, r.Size)
	b = AppendU64(b, uint64(r.Addr))
	return AppendU64(b, r.Offset)
}

// decodeRegion takes a region out of the first 32 bytes of b.
func decodeRegion(b []byte) (Region, error) {
	r := Region{
		GPA:    guestmem.GPA(binary.LittleEndian.Uint64(b)),
		Size:   binary.LittleEndian.Uint64(b[8:]),
		Addr:   FrontAddr(binary.LittleEndian.Uint64(b[16:])),
		Offset: binary.LittleEndian.Uint64(b[24:]),
	}
	return r, r.check()
}

// MaxRegions is the number of regions that SET_MEM_TABLE may carry. The
// specification says 8; messages without descriptors (virtio-vhost-user) are known
// to carry more.
const MaxRegions = 32

// AppendMemTable adds the payload of SET_MEM_TABLE (vhost-user, "Multiple Memory
// regions description"): a count, 4 bytes of padding and the regions.
func AppendMemTable(b []byte, regions []Region) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(regions)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	for _, r := range regions {
		b = r.append(b)
	}
	return b
}

// DecodeMemTable takes the regions out of the payload of SET_MEM_TABLE. Each is
// sound on its own; they may still overlap.
func DecodeMemTable(b []byte) ([]Region, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes; want at least 8", len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > MaxRegions {
		return nil, fmt.Errorf("memory table of %d regions; want 1 to %d", n, MaxRegions)
	}
	b = b[8:]
	if len(b) != int(n)*regionSize {
		return nil, sizeError(fmt.Sprintf("memory table of %d regions", n), len(b), int(n)*regionSize)
	}
	regions := make([]Region, n)
	for i := range regions {
		var err error
		if regions[i], err = decodeRegion(b[i*regionSize:]); err != nil {
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
	}
	return regions, nil
}

// AppendMemReg adds the payload of ADD_MEM_REG and REM_MEM_REG (vhost-user, "Single
// memory region description"): 8 bytes of padding and a region.
func AppendMemReg(b []byte, r Region) []byte { return r.append(AppendU64(b, 0)) }

// DecodeMemReg takes the region out of the payload of ADD_MEM_REG and REM_MEM_REG.
func DecodeMemReg(b []byte) (Region, error) {
	if len(b) != 8+regionSize {
		return Region{}, sizeError("memory region", len(b), 8+regionSize)
	}
	return decodeRegion(b[8:])
}

// A LogArea is the payload of SET_LOG_BASE (vhost-user, "Log description"). 16 bytes.
type LogArea struct {
	Size   uint64 // bytes of the bitmap
	Offset uint64 // bytes from the start of the file behind it
}

// Append adds the encoded payload to b.
func (l LogArea) Append(b []byte) []byte { return AppendU64(AppendU64(b, l.Size), l.Offset) }

// DecodeLogArea takes a LogArea out of a payload.
func DecodeLogArea(b []byte) (LogArea, error) {
	if len(b) != 16 {
		return LogArea{}, sizeError("log description", len(b), 16)
	}
	l := LogArea{Size: binary.LittleEndian.Uint64(b), Offset: binary.LittleEndian.Uint64(b[8:])}
	if err := l.region().check(); err != nil {
		return LogArea{}, fmt.Errorf("log description: %w", err)
	}
	return l, nil
}

// region describes the bitmap as memory that nobody but us has an address for.
func (l LogArea) region() Region { return Region{Size: l.Size, Offset: l.Offset} }

// A VringState is the payload of messages that give one number to one ring
// (vhost-user, "A vring state description"). 8 bytes.
type VringState struct {
	Index uint32 // which ring
	Num   uint32 // its size, its next available index, or whether it is enabled
}

// Append adds the encoded payload to b.
func (s VringState) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, s.Index)
	return binary.LittleEndian.AppendUint32(b, s.Num)
}

// DecodeVringState takes a VringState out of a payload.
func DecodeVringState(b []byte) (VringState, error) {
	if len(b) != 8 {
		return VringState{}, sizeError("ring state", len(b), 8)
	}
	return VringState{Index: binary.LittleEndian.Uint32(b), Num: binary.LittleEndian.Uint32(b[4:])}, nil
}

// A VringAddr is the payload of SET_VRING_ADDR (vhost-user, "A vring address
// description"). 40 bytes; on the wire, used comes before avail.
type VringAddr struct {
	Index uint32
	Flags uint32 // VringLog
	Desc  FrontAddr
	Used  FrontAddr
	Avail FrontAddr
	Log   guestmem.GPA // where the used ring counts as written, with VringLog
}

// VringLog in VringAddr.Flags asks for writes to the used ring to be logged
// (VHOST_VRING_F_LOG).
const VringLog = 1 << 0

// Append adds the encoded payload to b.
func (a VringAddr) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, a.Index)
	b = binary.LittleEndian.AppendUint32(b, a.Flags)
	b = AppendU64(b, uint64(a.Desc))
	b = AppendU64(b, uint64(a.Used))
	b = AppendU64(b, uint64(a.Avail))
	return AppendU64(b, uint64(a.Log))
}

// DecodeVringAddr takes a VringAddr out of a payload. Its addresses are aligned as
// virtio 1.3, 2.7 demands; they may still lie nowhere.
func DecodeVringAddr(b []byte) (VringAddr, error) {
	if len(b) != 40 {
		return VringAddr{}, sizeError("ring addresses", len(b), 40)
	}
	a := VringAddr{
		Index: binary.LittleEndian.Uint32(b),
		Flags: binary.LittleEndian.Uint32(b[4:]),
		Desc:  FrontAddr(binary.LittleEndian.Uint64(b[8:])),
		Used:  FrontAddr(binary.LittleEndian.Uint64(b[16:])),
		Avail: FrontAddr(binary.LittleEndian.Uint64(b[24:])),
		Log:   guestmem.GPA(binary.LittleEndian.Uint64(b[32:])),
	}
	switch {
	case a.Flags&^VringLog != 0:
		return a, fmt.Errorf("ring flags %#x: unknown bits are set", a.Flags)
	case a.Desc%descAlign != 0:
		return a, fmt.Errorf("descriptor table at %#x is not aligned to %d", uint64(a.Desc), descAlign)
	case a.Avail%availAlign != 0:
		return a, fmt.Errorf("available ring at %#x is not aligned to %d", uint64(a.Avail), availAlign)
	case a.Used%usedAlign != 0:
		return a, fmt.Errorf("used ring at %#x is not aligned to %d", uint64(a.Used), usedAlign)
	}
	return a, nil
}

// A VringFile is the payload of SET_VRING_KICK, _CALL and _ERR (vhost-user, "A vring
// descriptor index"). 8 bytes: the ring in bits 0 to 7, NoFD in bit 8. The other
// bits are reserved and ignored.
type VringFile struct {
	Index uint8
	NoFD  bool // no descriptor comes along
}

// Append adds the encoded payload to b.
func (f VringFile) Append(b []byte) []byte {
	v := uint64(f.Index)
	if f.NoFD {
		v |= 1 << 8
	}
	return AppendU64(b, v)
}

// DecodeVringFile takes a VringFile out of a payload.
func DecodeVringFile(b []byte) (VringFile, error) {
	v, err := DecodeU64(b)
	return VringFile{Index: uint8(v), NoFD: v&(1<<8) != 0}, err
}

// A Config is the payload of GET_CONFIG and SET_CONFIG and the reply to the former
// (vhost-user, "Virtio device config space"). 12 bytes and Data.
type Config struct {
	Offset uint32 // bytes from the start of configuration space
	Size   uint32 // bytes wanted, or len(Data)
	Flags  uint32
	Data   []byte // aliases the payload it was decoded from
}

const configHeaderSize = 12

// maxConfig is the end of the configuration space that messages can reach
// (VHOST_USER_MAX_CONFIG_SIZE).
const maxConfig = 256

// Append adds the encoded payload to b.
func (c Config) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, c.Offset)
	b = binary.LittleEndian.AppendUint32(b, c.Size)
	b = binary.LittleEndian.AppendUint32(b, c.Flags)
	return append(b, c.Data...)
}

// DecodeConfig takes a Config out of a payload. Whether Offset and Size lie within
// reach is a question of its own: see Valid.
func DecodeConfig(b []byte) (Config, error) {
	if len(b) < configHeaderSize {
		return Config{}, fmt.Errorf("configuration access of %d bytes; want at least %d", len(b), configHeaderSize)
	}
	return Config{
		Offset: binary.LittleEndian.Uint32(b),
		Size:   binary.LittleEndian.Uint32(b[4:]),
		Flags:  binary.LittleEndian.Uint32(b[8:]),
		Data:   b[configHeaderSize:],
	}, nil
}

// Valid reports whether the access lies within the 256 bytes of configuration space
// and comes with as much data as it says.
func (c Config) Valid() bool {
	return c.Size >= 1 && c.Size <= maxConfig && c.Offset <= maxConfig-c.Size && int(c.Size) == len(c.Data)
}
