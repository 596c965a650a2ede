package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vfiofs/internal/fd"
	"vfiofs/internal/testkit"
	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/vhostuser"
)

const user = 0x7f12_0000_0000 // where QEMU has the memory of the vectors

// Regions of the vectors in virtio-vhost-user.md 11.8.
func region(gpa, size, off uint64) vhostuser.Region {
	return vhostuser.Region{GPA: guestmem.GPA(gpa), Size: size, Addr: vhostuser.FrontAddr(user + off), Offset: off}
}

func TestPlace(t *testing.T) {
	const gib = 1 << 30
	qemu := []vhostuser.Region{ // (a)
		region(0, 0xa0000, 0), region(0xc0000, 0x7ff40000, 0xc0000), region(4*gib, 4*gib, 2*gib),
	}
	merged := []vhostuser.Region{region(0, 2*gib, 0), region(4*gib, 4*gib, 2*gib)}
	at := func(r vhostuser.Region, offset uint64) vhostuser.Region {
		r.Offset = offset
		return r
	}
	gap := []vhostuser.Region{region(0, 2*gib, 0), region(4*gib, 4*gib, 2*gib), region(0x240000000, gib, 7*gib)}
	linear := []vhostuser.Region{{GPA: 0, Size: 2 * gib, Addr: user}, {GPA: 4 * gib, Size: 4 * gib, Addr: 0x7f34_0000_0000, Offset: 4 * gib}}
	for _, tt := range []struct {
		name   string
		rule   Rule
		memory []vhostuser.Region
		want   []vhostuser.Region
		err    string
	}{
		{"b direct", Direct, qemu, merged, ""},
		{"b direct in another order", Direct, []vhostuser.Region{qemu[2], qemu[0], qemu[1]}, merged, ""},
		{"c stack", Stack, qemu, []vhostuser.Region{merged[0], at(merged[1], 0)}, ""},
		{"d gpa-linear", Linear, linear, []vhostuser.Region{{Size: 8 * gib, Addr: 1 << 44}}, ""},
		{"d gpa-linear with other offsets", Linear, qemu, nil, "gpa-linear"},
		{"e all below 4 GiB", Stack, qemu[:2], merged[:1], ""},
		{"f stack with a gap", Stack, gap, []vhostuser.Region{gap[0], at(gap[1], 0), at(gap[2], gib)}, ""},
		{"one region not at 0", Stack, merged[1:], merged[1:], ""},
		{
			"neighbours in the file alone", Direct,
			[]vhostuser.Region{region(0, 0x1000, 0), region(0x8000, 0x1000, 0x1000)},
			[]vhostuser.Region{region(0, 0x1000, 0), region(0x8000, 0x1000, 0x1000)},
			"",
		},
		{"a gap of 1 MiB", Direct, []vhostuser.Region{region(0, 0x1000, 0), region(0x101000, 0x1000, 0x101000)}, []vhostuser.Region{region(0, 0x102000, 0)}, ""},
		{
			"a larger gap", Direct,
			[]vhostuser.Region{region(0, 0x1000, 0), region(0x102000, 0x1000, 0x102000)},
			[]vhostuser.Region{region(0, 0x1000, 0), region(0x102000, 0x1000, 0x102000)},
			"",
		},
		{"one within another", Direct, []vhostuser.Region{region(0, 0x8000, 0), region(0x1000, 0x1000, 0x1000)}, []vhostuser.Region{region(0, 0x8000, 0)}, ""},
		{"the same memory twice", Stack, []vhostuser.Region{region(0, 0x8000, 0), region(0x100000, 0x8000, 0)}, nil, "shares"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.rule.place(tt.memory, 8*gib)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("place() = %v; want an error with %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("place() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestTable is virtio-vhost-user.md 11.8, (b) and (c), as they travel.
func TestTable(t *testing.T) {
	in := hex(t, `05 00 00 00 01 00 00 00 68 00 00 00 03 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 0a 00
		00 00 00 00 00 00 00 00 12 7f 00 00 00 00 00 00
		00 00 00 00 00 00 0c 00 00 00 00 00 00 00 f4 7f
		00 00 00 00 00 00 0c 00 12 7f 00 00 00 00 0c 00
		00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
		01 00 00 00 00 00 00 80 12 7f 00 00 00 00 00 80
		00 00 00 00`)
	out := `05 00 00 00 01 00 00 00 48 00 00 00 02 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 80
		00 00 00 00 00 00 00 00 12 7f 00 00 00 00 00 00
		00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
		01 00 00 00 00 00 00 80 12 7f 00 00 00 00 00 `
	file, err := OpenMemory(t.TempDir()+"/memory", 6<<30)
	testkit.Check(t, err)
	t.Cleanup(func() { file.Close() })
	n, err := unix.Open(file.Path(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	testkit.Check(t, err)
	other := fd.New(n, "memory of the VMM") // another open file, the same inode
	t.Cleanup(func() { other.Close() })
	for profile, dump := range map[Profile]string{Crosvm: out + "80 00 00 00 00", DPDK: out + "00 00 00 00 00"} {
		t.Run(profile.String(), func(t *testing.T) {
			s, p := connected(t, Options{Profile: profile, Memory: file})
			for range 2 { // the second table is like the first
				p.send(in, other, other, other)
				s.expectMessage(hex(t, dump))
			}
		})
	}
}

// TestLinear is virtio-vhost-user.md 11.8, (d).
func TestLinear(t *testing.T) {
	file, err := OpenMemory(t.TempDir()+"/memory", 8<<30)
	testkit.Check(t, err)
	t.Cleanup(func() { file.Close() })
	s, p := connected(t, Options{Rule: Linear, Memory: file})
	p.send(message(vhostuser.SetMemTable, 1, vhostuser.AppendMemTable(nil, []vhostuser.Region{
		{GPA: 0, Size: 2 << 30, Addr: user},
		{GPA: 4 << 30, Size: 4 << 30, Addr: 0x7f34_0000_0000, Offset: 4 << 30},
	})), file.file, file.file)
	s.expectMessage(hex(t, `05 00 00 00 01 00 00 00 28 00 00 00 01 00 00 00
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
		02 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
		00 00 00 00`))
	p.send(hex(t, "09 00 00 00 01 00 00 00 28 00 00 00 01 00 00 00 00 00 00 00 00 00 00 40 34 7f 00 00 00 30 00 40 34 7f 00 00 00 20 00 40 34 7f 00 00 00*8"))
	s.expectMessage(hex(t, "09 00 00 00 01 00 00 00 28 00 00 00 01 00 00 00 00 00 00 00 00 00 00 40 01 10 00 00 00 30 00 40 01 10 00 00 00 20 00 40 01 10 00 00 00*8"))
	// An address that lies nowhere is the driver's to refuse.
	nowhere := vhostuser.VringAddr{Index: 1, Desc: 0x1000, Used: 0x2000, Avail: 0x3000}.Append(nil)
	p.send(message(vhostuser.SetVringAddr, 1, nowhere))
	s.expectMessage(message(vhostuser.SetVringAddr, 1, nowhere))
	p.send(message(vhostuser.SetVringAddr, 1, nowhere[:39]))
	p.expectEnd()
}

// TestRefusedMemory is virtio-vhost-user.md 11.8, (g).
func TestRefusedMemory(t *testing.T) {
	foreign, err := NewMemory(1 << 20)
	testkit.Check(t, err)
	t.Cleanup(func() { foreign.Close() })
	good := vhostuser.Region{Size: 0x10000, Addr: user}
	for _, tt := range []struct {
		name    string
		regions []vhostuser.Region
		files   string // f: the memory file, x: another
		log     string
	}{
		{"another file", []vhostuser.Region{good, {GPA: 0x10000, Size: 0x10000, Addr: user + 0x10000, Offset: 0x10000}}, "fx", "memory-backend-file"},
		{"past the end", []vhostuser.Region{{Size: 0x2000, Addr: user, Offset: 1<<20 - 0x1000}}, "f", "ends at 0x101000"},
		{"size 0", []vhostuser.Region{{Addr: user}}, "f", "size is 0"},
		{"size 0x1001", []vhostuser.Region{{Size: 0x1001, Addr: user}}, "f", "pages"},
		{"offset 0x800", []vhostuser.Region{{Size: 0x1000, Addr: user, Offset: 0x800}}, "f", "pages"},
		{"overflow", []vhostuser.Region{{GPA: guestmem.GPA(1<<64 - 0x1000), Size: 0x2000, Addr: user}}, "f", "overflows"},
		{"too few descriptors", []vhostuser.Region{good, {GPA: 0x10000, Size: 0x10000, Addr: user + 0x10000, Offset: 0x10000}}, "f", "1 descriptors"},
		{"too many descriptors", []vhostuser.Region{good}, "ff", "2 descriptors"},
		{"no regions", nil, "", "0 regions"},
	} {
		for _, ack := range []bool{true, false} {
			s, p := connected(t, Options{})
			files := make([]*fd.FD, len(tt.files))
			for i, kind := range tt.files {
				files[i] = s.memory.file
				if kind == 'x' {
					files[i] = foreign.file
				}
			}
			p.send(message(vhostuser.SetMemTable, 1, vhostuser.AppendMemTable(nil, []vhostuser.Region{good})), s.memory.file)
			s.receive()
			flags := vhostuser.FlagVersion1
			if ack {
				flags |= vhostuser.FlagNeedReply
				p.send(message(vhostuser.SetProtocolFeatures, 1, vhostuser.AppendU64(nil, uint64(vhostuser.ProtocolReplyAck))))
				s.receive()
			}
			p.send(message(vhostuser.SetMemTable, flags, vhostuser.AppendMemTable(nil, tt.regions)), files...)
			if ack {
				p.expect(hex(t, "05 00 00 00 05 00 00 00 08 00 00 00 01 00*7"))
				s.dev.mu.Lock()
				if diff := cmp.Diff([]vhostuser.Region{good}, s.dev.peer.memory); diff != "" {
					t.Errorf("%s: table in force after a refusal (-want +got):\n%s", tt.name, diff)
				}
				s.dev.mu.Unlock()
			} else {
				p.expectEnd()
				s.waitState(stateReady)
				want(t, tt.name+": reason", s.r32(0, deviceOff+0x48), uint32(reasonMemory))
			}
			if !strings.Contains(s.logged(), tt.log) {
				t.Errorf("%s: log is %q; want it to say %q", tt.name, s.logged(), tt.log)
			}
		}
	}
}
