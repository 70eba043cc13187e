package log

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// lastOver is a Thinner: the last of each key and second stays, and what has no key or is stamped at or past young.
type lastOver struct{ young int64 }

func (o lastOver) Group(buf []byte, r *Record, _ time.Time) ([]byte, bool) {
	return fmt.Appendf(buf, "%d/%s", r.Timestamp/1000, r.Key), r.Key != nil && r.Timestamp < o.young
}

// thinLedger is what was put into a partition, by offset.
type thinLedger struct {
	p   *Partition
	all []thinEntry
	seq int32
}

type thinEntry struct {
	Record
	stays bool // a marker, or of a transaction that is not committed
}

// put appends something: a record, a batch of a producer, or a transaction with its marker.
func (k *thinLedger) put(rng *rand.Rand) error {
	record := func(stays bool) *Record {
		r := Record{Key: fmt.Appendf(nil, "key-%d", rng.IntN(4)), Value: fmt.Appendf(nil, "value-%d %060d", len(k.all), 0), Timestamp: int64(len(k.all)) * 50}
		if rng.IntN(12) == 0 {
			r.Key = nil
		}
		k.all = append(k.all, thinEntry{r, stays})
		return &r
	}
	at := Offset(len(k.all))
	verify := func(first Offset, err error) error {
		if err == nil && first != at {
			return fmt.Errorf("offset %d, want %d", first, at)
		}
		return err
	}
	kind, commit, id := rng.IntN(10), rng.IntN(2) == 0, int64(8+len(k.all))
	if kind < 7 {
		return verify(k.p.Append(record(false), 1))
	}
	var bb BatchBuilder
	v := Verified{Ended: NotVerified}
	if kind == 7 {
		bb.SetProducer(7, 0, k.seq)
		k.seq += 3
	} else {
		_, v.Ended = k.p.InTransaction(id, 0, false)
		bb.SetProducer(id, 0, 0)
		bb.SetFlags(AttrTransactional)
	}
	for range 3 {
		bb.Append(record(kind != 7 && !commit))
	}
	first, _, err := k.p.AppendVerified(bb.Seal(0, 0), 1, v)
	if err = verify(first, err); err != nil || kind == 7 {
		return err
	}
	at = Offset(len(k.all))
	k.all = append(k.all, thinEntry{stays: true})
	first, _, err = k.p.AppendBatch(Marker{ProducerID: id, Commit: commit}.Batch(0), 1)
	return verify(first, err)
}

// check looks at every offset: its record is there as it was put, or its batch says that it was given up, and a later record of its group is there. It says how many were.
func (k *thinLedger) check(p *Partition, acked Offset) (given int, err error) {
	if p.Durable() < acked || int(p.Durable()) > len(k.all) {
		return 0, fmt.Errorf("durable end %d, acked %d of %d", p.Durable(), acked, len(k.all))
	}
	lasts, lacks := map[string]Offset{}, []Offset{}
	name := func(o Offset) string {
		n, _ := lastOver{math.MaxInt64}.Group(nil, &k.all[o].Record, time.Time{})
		return string(n)
	}
	var rr RecordReader
	for next := p.LogStart(); next < p.Durable(); {
		b, err := p.Read(next, p.Durable(), 4*kib, nil)
		if err != nil || len(b) == 0 {
			return 0, fmt.Errorf("%d bytes at %d of %d: %w", len(b), next, p.Durable(), err)
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				return 0, err
			}
			b = b[len(batch):]
			if batch.BaseOffset() > next {
				return 0, fmt.Errorf("batch of %d where %d is due: an offset is gone", batch.BaseOffset(), next)
			}
			if err := rr.Reset(batch); err != nil {
				return 0, err
			}
			there := map[Offset]bool{}
			for {
				var r Record
				if ok, err := rr.Next(&r); err != nil {
					return 0, err
				} else if !ok {
					break
				}
				if w := k.all[r.Offset]; !batch.IsControl() && (!bytes.Equal(w.Key, r.Key) || !bytes.Equal(w.Value, r.Value) || w.Timestamp != r.Timestamp) {
					return 0, fmt.Errorf("offset %d is %s=%s, was %s=%s", r.Offset, r.Key, r.Value, w.Key, w.Value)
				}
				there[r.Offset] = true
				lasts[name(r.Offset)] = r.Offset
			}
			for o := batch.BaseOffset(); o < batch.NextOffset(); o++ {
				switch {
				case there[o]:
				case !batch.IsThinned() || k.all[o].stays || k.all[o].Key == nil:
					return 0, fmt.Errorf("offset %d is not there: marked %v, entry %+v", o, batch.IsThinned(), k.all[o])
				default:
					lacks = append(lacks, o)
				}
			}
			next = batch.NextOffset()
		}
	}
	for _, o := range lacks {
		if lasts[name(o)] <= o {
			return 0, fmt.Errorf("offset %d was given up, and nothing later of its key and second is there", o)
		}
	}
	return len(lacks), nil
}

