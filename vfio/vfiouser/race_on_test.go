//go:build race

package vfiouser

// raceEnabled: buffers of system calls escape under the race detector.
const raceEnabled = true
