package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// ledger is what the workload knows of one partition: what it has been promised, and what it has asked for.
// A recovered log must hold the first and nothing that is not of the second.
type ledger struct {
	mu        sync.Mutex
	p         *Partition
	submitted [][]byte // by offset, noted before the append
	epochs    []Epoch  // of each
	cut       Offset   // a truncation to here is under way; -1: none
	start     Offset   // log start that was promised
	wanted    Offset   // log start that was asked for
	batches   []Batch  // idempotent batches that were appended, with their offset set
}

// promise is a ledger at one moment.
type promise struct {
	acked, known, start, wanted Offset
	submitted                   [][]byte
	epochs                      []Epoch
	batches                     []Batch
}

func (g *ledger) promise() promise {
	g.mu.Lock()
	defer g.mu.Unlock()
	pr := promise{
		acked: min(g.p.Durable(), Offset(len(g.submitted))), known: Offset(len(g.submitted)),
		start: g.start, wanted: g.wanted, submitted: g.submitted, epochs: g.epochs, batches: g.batches,
	}
	if g.cut >= 0 {
		pr.acked, pr.known = min(pr.acked, g.cut), min(pr.known, g.cut)
	}
	return pr
}

// check compares a recovered partition with what was promised; half says that a truncation was under way, so
// that offsets past known may hold anything that was submitted once.
func (pr *promise) check(p *Partition, half bool) error {
	if p == nil {
		return errors.New("partition is gone")
	}
	if why := p.Damaged(); why != "" {
		return fmt.Errorf("damaged: %s", why)
	}
	if p.LogEnd() < pr.acked {
		return fmt.Errorf("log end %d, acked %d", p.LogEnd(), pr.acked)
	}
	if p.LogEnd() > pr.known && !half {
		return fmt.Errorf("log end %d, submitted %d", p.LogEnd(), pr.known)
	}
	if p.Durable() != p.LogEnd() {
		return fmt.Errorf("durable %d, log end %d", p.Durable(), p.LogEnd())
	}
	if p.LogStart() < pr.start || p.LogStart() > pr.wanted {
		return fmt.Errorf("log start %d, promised %d, asked for %d", p.LogStart(), pr.start, pr.wanted)
	}
	if err := errors.Join(p.check(), checkTransactions(p)); err != nil {
		return err
	}
	return forEachRecord(p, func(b Batch, r *Record) error {
		if r.Offset >= pr.known {
			return nil
		}
		if want := pr.submitted[r.Offset]; !bytes.Equal(r.Value, want) {
			return fmt.Errorf("offset %d is %.40q, want %.40q", r.Offset, r.Value, want)
		}
		if b.LeaderEpoch() != pr.epochs[r.Offset] {
			return fmt.Errorf("offset %d has epoch %d, want %d", r.Offset, b.LeaderEpoch(), pr.epochs[r.Offset])
		}
		return nil
	})
}

// checkProducers repeats the last acked batch of every producer, which must be recognised (P1, J6).
func (pr *promise) checkProducers(p *Partition) error {
	last := map[int64]Batch{}
	for _, b := range pr.batches {
		if b.NextOffset() <= pr.acked {
			last[b.ProducerID()] = b
		}
	}
	for id, b := range last {
		first, duplicate, err := p.AppendBatch(append(Batch(nil), b...), p.LastEpoch())
		if err != nil || !duplicate || first != b.BaseOffset() {
			return fmt.Errorf("producer %d repeats its batch at %d: first %d, duplicate %v, %v", id, b.BaseOffset(), first, duplicate, err)
		}
	}
	return nil
}

// forEachRecord reads the whole partition and checks that offsets are dense.
func forEachRecord(p *Partition, fn func(Batch, *Record) error) error {
	var rr RecordReader
	var buf []byte
	next := p.LogStart()
	for next < p.Durable() {
		b, err := p.Read(next, p.Durable(), 8*kib, buf)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("nothing at %d of %d", next, p.Durable())
		}
		buf = b
		for len(b) > 0 {
			batch, err := NextBatch(b, maxJournalFileBytes)
			if err != nil {
				return err
			}
			b = b[len(batch):]
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
				if r.Offset < next {
					continue
				}
				if r.Offset != next {
					return fmt.Errorf("offset %d where %d should be", r.Offset, next)
				}
				if err := fn(batch, &r); err != nil {
					return err
				}
				next++
			}
		}
	}
	return nil
}

