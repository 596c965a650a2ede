//go:build race

package passthrough

// raceEnabled: the race detector allocates.
const raceEnabled = true
