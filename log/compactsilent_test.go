package log

import (
	"testing"
	"time"
)

// A partition that falls silent is compacted as well, once max.compaction.lag.ms is over: its last tombstone takes what was there of its key. After that nothing is
// written, however long the silence is; and the age of what comes next begins with it, not with the segment that was waiting for it.
func TestSilentPartitionIsCompacted(t *testing.T) {
	clock := newTestClock()
	config := PartitionConfig{Compact: true, MaxCompactionLag: time.Hour, MinCleanableRatio: 0.9}
	l, w, p, _ := retainLog(t, clock, config, nil)
	put := func(value []byte) {
		t.Helper()
		if _, err := p.Append(&Record{Key: []byte("k"), Value: value}, 1); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
		p.SetHighWatermark(p.LogEnd())
		write(t, l, p)
	}
	// after lets the time pass, and wants so many segments and passes, which dropped so many records.
	after := func(d time.Duration, segments int, passes, dropped int64) {
		t.Helper()
		clock.forward(d)
		housekeepNow(t, l)
		if err := l.compact(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		n, got := len(*p.segs.Load()), l.CompactionStats()
		if n != segments || got.Passes != passes || got.RecordsRead-got.RecordsKept != dropped {
			t.Fatalf("%d segments, want %d; %d passes that dropped %d, %+v", n, segments, passes, dropped, got)
		}
	}
	put([]byte("v"))
	after(30*time.Minute, 1, 0, 0)
	put(nil)
	after(29*time.Minute, 1, 0, 0)
	after(time.Minute, 2, 1, 1) // an hour after the first record, not after the last
	checkpoints := l.Stats().Checkpoints
	for range 10 {
		after(time.Hour, 2, 1, 1)
	}
	if now := l.Stats().Checkpoints; now != checkpoints {
		t.Errorf("%d checkpoints more in a silent partition", now-checkpoints)
	}
	put([]byte("w"))
	after(59*time.Minute, 2, 1, 1)
	put([]byte("x"))
	after(time.Minute, 2, 2, 3) // the tombstone too; what was closed is one segment now
	after(time.Hour, 2, 2, 3)
}

// Where the lag is no matter, or the clock cannot be trusted, a silent partition is left as it is.
func TestSilentPartitionIsLeftAlone(t *testing.T) {
	for name, d := range map[string]struct {
		config  PartitionConfig
		trusted bool
	}{
		"no lag":              {PartitionConfig{Compact: true, Retention: -1}, true},
		"not compacted":       {PartitionConfig{MaxCompactionLag: time.Hour, Retention: -1}, true},
		"a clock not trusted": {PartitionConfig{Compact: true, MaxCompactionLag: time.Hour}, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newTestClock()
			l, w, p, _ := retainLog(t, clock, d.config, func(c *Config) { c.ClockTrusted = func() bool { return d.trusted } })
			fill(t, l, w, p, 3)
			for range 30 { // a clock that steps further would be doubted
				clock.forward(time.Hour)
				housekeepNow(t, l)
			}
			if n := len(*p.segs.Load()); n != 1 {
				t.Errorf("%d segments", n)
			}
		})
	}
}
