package vfiouser

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Command says what a message asks for (vfio-user.md section 2).
type Command uint16

// Commands. All but DMARead and DMAWrite go from client to server.
const (
	Version       Command = 1  // VFIO_USER_VERSION, comes first
	DMAMap        Command = 2  // VFIO_USER_DMA_MAP, at most one descriptor
	DMAUnmap      Command = 3  // VFIO_USER_DMA_UNMAP, reply is the request
	GetInfo       Command = 4  // VFIO_USER_DEVICE_GET_INFO
	GetRegionInfo Command = 5  // VFIO_USER_DEVICE_GET_REGION_INFO, descriptor in the reply
	GetRegionIO   Command = 6  // VFIO_USER_DEVICE_GET_REGION_IO_FDS
	GetIRQInfo    Command = 7  // VFIO_USER_DEVICE_GET_IRQ_INFO
	SetIRQs       Command = 8  // VFIO_USER_DEVICE_SET_IRQS, one descriptor per vector or none
	RegionRead    Command = 9  // VFIO_USER_REGION_READ
	RegionWrite   Command = 10 // VFIO_USER_REGION_WRITE
	DMARead       Command = 11 // VFIO_USER_DMA_READ, server to client
	DMAWrite      Command = 12 // VFIO_USER_DMA_WRITE, server to client
	Reset         Command = 13 // VFIO_USER_DEVICE_RESET
	WriteMulti    Command = 15 // VFIO_USER_REGION_WRITE_MULTI

	IRQSource Command = 240 // our own, far from the protocol's: the eventfd behind an interrupt
)

// commandNames holds the names of commands in the specification.
var commandNames = [...]string{
	Version: "VERSION", DMAMap: "DMA_MAP", DMAUnmap: "DMA_UNMAP", GetInfo: "DEVICE_GET_INFO",
	GetRegionInfo: "DEVICE_GET_REGION_INFO", GetRegionIO: "DEVICE_GET_REGION_IO_FDS",
	GetIRQInfo: "DEVICE_GET_IRQ_INFO", SetIRQs: "DEVICE_SET_IRQS", RegionRead: "REGION_READ",
	RegionWrite: "REGION_WRITE", DMARead: "DMA_READ", DMAWrite: "DMA_WRITE",
	Reset: "DEVICE_RESET", WriteMulti: "REGION_WRITE_MULTI",
}

// String returns the command's name in the specification, or its number.
func (c Command) String() string {
	switch {
	case int(c) < len(commandNames) && commandNames[c] != "":
		return commandNames[c]
	case c == IRQSource:
		return "IRQ_SOURCE"
	}
	return "command " + strconv.Itoa(int(c))
}

// headerSize is the length of a header in bytes.
const headerSize = 16

// Flags of a header (vfio-user.md 1.1).
const (
	flagReply   = 0x01 // the type, bits 0 to 3, is reply and not command
	flagNoReply = 0x10 // the sender of a command wants no reply
	flagError   = 0x20 // a reply without payload, but with an errno
	typeMask    = 0x0f
)

// A header begins each message (vfio-user.md 1.1).
type header struct {
	id      uint16 // chosen by the sender of the command
	command Command
	size    uint32 // of the message with its header, in bytes
	flags   uint32
	errno   uint32 // with flagError
}

// append adds the header to b.
func (h header) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, h.id)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.command))
	return appendU32s(b, h.size, h.flags, h.errno)
}

// decodeHeader decodes headerSize bytes.
func decodeHeader(b []byte) header {
	return header{
		id:      binary.LittleEndian.Uint16(b),
		command: Command(binary.LittleEndian.Uint16(b[2:])),
		size:    u32(b, 4),
		flags:   u32(b, 8),
		errno:   u32(b, 12),
	}
}

// u32 and u64 decode a number at an offset.
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

