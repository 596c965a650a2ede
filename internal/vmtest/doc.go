// Package vmtest boots small Linux guests for tests and for the demo. A guest's
// archive holds one static init (guestinit), the Go programs it runs and a plan; no
// shell, no disk, no network. Everything the guest says comes through three
// virtio-serial ports, and tests that ran inside become subtests outside.
//
//	host                                                guest
//	────                                                ─────
//	VM ─ go build ─► archive: /init /plan.json /bin/* ─► PID 1 mounts, runs the steps
//	Machine.Expect, Send  ◄──── "ctl" (socket) ────────► up, ready, await, exit, hold, off
//	Machine.Output        ◄──── "out" (file) ─────────── what the steps print
//	Machine.Files         ◄──── "art" (file) ─────────── tar of VM.Collect
//	Machine.QMP           ────► QEMU: stop, cont, system_reset
//	Machine.Report: test2json, one t.Run per guest test
//	Daemon: vfiofs | virtiofsd ◄── vhost-user ── QEMU
//
// To write a test: put the part that runs in the guest in a test function of package
// guesttest, and boot it with
//
//	m := vmtest.Start(t, lab, vmtest.VM{
//		Shares:   []vmtest.Share{{Socket: sock, Tag: "share", Mount: "/mnt"}},
//		Programs: []vmtest.Program{{Name: "suite", Package: "vfiofs/internal/vmtest/guesttest", Test: true}},
//		Steps:    []plan.Step{vmtest.Test("data", "suite", "^TestData$", "-dir=/mnt")},
//	})
//	m.Wait(time.Minute)
//	m.Report(t, "data")
//
// A Machine owns its QEMU, its directory and its connections until Close. A Daemon
// owns its process until Stop. Nothing here is shared between machines; never run two
// in parallel on a small host. Limits are for an idle host and are stretched by the
// guest's own boot time.
//
// TestLibvirt leaves the starting of QEMU and vfiofs to libvirt, in a root directory that
// Debian's packages make; it alone needs root.
//
// QEMU and kernels come from scripts/lab. The package follows no specification of its
// own; cpio and QMP are cited where they are used.
package vmtest
