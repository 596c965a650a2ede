//go:build !race

package vfiouser

// raceEnabled: see race_on_test.go.
const raceEnabled = false
