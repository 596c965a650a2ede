package vhostuser

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfiofs/internal/testkit"
	"vfiofs/virtio"
)

// message returns a whole encoded message.
func message(code Code, flags Flags, payload []byte) []byte {
	return append(Header{code, flags, uint32(len(payload))}.Append(nil), payload...)
}

// TestGolden compares encodings with bytes written by hand. The layouts are those of
// the vhost-user protocol, "Message Specification".
func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{
			"GET_FEATURES", message(GetFeatures, FlagVersion1, nil),
			"01000000 01000000 00000000",
		},
		{
			"GET_FEATURES reply", message(GetFeatures, FlagVersion1|FlagReply, AppendU64(nil, 0x170000000)),
			"01000000 05000000 08000000 0000007001000000",
		},
		{
			"SET_FEATURES", message(SetFeatures, FlagVersion1, AppendU64(nil, 0x160000000)),
			"02000000 01000000 08000000 0000006001000000",
		},
		{
			"SET_OWNER", message(SetOwner, FlagVersion1, nil),
			"03000000 01000000 00000000",
		},
		{"SET_MEM_TABLE", message(SetMemTable, FlagVersion1, AppendMemTable(nil, []Region{
			{GPA: 0, Size: 0xa0000, Addr: 0x7f1200000000, Offset: 0},
			{GPA: 0x100000000, Size: 0x80000000, Addr: 0x7f1280000000, Offset: 0x80000000},
		})), "05000000 01000000 48000000" +
			"02000000 00000000" + // count, padding
			"0000000000000000 00000a0000000000 00000000127f0000 0000000000000000" + // gpa, size, address, offset
			"0000000001000000 0000008000000000 00000080127f0000 0000008000000000"},
		{
			"SET_LOG_BASE", message(SetLogBase, FlagVersion1, LogArea{Size: 0x28000, Offset: 0x1000}.Append(nil)),
			"06000000 01000000 10000000 0080020000000000 0010000000000000",
		},
		{
			"SET_VRING_NUM", message(SetVringNum, FlagVersion1, VringState{1, 128}.Append(nil)),
			"08000000 01000000 08000000 01000000 80000000",
		},
		{"SET_VRING_ADDR", message(SetVringAddr, FlagVersion1, VringAddr{
			Index: 1, Flags: VringLog, Desc: 0x7f1201000000, Used: 0x7f1201003000, Avail: 0x7f1201002000, Log: 0x1003000,
		}.Append(nil)), "09000000 01000000 28000000 01000000 01000000" +
			"00000001127f0000 00300001127f0000 00200001127f0000 0030000100000000"}, // desc, used, avail, log
		{
			"GET_VRING_BASE", message(GetVringBase, FlagVersion1, VringState{Index: 1}.Append(nil)),
			"0b000000 01000000 08000000 01000000 00000000",
		},
		{
			"GET_VRING_BASE reply", message(GetVringBase, FlagVersion1|FlagReply, VringState{1, 0x55}.Append(nil)),
			"0b000000 05000000 08000000 01000000 55000000",
		},
		{
			"SET_VRING_KICK", message(SetVringKick, FlagVersion1, VringFile{Index: 1}.Append(nil)),
			"0c000000 01000000 08000000 0100000000000000",
		},
		{
			"SET_VRING_CALL none", message(SetVringCall, FlagVersion1, VringFile{Index: 1, NoFD: true}.Append(nil)),
			"0d000000 01000000 08000000 0101000000000000",
		},
		{
			"SET_VRING_ENABLE with NEED_REPLY", message(SetVringEnable, FlagVersion1|FlagNeedReply, VringState{1, 1}.Append(nil)),
			"12000000 09000000 08000000 01000000 01000000",
		},
		{
			"GET_CONFIG", message(GetConfig, FlagVersion1, Config{Offset: 36, Size: 4, Flags: 1, Data: make([]byte, 4)}.Append(nil)),
			"18000000 01000000 10000000 24000000 04000000 01000000 00000000",
		},
		{
			"ADD_MEM_REG", message(AddMemReg, FlagVersion1, AppendMemReg(nil, Region{GPA: 1, Size: 2, Addr: 3, Offset: 4})),
			"25000000 01000000 28000000 0000000000000000" + // padding
				"0100000000000000 0200000000000000 0300000000000000 0400000000000000",
		},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
		testkit.Check(t, err)
		if !bytes.Equal(tt.got, want) {
			t.Errorf("%s = %x; want %x", tt.name, tt.got, want)
		}
	}
}

