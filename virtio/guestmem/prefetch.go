package guestmem

// prefetch starts to load the 128 bytes at read and the line at write, which is going to
// be written. It waits for nothing and never faults.
//
//go:noescape
func prefetch(read, write *byte)

// prefetchLine starts to load the line at p.
//
//go:noescape
func prefetchLine(p *byte)

// PrefetchLine starts to bring the line that b begins in near the processor.
func PrefetchLine(b []byte) {
	if len(b) > 0 {
		prefetchLine(&b[0])
	}
}

// Prefetch starts to bring the start of in and the start of out, both not empty, near the
// processor: what another one has just written takes as long to get here as a small
// request takes to serve.
func Prefetch(in, out *Vec) {
	if len(in.segs) > 0 && len(out.segs) > 0 {
		prefetch(in.segs[0].Base, out.segs[0].Base)
	}
}
