package testkit

import "testing"

// NoAllocs fails the test when f, which what names in the message, allocates. It calls f
// once to warm up and then counts over runs calls, up to three times: the count is that of
// all goroutines, so the runtime or one in the background may add to it, and the first 0
// will do. Under the race detector f runs, and nothing is counted.
//
// As for [testing.AllocsPerRun], the test can't be parallel, one P is left while f runs,
// and fewer than one allocation per call is none.
func NoAllocs(t testing.TB, runs int, what string, f func()) {
	t.Helper()
	var n float64
	for range 3 {
		if n = testing.AllocsPerRun(runs, f); n == 0 || Race {
			return
		}
	}
	t.Errorf("%s allocates %v times; want 0", what, n)
}
