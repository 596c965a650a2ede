//go:build race

package testkit

// Race says that the race detector is on: it allocates, has sync.Pool forget and buffers
// escape, and is slow.
const Race = true
