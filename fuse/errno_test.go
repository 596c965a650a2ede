package fuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"success", nil, 0},
		{"plain", syscall.ENOENT, syscall.ENOENT},
		{"wrapped", fmt.Errorf("open x: %w", syscall.EACCES), syscall.EACCES},
		{"path error", &fs.PathError{Op: "open", Path: "x", Err: syscall.EPERM}, syscall.EPERM},
		{"largest", syscall.Errno(511), 511},
		{"too large", syscall.Errno(512), syscall.EIO},
		{"zero", syscall.Errno(0), syscall.EIO},
		{"interrupted", syscall.EINTR, syscall.EIO},
		{"would wait", syscall.EAGAIN, syscall.EAGAIN},
		{"host lacks the call", syscall.ENOSYS, syscall.EOPNOTSUPP},
		{"host lacks the call, wrapped", os.NewSyscallError("statx", syscall.ENOSYS), syscall.EOPNOTSUPP},
		{"not implemented", ErrNotImplemented, syscall.ENOSYS},
		{"not implemented, wrapped", fmt.Errorf("ioctl: %w", ErrNotImplemented), syscall.ENOSYS},
		{"process limit", syscall.EMFILE, syscall.ENFILE},
		{"system limit", syscall.ENFILE, syscall.ENFILE},
		{"no errno inside", errors.New("oops"), syscall.EIO},
		{"would block", ErrWouldBlock, syscall.EIO},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Errno(test.err); got != test.want {
				t.Errorf("Errno(%v) = %v; want %v", test.err, got, test.want)
			}
		})
	}
	if !errors.Is(ErrNotImplemented, syscall.ENOSYS) {
		t.Error("errors.Is(ErrNotImplemented, ENOSYS) = false; want true")
	}
}

func TestCheckName(t *testing.T) {
	long := make([]byte, 4096)
	for i := range long {
		long[i] = 'n'
	}
	for _, test := range []struct {
		name string
		want syscall.Errno
	}{
		{"", syscall.EINVAL},
		{"/", syscall.EINVAL},
		{"a/b", syscall.EINVAL},
		{"../etc", syscall.EINVAL},
		{".", syscall.EBUSY},
		{"..", syscall.ENOTEMPTY},
		{"...", 0},
		{".a", 0},
		{"\xff\xfe\n ", 0},
		{string(long[:4095]), 0},
		{string(long), syscall.ENAMETOOLONG},
	} {
		var got syscall.Errno
		if err := checkName([]byte(test.name), syscall.EBUSY, syscall.ENOTEMPTY); err != nil {
			got = err.(syscall.Errno)
		}
		if got != test.want {
			t.Errorf("checkName(%.20q) = %v; want %v", test.name, got, test.want)
		}
	}
	if err := checkName([]byte(".."), 0, 0); err != nil {
		t.Errorf(`checkName("..") where it is allowed = %v; want nil`, err)
	}
}

func TestClock(t *testing.T) {
	for _, test := range []struct {
		d    time.Duration
		sec  uint64
		nsec uint32
	}{
		{0, 0, 0},
		{-time.Second, 0, 0},
		{1500 * time.Millisecond, 1, 5e8},
		{24 * time.Hour, 86400, 0},
		{1<<63 - 1, 9223372036, 854775807},
	} {
		if sec, nsec := clock(test.d); sec != test.sec || nsec != test.nsec {
			t.Errorf("clock(%v) = %d, %d; want %d, %d", test.d, sec, nsec, test.sec, test.nsec)
		}
	}
}

func TestQuota(t *testing.T) {
	var q quota
	at := time.Unix(1000, 0)
	for i, want := range []bool{true, false, false} {
		if got := q.take(at.Add(time.Duration(i) * time.Millisecond)); got != want {
			t.Errorf("take() number %d = %v; want %v", i, got, want)
		}
	}
	if !q.take(at.Add(time.Second)) {
		t.Error("take() a second later = false; want true")
	}
}
