package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfiofs/vfio"
	"vfiofs/vfio/vfiouser"
	"vfiofs/virtio/vvu/proxy"
)

// TestProxy runs the proxy in this process: two device VMs, one after the other.
func TestProxy(t *testing.T) {
	dir, rule := t.TempDir(), proxy.Stack
	p := Proxy{
		Socket: filepath.Join(dir, "s"), DeviceSocket: filepath.Join(dir, "d"), MemPath: filepath.Join(dir, "memory"),
		MemSize: 1 << 20, MemRule: &rule, DeviceID: 0x106b, Queues: 16, PrintQEMUArgs: true, LogLevel: "debug", LogFormat: "text",
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, log bytes.Buffer
	ended := make(chan error)
	go func() { ended <- p.run(ctx, &stdout, &log) }()
	if err := waitBound(p.DeviceSocket); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		dev, err := vfiouser.Dial(t.Context(), p.DeviceSocket)
		if err != nil {
			t.Fatal(err)
		}
		config, err := dev.Region(vfio.ConfigRegion)
		if err != nil {
			t.Fatal(err)
		}
		var id [4]byte
		if _, err := config.ReadAt(id[:], 0); err != nil || id != [4]byte{0xf4, 0x1a, 0x6b, 0x10} {
			t.Errorf("ids = %x, %v; want 1af4:106b", id, err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
	conn, err := net.Dial("unix", p.DeviceSocket) // one that makes no sense
	if err != nil {
		t.Fatal(err)
	}
	if err := sendGarbage(conn.(*net.UnixConn)); err != nil {
		t.Error(err)
	}
	conn.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run = %v; want nil", err)
	}
	if !strings.Contains(stdout.String(), "mem-path="+p.MemPath+",share=on") {
		t.Errorf("stdout = %q; want the memory file in it", &stdout)
	}
	for _, path := range []string{p.Socket, p.DeviceSocket} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after the end: %v; want it removed", path, err)
		}
	}
}

func TestProxyFails(t *testing.T) {
	dir := t.TempDir()
	good := Proxy{
		Socket: filepath.Join(dir, "s"), DeviceSocket: filepath.Join(dir, "d"), MemSize: 1 << 20,
		Queues: 16, LogLevel: "off",
	}
	for _, tt := range []struct {
		name   string
		change func(p *Proxy)
		want   string
	}{
		{"no socket", func(p *Proxy) { p.Socket = "" }, "must not be empty"},
		{"same sockets", func(p *Proxy) { p.DeviceSocket = dir + "//s" }, "are the same"},
		{"no memory", func(p *Proxy) { p.MemSize = 0 }, "--mem-size is missing"},
		{"no queues", func(p *Proxy) { p.Queues = 0 }, "--queues is 0"},
		{"odd size", func(p *Proxy) { p.MemSize = 1000 }, "multiple of 4096"},
		{"no such directory", func(p *Proxy) { p.Socket = filepath.Join(dir, "no", "s") }, "with --socket"},
		{"no such directory for the device", func(p *Proxy) { p.DeviceSocket = filepath.Join(dir, "no", "d") }, "with --device-socket"},
		{"no such memory", func(p *Proxy) { p.MemPath = filepath.Join(dir, "no", "memory") }, "memory file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := good
			tt.change(&p)
			if err := p.run(t.Context(), new(bytes.Buffer), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{
		"1": 1, "4096": 4096, "1k": 1 << 10, "16M": 16 << 20, "4G": 4 << 30, "2t": 2 << 40,
		"": 0, "0": 0, "-1": 0, "G": 0, "1.5G": 0, "1GB": 0, "9999999999999G": 0, "x": 0,
	} {
		var got byteSize
		err := got.UnmarshalText([]byte(text))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("UnmarshalText(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestDeviceID(t *testing.T) {
	for text, want := range map[string]deviceID{"107d": 0x107d, "0x1058": 0x1058, "0": 0, "10000": 0, "": 0, "x": 0} {
		var got deviceID
		err := got.UnmarshalText([]byte(text))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("UnmarshalText(%q) = %#x, %v; want %#x", text, got, err, want)
		}
	}
}
