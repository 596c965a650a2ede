package vhostuser

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"vfiofs/virtio"
)

// A Code says what a message asks for.
type Code uint32

// Message codes, front-end to back-end (vhost-user, "Front-end message types").
const (
	GetFeatures         Code = 1  // VHOST_USER_GET_FEATURES, reply u64
	SetFeatures         Code = 2  // VHOST_USER_SET_FEATURES, payload u64
	SetOwner            Code = 3  // VHOST_USER_SET_OWNER
	ResetOwner          Code = 4  // VHOST_USER_RESET_OWNER, deprecated
	SetMemTable         Code = 5  // VHOST_USER_SET_MEM_TABLE, payload memory table, one fd per region
	SetLogBase          Code = 6  // VHOST_USER_SET_LOG_BASE, payload LogArea, one fd, empty reply
	SetLogFD            Code = 7  // VHOST_USER_SET_LOG_FD, one fd
	SetVringNum         Code = 8  // VHOST_USER_SET_VRING_NUM, payload VringState
	SetVringAddr        Code = 9  // VHOST_USER_SET_VRING_ADDR, payload VringAddr
	SetVringBase        Code = 10 // VHOST_USER_SET_VRING_BASE, payload VringState
	GetVringBase        Code = 11 // VHOST_USER_GET_VRING_BASE, payload and reply VringState; stops the ring
	SetVringKick        Code = 12 // VHOST_USER_SET_VRING_KICK, payload VringFile
	SetVringCall        Code = 13 // VHOST_USER_SET_VRING_CALL, payload VringFile
	SetVringErr         Code = 14 // VHOST_USER_SET_VRING_ERR, payload VringFile
	GetProtocolFeatures Code = 15 // VHOST_USER_GET_PROTOCOL_FEATURES, reply u64
	SetProtocolFeatures Code = 16 // VHOST_USER_SET_PROTOCOL_FEATURES, payload u64
	GetQueueNum         Code = 17 // VHOST_USER_GET_QUEUE_NUM, reply u64
	SetVringEnable      Code = 18 // VHOST_USER_SET_VRING_ENABLE, payload VringState
	SendRARP            Code = 19 // VHOST_USER_SEND_RARP
	SetMTU              Code = 20 // VHOST_USER_NET_SET_MTU
	SetBackendReqFD     Code = 21 // VHOST_USER_SET_BACKEND_REQ_FD, one fd
	IOTLB               Code = 22 // VHOST_USER_IOTLB_MSG
	SetVringEndian      Code = 23 // VHOST_USER_SET_VRING_ENDIAN
	GetConfig           Code = 24 // VHOST_USER_GET_CONFIG, payload and reply Config
	SetConfig           Code = 25 // VHOST_USER_SET_CONFIG, payload Config
	PostcopyAdvise      Code = 28 // VHOST_USER_POSTCOPY_ADVISE
	GetInflightFD       Code = 31 // VHOST_USER_GET_INFLIGHT_FD
	SetInflightFD       Code = 32 // VHOST_USER_SET_INFLIGHT_FD
	ResetDevice         Code = 34 // VHOST_USER_RESET_DEVICE
	VringKick           Code = 35 // VHOST_USER_VRING_KICK
	GetMaxMemSlots      Code = 36 // VHOST_USER_GET_MAX_MEM_SLOTS, reply u64
	AddMemReg           Code = 37 // VHOST_USER_ADD_MEM_REG, payload memory region, one fd
	RemMemReg           Code = 38 // VHOST_USER_REM_MEM_REG, payload memory region
	SetStatus           Code = 39 // VHOST_USER_SET_STATUS
	GetStatus           Code = 40 // VHOST_USER_GET_STATUS
	GetSharedObject     Code = 41 // VHOST_USER_GET_SHARED_OBJECT
	SetDeviceStateFD    Code = 42 // VHOST_USER_SET_DEVICE_STATE_FD
	CheckDeviceState    Code = 43 // VHOST_USER_CHECK_DEVICE_STATE
)

// String returns the specification's name without its VHOST_USER_ prefix.
func (c Code) String() string {
	names := [...]string{
		GetFeatures: "GET_FEATURES", SetFeatures: "SET_FEATURES", SetOwner: "SET_OWNER",
		ResetOwner: "RESET_OWNER", SetMemTable: "SET_MEM_TABLE", SetLogBase: "SET_LOG_BASE",
		SetLogFD: "SET_LOG_FD", SetVringNum: "SET_VRING_NUM", SetVringAddr: "SET_VRING_ADDR",
		SetVringBase: "SET_VRING_BASE", GetVringBase: "GET_VRING_BASE", SetVringKick: "SET_VRING_KICK",
		SetVringCall: "SET_VRING_CALL", SetVringErr: "SET_VRING_ERR",
		GetProtocolFeatures: "GET_PROTOCOL_FEATURES", SetProtocolFeatures: "SET_PROTOCOL_FEATURES",
		GetQueueNum: "GET_QUEUE_NUM", SetVringEnable: "SET_VRING_ENABLE", SendRARP: "SEND_RARP",
		SetMTU: "NET_SET_MTU", SetBackendReqFD: "SET_BACKEND_REQ_FD", IOTLB: "IOTLB_MSG",
		SetVringEndian: "SET_VRING_ENDIAN", GetConfig: "GET_CONFIG", SetConfig: "SET_CONFIG",
		PostcopyAdvise: "POSTCOPY_ADVISE", GetInflightFD: "GET_INFLIGHT_FD",
		SetInflightFD: "SET_INFLIGHT_FD", ResetDevice: "RESET_DEVICE", VringKick: "VRING_KICK",
		GetMaxMemSlots: "GET_MAX_MEM_SLOTS", AddMemReg: "ADD_MEM_REG", RemMemReg: "REM_MEM_REG",
		SetStatus: "SET_STATUS", GetStatus: "GET_STATUS", GetSharedObject: "GET_SHARED_OBJECT",
		SetDeviceStateFD: "SET_DEVICE_STATE_FD", CheckDeviceState: "CHECK_DEVICE_STATE",
	}
	if int64(c) < int64(len(names)) && names[c] != "" {
		return names[c]
	}
	return strconv.FormatUint(uint64(c), 10)
}

