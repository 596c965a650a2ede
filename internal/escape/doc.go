// Package escape holds a test: a guest and an attacker on the host try to get out of a
// share, with every sandbox mode and with none.
//
//	attempt ──► guest ── requests ──► vfiofs, in this process or one of its own
//	   │          ▲                      │
//	   │          └── every reply is searched for what only the outside has
//	   ▼
//	host: BASE/share ◄── swaps, moves and mounts while requests run
//	      BASE/outside   canaries, compared before and after
//
// An attempt is a function with a name. What decides is not the errno that it gets but
// the oracle (world_test.go): nothing outside may have changed, down to the time of the
// last read, and no reply may hold canary bytes or the inode number of anything
// outside. Everything outside may be read and written by everybody, so that no
// permission of the host hides a way out.
//
// The test binary starts itself again in a mount namespace of its own, so that attempts
// can mount.
//
// Spec: fs-device.md E.3, E.12, E.13, F.9, H.4. What the guest keeps when the host moves
// things out of the share is in docs/security.md.
package escape
