package log

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

var compactedTopic = PartitionConfig{Compact: true, SegmentBytes: 2 * kib, IndexIntervalBytes: 512, MinCleanableRatio: 0.1}

// keyed is the workload of a compacted topic: what each key was last set to, by offset.
type keyed struct {
	t      *testing.T
	p      *Partition
	values []Record // by offset
}

// put appends n records over few keys, some of them tombstones.
func (k *keyed) put(rng *rand.Rand, n int) error {
	for range n {
		r := Record{Key: fmt.Append(nil, "key-", rng.IntN(20)), Value: fmt.Append(nil, "value-", len(k.values)), Timestamp: int64(len(k.values))}
		if rng.IntN(8) == 0 {
			r.Value = nil
		}
		o, err := k.p.Append(&r, 1)
		if err != nil {
			return err
		}
		if int(o) != len(k.values) {
			return fmt.Errorf("offset %d, want %d", o, len(k.values))
		}
		r.Offset = o
		k.values = append(k.values, r)
	}
	return nil
}

// check reads the partition as a table and compares it with what was put up to its end, which must be at
// least acked.
func (k *keyed) check(p *Partition, acked Offset) error {
	if p.Durable() < acked || int(p.Durable()) > len(k.values) {
		return fmt.Errorf("durable end %d, acked %d of %d", p.Durable(), acked, len(k.values))
	}
	want, got := map[string]string{}, map[string]string{}
	for _, r := range k.values[:p.Durable()] {
		want[string(r.Key)] = string(r.Value)
		if r.Value == nil {
			delete(want, string(r.Key))
		}
	}
	var rr RecordReader
	next := p.LogStart()
	for next < p.Durable() {
		b, err := p.Read(next, p.Durable(), 4*kib, nil)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("nothing at %d of %d", next, p.Durable())
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				return err
			}
			b = b[len(batch):]
			if batch.NextOffset() <= next {
				return fmt.Errorf("batch to %d where %d is due", batch.LastOffset(), next)
			}
			if err := rr.Reset(batch); err != nil {
				return err
			}
			for {
				var r Record
				ok, err := rr.Next(&r)
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				if w := k.values[r.Offset]; string(w.Key) != string(r.Key) || string(w.Value) != string(r.Value) || w.Timestamp != r.Timestamp {
					return fmt.Errorf("offset %d is %s=%s, was %s=%s", r.Offset, r.Key, r.Value, w.Key, w.Value)
				}
				if got[string(r.Key)] = string(r.Value); r.Value == nil {
					delete(got, string(r.Key))
				}
			}
			next = batch.NextOffset()
		}
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return fmt.Errorf("table is %v, want %v", got, want)
	}
	return nil
}

// flushSegments brings what is durable into segments, without a checkpoint.
func flushSegments(l *Log) error {
	l.maintenance.Lock()
	defer l.maintenance.Unlock()
	return l.onWriter(l.w.flushAll)
}

