package main

import (
	"testing"
	"time"
)

func TestProgressLine(t *testing.T) {
	for _, c := range []struct {
		total, done int64
		ran         time.Duration
		want        string
	}{
		{0, 0, time.Second, "audit t  0  0/s"},
		{0, 12_345, time.Second, "audit t  12345  12.3k/s"},
		{100, 0, time.Second, "audit t [..............................]   0%  0/s"},
		{100, 50, 2 * time.Second, "audit t [###############...............]  50%  25/s  2s left"},
		{100, 130, time.Second, "audit t [##############################] 100%  130/s"},
	} {
		p := &progress{label: "audit t", total: c.total}
		p.add(c.done)
		if got := p.line(c.ran); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.done, c.total, got, c.want)
		}
	}
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1k", 1.25e6: "1.25M", 3e9: "3G"} {
		if got := shortCount(v); got != want {
			t.Errorf("shortCount(%v) = %q, want %q", v, got, want)
		}
	}
}

// Bars are for people: a pipe or a test sees none.
func TestNoProgressBarOffATerminal(t *testing.T) {
	g, _ := testGlobals(t, "")
	p := newProgress(g, "x", 1)
	p.add(1)
	p.finish()
	if p != nil {
		t.Error("drew a bar")
	}
}
