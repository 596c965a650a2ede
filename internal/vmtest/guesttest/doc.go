// Package guesttest is the tests that run inside a guest, on a directory that is
// mounted from the host. It has only test files: its test binary is what a VM test
// packs into the guest. Without -dir, as in a plain "go test", every test is skipped.
//
//	host: vm_test.go ── boots ──► guest: /bin/suite -test.run=^TestWrite$ -dir=/mnt
//	        │                                  │
//	        └── checks the shared directory ◄──┴── virtio-fs
//
// The POSIX cases are those of go-fuse's posixtest; there is no specification.
package guesttest