// TestNumbers compares what goes over the wire with numbers typed from the
// specification.
func TestNumbers(t *testing.T) {
	for _, tt := range []struct {
		got, want uint64
	}{
		{uint64(FeatureLogAll), 1 << 26},
		{uint64(FeatureProtocolFeatures), 0x40000000},
		{uint64(ProtocolMQ | ProtocolLogShmFD | ProtocolReplyAck | ProtocolBackendReq | ProtocolConfig |
			ProtocolBackendSendFD | ProtocolResetDevice | ProtocolConfigureMemSlots), 0xa62b},
		{uint64(ResetDevice), 34},
		{uint64(GetMaxMemSlots), 36},
		{uint64(RemMemReg), 38},
		{uint64(SetBackendReqFD), 21},
		{uint64(SetConfig), 25},
		{uint64(GetInflightFD), 31},
	} {
		if tt.got != tt.want {
			t.Errorf("number = %#x; want %#x", tt.got, tt.want)
		}
	}
	for code, want := range map[Code]string{
		GetFeatures: "GET_FEATURES", CheckDeviceState: "CHECK_DEVICE_STATE", 0: "0", 26: "26", 99: "99", 1 << 31: "2147483648",
	} {
		if got := code.String(); got != want {
			t.Errorf("Code(%d) = %q; want %q", uint32(code), got, want)
		}
	}
}

// TestDecodeErrors gives each decoder something wrong.
func TestDecodeErrors(t *testing.T) {
	header := func(b []byte) error { _, err := DecodeHeader(b); return err }
	table := func(b []byte) error { _, err := DecodeMemTable(b); return err }
	reg := func(b []byte) error { _, err := DecodeMemReg(b); return err }
	addr := func(b []byte) error { _, err := DecodeVringAddr(b); return err }
	log := func(b []byte) error { _, err := DecodeLogArea(b); return err }
	region := func(r Region) []byte { return AppendMemReg(nil, r) }
	const top = 1<<64 - 0x1000
	for _, tt := range []struct {
		name   string
		decode func([]byte) error
		b      []byte
		want   string
	}{
		{"short header", header, make([]byte, 11), "11 bytes"},
		{"version 0", header, Header{GetFeatures, 0, 0}.Append(nil), "version"},
		{"version 2", header, Header{GetFeatures, 2, 0}.Append(nil), "version"},
		{"reserved flag", header, Header{GetFeatures, 0x11, 0}.Append(nil), "reserved"},
		{"H208 message of 5000 bytes", header, Header{GetFeatures, 1, 5000}.Append(nil), "longer than 4096"},
		{"short table", table, make([]byte, 7), "7 bytes"},
		{"no regions", table, AppendMemTable(nil, nil), "0 regions"},
		{"33 regions", table, AppendMemTable(nil, make([]Region, 33)), "33 regions"},
		{"2 regions, 1 there", table, AppendMemTable(nil, make([]Region, 2))[:8+32], "32 bytes; want 64"},
		{"region in a table", table, AppendMemTable(nil, []Region{{Size: 1}, {}}), "region 1: size is 0"},
		{"short region", reg, make([]byte, 39), "39 bytes"},
		{"empty region", reg, region(Region{GPA: 1, Addr: 2}), "size is 0"},
		{"guest address wraps", reg, region(Region{GPA: top, Size: 0x2000}), "guest address"},
		{"front-end address wraps", reg, region(Region{Addr: top, Size: 0x2000}), "front-end address"},
		{"offset wraps", reg, region(Region{Offset: top, Size: 0x2000}), "file offset"},
		{"offset has no place in a file", reg, region(Region{Offset: 1<<63 - 0x1000, Size: 0x2000}), "file offset"},
		{"short addresses", addr, make([]byte, 39), "39 bytes"},
		{"unknown ring flag", addr, VringAddr{Flags: 2}.Append(nil), "flags 0x2"},
		{"unaligned descriptors", addr, VringAddr{Desc: 8}.Append(nil), "descriptor table at 0x8"},
		{"unaligned available ring", addr, VringAddr{Avail: 1}.Append(nil), "available ring at 0x1"},
		{"unaligned used ring", addr, VringAddr{Used: 2}.Append(nil), "used ring at 0x2"},
		{"short log", log, make([]byte, 15), "15 bytes"},
		{"empty log", log, make([]byte, 16), "size is 0"},
		{"number", func(b []byte) error { _, err := DecodeU64(b); return err }, make([]byte, 9), "9 bytes"},
		{"ring state", func(b []byte) error { _, err := DecodeVringState(b); return err }, make([]byte, 4), "4 bytes"},
		{"ring file", func(b []byte) error { _, err := DecodeVringFile(b); return err }, nil, "0 bytes"},
		{"config", func(b []byte) error { _, err := DecodeConfig(b); return err }, make([]byte, 11), "11 bytes"},
	} {
		if err := tt.decode(tt.b); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v; want one about %q", tt.name, err, tt.want)
		}
	}
}