// workload drives a log with everything it can do, and notes what it promised.
type workload struct {
	l       *Log
	w       *commits
	rng     *rand.Rand
	ledgers []*ledger
	epoch   Epoch
	seqs    map[[2]int64]int32
	count   int
	mu      sync.Mutex // guards ledgers against the observer
	err     error
}

func crashConfig(fs vfs.FS, w *commits) Config {
	cfg := testConfig(fs, "/d", w)
	cfg.JournalFileBytes = 32 * kib
	cfg.CommitMaxBytes = 8 * kib
	cfg.MaxUnwrittenBytes = 24 * kib
	cfg.RecentCacheBytes = 16 * kib
	return cfg
}

func (wl *workload) create(i int32) error {
	p, err := wl.l.Create(testID(i), "t", PartitionConfig{SegmentBytes: 12 * kib, IndexIntervalBytes: 1 * kib})
	if err != nil {
		return err
	}
	wl.mu.Lock()
	wl.ledgers = append(wl.ledgers, &ledger{p: p, cut: -1})
	wl.mu.Unlock()
	return nil
}

// step does one random thing.
func (wl *workload) step() error {
	g := wl.ledgers[wl.rng.IntN(len(wl.ledgers))]
	switch k := wl.rng.IntN(100); {
	case k < 70:
		return wl.append(g)
	case k < 80:
		return wl.appendBatch(g)
	case k < 85:
		return wl.transact(g)
	case k < 88:
		wl.epoch++
		return nil
	case k < 91:
		return wl.truncate(g)
	case k < 94:
		return wl.setLogStart(g)
	default:
		return wl.settle(g)
	}
}

func (wl *workload) value() []byte {
	wl.count++
	v := fmt.Appendf(nil, "value %d ", wl.count)
	return append(v, bytes.Repeat([]byte{byte('a' + wl.count%26)}, wl.rng.IntN(700))...)
}

func (g *ledger) submit(values [][]byte, e Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, v := range values {
		g.submitted = append(g.submitted, v)
		g.epochs = append(g.epochs, e)
	}
}

func (wl *workload) append(g *ledger) error {
	for range 1 + wl.rng.IntN(6) {
		v := wl.value()
		g.submit([][]byte{v}, wl.epoch)
		o, err := g.p.Append(&Record{Timestamp: int64(wl.count), Value: v}, wl.epoch)
		if err != nil {
			return err
		}
		if int(o) != len(g.submitted)-1 {
			return fmt.Errorf("appended at %d, want %d", o, len(g.submitted)-1)
		}
	}
	return nil
}

func (wl *workload) appendBatch(g *ledger) error {
	id := int64(1 + wl.rng.IntN(3))
	key := [2]int64{int64(g.p.id.Index), id}
	var values [][]byte
	var bb BatchBuilder
	for range 1 + wl.rng.IntN(5) {
		v := wl.value()
		values = append(values, v)
		bb.Append(&Record{Timestamp: int64(wl.count), Value: v})
	}
	bb.SetProducer(id, 0, wl.seqs[key])
	b := append(Batch(nil), bb.Seal(0, 0)...)
	g.submit(values, wl.epoch)
	first, duplicate, err := g.p.AppendBatch(b, wl.epoch)
	if err != nil || duplicate {
		return fmt.Errorf("producer %d sequence %d: duplicate %v: %w", id, wl.seqs[key], duplicate, err)
	}
	b.SetBaseOffset(first)
	wl.seqs[key] += int32(len(values))
	g.mu.Lock()
	g.batches = append(g.batches, b)
	g.mu.Unlock()
	return nil
}

