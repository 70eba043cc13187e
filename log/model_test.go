package log

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// TestModel compares a log with slices after each of many random operations: everything that was appended is
// read back, from memory or segments, at its offset and in its epoch, now and after clean restarts.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			mem := vfs.NewMem()
			wl := &workload{w: newCommits(), rng: rand.New(rand.NewPCG(seed, 9)), seqs: map[[2]int64]int32{}}
			wl.l = mustOpen(t, crashConfig(mem, wl.w))
			for i := range int32(3) {
				if err := wl.create(i); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 300 {
				if err := wl.step(); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if i%100 == 99 {
					wl.restart(t, mem)
				}
				for n, g := range wl.ledgers {
					if err := wl.settle(g); err != nil {
						t.Fatal(err)
					}
					pr := g.promise()
					if err := pr.check(g.p, false); err != nil {
						t.Fatalf("step %d, partition %d: %v", i, n, err)
					}
					if pr.acked != g.p.LogEnd() || g.p.LogStart() != pr.start {
						t.Fatalf("step %d, partition %d: log %d to %d, want %d to %d", i, n, g.p.LogStart(), g.p.LogEnd(), pr.start, pr.acked)
					}
				}
			}
			if err := wl.l.Check(); err != nil {
				t.Error(err)
			}
			if err := wl.l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// restart closes the log and opens it again.
func (wl *workload) restart(t *testing.T, fs vfs.FS) {
	t.Helper()
	if err := wl.l.Close(); err != nil {
		t.Fatal(err)
	}
	wl.l = mustOpen(t, crashConfig(fs, wl.w))
	if !wl.l.Recovery().Clean {
		t.Fatalf("recovery after a clean stop: %+v", wl.l.Recovery())
	}
	for _, g := range wl.ledgers {
		g.p = wl.l.Partition(g.p.id)
		g.p.SetConfig(PartitionConfig{SegmentBytes: 12 * kib, IndexIntervalBytes: 1 * kib})
	}
}

// TestConcurrentUse appends to and reads from the same partitions from many goroutines, while segments roll,
// checkpoints run and old segments go.
func TestConcurrentUse(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, crashConfig(vfs.NewMem(), w))
	defer l.Close()
	var ps []*Partition
	for i := range int32(3) {
		p, err := l.Create(testID(i), "t", PartitionConfig{SegmentBytes: 8 * kib})
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	const each = 400
	var writers, readers sync.WaitGroup
	for i := range 6 {
		p := ps[i%len(ps)]
		writers.Go(func() {
			for n := range each {
				if _, err := p.Append(&Record{Value: make([]byte, 100+n%100)}, 1); err != nil {
					t.Error(err)
					return
				}
				w.wait(t, l, p, p.LogEnd()-20)
			}
		})
	}
	stop := make(chan struct{})
	for _, p := range ps {
		readers.Go(func() {
			var buf []byte
			from := Offset(0)
			for {
				from = max(from, p.LogStart())
				b, err := p.Read(from, p.Durable(), 4*kib, buf)
				if err != nil && !(errors.Is(err, ErrOutOfRange) && from < p.LogStart()) {
					t.Error(err)
					return
				}
				for rest := b; len(rest) > 0; {
					batch, err := NextBatch(rest, len(rest))
					if err != nil || batch.CheckCRC() != nil || batch.BaseOffset() > from {
						t.Errorf("read from %d: batch at %d, %v", from, batch.BaseOffset(), err)
						return
					}
					rest, from = rest[len(batch):], batch.NextOffset()
				}
				buf = b
				if len(b) == 0 {
					select {
					case <-stop:
						if from == p.LogEnd() {
							return
						}
					default:
					}
				}
			}
		})
		readers.Go(func() {
			for o := Offset(100); o < each; o += 100 {
				w.wait(t, l, p, o)
				if err := p.SetLogStart(o - 50); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for _, p := range ps {
		w.wait(t, l, p, 2*each)
	}
	close(stop)
	readers.Wait()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
}

func TestDelete(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(mem, "/d", w))
	defer l.Close()
	p, q := mustCreate(t, l, 0), mustCreate(t, l, 1)
	fill(t, l, w, p, 3)
	fill(t, l, w, q, 3)
	if _, err := l.Create(testID(0), "t", PartitionConfig{}); !errors.Is(err, ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	if err := l.Delete(testID(0)); err != nil {
		t.Fatal(err)
	}
	if err := l.Delete(testID(0)); err != nil {
		t.Errorf("delete twice: %v", err)
	}
	if _, err := p.Append(&Record{}, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("append to a deleted partition: %v", err)
	}
	if _, err := p.Read(0, 3, kib, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("read from a deleted partition: %v", err)
	}
	if l.Partition(testID(0)) != nil || l.Partition(testID(1)) != q {
		t.Error("the wrong partition is gone")
	}
	again := mustCreate(t, l, 0)
	fill(t, l, w, again, 1)
	l2 := mustOpen(t, testConfig(mem.CrashClone(0, nil), "/d", nil))
	defer l2.Close()
	if got := l2.Partition(testID(0)); got == nil || got.LogEnd() != 1 {
		t.Errorf("made again after deletion: %v", got)
	}
	if got := l2.Partition(testID(1)); got.LogEnd() != 3 {
		t.Errorf("other partition ends at %d", got.LogEnd())
	}
}

// TestEpochs: A3, KIP-320 answers, fencing.
func TestEpochs(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(mem, "/d", w))
	p := mustCreate(t, l, 0)
	r := &Record{Value: []byte("x")}
	for _, step := range []struct {
		begin, e Epoch
		n        int
	}{{1, 1, 2}, {2, 2, 0}, {4, 4, 3}, {-1, 7, 1}} {
		if step.begin >= 0 {
			if err := p.BeginEpoch(step.begin); err != nil {
				t.Fatal(err)
			}
		}
		for range step.n {
			if _, err := p.Append(r, step.e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := p.Append(r, 4); !errors.Is(err, ErrFenced) {
		t.Errorf("append in an old epoch: %v", err)
	}
	if err := p.BeginEpoch(3); !errors.Is(err, ErrFenced) {
		t.Errorf("begin an old epoch: %v", err)
	}
	w.wait(t, l, p, 6)
	check := func(p *Partition) {
		t.Helper()
		for _, c := range []struct {
			ask, epoch Epoch
			end        Offset
		}{{0, -1, -1}, {1, 1, 2}, {2, 1, 2}, {3, 1, 2}, {4, 4, 5}, {6, 4, 5}, {7, 7, 6}, {9, 7, 6}} {
			if e, o := p.EpochEnd(c.ask); e != c.epoch || o != c.end {
				t.Errorf("end of epoch %d: %d at %d, want %d at %d", c.ask, e, o, c.epoch, c.end)
			}
		}
	}
	check(p)
	crashed := mustOpen(t, testConfig(mem.CrashClone(0, nil), "/d", nil))
	check(crashed.Partition(testID(0)))
	if err := errors.Join(crashed.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(mem, "/d", nil))
	defer l.Close()
	check(l.Partition(testID(0)))
	if err := l.Partition(testID(0)).Truncate(3); err != nil {
		t.Fatal(err)
	}
	if e, o := l.Partition(testID(0)).EpochEnd(9); e != 1 && e != 4 || o > 3 {
		t.Errorf("after truncation: epoch %d ends at %d", e, o)
	}
}

// TestLimits: what is too large or too much is refused and changes nothing.
func TestLimits(t *testing.T) {
	cfg := testConfig(vfs.NewMem(), "/d", nil)
	cfg.MaxUncommittedBytes = 2 * kib
	block := make(chan struct{})
	cfg.OnCommit = func([]*Partition) { <-block }
	l := mustOpen(t, cfg)
	p, err := l.Create(testID(0), "t", PartitionConfig{MaxMessageBytes: kib})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(&Record{Value: make([]byte, kib)}, 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large record: %v", err)
	}
	if _, _, err := p.AppendBatch(benchBatch(t, CompressionNone, 8), 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large batch: %v", err)
	}
	if p.LogEnd() != 0 {
		t.Errorf("log end %d", p.LogEnd())
	}
	var busy error
	for range 100 {
		if _, busy = p.Append(&Record{Value: make([]byte, 500)}, 1); busy != nil {
			break
		}
	}
	if !errors.Is(busy, ErrBusy) {
		t.Errorf("with commits held up: %v", busy)
	}
	close(block)
	for _, name := range []string{"", ".", "..", "a/b", "a b", string(make([]byte, 250))} {
		if _, err := l.Create(testID(7), name, PartitionConfig{}); err == nil {
			t.Errorf("topic name %q was taken", name)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(&Record{}, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if p.Durable() != p.LogEnd() {
		t.Errorf("close left %d of %d", p.Durable(), p.LogEnd())
	}
}
