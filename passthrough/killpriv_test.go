package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

func killpriv(o *Options) fuse.InitFlags {
	o.KillprivV2 = true
	return fuse.HandleKillprivV2
}

// H101, H166: set-user-ID bits go exactly when the guest says so.
func TestH166KillPriv(t *testing.T) {
	needRoot(t)
	const suid, plain = 0o6755, 0o755
	for _, x := range []struct {
		name string
		want uint32
		run  func(g *guest, node fuse.NodeID) error
	}{
		{"open with O_TRUNC and kill", plain, func(g *guest, node fuse.NodeID) error {
			var o fuse.Opened
			return g.fs.Open(g.c, node, unix.O_WRONLY|unix.O_TRUNC, true, &o)
		}},
		{"open with O_TRUNC", suid, func(g *guest, node fuse.NodeID) error {
			var o fuse.Opened
			return g.fs.Open(g.c, node, unix.O_WRONLY|unix.O_TRUNC, false, &o)
		}},
		{"open with kill", suid, func(g *guest, node fuse.NodeID) error {
			var o fuse.Opened
			return g.fs.Open(g.c, node, unix.O_WRONLY, true, &o)
		}},
		{"create of what exists, with O_TRUNC and kill", plain, func(g *guest, _ fuse.NodeID) error {
			_, _, err := g.create("f", fuse.Create{Flags: unix.O_WRONLY | unix.O_TRUNC, Kill: true})
			return err
		}},
		{"create of what exists, with O_TRUNC", suid, func(g *guest, _ fuse.NodeID) error {
			_, _, err := g.create("f", fuse.Create{Flags: unix.O_WRONLY | unix.O_TRUNC})
			return err
		}},
		{"write with kill", plain, func(g *guest, node fuse.NodeID) error {
			_, err := g.writeErr(node, g.open(node, unix.O_WRONLY), 0, "x", fuse.WriteArgs{Flags: fuse.WriteKillSuidgid})
			return err
		}},
		{"write", suid, func(g *guest, node fuse.NodeID) error {
			_, err := g.writeErr(node, g.open(node, unix.O_WRONLY), 0, "x", fuse.WriteArgs{})
			return err
		}},
		{"appending write with kill", plain, func(g *guest, node fuse.NodeID) error {
			args := fuse.WriteArgs{Flags: fuse.WriteKillSuidgid, OpenFlags: unix.O_APPEND}
			_, err := g.writeErr(node, g.open(node, unix.O_WRONLY), 0, "x", args)
			return err
		}},
		{"truncate with kill", plain, func(g *guest, node fuse.NodeID) error {
			_, err := g.setattr(node, fuse.SetAttr{Valid: fuse.SetAttrSize | fuse.SetAttrKillSuidgid, Size: 1})
			return err
		}},
		{"truncate", suid, func(g *guest, node fuse.NodeID) error {
			_, err := g.setattr(node, fuse.SetAttr{Valid: fuse.SetAttrSize, Size: 1})
			return err
		}},
		{"change of nothing", plain, func(g *guest, node fuse.NodeID) error {
			_, err := g.setattr(node, fuse.SetAttr{})
			return err
		}},
		{"change of nothing, by handle and another user", plain, func(g *guest, node fuse.NodeID) error {
			h := g.open(node, unix.O_WRONLY)
			_, err := g.as(1000, 1000).setattr(node, fuse.SetAttr{Valid: fuse.SetAttrHandle | fuse.SetAttrCtime, Handle: h})
			return err
		}},
		{"change of the time", suid, func(g *guest, node fuse.NodeID) error {
			_, err := g.setattr(node, fuse.SetAttr{Valid: fuse.SetAttrAtime | fuse.SetAttrAtimeNow})
			return err
		}},
		{"failing truncate with kill", suid, func(g *guest, node fuse.NodeID) error {
			_, err := g.setattr(node, fuse.SetAttr{Valid: fuse.SetAttrSize | fuse.SetAttrKillSuidgid, Size: 1 << 63})
			want(g, "truncate", err, unix.EINVAL)
			return nil
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			g := newGuest(t, killpriv)
			g.file("f", "data", 0o755|os.ModeSetuid|os.ModeSetgid)
			must(t, x.run(g, g.find("f").Node))
			same(t, "mode", g.host("f").Mode&0o7777, x.want)

			// The thread has its capability again.
			h := g.open(g.find("f").Node, unix.O_WRONLY)
			must(t, os.Chmod(g.path("f"), 0o755|os.ModeSetuid))
			g.write(g.find("f").Node, h, 0, "y")
			same(t, "mode after an ordinary write", g.host("f").Mode&0o7777, 0o4755)
		})
	}
}
