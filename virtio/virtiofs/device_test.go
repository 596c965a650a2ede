package virtiofs_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"vfiofs/fuse"
	"vfiofs/fuse/fusetest"
	"vfiofs/internal/testkit"
	"vfiofs/virtio"
	"vfiofs/virtio/vhostuser"
	"vfiofs/virtio/virtiofs"
)

// TestSocket runs the conformance suite over all layers: a front-end, the vhost-user
// state machine, rings, the FUSE server and a directory of the host.
func TestSocket(t *testing.T) {
	fusetest.Run(t, func(t *testing.T) *fusetest.Client {
		g, _ := newShare(t, guestOptions{})
		return fusetest.NewClient(g.transport(1))
	})
}

// TestFeatures runs a part of the suite's work with every set of ring features.
func TestFeatures(t *testing.T) {
	for name, f := range map[string]virtio.Features{
		"none":     vhostuser.FeatureProtocolFeatures | virtio.FeatureVersion1,
		"eventIdx": vhostuser.FeatureProtocolFeatures | virtio.FeatureVersion1 | virtio.FeatureEventIdx,
		"indirect": vhostuser.FeatureProtocolFeatures | virtio.FeatureVersion1 | virtio.FeatureIndirectDesc,
		"legacy":   virtio.FeatureVersion1, // no protocol features: rings start enabled
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newShare(t, guestOptions{features: f})
			c := g.client()
			f, err := c.Create(fuse.RootID, "file", 2, 0o644)
			testkit.Check(t, err)
			want := bytes.Repeat([]byte("0123456789abcdef"), 4096)
			n, err := c.Write(f.Entry.Node, f.Open.Handle, 3, want)
			testkit.Check(t, err)
			got, err := c.Read(f.Entry.Node, f.Open.Handle, 3, n)
			testkit.Check(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("Read() = %d bytes that differ from the %d written", len(got), n)
			}
		})
	}
}

// TestQueues drives every request ring of a device, and the hiprio ring with a FORGET.
func TestQueues(t *testing.T) {
	g, dir := newShare(t, guestOptions{queues: 16})
	c := g.client()
	d, err := c.MkDir(fuse.RootID, "d", 0o755)
	testkit.Check(t, err)
	for ring := 1; ring <= 16; ring++ {
		c.Transport = g.transport(ring)
		if a, err := c.GetAttr(d.Node, 0); err != nil || a.Attr.Ino != d.Attr.Ino {
			t.Errorf("ring %d: GetAttr(d) = inode %d, %v; want %d", ring, a.Attr.Ino, err, d.Attr.Ino)
		}
	}
	c.Transport = g.transport(0)
	testkit.Check(t, c.Forget(d.Node, 1))
	c.Transport = g.transport(1)
	if _, err := c.GetAttr(d.Node, 0); err == nil {
		t.Errorf("GetAttr of a node forgotten through the hiprio ring succeeded, in %s", dir)
	}
}

func TestConfigSpace(t *testing.T) {
	for _, tag := range []string{"a", strings.Repeat("é", 18)} {
		dev, err := virtiofs.New(fuse.NewServer(fusetest.NewMem(), fuse.Options{}), virtiofs.Options{Tag: tag, RequestQueues: 5, Workers: 1})
		testkit.Check(t, err)
		want := make([]byte, 48)
		copy(want, tag)
		binary.LittleEndian.PutUint32(want[36:], 5)
		got := bytes.Repeat([]byte{0xff}, 48)
		dev.ReadConfig(got, 0)
		if !bytes.Equal(got, want) || dev.ConfigSize() != 40 {
			t.Errorf("ReadConfig(tag %q) = %x, size %d; want %x, size 40", tag, got, dev.ConfigSize(), want)
		}
		dev.ReadConfig(got[:4], 38)
		if want := []byte{0, 0, 0, 0}; !bytes.Equal(got[:4], want) {
			t.Errorf("ReadConfig(off 38) = %x; want %x", got[:4], want)
		}
		dev.Close()
	}
}

func TestOptions(t *testing.T) {
	server := fuse.NewServer(fusetest.NewMem(), fuse.Options{})
	for _, c := range []struct {
		name string
		opt  virtiofs.Options
		want string
	}{
		{"H230 tag of 37 bytes", virtiofs.Options{Tag: strings.Repeat("x", 37), RequestQueues: 1, Workers: 1}, "fs tag is too long: 37 (max supported: 36)"},
		{"H230 19 two-byte characters", virtiofs.Options{Tag: strings.Repeat("é", 19), RequestQueues: 1, Workers: 1}, "too long: 38"},
		{"newline", virtiofs.Options{Tag: "a\nb", RequestQueues: 1, Workers: 1}, "newline"},
		{"no queues", virtiofs.Options{Workers: 1}, "request queues is 0"},
		{"64 queues", virtiofs.Options{RequestQueues: 64, Workers: 1}, "request queues is 64"},
		{"no workers", virtiofs.Options{RequestQueues: 1}, "workers is 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := virtiofs.New(server, c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New(%+v) = %v; want an error with %q", c.opt, err, c.want)
			}
		})
	}
	if err := virtiofs.CheckTag(""); err == nil {
		t.Error(`CheckTag("") = nil; want an error`)
	}
}
