package main

import (
	"fmt"
	"strconv"
	"time"

	"vfiofs/virtio/virtiofs"
)

// maxPoll is the longest look for requests that --poll allows. More burns a processor
// for what a wake-up costs 1 % of.
const maxPoll = time.Millisecond

// A pollLimit is the value of --poll: off, auto, or a number of microseconds.
type pollLimit time.Duration

// UnmarshalText parses a limit.
func (p *pollLimit) UnmarshalText(text []byte) error {
	switch string(text) {
	case "off":
		*p = 0
		return nil
	case "auto":
		*p = pollLimit(virtiofs.DefaultPoll)
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 32)
	if d := time.Duration(n) * time.Microsecond; err == nil && d > 0 && d <= maxPoll {
		*p = pollLimit(d)
		return nil
	}
	return fmt.Errorf("%q: want off, auto, or a number of microseconds from 1 to %d", text, maxPoll/time.Microsecond)
}
