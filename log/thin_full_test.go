package log

import (
	"sync/atomic"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// A rewrite needs room first (K3).
func TestThinsNothingForAFullDisk(t *testing.T) {
	var from atomic.Int64
	w, mem := newCommits(), vfs.NewMem()
	cfg := thinLog(t, mem, w, 100*kib, &from)
	l := mustOpen(t, cfg)
	defer l.Close()
	p, err := l.Create(testID(0), "t", thinnedTopic)
	if err != nil {
		t.Fatal(err)
	}
	k, rng := &thinLedger{p: p}, newRand(3)
	for range 1500 {
		if err := k.put(rng); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	p.SetHighWatermark(p.LogEnd())
	flushNow(t, l)
	mem.SetCapacity(1 << 30)
	u, _ := mem.DiskUsage("d")
	mem.SetCapacity(u.Total - u.Free + 4096)
	housekeepNow(t, l)
	s := l.Stats()
	if s.ThinnedRecords > 0 || s.ThinFailures > 0 {
		t.Errorf("%d records thinned, %d segments failed: a full disk is thinned for", s.ThinnedRecords, s.ThinFailures)
	}
}