// bare reports whether messages of this kind are known to carry no descriptors.
func (c Code) bare() bool {
	switch c {
	case GetFeatures, SetFeatures, SetOwner, ResetOwner, SetVringNum, SetVringAddr, SetVringBase,
		GetVringBase, GetProtocolFeatures, SetProtocolFeatures, GetQueueNum, SetVringEnable,
		GetConfig, SetConfig, ResetDevice, GetMaxMemSlots:
		return true
	}
	return false
}

// hasReply reports whether the front-end waits for a reply of its own kind to this
// message, whatever NEED_REPLY says (vhost-user, "Communication").
func (c Code) hasReply() bool {
	switch c {
	case GetFeatures, GetVringBase, GetProtocolFeatures, GetQueueNum, GetConfig, GetMaxMemSlots,
		SetLogBase, PostcopyAdvise, GetInflightFD, GetStatus, GetSharedObject,
		SetDeviceStateFD, CheckDeviceState:
		return true
	}
	return false
}

// Feature bits that belong to vhost-user and not to virtio.
const (
	FeatureLogAll           virtio.Features = 1 << 26 // VHOST_F_LOG_ALL
	FeatureProtocolFeatures virtio.Features = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
)

// ProtocolFeatures are the bits of SET_PROTOCOL_FEATURES (vhost-user, "Protocol
// features").
type ProtocolFeatures uint64

// Protocol features that the back-end knows how to offer.
const (
	ProtocolMQ                ProtocolFeatures = 1 << 0  // VHOST_USER_PROTOCOL_F_MQ
	ProtocolLogShmFD          ProtocolFeatures = 1 << 1  // VHOST_USER_PROTOCOL_F_LOG_SHMFD
	ProtocolReplyAck          ProtocolFeatures = 1 << 3  // VHOST_USER_PROTOCOL_F_REPLY_ACK
	ProtocolBackendReq        ProtocolFeatures = 1 << 5  // VHOST_USER_PROTOCOL_F_BACKEND_REQ
	ProtocolConfig            ProtocolFeatures = 1 << 9  // VHOST_USER_PROTOCOL_F_CONFIG
	ProtocolBackendSendFD     ProtocolFeatures = 1 << 10 // VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD
	ProtocolResetDevice       ProtocolFeatures = 1 << 13 // VHOST_USER_PROTOCOL_F_RESET_DEVICE
	ProtocolConfigureMemSlots ProtocolFeatures = 1 << 15 // VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
)

// Flags is the second word of a message header (vhost-user, "Header").
type Flags uint32

// Header flags.
const (
	FlagVersion     Flags = 0x3 // mask of the version, which is 1
	FlagVersion1    Flags = 0x1
	FlagReply       Flags = 0x4 // the message answers a request
	FlagNeedReply   Flags = 0x8 // the sender wants an acknowledgement, with REPLY_ACK
	flagsUnassigned Flags = ^(FlagVersion | FlagReply | FlagNeedReply)
)

// Limits of messages.
const (
	HeaderSize = 12   // bytes of a header
	MaxPayload = 4096 // bytes of payload that are accepted after a header
	MaxFiles   = 32   // descriptors that are accepted with one message
)

// A Header starts every message (vhost-user, "Header"). 12 bytes. Fields are
// little-endian: the host's order on every machine that vfiofs runs on.
type Header struct {
	Code  Code
	Flags Flags
	Size  uint32 // bytes of payload that follow
}

// Append adds the encoded header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Code))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Flags))
	return binary.LittleEndian.AppendUint32(b, h.Size)
}

// DecodeHeader takes a header out of b, which holds HeaderSize bytes, and checks
// everything that can be checked without knowing the message.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) != HeaderSize {
		return Header{}, sizeError("header", len(b), HeaderSize)
	}
	h := Header{
		Code:  Code(binary.LittleEndian.Uint32(b)),
		Flags: Flags(binary.LittleEndian.Uint32(b[4:])),
		Size:  binary.LittleEndian.Uint32(b[8:]),
	}
	switch {
	case h.Flags&FlagVersion != FlagVersion1:
		return h, fmt.Errorf("header flags %#x: version is not 1", uint32(h.Flags))
	case h.Flags&flagsUnassigned != 0:
		return h, fmt.Errorf("header flags %#x: reserved bits are set", uint32(h.Flags))
	case h.Size > MaxPayload:
		return h, fmt.Errorf("payload of %d bytes is longer than %d", h.Size, MaxPayload)
	}
	return h, nil
}

// sizeError says that a payload has the wrong length.
func sizeError(what string, got, want int) error {
	return fmt.Errorf("%s of %d bytes; want %d", what, got, want)
}
