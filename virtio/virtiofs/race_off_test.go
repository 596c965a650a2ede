//go:build !race

package virtiofs_test

const raceEnabled = false