var thinnedTopic = PartitionConfig{SegmentBytes: 3 * kib, IndexIntervalBytes: 512, Retention: -1}

// thinLog is a log with a small quota, and a partition that somebody carries from an offset on.
func thinLog(t *testing.T, fs vfs.FS, w *commits, quota int64, from *atomic.Int64) Config {
	cfg := testConfig(fs, "d", w)
	cfg.DiskQuota, cfg.RecentCacheBytes = quota, 1 // what is in memory is read from there
	cfg.Hold = func(PartitionID) (Offset, bool) { return Offset(from.Load()), true }
	cfg.Thin = func(PartitionID) []Thinner { return []Thinner{lastOver{math.MaxInt64}} }
	return cfg
}

// What nobody has carried is thinned before any of it goes, oldest first, and only when nothing can be thinned any more it goes. Then what was carried goes as ever. // K3
func TestThinsForRoom(t *testing.T) {
	var from atomic.Int64
	w := newCommits()
	l := mustOpen(t, thinLog(t, vfs.NewMem(), w, 24*kib, &from))
	defer l.Close()
	p, err := l.Create(testID(0), "t", thinnedTopic)
	if err != nil {
		t.Fatal(err)
	}
	k := &thinLedger{p: p}
	rng := newRand(11)
	put := func(enough func() bool) {
		for !enough() {
			if err := k.put(rng); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
			p.SetHighWatermark(p.LogEnd())
		}
		flushNow(t, l)
		housekeepNow(t, l)
	}
	put(func() bool { flushNow(t, l); return p.Size() > 30*kib })
	given, err := k.check(p, p.LogEnd())
	if s := l.Stats(); err != nil || given == 0 || s.ThinnedRecords != int64(given) || s.ThinnedBytes == 0 || p.LogStart() != 0 || p.Size() > 24*kib {
		t.Fatalf("%d of %d given up, %v; %d bytes from %d on, figures %+v", given, p.LogEnd(), err, p.Size(), p.LogStart(), l.Stats())
	}
	segs, _ := p.closedSegments()
	if newest := segs[len(segs)-1]; newest.size.Load() < 2*kib {
		t.Errorf("the newest segment has %d bytes: it was thinned too, and there was room", newest.size.Load())
	}
	// Everything that can be is thinned, and it is not enough.
	end := p.LogEnd()
	put(func() bool { return p.LogEnd() > 20*end })
	if given, err = k.check(p, p.LogEnd()); err != nil || p.LogStart() == 0 || p.Size() > 24*kib {
		t.Fatalf("%d given up, %v; %d bytes from %d on", given, err, p.Size(), p.LogStart())
	}
	if n := l.Stats().ThinnedRecords; n < int64(p.LogEnd())/4 { // some are markers, aborted, or without a key
		t.Errorf("%d of %d records were thinned, the rest went as a whole", n, p.LogEnd())
	}
	if err := k.put(rng); err != nil {
		t.Errorf("who writes is held: %v", err)
	}
	// What was carried is deleted.
	from.Store(int64(p.LogEnd()))
	before := l.Stats().ThinnedRecords
	start := p.LogStart()
	put(func() bool { flushNow(t, l); return p.Size() > 30*kib })
	if l.Stats().ThinnedRecords != before || p.LogStart() <= start {
		t.Errorf("%d more thinned, the log begins at %d, as before %d", l.Stats().ThinnedRecords-before, p.LogStart(), start)
	}
}

// Thinner who do not agree give up nothing, and records that are too young stay: then segments go.
func TestThinsWhatAllAgreeOn(t *testing.T) {
	for _, rules := range [][]Thinner{{lastOver{math.MaxInt64}, lastOver{0}}, {lastOver{0}}, {}} {
		var from atomic.Int64
		w := newCommits()
		cfg := thinLog(t, vfs.NewMem(), w, 10*kib, &from)
		cfg.Thin = func(PartitionID) []Thinner { return rules }
		l := mustOpen(t, cfg)
		p, err := l.Create(testID(0), "t", thinnedTopic)
		if err != nil {
			t.Fatal(err)
		}
		k, rng := &thinLedger{p: p}, newRand(3)
		for range 200 {
			if err := k.put(rng); err != nil {
				t.Fatal(err)
			}
		}
		w.wait(t, l, p, p.LogEnd())
		p.SetHighWatermark(p.LogEnd())
		flushNow(t, l)
		housekeepNow(t, l)
		if given, err := k.check(p, p.LogEnd()); err != nil || given != 0 || p.LogStart() == 0 || p.Size() > 10*kib {
			t.Errorf("%d given up, %v; %d bytes from %d on", given, err, p.Size(), p.LogStart())
		}
		_ = l.Close()
	}
}

