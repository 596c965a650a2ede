package main

import (
	"testing"
	"time"

	"vfiofs/virtio/virtiofs"
)

func TestPollLimit(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"off", 0, true},
		{"auto", virtiofs.DefaultPoll, true},
		{"1", time.Microsecond, true},
		{"1000", time.Millisecond, true},
		{"0", 0, false},
		{"1001", 0, false},
		{"-1", 0, false},
		{"99999999999999999999", 0, false},
		{"50us", 0, false},
		{"on", 0, false},
		{"", 0, false},
	} {
		var p pollLimit
		if err := p.UnmarshalText([]byte(c.text)); (err == nil) != c.ok || time.Duration(p) != c.want {
			t.Errorf("--poll %q: %v, %v; want %v, ok %v", c.text, time.Duration(p), err, c.want, c.ok)
		}
	}
}

func FuzzPollLimit(f *testing.F) {
	for _, s := range []string{"off", "auto", "50", "1001", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var p pollLimit
		if err := p.UnmarshalText([]byte(text)); err == nil && (p < 0 || time.Duration(p) > maxPoll) {
			t.Errorf("--poll %q is %v", text, time.Duration(p))
		}
	})
}
