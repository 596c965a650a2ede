// Package workload runs real work on a file system and checks every result: a random
// program against a model (fsx), git, sqlite and tar, locks between two mounts, the
// options of virtiofsd against the same options of vfiofs, and a walk over a million
// files. Everything goes through "vfiofs mount", at native speed and without a VM.
//
//	             generate ─► Op ──┬──► model (names, files, descriptors in memory)
//	                              │        │ what must come out
//	test ─► Run ─────────────────┤        ▼
//	                              │     compare, after each Op
//	                              │        ▲ what came out
//	                              └──► system calls on Config.Dir
//	                                       │ kernel, /dev/fuse
//	                                   vfiofs mount ─► backend ─► Config.Host
//
// An Op is a line of text, and any part of a list of them can be run: an Op whose
// descriptor is not there does nothing, and the model knows every errno. So a failed run
// is made shorter by leaving out lines, and repeated from what is left.
//
// Only the fsx checker is in the library part, so that it can be tested against a local
// directory, with faults put in, by the unit tests. The rest are tests, which need
// /dev/fuse and run with VFIOFS_MOUNT=1; -full makes them several times larger, -fsx-time,
// -fsx-seed and -fsx-trace steer the checker.
//
// Ownership: a checker owns its directory, descriptors and mappings, and is used by one
// goroutine. Nothing here is shared between checkers.
//
// The package follows no specification of its own; what a system call must do is in the
// manual pages of section 2, what caches may do in fs-device.md G.2.
package workload