// appendU32s adds numbers to b.
func appendU32s(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// appendU64s adds numbers to b.
func appendU64s(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// wantSize reports an error unless a payload has exactly n bytes.
func wantSize(b []byte, n int) error {
	if len(b) != n {
		return fmt.Errorf("payload has %d bytes; want %d", len(b), n)
	}
	return nil
}

// wantArgs is wantSize for payloads that begin with argsz: the room that their sender
// has for the reply, or the length of what is sent.
func wantArgs(b []byte, n int) error {
	if err := wantSize(b, n); err != nil {
		return err
	}
	if argsz := u32(b, 0); argsz < uint32(n) {
		return fmt.Errorf("argsz is %d; want at least %d", argsz, n)
	}
	return nil
}

// The version that both sides of this package speak (vfio-user.md section 3).
const (
	majorVersion = 0
	minorVersion = 0
)

// Capabilities of VERSION. What a peer leaves out has its default (vfio-user.md 3.2).
type capabilities struct {
	MaxTransfer uint64 `json:"max_data_xfer_size"` // bytes in one access
	MaxFiles    uint64 `json:"max_msg_fds"`        // descriptors in one message
	WriteMulti  bool   `json:"write_multiple"`     // REGION_WRITE_MULTI is known
}

// A version is the payload of VERSION and of its reply.
type version struct {
	major, minor uint16
	capabilities capabilities
}

// append adds the payload to b. JSON ends in a NUL.
func (v version) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, v.major)
	b = binary.LittleEndian.AppendUint16(b, v.minor)
	b = fmt.Appendf(b, `{"capabilities":{"max_data_xfer_size":%d,"max_msg_fds":%d,"write_multiple":%t}}`,
		v.capabilities.MaxTransfer, v.capabilities.MaxFiles, v.capabilities.WriteMulti)
	return append(b, 0)
}

// decodeVersion decodes a payload, with or without JSON and NUL.
func decodeVersion(b []byte) (version, error) {
	if len(b) < 4 {
		return version{}, fmt.Errorf("payload has %d bytes; want at least 4", len(b))
	}
	v := version{major: binary.LittleEndian.Uint16(b), minor: binary.LittleEndian.Uint16(b[2:])}
	body := struct {
		Capabilities capabilities `json:"capabilities"`
	}{capabilities{MaxTransfer: defaultTransfer, MaxFiles: defaultFiles}}
	if text := bytes.TrimSuffix(b[4:], []byte{0}); len(text) > 0 {
		if err := json.Unmarshal(text, &body); err != nil {
			return v, fmt.Errorf("capabilities: %w", err)
		}
	}
	v.capabilities = body.Capabilities
	return v, nil
}

// A deviceInfo is the payload of GET_INFO and of its reply (vfio-user.md 5.1).
type deviceInfo struct{ flags, regions, irqs uint32 }

// Flags of deviceInfo.
const (
	infoReset = 1 // DEVICE_RESET works
	infoPCI   = 2 // a PCI function, as all of ours
)

const infoSize = 16

func (d deviceInfo) append(b []byte) []byte {
	return appendU32s(b, infoSize, d.flags, d.regions, d.irqs)
}

func decodeDeviceInfo(b []byte) (deviceInfo, error) {
	if err := wantArgs(b, infoSize); err != nil {
		return deviceInfo{}, err
	}
	return deviceInfo{flags: u32(b, 4), regions: u32(b, 8), irqs: u32(b, 12)}, nil
}

// An irqInfo is the payload of GET_IRQ_INFO and of its reply (vfio-user.md 5.3).
type irqInfo struct{ flags, index, count uint32 }

// irqEventfd says that interrupts signal eventfds.
const irqEventfd = 1

func (i irqInfo) append(b []byte) []byte {
	return appendU32s(b, infoSize, i.flags, i.index, i.count)
}

func decodeIRQInfo(b []byte) (irqInfo, error) {
	if err := wantArgs(b, infoSize); err != nil {
		return irqInfo{}, err
	}
	return irqInfo{flags: u32(b, 4), index: u32(b, 8), count: u32(b, 12)}, nil
}

// Flags of an irqSet: what data comes with it, and what it does (vfio-user.md section 6).
const (
	irqNone    = 1  // no data: all vectors
	irqBool    = 2  // a byte per vector
	irqEvents  = 4  // descriptors, one per vector or none at all
	irqMask    = 8  // hold interrupts back
	irqUnmask  = 16 // stop holding them back
	irqTrigger = 32 // raise them, or have them signal eventfds
)

// An irqSet is the payload of SET_IRQS.
type irqSet struct {
	flags, index, start, count uint32
	data                       []byte // with irqBool
}

const irqSetSize = 20