func (wl *workload) truncate(g *ledger) error {
	end := g.p.LogEnd()
	o, err := g.p.batchStart(max(g.p.LogStart(), end-Offset(wl.rng.IntN(40))))
	if err != nil {
		return err
	}
	o = max(o, g.p.LogStart())
	if b, err := g.p.batchStart(o); err != nil || b != o {
		return err // the log starts within a batch, which cannot be cut there
	}
	g.mu.Lock()
	g.cut = o
	g.mu.Unlock()
	if err := g.p.Truncate(o); err != nil {
		return err
	}
	if g.p.LogEnd() > o {
		return fmt.Errorf("truncated to %d, log end %d", o, g.p.LogEnd())
	}
	o = g.p.LogEnd()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.submitted, g.epochs, g.cut = g.submitted[:o:o], g.epochs[:o:o], -1
	var kept []Batch
	next := map[int64]int32{1: 0, 2: 0, 3: 0}
	for _, b := range g.batches {
		if b.NextOffset() <= o {
			kept = append(kept, b)
			next[b.ProducerID()] = b.BaseSequence() + int32(b.Count())
		}
	}
	g.batches = kept
	for id, n := range next {
		wl.seqs[[2]int64{int64(g.p.id.Index), id}] = n
	}
	return nil
}

func (wl *workload) setLogStart(g *ledger) error {
	start, end := g.p.LogStart(), g.p.Durable()
	if end-start < 2 {
		return nil
	}
	o := start + Offset(wl.rng.IntN(int(end-start)/2+1))
	g.mu.Lock()
	g.wanted = max(g.wanted, o)
	g.mu.Unlock()
	if err := g.p.SetLogStart(o); err != nil {
		return err
	}
	g.mu.Lock()
	g.start = g.wanted
	g.mu.Unlock()
	return nil
}

var errWorkloadFailed = errors.New("log failed")

// settle waits until everything of one partition is durable.
func (wl *workload) settle(g *ledger) error {
	for changed := wl.w.changed(); g.p.Durable() < g.p.LogEnd(); changed = wl.w.changed() {
		select {
		case <-changed:
		case <-wl.l.failed:
			return errWorkloadFailed
		}
	}
	return nil
}

// TestCrashPowerCut cuts the power before every operation that changes the disk, with none, half or all of what
// was not synced kept, and opens what is left. Every promise must be kept and offsets be dense (A5, J5, J6).
func TestCrashPowerCut(t *testing.T) {
	seeds := uint64(1)
	if os.Getenv("WEIR_SOAK") != "" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			number, err := powerCut(t, seed, 260, func(fs vfs.FS) vfs.FS { return fs })
			if err != nil {
				t.Fatal(err)
			}
			if number < 4+3 {
				t.Errorf("only %d journal files were begun: the run recycles too few", number)
			}
		})
	}
}

