package main

import "testing"

// The trimmer collects what a burst has left, once, and neither while the node works nor for a trifle.
func TestTrimmerCollectsWhenQuiet(t *testing.T) {
	const mib = 1 << 20
	var tr trimmer
	steps := []struct {
		name string
		now  heapSample
		want bool
	}{
		{"small and fresh", heapSample{live: 8 * mib, objects: 9 * mib, allocated: mib / 2}, false},
		{"a burst goes on", heapSample{live: 8 * mib, objects: 20 * mib, allocated: 13 * mib}, false},
		{"it is over", heapSample{live: 8 * mib, objects: 20 * mib, allocated: 13 * mib}, true},
	}
	for _, s := range steps {
		if got := tr.due(s.now); got != s.want {
			t.Errorf("%s: %v", s.name, got)
		}
	}
	// More than the threshold stays unused for some reason: that alone must not make it collect for ever.
	rest := heapSample{live: 12 * mib, objects: 12 * mib, free: 4 * mib, allocated: 13 * mib}
	tr.trimmed(rest)
	if tr.due(rest) {
		t.Error("collects again though nothing has changed")
	}
	rest.free += 3 * mib
	if !tr.due(rest) {
		t.Error("does not collect what was freed since")
	}
}
