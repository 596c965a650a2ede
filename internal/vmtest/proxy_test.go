package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStartProxy(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VMTEST_SERVER", "proxy")
	t.Run("two command lines", func(t *testing.T) {
		t.Setenv("VMTEST_SAYS", strings.Join([]string{
			"# device VM", `qemu-system-x86_64 -m 1G -device '{"a":"b c"}'`,
			"# sibling", `qemu-system-x86_64 -object memory-backend-file,id=mem,mem-path=/mem,share=on`,
		}, "\n"))
		p, err := StartProxy(self, t.TempDir(), "1G")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"-m", "1G", "-device", `{"a":"b c"}`}, p.DeviceVM); diff != "" {
			t.Errorf("DeviceVM (-want +got):\n%s", diff)
		}
		if got := p.Memory(); got != "/mem" {
			t.Errorf("Memory() = %q; want /mem", got)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("not for a shell", func(t *testing.T) {
		t.Setenv("VMTEST_SAYS", "qemu-system-x86_64 'a\nqemu-system-x86_64 b")
		if _, err := StartProxy(self, t.TempDir(), "1G"); err == nil || !strings.Contains(err.Error(), "split") {
			t.Errorf("StartProxy() = %v; want an error about splitting the line", err)
		}
	})
	t.Run("ends", func(t *testing.T) {
		t.Setenv("VMTEST_SERVER", "refuse")
		if _, err := StartProxy(self, t.TempDir(), "1G"); err == nil || !strings.Contains(err.Error(), "cannot open the directory") {
			t.Errorf("StartProxy() = %v; want what the proxy printed", err)
		}
	})
}

func TestProxyWithoutMemory(t *testing.T) {
	p := &Proxy{Sibling: []string{"-m", "1G"}}
	if got := p.Memory(); got != "" {
		t.Errorf("Memory() = %q; want nothing", got)
	}
}

func TestExt4(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"good": "#!/bin/sh\necho \"$@\" > \"$4\"\n",
		"bad":  "#!/bin/sh\necho no space; exit 1\n",
	})
	image := filepath.Join(dir, "image")
	if err := (&Lab{Mke2fs: filepath.Join(dir, "good")}).Ext4(image, "1G"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(image); !strings.HasSuffix(string(got), "ext4 "+image+" 1G\n") {
		t.Errorf("mke2fs was run with %q, %v", got, err)
	}
	if err := (&Lab{Mke2fs: filepath.Join(dir, "bad")}).Ext4(image, "1G"); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("Ext4() = %v; want what mke2fs printed", err)
	}
	var missing *MissingError
	if err := (&Lab{}).Ext4(image, "1G"); !errors.As(err, &missing) {
		t.Errorf("Ext4() = %v; want a MissingError", err)
	}
}
