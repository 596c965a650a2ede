package guestmem

import "math"

// logPageShift is the size of a page of the dirty log, 4096 bytes, as a shift
// (vhost-user, "Migration": VHOST_LOG_PAGE).
const logPageShift = 12

// A Log is the dirty bitmap of a migration (vhost-user, "Migration"): bit p%8 of
// byte p/8 says that page p of guest-physical memory was written to. The bitmap is
// shared with the front-end, which fetches and clears bits at any time.
//
// A nil *Log logs nothing. Any number of goroutines may mark.
type Log struct {
	bits  []byte // borrowed: mapped until every ring that uses the Log has been stopped
	pages uint64 // number of bits
}

// NewLog returns a Log over a mapped bitmap. bits is borrowed.
func NewLog(bits []byte) *Log {
	return &Log{bits: bits, pages: uint64(len(bits)) * 8}
}

// Mark sets the bits of the n bytes at addr. It comes after the bytes were written
// and before the driver is told, so that whoever sees the bit also sees the bytes.
// Pages that the bitmap doesn't cover are ignored.
func (l *Log) Mark(addr GPA, n uint64) {
	if l == nil || n == 0 {
		return
	}
	last := uint64(math.MaxUint64)
	if n-1 <= last-uint64(addr) {
		last = uint64(addr) + n - 1
	}
	page, end := uint64(addr)>>logPageShift, min(last>>logPageShift+1, l.pages)
	for page < end {
		page += l.or(page, end-page)
	}
}