func TestLogCompacts(t *testing.T) {
	fsys, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(fsys, "d", w))
	p, err := l.Create(testID(0), "t", compactedTopic)
	if err != nil {
		t.Fatal(err)
	}
	k := &keyed{t: t, p: p}
	rng := rand.New(rand.NewPCG(1, 1))
	ctx := context.Background()
	for round := range 8 {
		for range 20 {
			if err := k.put(rng, 10); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
		p.SetHighWatermark(p.LogEnd())
		if err := errors.Join(l.checkpointPast(), l.compact(ctx, p)); err != nil {
			t.Fatal(err)
		}
		if err := k.check(p, p.LogEnd()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if n := len(*p.segs.Load()); n > 8 {
		t.Errorf("%d segments for 20 keys", n)
	}
	if s := l.CompactionStats(); s.Passes < 8 || s.RecordsKept >= s.RecordsRead/2 || s.BytesWritten == 0 {
		t.Errorf("stats %+v", s)
	}
	// Nothing new: no pass, and the mark survives a restart.
	before := l.CompactionStats().Passes
	if err := l.compact(ctx, p); err != nil || l.CompactionStats().Passes != before {
		t.Errorf("a pass over what is clean: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(fsys, "d", w))
	defer l.Close()
	p = l.Partition(testID(0))
	p.SetConfig(compactedTopic)
	if p.Damaged() != "" {
		t.Fatal(p.Damaged())
	}
	if err := k.check(p, Offset(len(k.values))); err != nil {
		t.Fatal(err)
	}
	if err := l.compact(ctx, p); err != nil || l.CompactionStats().Passes != 0 {
		t.Errorf("a pass after the restart: %v", err)
	}
}

// TestCompactionCrash fails each file operation in turn while a log compacts under appends, cuts the
// power, and looks for every acked key (K1, J5). Whatever is found must compact again.
func TestCompactionCrash(t *testing.T) {
	swaps := int64(0)
	stride := 1
	if testing.Short() {
		stride = 17
	}
	for step := 0; ; step += stride {
		mem, w := vfs.NewMem(), newCommits()
		fault := vfs.NewFault(mem)
		cfg := testConfig(fault, "d", w)
		l := mustOpen(t, cfg)
		p, err := l.Create(testID(0), "t", compactedTopic)
		if err != nil {
			t.Fatal(err)
		}
		k := &keyed{t: t, p: p}
		cut := errors.New("power cut")
		rng := rand.New(rand.NewPCG(uint64(step), 7))
		in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: step, Err: cut, Partial: 700})
		acked := Offset(0)
		run := func() error {
			for range 3 {
				for i := range 12 {
					if i == 5 {
						// A checkpoint that ends in a segment which is closed by the time of the pass.
						if err := l.checkpointPast(); err != nil {
							return err
						}
					}
					if err := k.put(rng, 8); err != nil {
						return err
					}
					for changed := w.changed(); p.Durable() < p.LogEnd(); changed = w.changed() {
						select {
						case <-changed:
						case <-l.failed:
							return l.Err()
						}
					}
					acked = p.Durable()
				}
				p.SetHighWatermark(acked)
				if err := errors.Join(flushSegments(l), l.compact(t.Context(), p)); err != nil {
					return err
				}
			}
			return nil
		}
		err = run()
		swaps += l.CompactionStats().Passes
		var disks []*vfs.Mem
		for _, keep := range []float64{0, 0.5, 1} {
			disks = append(disks, mem.CrashClone(keep, rng))
		}
		done := err == nil && in.Hits() == 0
		_ = l.Close()
		for i, disk := range disks {
			if r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "d"); err != nil || len(r.Damaged) > 0 {
				t.Fatalf("step %d disk %d: inspection %+v, %v", step, i, r, err)
			}
			again, err := Open(testConfig(disk, "d", nil))
			if err != nil {
				t.Fatalf("step %d disk %d: %v", step, i, err)
			}
			q := again.Partition(testID(0))
			if q == nil {
				t.Fatalf("step %d disk %d: the partition is gone", step, i)
			}
			if why := q.Damaged(); why != "" {
				t.Fatalf("step %d disk %d: damaged: %s", step, i, why)
			}
			q.SetConfig(compactedTopic)
			if err := k.check(q, acked); err != nil {
				t.Fatalf("step %d disk %d: %v", step, i, err)
			}
			q.SetHighWatermark(q.LogEnd())
			if err := errors.Join(again.compact(t.Context(), q), k.check(q, acked)); err != nil {
				t.Fatalf("step %d disk %d, compacted again: %v", step, i, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if done {
			break
		}
	}
	if swaps < 20 {
		t.Errorf("only %d passes were finished: the crashes miss compaction", swaps)
	}
}

// Run compacts by itself, beside retention, and ends with its context.
func TestRunCompacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCommits()
		cfg := testConfig(vfs.NewMem(), "d", w)
		cfg.HousekeepTick = time.Second
		l := mustOpen(t, cfg)
		p, err := l.Create(testID(0), "t", compactedTopic)
		if err != nil {
			t.Fatal(err)
		}
		k := &keyed{t: t, p: p}
		for range 40 {
			if err := k.put(rand.New(rand.NewPCG(3, 3)), 10); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
		p.SetHighWatermark(p.LogEnd())
		if err := l.checkpointPast(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		time.Sleep(5 * time.Second) // of the bubble's clock
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if l.CompactionStats().Passes == 0 {
			t.Error("Run did not compact")
		}
		if err := errors.Join(k.check(p, p.LogEnd()), l.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A replica that has just started may not know that anything is committed. What it then took for superseded by a record that is cut again would be lost. (K1)
func TestNothingIsCompactedThatMayBeCut(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, testConfig(vfs.NewMem(), "d", w))
	defer l.Close()
	p, err := l.Create(testID(0), "t", compactedTopic)
	if err != nil {
		t.Fatal(err)
	}
	p.SetHighWatermark(0)
	k := &keyed{t: t, p: p}
	for range 40 {
		if err := k.put(newRand(3), 10); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	if err := errors.Join(flushSegments(l), l.compact(t.Context(), p)); err != nil {
		t.Fatal(err)
	}
	if s := l.CompactionStats(); s.Passes > 0 || p.deleteLimit() != 0 {
		t.Errorf("%d passes, limit %d, and nothing is known to be committed", s.Passes, p.deleteLimit())
	}
	p.SetHighWatermark(p.LogEnd())
	if err := l.compact(t.Context(), p); err != nil || l.CompactionStats().Passes != 1 {
		t.Errorf("%d passes once it is committed: %v", l.CompactionStats().Passes, err)
	}
}

// A reader that walks the partition over and over while it is compacted never sees a hole, an error or time go back.
func TestReadDuringCompaction(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, testConfig(vfs.NewMem(), "d", w))
	defer l.Close()
	p, err := l.Create(testID(0), "t", compactedTopic)
	if err != nil {
		t.Fatal(err)
	}
	k := &keyed{t: t, p: p}
	rng := rand.New(rand.NewPCG(5, 5))
	quit, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- func() error {
			for {
				next := p.LogStart()
				for end := p.Durable(); next < end; {
					b, err := p.Read(next, end, 2*kib, nil)
					if err != nil {
						return err
					}
					if len(b) == 0 {
						return fmt.Errorf("nothing at %d of %d: %w", next, end, io.ErrUnexpectedEOF)
					}
					for len(b) > 0 {
						batch, err := NextBatch(b, 0)
						if err != nil {
							return err
						}
						if batch.NextOffset() <= next {
							return fmt.Errorf("batch to %d where %d is due", batch.LastOffset(), next)
						}
						next, b = batch.NextOffset(), b[len(batch):]
					}
				}
				select {
				case <-quit:
					return nil
				default:
				}
			}
		}()
	}()
	for range 10 {
		for range 10 {
			if err := k.put(rng, 10); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
		p.SetHighWatermark(p.LogEnd())
		if err := errors.Join(l.checkpointPast(), l.compact(t.Context(), p)); err != nil {
			t.Fatal(err)
		}
	}
	close(quit)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What fails before the swap counts costs a pass, not the log; what fails after takes it offline (A6).
func TestCompactionFailures(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name    string
		rule    vfs.Rule
		offline bool
	}{
		{"no room for the rewrite", vfs.Rule{Ops: vfs.OpWrite, Match: "*.clean", Err: boom}, false},
		{"sync of the rewrite", vfs.Rule{Ops: vfs.OpSync, Match: "*.clean", Err: boom}, false},
		{"first rename", vfs.Rule{Ops: vfs.OpRename, Match: "*.swap", Err: boom}, false},
		{"directory sync", vfs.Rule{Ops: vfs.OpSyncDir, Match: "0", Err: boom}, true},
		{"removal", vfs.Rule{Ops: vfs.OpRemove, Match: "*.log", Err: boom}, true},
		{"last rename", vfs.Rule{Ops: vfs.OpRename, Match: "*.log", Err: boom}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mem := vfs.NewMem()
			fault, w := vfs.NewFault(mem), newCommits()
			l := mustOpen(t, testConfig(fault, "d", w))
			p, err := l.Create(testID(0), "t", compactedTopic)
			if err != nil {
				t.Fatal(err)
			}
			k := &keyed{t: t, p: p}
			rng := rand.New(rand.NewPCG(2, 2))
			for range 20 {
				if err := k.put(rng, 10); err != nil {
					t.Fatal(err)
				}
				w.wait(t, l, p, p.LogEnd())
			}
			p.SetHighWatermark(p.LogEnd())
			if err := l.checkpointPast(); err != nil {
				t.Fatal(err)
			}
			in := fault.Inject(tt.rule)
			if err := l.compact(t.Context(), p); !errors.Is(err, boom) || in.Hits() == 0 {
				t.Fatalf("the pass says %v after %d faults", err, in.Hits())
			}
			if (l.Err() != nil) != tt.offline {
				t.Errorf("log is offline: %v", l.Err())
			}
			in.Stop()
			if !tt.offline {
				if err := errors.Join(k.check(p, p.LogEnd()), l.compact(t.Context(), p), k.check(p, p.LogEnd())); err != nil {
					t.Errorf("the next pass: %v", err)
				}
			}
			_ = l.Close()
			again := mustOpen(t, testConfig(mem, "d", nil))
			defer again.Close()
			q := again.Partition(testID(0))
			if err := k.check(q, Offset(len(k.values))); err != nil || q.Damaged() != "" {
				t.Errorf("after a restart: %v, %s", err, q.Damaged())
			}
		})
	}
}
