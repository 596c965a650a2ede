//go:build race

package vfio_test

// raceEnabled: the race detector makes sync.Pool forget.
const raceEnabled = true