// TestCrashPowerCutSlowDisk is the same on an SD card: syncs of 5 to 50 ms, 10 MB/s, so that commits gather more,
// checkpoints overlap with them, and the journal fills up.
func TestCrashPowerCutSlowDisk(t *testing.T) {
	_, err := powerCut(t, 3, 90, func(fs vfs.FS) vfs.FS { return fs },
		vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Delay: 5 * time.Millisecond},
		vfs.Rule{Ops: vfs.OpSync, Match: "*.log", Delay: 50 * time.Millisecond, Times: 40},
		vfs.Rule{Ops: vfs.OpWrite, PerMiB: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashTestNeedsSyncs proves that TestCrashPowerCut sees what it should: with the sync of some kind of file left
// out, it must find a broken promise.
func TestCrashTestNeedsSyncs(t *testing.T) {
	for _, match := range []string{"*.wal", "*.log"} {
		t.Run(match, func(t *testing.T) {
			_, err := powerCut(t, 0, 260, func(fs vfs.FS) vfs.FS { return lazyFS{fs, match, new(atomic.Int32)} })
			if err == nil {
				t.Errorf("syncs of %s are left out and no power cut shows it", match)
			}
			t.Log(err)
		})
	}
}

// lazyFS says that files matching a pattern are synced, and does nothing, after the first few syncs, which
// make the directory.
type lazyFS struct {
	vfs.FS
	match string
	syncs *atomic.Int32
}

type lazyFile struct {
	vfs.File
	syncs *atomic.Int32
}

func (f lazyFile) Sync() error {
	if f.syncs.Add(1) < 20 {
		return f.File.Sync()
	}
	return nil
}

func (fs lazyFS) OpenFile(name string, flag int) (vfs.File, error) {
	f, err := fs.FS.OpenFile(name, flag)
	if ok, _ := filepath.Match(fs.match, filepath.Base(name)); ok && err == nil {
		f = lazyFile{f, fs.syncs}
	}
	return f, err
}

func (fs lazyFS) Create(name string) (vfs.File, error) {
	return fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// powerCut runs the workload and returns the first broken promise.
func powerCut(t *testing.T, seed uint64, steps int, wrap func(vfs.FS) vfs.FS, slow ...vfs.Rule) (number uint64, broken error) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	w := newCommits()
	wl := &workload{w: w, rng: rand.New(rand.NewPCG(seed, 1)), seqs: map[[2]int64]int32{}}
	cuts := rand.New(rand.NewPCG(seed, 2))
	var one sync.Mutex
	n := 0
	observe := func(op vfs.Op, name string) {
		one.Lock()
		defer one.Unlock()
		wl.mu.Lock()
		ledgers := append([]*ledger(nil), wl.ledgers...)
		wl.mu.Unlock()
		if broken != nil || len(ledgers) == 0 {
			return
		}
		n++
		promises := make([]promise, len(ledgers))
		halves := make([]bool, len(ledgers))
		for i, g := range ledgers {
			g.mu.Lock()
			halves[i] = g.cut >= 0
			g.mu.Unlock()
			promises[i] = g.promise()
		}
		for _, keep := range []float64{0, 0.5, 1} {
			disk := mem.CrashClone(keep, cuts)
			if err := reopen(disk, promises, ledgers, halves); err != nil {
				broken = fmt.Errorf("power cut %d before %v of %s, keeping %g: %v", n, op, name, keep, err)
				return
			}
		}
	}
	wl.l = mustOpen(t, crashConfig(wrap(fault), w))
	fault.Inject(vfs.Rule{Ops: vfs.OpChange, Hook: observe})
	for _, r := range slow {
		fault.Inject(r)
	}
	for i := range int32(3) {
		if err := wl.create(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range steps {
		if err := wl.step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	for _, g := range wl.ledgers {
		if err := wl.settle(g); err != nil {
			t.Fatal(err)
		}
	}
	if err := wl.l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d power cuts, %d journal files, %d commits", n, wl.l.j.number, wl.l.Stats().Commits)
	return wl.l.j.number, broken
}

// reopen recovers the disk, checks every promise, does it again after another cut, and appends.
func reopen(disk *vfs.Mem, promises []promise, ledgers []*ledger, halves []bool) error {
	for round := range 2 {
		if _, err := disk.Stat("/d/log.meta"); err == nil && round == 0 {
			if r, err := (&Inspector{FS: disk}).InspectDir(context.Background(), "/d"); err != nil || len(r.Damaged) > 0 {
				return fmt.Errorf("round %d: inspection %+v, %v", round, *r, err)
			}
		}
		w := newCommits()
		l, err := Open(crashConfig(disk, w))
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		for i, g := range ledgers {
			p := l.Partition(g.p.id)
			if err := promises[i].check(p, halves[i]); err != nil {
				return errors.Join(fmt.Errorf("round %d: partition %d: %w", round, i, err), l.Close())
			}
			if halves[i] {
				continue
			}
			if err := promises[i].checkProducers(p); err != nil {
				return errors.Join(fmt.Errorf("round %d: partition %d: %w", round, i, err), l.Close())
			}
		}
		disk = disk.CrashClone(0, nil)
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}
