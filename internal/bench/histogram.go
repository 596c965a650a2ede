package bench

import (
	"math/bits"
	"time"
)

// A histogram counts times in nanoseconds in buckets that are 1/32 wide, so a quantile
// is right within 3 %. It has a fixed size: recording allocates nothing.
type histogram struct {
	counts [buckets]uint64
	total  uint64
}

// histogramBits says how fine a power of two is divided, and buckets how many there are
// for all 64-bit numbers.
const (
	histogramBits = 5
	buckets       = (64 - histogramBits + 1) << histogramBits
)

// add counts one time.
func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(uint64(max(d, 0)))]++
	h.total++
}

// bucketOf returns the number of the bucket that v belongs to. Values below 64 have one
// each.
func bucketOf(v uint64) int {
	shift := max(0, bits.Len64(v)-histogramBits-1)
	return shift<<histogramBits + int(v>>shift)
}

// bucketStart returns the smallest value that belongs to a bucket.
func bucketStart(i int) uint64 {
	if i < 2<<histogramBits {
		return uint64(i)
	}
	shift := i>>histogramBits - 1
	return uint64(i-shift<<histogramBits) << shift
}

// quantile returns the time that a share q of all times, 0 to 1, does not exceed; 0 if
// nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += n; seen > rank || n > 0 && seen == h.total {
			return time.Duration(bucketStart(i)+bucketStart(i+1)) / 2
		}
	}
	return 0
}

// merge adds what o has counted.
func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// reset forgets everything.
func (h *histogram) reset() { *h = histogram{} }
