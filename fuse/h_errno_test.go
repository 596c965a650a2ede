package fuse_test

import (
	"syscall"
	"testing"
)

// What the host lacks for one file must not be switched off for all of them: the guest
// never sees the host's ENOSYS.
func TestH192HostLacks(t *testing.T) {
	r, c := record(t, 0)
	_, err := c.OpenDir(1)
	wantErr(t, err, syscall.EOPNOTSUPP, "OPENDIR")
	r.xattrs = syscall.ENOSYS
	wantErr(t, c.SetXattr(1, "user.x", nil, 0), syscall.EOPNOTSUPP, "SETXATTR")
}
