package log

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// overQuota is a log that holds some times its quota, of which nothing has been carried.
func overQuota(t *testing.T, change func(cfg *Config)) (l *Log, p *Partition, disk *vfs.Mem) {
	t.Helper()
	w, disk := newCommits(), vfs.NewMem()
	cfg := thinLog(t, disk, w, 100*kib, new(atomic.Int64))
	if change != nil {
		change(&cfg)
	}
	l = mustOpen(t, cfg)
	t.Cleanup(func() { _ = l.Close() })
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
	return l, p, disk
}

// A rewrite needs room first (K3).
func TestThinsNothingForAFullDisk(t *testing.T) {
	l, _, disk := overQuota(t, nil)
	disk.SetCapacity(1 << 30)
	u, err := disk.DiskUsage("d")
	if err != nil {
		t.Fatal(err)
	}
	disk.SetCapacity(u.Total - u.Free + 4096)
	housekeepNow(t, l)
	if s := l.Stats(); s.ThinnedRecords > 0 || s.ThinFailures > 0 {
		t.Errorf("%d records thinned, %d segments failed: a full disk is thinned for", s.ThinnedRecords, s.ThinFailures)
	}
}

// slowGroups takes a second for each record, as a filter on a slow card may for each segment, and finds that none outdates another.
type slowGroups struct{ asked *atomic.Int64 }

func (s slowGroups) Group(buf []byte, r *Record, _ time.Time) ([]byte, bool) {
	s.asked.Add(1)
	return fmt.Appendf(buf, "%d", r.Offset), true
}

// Housekeeping has more to do than to thin: what a round does not get by then goes whole. It once went on for as long as segments came due again.
func TestARoundOfThinningEnds(t *testing.T) {
	var asked atomic.Int64
	began := time.Now()
	l, p, _ := overQuota(t, func(cfg *Config) {
		cfg.Thin = func(PartitionID) []Thinner { return []Thinner{slowGroups{&asked}} }
		cfg.Now = func() time.Time { return began.Add(time.Duration(asked.Load()) * time.Second) }
	})
	housekeepNow(t, l)
	if n, all := asked.Load(), int64(p.LogEnd()); n == 0 || n > all/4 || p.LogStart() == 0 {
		t.Errorf("asked about %d of %d records, and the log begins at %d", n, all, p.LogStart())
	}
}
