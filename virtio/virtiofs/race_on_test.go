//go:build race

package virtiofs_test

// raceEnabled: the race detector allocates.
const raceEnabled = true
