package log

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// A board whose clock goes wrong while it is off must not delete what it holds for its age as soon as it starts. If it really was
// off that long, an hour more does no harm.
func TestClockThatLeaptBetweenRunsDeletesNothingForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newTestClock()
		mem := vfs.NewMem()
		w := newCommits()
		cfg := testConfig(mem, "/d", w)
		cfg.Now = clock.now
		l := mustOpen(t, cfg)
		p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 4 * kib, Retention: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, l, w, p, 20)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}

		clock.forward(30 * 24 * time.Hour)
		l = mustOpen(t, cfg)
		defer l.Close()
		p = l.Partition(testID(0))
		p.SetConfig(PartitionConfig{SegmentBytes: 4 * kib, Retention: time.Hour})
		housekeepNow(t, l)
		if got := p.LogStart(); got != 0 {
			t.Errorf("log start %d right after a start a month later", got)
		}
		time.Sleep(clockStep + time.Minute)
		clock.forward(clockStep + time.Minute)
		housekeepNow(t, l)
		if got := p.LogStart(); got == 0 {
			t.Error("nothing is deleted by age any more")
		}
	})
}
