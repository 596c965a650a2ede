package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockLimit has a low soft limit, which everybody may raise; the hard one only those who
// are privileged.
func TestLockLimit(t *testing.T) {
	var before, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before)
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 4096, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		raiseLockLimit()
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &after); err != nil || after.Cur < min(enoughMemlock, before.Max) {
			t.Fatalf("limit %+v, %v, was %+v; want %d, or the hard limit", after, err, before, enoughMemlock)
		}
	}
	if after.Max < before.Max {
		t.Errorf("hard limit %d; want it no lower than %d", after.Max, before.Max)
	}
}
