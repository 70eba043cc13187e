package log

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// slowGroups takes a second for each record, as a filter on a slow card may for each segment, and finds that none outdates another.
type slowGroups struct{ asked *atomic.Int64 }

func (s slowGroups) Group(buf []byte, r *Record, _ time.Time) ([]byte, bool) {
	s.asked.Add(1)
	return fmt.Appendf(buf, "%d", r.Offset), true
}

// Housekeeping has more to do than to thin: what a round does not get by then goes whole. It once went on for as long as segments came due again.
func TestARoundOfThinningEnds(t *testing.T) {
	var from, asked atomic.Int64
	w, began := newCommits(), time.Now()
	cfg := thinLog(t, vfs.NewMem(), w, 100*kib, &from)
	cfg.Thin = func(PartitionID) []Thinner { return []Thinner{slowGroups{&asked}} }
	cfg.Now = func() time.Time { return began.Add(time.Duration(asked.Load()) * time.Second) }
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
	housekeepNow(t, l)
	if n, all := asked.Load(), int64(p.LogEnd()); n == 0 || n > all/4 || p.LogStart() == 0 {
		t.Errorf("asked about %d of %d records, and the log begins at %d", n, all, p.LogStart())
	}
}
