package log

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// write brings all of p into segments, without a checkpoint: what is durable may not have come to the segment writer yet.
func write(t *testing.T, l *Log, p *Partition) {
	t.Helper()
	for end := Offset(-1); end < p.LogEnd(); runtime.Gosched() {
		l.maintenance.Lock()
		err := l.onWriter(func() error {
			end = p.w.end
			return l.w.flush(p)
		})
		l.maintenance.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A little that is dirty beside much that is clean is compacted once it has waited for max.compaction.lag.ms, also where segments are closed by nothing but that age.
func TestMaxCompactionLag(t *testing.T) {
	w, clock := newCommits(), newTestClock()
	cfg := testConfig(vfs.NewMem(), "d", w)
	cfg.ClockTrusted = func() bool { return true }
	cfg.Now = clock.now
	l := mustOpen(t, cfg)
	defer l.Close()
	topic := compactedTopic
	topic.MinCleanableRatio, topic.MaxCompactionLag, topic.SegmentAge, topic.SegmentBytes = 0.9, time.Hour, -1, 64*kib
	p, err := l.Create(testID(0), "t", topic)
	if err != nil {
		t.Fatal(err)
	}
	if age := p.Config().SegmentAge; age != time.Hour {
		t.Errorf("segments are closed after %v", age)
	}
	k := &keyed{t: t, p: p}
	rng := rand.New(rand.NewPCG(3, 3))
	round := func(records int, later time.Duration, passes int64) {
		t.Helper()
		clock.forward(later)
		if err := k.put(rng, records); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
		p.SetHighWatermark(p.LogEnd())
		write(t, l, p)
		if err := errors.Join(l.compact(t.Context(), p), k.check(p, p.LogEnd())); err != nil {
			t.Fatal(err)
		}
		if got := l.CompactionStats().Passes; got != passes {
			t.Fatalf("%d passes, want %d", got, passes)
		}
	}
	round(500, 0, 0)            // one open segment
	round(1, time.Hour, 1)      // closed for its age, and overdue
	round(1, 59*time.Minute, 1) // too young
	round(1, time.Minute, 2)    // closed, with two records beside what is left of 500
	round(1, 30*time.Minute, 2) // nothing closed
	round(1, 30*time.Minute, 3) // and so on
	round(1, 100*time.Minute, 4)
}
