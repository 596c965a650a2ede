package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamineJail has what an ordinary user is told of the jail, on a machine with and
// without AppArmor in the way. The kernel is the real one.
func TestExamineJail(t *testing.T) {
	d := Doctor{machine{Root: t.TempDir()}}
	kernel := filepath.Join(d.Root, "proc/sys/kernel")
	if err := os.MkdirAll(kernel, 0o755); err != nil {
		t.Fatal(err)
	}
	for text, ok := range map[string]bool{"0\n": true, "1\n": false} {
		if err := os.WriteFile(filepath.Join(kernel, "apparmor_restrict_unprivileged_userns"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f := d.checkNamespaces(false)
		if f.OK != ok || !ok && !strings.Contains(f.Fix, "sysctl user.max_user_namespaces") {
			t.Errorf("AppArmor says %q: %+v; want OK %v, or what to set", text, f, ok)
		}
	}
	t.Setenv("PATH", "")
	if f := checkSubids(false); f.OK || !strings.Contains(f.Detail, "newuidmap") || !strings.Contains(f.Fix, "package uidmap") {
		t.Errorf("id maps without newuidmap: %+v; want it missed, and the package named", f)
	}
}