// An open transaction, and what lies behind it, is not judged: it may be aborted yet, and then was never there. // P2
func TestThinsNothingOfAnOpenTransaction(t *testing.T) {
	var from atomic.Int64
	w := newCommits()
	l := mustOpen(t, thinLog(t, vfs.NewMem(), w, 200*kib, &from))
	defer l.Close()
	p, err := l.Create(testID(0), "t", thinnedTopic)
	if err != nil {
		t.Fatal(err)
	}
	var bb BatchBuilder
	bb.SetProducer(5, 0, 0)
	bb.SetFlags(AttrTransactional)
	for range 3 {
		bb.Append(&Record{Key: []byte("k"), Value: make([]byte, kib)})
	}
	_, ended := p.InTransaction(5, 0, false)
	if _, _, err := p.AppendVerified(bb.Seal(0, 0), 1, Verified{Ended: ended}); err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 300)
	p.SetHighWatermark(p.LogEnd())
	housekeepNow(t, l)
	if n := l.Stats().ThinnedRecords; n != 0 {
		t.Errorf("%d records were thinned behind an open transaction", n)
	}
}

// TestThinCrash fails each file operation in turn while a log is thinned under appends, cuts the power, and looks at every offset: what is not there is told by the segment that lacks
// it. Whatever is found is thinned again. // K3
func TestThinCrash(t *testing.T) {
	passes, stride := int64(0), 1
	if testing.Short() {
		stride = 17
	}
	for step := 0; ; step += stride {
		var from atomic.Int64
		mem, w := vfs.NewMem(), newCommits()
		fault := vfs.NewFault(mem)
		l := mustOpen(t, thinLog(t, fault, w, 5*kib, &from))
		p, err := l.Create(testID(0), "t", thinnedTopic)
		if err != nil {
			t.Fatal(err)
		}
		k := &thinLedger{p: p}
		rng := rand.New(rand.NewPCG(uint64(step), 7))
		in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: step, Err: errors.New("power cut"), Partial: 700})
		acked := Offset(0)
		run := func() error {
			for range 3 {
				for range 14 {
					if err := k.put(rng); err != nil {
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
				if err := errors.Join(flushSegments(l), l.housekeep(t.Context()), l.Err()); err != nil {
					return err
				}
			}
			return nil
		}
		err = run()
		passes += l.Stats().ThinnedRecords
		var disks []*vfs.Mem
		for _, keep := range []float64{0, 0.5, 1} {
			disks = append(disks, mem.CrashClone(keep, rng))
		}
		done := err == nil && in.Hits() == 0
		_ = l.Close()
		for i, disk := range disks {
			if r, err := (&Inspector{FS: disk, Records: true}).InspectDir(t.Context(), "d"); err != nil || len(r.Damaged) > 0 {
				t.Fatalf("step %d disk %d: inspection %+v, %v", step, i, r, err)
			}
			again, err := Open(thinLog(t, disk, nil, 3*kib, &from))
			if err != nil {
				t.Fatalf("step %d disk %d: %v", step, i, err)
			}
			q := again.Partition(testID(0))
			if q == nil || q.Damaged() != "" {
				t.Fatalf("step %d disk %d: %+v", step, i, q)
			}
			if _, err := k.check(q, acked); err != nil {
				t.Fatalf("step %d disk %d: %v", step, i, err)
			}
			q.SetConfig(thinnedTopic)
			q.SetHighWatermark(q.LogEnd())
			if err := again.housekeep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := k.check(q, acked); err != nil {
				t.Fatalf("step %d disk %d, thinned again: %v", step, i, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if done {
			break
		}
	}
	if passes < 100 {
		t.Errorf("only %d records were given up: the crashes miss thinning", passes)
	}
}

// A producer cannot say that records were given up.
func TestNoProducerMarksAsThinned(t *testing.T) {
	var bb BatchBuilder
	bb.SetFlags(AttrThinned)
	bb.Append(&Record{Value: []byte("x")})
	if err := bb.Seal(0, 0).Validate(0); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "thinned") {
		t.Error(err)
	}
}

// One header covers neighbours of one epoch, and nothing between them that it does not know.
func TestThinnedHeadersJoin(t *testing.T) {
	for _, c := range []struct {
		next Batch
		want bool
	}{{thinnedBatch(10, 20, 1, 7), true}, {thinnedBatch(11, 20, 1, 7), false}, {thinnedBatch(10, 20, 2, 7), false}, {thinnedBatch(10, 1<<31, 1, 7), false}} {
		th := thinning{pending: thinnedBatch(0, 10, 1, 9)}
		got := th.covers(c.next)
		b := Batch(th.pending)
		if got != c.want || b.CheckCRC() != nil || b.MaxTimestamp() != 9 || got != (b.NextOffset() == 20) {
			t.Errorf("%d to %d: %v, %d to %d", c.next.BaseOffset(), c.next.NextOffset(), got, b.BaseOffset(), b.NextOffset())
		}
	}
}
