package fuse

import "syscall"

// What INIT is answered (fs-device.md D.1, D.2).
const (
	protocolMajor = 7
	protocolMinor = 45
	oldestMinor   = 27 // of a guest

	maxWrite            = 1 << 20 // bytes
	maxPages            = 256     // maxWrite in pages
	maxBackground       = 65535
	congestionThreshold = maxBackground / 4 * 3
	timeGran            = 1 // ns

	initOldSize = 16 // InitIn of guests without InitExt
)

// alwaysOffered are the flags that concern the server alone (fs-device.md D.5); the
// file system adds its own.
const alwaysOffered = AsyncRead | AtomicOTrunc | BigWrites | AutoInvalData | AsyncDIO |
	ParallelDirops | MaxPages | InitExt | CreateSuppGroup | AllowIdmap

// aclUnit are the flags of which POSIX ACLs need all (fs-device.md D.5, rule 1).
const aclUnit = PosixACL | DontMask | SetxattrExt

// initialize is INIT: it ends the life of a mount that was there before and, if the
// two sides can agree, begins another.
func (t *Thread) initialize(r *Request) (int, error) {
	s := t.s
	var in InitIn
	copy(bytesOf(&in), r.args) // as far as the guest knows its fields

	if s.live {
		s.destroy()
	}
	t.out.init = InitOut{Major: protocolMajor, Minor: protocolMinor}
	switch {
	case in.Major > protocolMajor:
		// The guest may come again with our version.
		return put(r, &t.out.init), nil
	case in.Major < protocolMajor, in.Minor < oldestMinor:
		s.complain(&s.initLog, "guest speaks a FUSE version that is too old",
			"major", in.Major, "minor", in.Minor, "need", "7.27")
		return 0, syscall.EPROTO
	case len(r.args) < initOldSize:
		return 0, syscall.EINVAL
	}

	offered := offeredFlags(&in)
	want, need := s.fs.Offer()
	if missing := need &^ offered; missing != 0 {
		s.complain(&s.initLog, "guest lacks FUSE features that the options require",
			"missing", uint64(missing))
		return 0, syscall.EPROTO
	}
	want |= need
	if missing := want &^ offered; missing != 0 {
		s.complain(&s.initLog, "guest lacks FUSE features; going on without them",
			"missing", uint64(missing))
	}
	if want&PosixACL != 0 && offered&aclUnit != aclUnit {
		want &^= aclUnit &^ need
	}
	s.flags = offered & (alwaysOffered | want)
	s.fs.Init(s.flags)
	s.live = true

	t.out.init = InitOut{
		Major:               protocolMajor,
		Minor:               min(in.Minor, protocolMinor),
		MaxReadahead:        in.MaxReadahead,
		Flags:               uint32(s.flags),
		MaxBackground:       maxBackground,
		CongestionThreshold: congestionThreshold,
		MaxWrite:            maxWrite,
		TimeGran:            timeGran,
		MaxPages:            maxPages,
		Flags2:              uint32(s.flags >> 32),
	}
	return put(r, &t.out.init), nil
}

// offeredFlags returns the flags of a guest: those from bit 32 on count only when it
// also offers InitExt.
func offeredFlags(in *InitIn) InitFlags {
	flags := InitFlags(in.Flags)
	if flags&InitExt != 0 {
		flags |= InitFlags(in.Flags2) << 32
	}
	return flags
}

// terminate is DESTROY.
func (t *Thread) terminate(*Request) (int, error) {
	t.s.destroy()
	return 0, nil
}
