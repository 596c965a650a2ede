//go:build !race

package vfio_test

const raceEnabled = false
