package jail

import (
	"os"
	"testing"
)

// TestProbe asks about what the other tests need, and so has to be there.
func TestProbe(t *testing.T) {
	if err := ProbeNamespaces(); err != nil {
		t.Errorf("ProbeNamespaces = %v; want nil", err)
	}
	if err := ProbeSeccomp(); err != nil {
		t.Errorf("ProbeSeccomp = %v; want nil", err)
	}
	if version, err := ProbeLandlock(); (err == nil) != (version >= landlockNeeded) {
		t.Errorf("ProbeLandlock = %d, %v; want an error below version %d", version, err, landlockNeeded)
	}
}

func TestProbeSubids(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if users, groups, err := ProbeSubids(); err == nil || users != 0 || groups != 0 {
		t.Errorf("ProbeSubids without programs = %d, %d, %v; want an error", users, groups, err)
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if err := os.WriteFile(os.Getenv("PATH")+"/"+name, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if users, groups, err := ProbeSubids(); (err == nil) != (users > 0 && groups > 0) {
		t.Errorf("ProbeSubids = %d, %d, %v; want ids or an error", users, groups, err)
	}
	if n := lent(mustParse(t, "0 1000 1,1 100000 65536,65537 400000 5")); n != 65541 {
		t.Errorf("lent = %d; want 65541", n)
	}
	if n := lent(nil); n != 0 {
		t.Errorf("lent of no map = %d; want 0", n)
	}
}