// TestOffers wants only what works over a link to be offered.
func TestOffers(t *testing.T) {
	dev := newEchoDevice()
	b := NewBackend(dev, Options{})
	virtioBits := virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc
	files, bare := NewSocket(nil), bareLink{}
	if got, want := b.features(files), virtioBits|FeatureProtocolFeatures|FeatureLogAll; got != want {
		t.Errorf("features over a socket = %#x; want %#x", got, want)
	}
	if got, want := b.features(bare), virtioBits|FeatureProtocolFeatures; got != want {
		t.Errorf("features without files = %#x; want %#x", got, want)
	}
	if got, want := b.protocolFeatures(files), ProtocolFeatures(0xa62b); got != want {
		t.Errorf("protocol features over a socket = %#x; want %#x", got, want)
	}
	if got, want := b.protocolFeatures(bare), ProtocolMQ|ProtocolReplyAck|ProtocolResetDevice|ProtocolConfig; got != want {
		t.Errorf("protocol features without files = %#x; want %#x", got, want)
	}
	dev.config = nil
	if got := b.protocolFeatures(files); got&ProtocolConfig != 0 {
		t.Errorf("protocol features of a device without configuration space = %#x; want no CONFIG", got)
	}
}

// A bareLink passes no files.
type bareLink struct{ Link }

func (bareLink) PassesFiles() bool { return false }

// FuzzPayloads wants decoders not to panic, and what they accept to survive encoding.
func FuzzPayloads(f *testing.F) {
	f.Add(AppendU64(nil, 0x101))
	f.Add(VringAddr{Index: 1, Flags: 1, Desc: 0x10, Used: 4, Avail: 2, Log: 9}.Append(nil))
	f.Add(AppendMemTable(nil, []Region{{1, 2, 3, 4}, {5, 6, 7, 8}}))
	f.Add(AppendMemReg(nil, Region{1, 2, 3, 4}))
	f.Add(LogArea{4096, 0}.Append(nil))
	f.Add(Config{36, 4, 0, []byte{1, 0, 0, 0}}.Append(nil))
	f.Add(Header{GetFeatures, FlagVersion1 | FlagNeedReply, 8}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip(t, b, DecodeHeader, Header.Append)
		roundTrip(t, b, DecodeU64, func(v uint64, b []byte) []byte { return AppendU64(b, v) })
		roundTrip(t, b, DecodeVringState, VringState.Append)
		roundTrip(t, b, DecodeVringAddr, VringAddr.Append)
		roundTrip(t, b, DecodeVringFile, VringFile.Append)
		roundTrip(t, b, DecodeLogArea, LogArea.Append)
		roundTrip(t, b, DecodeConfig, Config.Append)
		roundTrip(t, b, DecodeMemReg, func(r Region, b []byte) []byte { return AppendMemReg(b, r) })
		roundTrip(t, b, DecodeMemTable, func(r []Region, b []byte) []byte { return AppendMemTable(b, r) })
	})
}

// roundTrip decodes b and, if that works, wants the encoded value to decode to itself
// and to have b's length.
func roundTrip[T any](t *testing.T, b []byte, decode func([]byte) (T, error), encode func(T, []byte) []byte) {
	t.Helper()
	v, err := decode(b)
	if err != nil {
		return
	}
	e := encode(v, nil)
	if len(e) != len(b) {
		t.Errorf("%T: %x encodes to %x, of another length", v, b, e)
	}
	again, err := decode(e)
	if err != nil {
		t.Errorf("%T: %x encodes to %x: %v", v, b, e, err)
	} else if diff := cmp.Diff(v, again); diff != "" {
		t.Errorf("%T: %x encodes to %x (-want +got):\n%s", v, b, e, diff)
	}
}