func (s irqSet) append(b []byte) []byte {
	b = appendU32s(b, uint32(irqSetSize+len(s.data)), s.flags, s.index, s.start, s.count)
	return append(b, s.data...)
}

// decodeIRQSet leaves data borrowed from b.
func decodeIRQSet(b []byte) (irqSet, error) {
	if len(b) < irqSetSize {
		return irqSet{}, fmt.Errorf("payload has %d bytes; want at least %d", len(b), irqSetSize)
	}
	if err := wantArgs(b[:irqSetSize], irqSetSize); err != nil {
		return irqSet{}, err
	}
	return irqSet{flags: u32(b, 4), index: u32(b, 8), start: u32(b, 12), count: u32(b, 16), data: b[irqSetSize:]}, nil
}

// Flags of a dmaRange in DMA_MAP and in DMA_UNMAP (vfio-user.md section 4).
const (
	dmaRead  = 1 // DMA_MAP: the device may read
	dmaWrite = 2 // DMA_MAP: the device may write
	dmaAll   = 2 // DMA_UNMAP: everything; address and size are 0
)

// A dmaRange is the payload of DMA_MAP, and without the offset that of DMA_UNMAP.
type dmaRange struct {
	flags                 uint32
	offset, address, size uint64 // offset: in the file that comes along
}

const (
	dmaMapSize   = 32
	dmaUnmapSize = 24
)

func (d dmaRange) appendMap(b []byte) []byte {
	return appendU64s(appendU32s(b, dmaMapSize, d.flags), d.offset, d.address, d.size)
}

func (d dmaRange) appendUnmap(b []byte) []byte {
	return appendU64s(appendU32s(b, dmaUnmapSize, d.flags), d.address, d.size)
}

func decodeDMAMap(b []byte) (dmaRange, error) {
	if err := wantArgs(b, dmaMapSize); err != nil {
		return dmaRange{}, err
	}
	return dmaRange{flags: u32(b, 4), offset: u64(b, 8), address: u64(b, 16), size: u64(b, 24)}, nil
}

func decodeDMAUnmap(b []byte) (dmaRange, error) {
	if err := wantArgs(b, dmaUnmapSize); err != nil {
		return dmaRange{}, err
	}
	return dmaRange{flags: u32(b, 4), address: u64(b, 8), size: u64(b, 16)}, nil
}

// last returns the last address of the range, unless it has none or wraps.
func (d dmaRange) last() (uint64, error) {
	last := d.address + d.size - 1
	if d.size == 0 || last < d.address {
		return 0, fmt.Errorf("%#x bytes at %#x are no range of addresses: %w", d.size, d.address, unix.EINVAL)
	}
	return last, nil
}

// An access begins the payload of REGION_READ and REGION_WRITE (vfio-user.md section
// 7), of DMA_READ and of DMA_WRITE (section 8).
type access struct {
	offset uint64 // in the region, or an IOVA
	region uint32
	count  uint32 // bytes
}

const accessSize = 16

func (a access) append(b []byte) []byte {
	return appendU32s(appendU64s(b, a.offset), a.region, a.count)
}

// decodeAccess returns what follows the access beside it, borrowed from b.
func decodeAccess(b []byte) (access, []byte, error) {
	if len(b) < accessSize {
		return access{}, nil, fmt.Errorf("payload has %d bytes; want at least %d", len(b), accessSize)
	}
	return access{offset: u64(b, 0), region: u32(b, 8), count: u32(b, 12)}, b[accessSize:], nil
}

// A dmaAccess begins the payload of DMA_READ and DMA_WRITE (vfio-user.md section 8).
type dmaAccess struct{ address, count uint64 }

func (a dmaAccess) append(b []byte) []byte { return appendU64s(b, a.address, a.count) }

// decodeDMAAccess returns what follows the access beside it, borrowed from b.
func decodeDMAAccess(b []byte) (dmaAccess, []byte, error) {
	if len(b) < accessSize {
		return dmaAccess{}, nil, fmt.Errorf("payload has %d bytes; want at least %d", len(b), accessSize)
	}
	return dmaAccess{address: u64(b, 0), count: u64(b, 8)}, b[accessSize:], nil
}

// Entries of REGION_WRITE_MULTI (vfio-user.md 7.2).
const (
	multiSize = 24 // an access and multiData bytes
	multiData = 8
)
