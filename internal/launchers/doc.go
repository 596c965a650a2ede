// Package launchers replays how the programs that start virtiofsd start vfiofs, and checks
// what they rely on. It has only tests and their data: testdata has a file for each of
// libvirt, Kata, Incus and so on, which says what the launcher does, and where that was
// read.
//
//	testdata/kata-go.json ── argv, descriptors, directory ──► vfiofs, under the name virtiofsd
//	        │                                                        ▲
//	        └── socket, pid file, words, exit code ◄─ test ── INIT, GETATTR, leave or kill
//
// The program is the real one, built for the test or named by VFIOFS_BINARY. A launcher
// that asks for a sandbox gets it. Where this machine can't have that, the test says so and
// goes on with --sandbox none, but in CI it fails.
//
// Spec: fs-device.md G.1; QEMU's docs/interop/vhost-user.rst, "Backend program conventions".
package launchers
