package virtq

// fence orders every store before it with every load after it, which nothing in
// sync/atomic promises. Both sides of a ring need it between publishing an index and
// looking whether the other side wants to hear of it (virtio 1.3, 2.7.10 and
// 2.7.13.4.1): without it both can look first, and both then sleep.
//
//go:noescape
func fence()

// storeRelease stores v so that whoever sees it sees everything that was stored before.
// An atomic store of Go's also waits until all of that has left the processor, which takes
// as long as a request: the lines belong to the other side's processor at that moment.
//
//go:noescape
func storeRelease(p *uint32, v uint32)

// load16 reads a field that the other side may be writing. The Go memory model
// rules out torn reads of a machine word or less; order comes from fence. The race
// detector knows neither 16-bit atomics nor fence.
//
//go:norace
func load16(p *uint16) uint16 { return *p }

// store16 writes a field that the other side may be reading. See load16.
//
//go:norace
func store16(p *uint16, v uint16) { *p = v }
