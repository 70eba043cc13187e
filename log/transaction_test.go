package log

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// transactionalBatchOf makes a batch of n records of a transaction.
func transactionalBatchOf(id int64, epoch int16, sequence int32, n int, base Offset) Batch {
	var bb BatchBuilder
	bb.SetProducer(id, epoch, sequence)
	bb.SetFlags(AttrTransactional)
	for i := range n {
		bb.Append(&Record{Key: fmt.Append(nil, i), Value: []byte("v")})
	}
	return bytes.Clone(bb.Seal(base, 1))
}

// markerAt is a marker in its place.
func markerAt(id int64, epoch int16, commit bool, coordinator int32, at Offset) Batch {
	b := Marker{ProducerID: id, ProducerEpoch: epoch, Commit: commit, CoordinatorEpoch: coordinator}.Batch(0)
	b.SetBaseOffset(at)
	b.SetLeaderEpoch(1)
	return b
}

// transactModel is what transactions are by definition: it looks at all batches anew each time.
type transactModel []Batch

func (m transactModel) aborted() (out []AbortedTransaction, open []Offset) {
	first := map[int64]Offset{}
	for _, b := range m {
		id := b.ProducerID()
		f, begun := first[id]
		switch mk, isMarker := marker(b); {
		case isMarker && begun && !mk.Commit:
			out = append(out, AbortedTransaction{id, f, b.LastOffset()})
			fallthrough
		case isMarker:
			delete(first, id)
		case b.IsTransactional() && !begun:
			first[id] = b.BaseOffset()
		}
	}
	for _, f := range first {
		open = append(open, f)
	}
	slices.Sort(open)
	return out, open
}

// stable: below it every transaction has its marker below hw.
func (m transactModel) stable(hw Offset) Offset {
	n := len(m)
	for n > 0 && m[n-1].BaseOffset() >= hw {
		n--
	}
	lso := hw
	if _, open := m[:n].aborted(); len(open) > 0 {
		lso = min(lso, open[0])
	}
	return lso
}

// P2: the table says what the batches say, whatever was cut, stored and read back in between. Half of the producers have another epoch after each transaction.
func TestTransactionsModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var model transactModel
		table := newProducerTable(0)
		next, hw := Offset(0), Offset(0)
		seqs, epochs := map[int64]int32{}, map[int64]int16{}
		own := func(id int64) bool { return id >= 2 && id < 10 }
		count := func(b Batch) {
			id := b.ProducerID()
			if epochs[id] = b.ProducerEpoch(); !b.IsControl() {
				seqs[id] = addSequence(b.LastSequence(), 1)
			} else if own(id) {
				seqs[id] = 0
			}
		}
		add := func(b Batch) {
			table.apply(b, int64(next))
			model = append(model, b)
			next = b.NextOffset()
			count(b)
		}
		for step := range 150 {
			id := rng.Int64N(4)
			p := table.byID[id]
			switch rng.IntN(12) {
			default:
				n := 1 + rng.IntN(3)
				b := transactionalBatchOf(id, epochs[id], seqs[id], n, next)
				ended := Offset(-1)
				if p != nil {
					ended = p.ended
				}
				if _, dup, err := table.check(b, Verified{Ended: ended, Own: own(id)}); dup || err != nil {
					t.Fatalf("seed %d step %d: %v, %v", seed, step, dup, err)
				}
				add(b)
			case 0, 1, 2:
				epoch := epochs[id]
				if own(id) {
					late := markerAt(id, epoch, true, int32(step), next)
					if _, _, err := table.check(late, Verified{Ended: NotVerified, Own: true}); p != nil && p.transaction >= 0 && !errors.Is(err, ErrTransactionState) {
						t.Fatalf("seed %d step %d: the last marker again: %v", seed, step, err)
					}
					epoch++
				}
				b := markerAt(id, epoch, rng.IntN(2) == 0, int32(step), next)
				if _, _, err := table.check(b, Verified{Ended: NotVerified, Own: own(id)}); err != nil {
					t.Fatalf("seed %d step %d: a marker: %v", seed, step, err)
				}
				add(b)
				if late := transactionalBatchOf(id, epoch-1, 0, 1, next); own(id) {
					if _, _, err := table.check(late, Verified{Ended: b.LastOffset(), Own: true}); !errors.Is(err, ErrProducerFenced) {
						t.Fatalf("seed %d step %d: a late batch: %v", seed, step, err)
					}
				}
			case 3:
				add(producerBatchOf(10+id, 0, seqs[10+id], 1, next))
			case 4: // cut, from the batches if need be
				cut := len(model) - rng.IntN(min(len(model), 6)+1)
				if model = model[:cut]; cut == 0 {
					next = 0
				} else {
					next = model[cut-1].NextOffset()
				}
				if hw = min(hw, next); !table.truncateTo(next) {
					table = newProducerTable(0)
					for _, b := range model {
						table.apply(b, 0)
					}
				}
				clear(seqs)
				clear(epochs)
				for _, b := range model {
					count(b)
				}
			case 5: // restart
				again, err := decodeProducers(table.encode(nil), 0)
				if err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				table = again
			case 6:
				hw = min(next, hw+Offset(rng.IntN(8)))
			}
			aborted, open := model.aborted()
			if !slices.Equal(table.aborted, aborted) || table.open != len(open) {
				t.Fatalf("seed %d step %d: aborted %v, open %d; want %v, %v", seed, step, table.aborted, table.open, aborted, open)
			}
			if got, want := table.stable(hw), model.stable(hw); got != want && (got > want || hw > table.doubt) {
				t.Fatalf("seed %d step %d: stable below %d is %d, want %d", seed, step, hw, got, want)
			}
			from, to := Offset(rng.IntN(int(next)+1)), Offset(rng.IntN(int(next)+1))
			var in []AbortedTransaction
			for _, a := range aborted {
				if a.Last >= from && a.First < to {
					in = append(in, a)
				}
			}
			if got := table.abortedIn(from, to, nil); !slices.Equal(got, in) {
				t.Fatalf("seed %d step %d: aborted in %d to %d: %v, want %v", seed, step, from, to, got, in)
			}
		}
	}
}

func TestTransactionCheck(t *testing.T) {
	table := newProducerTable(0)
	table.maxOpen, table.maxAborted = 2, 3
	table.apply(transactionalBatchOf(1, 0, 0, 2, 0), 0) // open from 0
	table.apply(transactionalBatchOf(2, 0, 0, 1, 2), 0) // committed at 3
	table.apply(markerAt(2, 0, true, 7, 3), 0)          //
	table.apply(producerBatchOf(3, 0, 0, 1, 4), 0)      // never in one
	table.apply(markerAt(4, 5, false, 7, 5), 0)         // its batches are gone
	plain := func(id int64, epoch int16, seq int32) Batch { return producerBatchOf(id, epoch, seq, 1, 6) }
	within := func(id int64, epoch int16, seq int32) Batch { return transactionalBatchOf(id, epoch, seq, 1, 6) }
	for _, tt := range []struct {
		name  string
		b     Batch
		ended Offset
		err   error
	}{
		{"goes on", within(1, 0, 2), NotVerified, nil},
		{"outside of the open transaction", plain(1, 0, 2), NotVerified, ErrTransactionState},
		{"begins, verified", within(2, 0, 1), 3, nil},
		{"begins, verified before the last marker", within(2, 0, 1), -1, ErrNotVerified},
		{"begins, not verified", within(2, 0, 1), NotVerified, ErrNotVerified},
		{"first of its producer, verified", within(9, 0, 0), -1, nil},
		{"first of its producer, not verified", within(9, 0, 0), NotVerified, ErrNotVerified},
		{"idempotent after a transaction", plain(2, 0, 1), NotVerified, nil},
		{"first transaction of an idempotent producer", within(3, 0, 1), -1, nil},
		{"marker of the same coordinator", markerAt(2, 0, true, 7, 6), NotVerified, nil},
		{"marker of an older coordinator", markerAt(2, 0, true, 6, 6), NotVerified, ErrCoordinatorFenced},
		{"marker of an older producer", markerAt(4, 4, true, 8, 6), NotVerified, ErrProducerFenced},
		{"marker for nobody", markerAt(77, 0, true, 0, 6), NotVerified, nil},
	} {
		if _, dup, err := table.check(tt.b, Verified{Ended: tt.ended}); !errors.Is(err, tt.err) || dup {
			t.Errorf("%s: %v, duplicate %v", tt.name, err, dup)
		}
	}
	// A marker that comes late, when the producer has begun its next transaction, does not end that one.
	table.byID[1].started = 5000
	for started, want := range map[int64]error{4000: ErrTransactionState, 5000: nil, 0: nil} {
		if _, _, err := table.check(markerAt(1, 0, true, 7, 6), Verified{Ended: NotVerified, Started: started}); !errors.Is(err, want) {
			t.Errorf("marker of the transaction begun at %d: %v", started, err)
		}
	}
	if _, _, err := table.check(within(1, 1, 0), Verified{Ended: -1}); !errors.Is(err, ErrNotVerified) {
		t.Errorf("a transaction of a later epoch, before the marker of the one that is open: %v", err)
	}
	odd := markerAt(2, 0, true, 7, 6)
	odd[bytes.Index(odd, []byte{0, 0, 0, 1, 12, 0, 0})+3] = 9 // of the key: a type that ends nothing
	if _, _, err := table.check(odd, Verified{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a control batch of another type: %v", err)
	}
	table.apply(transactionalBatchOf(5, 0, 0, 1, 6), 0)
	if _, _, err := table.check(within(6, 0, 0), Verified{Ended: -1}); !errors.Is(err, ErrTooManyTransactions) {
		t.Errorf("a third open one: %v", err)
	}
	table.apply(markerAt(5, 0, false, 7, 7), 0)
	table.apply(markerAt(1, 0, false, 7, 8), 0)
	table.apply(transactionalBatchOf(5, 0, 1, 1, 9), 0)
	table.apply(markerAt(5, 0, false, 7, 10), 0)
	if _, _, err := table.check(within(6, 0, 0), Verified{Ended: -1}); !errors.Is(err, ErrAbortedLimit) {
		t.Errorf("a fourth aborted one: %v", err)
	}
	table.trimAborted(8)
	if _, _, err := table.check(within(6, 0, 0), Verified{Ended: -1}); err != nil {
		t.Errorf("after one was deleted: %v", err)
	}
}

// A transaction that has its epoch for itself (KIP-890): what comes late is told by the epoch alone, also where nobody remembers when it began.
func TestTransactionWithItsOwnEpoch(t *testing.T) {
	table := newProducerTable(0)
	begins := Verified{Ended: -1, Started: 4000, Own: true}
	want := func(what string, b Batch, v Verified, want error) {
		t.Helper()
		if _, dup, err := table.check(b, v); !errors.Is(err, want) || dup {
			t.Errorf("%s: %v, duplicate %v, want %v", what, err, dup, want)
		}
	}
	want("its second batch, before the first", transactionalBatchOf(1, 0, 1, 1, 0), begins, ErrOutOfOrderSequence)
	want("its first batch", transactionalBatchOf(1, 0, 0, 1, 0), begins, nil)
	table.apply(transactionalBatchOf(1, 0, 0, 1, 0), 0)
	end, ends := markerAt(1, 1, true, 7, 1), Verified{Ended: NotVerified, Started: 4000, Own: true}
	want("its marker", end, ends, nil)
	table.apply(end, 0)
	want("its marker again", markerAt(1, 1, true, 7, 2), ends, nil)
	want("a batch of it", transactionalBatchOf(1, 0, 1, 1, 2), Verified{Ended: 1, Own: true}, ErrProducerFenced)
	begins.Ended, begins.Started = 1, 5000
	want("the second batch of the next", transactionalBatchOf(1, 1, 1, 1, 2), begins, ErrOutOfOrderSequence)
	want("the first batch of the next", transactionalBatchOf(1, 1, 0, 1, 2), begins, nil)
	table.apply(transactionalBatchOf(1, 1, 0, 1, 2), 0)
	table.byID[1].started = 0 // another leader's
	want("the marker, late", markerAt(1, 1, true, 7, 3), ends, ErrTransactionState)
	want("the marker of another end, late", markerAt(1, 1, false, 8, 3), ends, ErrTransactionState)
	want("the next one's marker", markerAt(1, 2, true, 7, 3), Verified{Ended: NotVerified, Started: 5000, Own: true}, nil)
	table.apply(markerAt(1, 2, true, 7, 3), 0)
	want("its marker, late by two", markerAt(1, 1, true, 7, 4), ends, ErrProducerFenced)
	// A marker of what never reached the partition keeps it out for good.
	table.apply(markerAt(2, 1, false, 7, 4), 0)
	want("a batch that was still on its way", transactionalBatchOf(2, 0, 0, 1, 5), Verified{Ended: 4, Own: true}, ErrProducerFenced)
}

// A producer whose transaction is open is not forgotten: who would know then that it is?
func TestOpenTransactionIsNotForgotten(t *testing.T) {
	table := newProducerTable(3)
	table.apply(transactionalBatchOf(1, 0, 0, 1, 0), 0)
	for id := int64(2); id < 8; id++ {
		table.apply(producerBatchOf(id, 0, 0, 1, Offset(id)), 100*id)
	}
	if table.expire(1 << 40); table.byID[1] == nil || table.len() != 1 || table.stable(8) != 0 {
		t.Errorf("%d producers, stable %v", table.len(), table.stable(8))
	}
	table.apply(markerAt(1, 0, true, 0, 8), 0)
	if table.expire(1 << 40); table.len() != 0 {
		t.Errorf("%d producers after the end", table.len())
	}
}

func TestTransactionSnapshotRefuses(t *testing.T) {
	table := newProducerTable(0)
	table.apply(transactionalBatchOf(1, 2, 0, 2, 0), 5)
	table.apply(transactionalBatchOf(2, 0, 0, 1, 2), 6)
	table.apply(markerAt(2, 0, false, 7, 3), 7)
	good := table.encode(nil)
	again, err := decodeProducers(good, 0)
	if err != nil || !bytes.Equal(again.encode(nil), good) || again.stable(4) != 0 || len(again.aborted) != 1 {
		t.Fatalf("decoded: %+v, %v", again, err)
	}
	for i := range len(good) - producerSuffixSize {
		for _, flip := range []byte{1, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= flip
			fixProducerCRC(bad)
			if got, err := decodeProducers(bad, 0); err == nil {
				got.stable(4) // whatever it says, it can be worked with
				got.truncateTo(0)
			} else if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Errorf("byte %d: %v", i, err)
			}
		}
	}
}

// transact is a step of the crash workload: producer 4 writes in transactions, and its coordinator ends some.
func (wl *workload) transact(g *ledger) error {
	const id = 4
	key := [2]int64{int64(g.p.id.Index), id}
	open, ended := g.p.InTransaction(id, 0, false)
	b := transactionalBatchOf(id, 0, wl.seqs[key], 1+wl.rng.IntN(3), 0)
	if open && wl.rng.IntN(2) == 0 {
		b = Marker{ProducerID: id, Commit: wl.rng.IntN(2) == 0, CoordinatorEpoch: 1}.Batch(0)
	}
	var values [][]byte
	var rr RecordReader
	if err := rr.Reset(b); err != nil {
		return err
	}
	for {
		var r Record
		if ok, err := rr.Next(&r); err != nil || !ok {
			break
		}
		values = append(values, bytes.Clone(r.Value))
	}
	g.submit(values, wl.epoch)
	first, duplicate, err := g.p.AppendVerified(b, wl.epoch, Verified{Ended: ended})
	if err != nil || duplicate {
		return fmt.Errorf("transaction, sequence %d: duplicate %v: %w", wl.seqs[key], duplicate, err)
	}
	if !b.IsControl() {
		b.SetBaseOffset(first)
		wl.seqs[key] += int32(b.Count())
		g.mu.Lock()
		g.batches = append(g.batches, b)
		g.mu.Unlock()
	}
	return nil
}

// checkTransactions compares the state with what the log's batches say, as far as they are there (J6, P2).
func checkTransactions(p *Partition) error {
	var m transactModel
	var last Offset = -1
	err := forEachRecord(p, func(b Batch, _ *Record) error {
		if b.BaseOffset() != last {
			last = b.BaseOffset()
			m = append(m, bytes.Clone(b))
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	aborted, open := m.aborted()
	byEnd := map[Offset]Offset{}
	for _, a := range p.producers.aborted {
		byEnd[a.Last] = a.First
	}
	start := p.LogStart()
	for _, a := range aborted {
		if first, ok := byEnd[a.Last]; !ok || first > a.First || first < a.First && first >= start {
			return fmt.Errorf("aborted %v, the log has %v", p.producers.aborted, aborted)
		}
	}
	for _, a := range p.producers.aborted {
		if a.First >= start && !slices.Contains(aborted, a) {
			return fmt.Errorf("aborted %v, the log has %v", p.producers.aborted, aborted)
		}
	}
	var begun []Offset // below the start there is nothing to compare them with
	for _, x := range p.producers.unstable {
		if x.last < 0 && x.first >= start {
			begun = append(begun, x.first)
		}
	}
	if open = slices.DeleteFunc(open, func(o Offset) bool { return len(begun) < p.producers.open && !slices.Contains(begun, o) }); !slices.Equal(begun, open) {
		return fmt.Errorf("open transactions %v, the log has %v", p.producers.unstable, open)
	}
	return nil
}

// Compaction takes aborted records for never written, and markers away once nothing needs them.
func TestCompactionOfTransactions(t *testing.T) {
	for _, cache := range []int64{1, 1 << 20} {
		t.Run(fmt.Sprint("cache ", cache), func(t *testing.T) { testCompactionOfTransactions(t, cache) })
	}
}

func testCompactionOfTransactions(t *testing.T, cache int64) {
	w := newCommits()
	cfg := testConfig(vfs.NewMem(), "d", w)
	cfg.RecentCacheBytes = cache
	l := mustOpen(t, cfg)
	defer l.Close()
	topic := compactedTopic
	topic.DeleteRetention = 1
	p, err := l.Create(testID(0), "t", topic)
	if err != nil {
		t.Fatal(err)
	}
	seq := int32(0)
	put := func(key, value string) {
		t.Helper()
		_, ended := p.InTransaction(1, 0, false)
		var bb BatchBuilder
		bb.SetProducer(1, 0, seq)
		bb.SetFlags(AttrTransactional)
		bb.Append(&Record{Key: []byte(key), Value: []byte(value)})
		seq++
		if _, _, err := p.AppendVerified(bb.Seal(0, 0), 1, Verified{Ended: ended}); err != nil {
			t.Fatal(err)
		}
	}
	end := func(commit bool) {
		t.Helper()
		if _, _, err := p.AppendBatch(Marker{ProducerID: 1, Commit: commit}.Batch(0), 1); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "old")
	end(true)
	put("a", "new")
	end(true)
	put("a", "aborted")
	end(false)
	fill := func() {
		for i := range 300 { // whole segments
			if _, err := p.Append(&Record{Key: fmt.Append(nil, "fill", i%3), Value: bytes.Repeat([]byte("x"), 50)}, 1); err != nil {
				t.Fatal(err)
			}
		}
		w.wait(t, l, p, p.LogEnd())
		p.SetHighWatermark(p.LogEnd())
		if err := flushSegments(l); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	contents := func() (values map[string]string, markers int) {
		values = map[string]string{}
		stable := p.LastStable(p.Durable())
		aborted := p.Aborted(0, stable)
		for next := p.LogStart(); next < p.Durable(); {
			b, err := p.Read(next, p.Durable(), 4*kib, nil)
			if err != nil || len(b) == 0 {
				t.Fatal(err)
			}
			for len(b) > 0 {
				batch, err := NextBatch(b, 0)
				if err != nil {
					t.Fatal(err)
				}
				b, next = b[len(batch):], batch.NextOffset()
				if batch.IsControl() {
					markers++
					continue
				}
				if slices.ContainsFunc(aborted, func(a AbortedTransaction) bool {
					return batch.IsTransactional() && a.ProducerID == batch.ProducerID() && a.First <= batch.BaseOffset() && batch.BaseOffset() < a.Last
				}) {
					continue
				}
				var rr RecordReader
				var r Record
				for ok, err := true, rr.Reset(batch); ok && err == nil; {
					if ok, err = rr.Next(&r); ok && err == nil {
						values[string(r.Key)] = string(r.Value)
					}
				}
			}
		}
		return values, markers
	}
	if err := l.compact(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if values, markers := contents(); values["a"] != "new" || markers != 3 {
		t.Errorf("after a pass: %v, %d markers", values, markers)
	}
	if n := len(p.Aborted(0, 100)); n != 0 && cache == 1 || n == 0 && cache > 1 {
		t.Errorf("%d aborted transactions are kept apart", n)
	}
	for range 2 { // the time of markers without records is over by the second pass; the committed record's stays
		fill()
		if err := l.compact(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if values, markers := contents(); values["a"] != "new" || markers != 1 && cache == 1 {
		t.Errorf("in the end: %v, %d markers", values, markers)
	}
	// What is open keeps compaction off.
	put("a", "open")
	first := p.LogEnd() - 1
	fill()
	if err := l.compact(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if limit := p.stableLimit(); limit != first || p.readCleaned() > first {
		t.Errorf("compacted below %d, limit %d, the transaction begins at %d", p.readCleaned(), limit, first)
	}
	end(false)
	p.Truncate(first + 1)
	if open, _ := p.Producers(9); len(open) != 1 || open[0].Transaction != first {
		t.Errorf("open after the marker was cut: %v", open)
	}
}

// A transaction of which retention has left nothing is over here. It once came back open when a marker behind it was cut, since the segment still held its batch: the last stable
// offset fell in a term, and stayed.
func TestWhatIsTrimmedStaysOverWhenAMarkerIsCut(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, testConfig(vfs.NewMem(), "d", w))
	defer l.Close()
	p := mustCreate(t, l, 0)
	put := func(id int64) {
		t.Helper()
		if _, _, err := p.AppendVerified(transactionalBatchOf(id, 0, 0, 1, 0), 0, Verified{Ended: -1}); err != nil {
			t.Fatal(err)
		}
	}
	put(7) // its marker never comes
	put(8)
	w.wait(t, l, p, 2)
	p.SetHighWatermark(2)
	if err := p.SetLogStart(1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.AppendBatch(Marker{ProducerID: 8}.Batch(0), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Truncate(2); err != nil {
		t.Fatal(err)
	}
	if got, open := p.LastStable(2), p.FirstOpen(); got != 1 || open != 1 {
		t.Errorf("last stable offset %d, first open transaction at %d, want 1 and 1", got, open)
	}
}

// Nor does it come back open at a start, from a snapshot of before.
func TestWhatIsTrimmedStaysOverOverAStart(t *testing.T) {
	disk, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(disk, "d", w))
	p := mustCreate(t, l, 0)
	for id := range int64(2) {
		if _, _, err := p.AppendVerified(transactionalBatchOf(7+id, 0, 0, 1, 0), 0, Verified{Ended: -1}); err != nil {
			t.Fatal(err)
		}
	}
	w.wait(t, l, p, 2)
	p.SetHighWatermark(2)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, testConfig(disk, "d", newCommits()))
		p = l.Partition(testID(0))
		if err := p.SetLogStart(1); err != nil {
			t.Fatal(err)
		}
	}
	defer l.Close()
	if open := p.FirstOpen(); open != 1 {
		t.Errorf("first open transaction at %d, want 1", open)
	}
}

// Who has an epoch for each transaction is in one that was begun without only once the coordinator says so, and not where a marker has come since it was asked.
func TestOwnTransactionBehindOneOfTheSameEpoch(t *testing.T) {
	l := mustOpen(t, testConfig(vfs.NewMem(), "d", newCommits()))
	defer l.Close()
	p := mustCreate(t, l, 0)
	seq := int32(0)
	put := func(v Verified) error {
		_, _, err := p.AppendVerified(transactionalBatchOf(7, 0, seq, 1, 0), 0, v)
		if err == nil {
			seq++
		}
		return err
	}
	is := func(own, want bool) (ended Offset) {
		t.Helper()
		open, ended := p.InTransaction(7, 0, own)
		if open != want {
			t.Errorf("open %v where it has epochs of its own is %v", open, own)
		}
		return ended
	}
	end := func() {
		t.Helper()
		if _, _, err := p.AppendBatch(Marker{ProducerID: 7, Commit: true}.Batch(0), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(Verified{Ended: -1}); err != nil {
		t.Fatal(err)
	}
	is(false, true)
	before := is(true, false)
	end()
	if err := put(Verified{Ended: before, Own: true}); !errors.Is(err, ErrNotVerified) {
		t.Errorf("asked before the marker: %v", err)
	}
	if err := put(Verified{Ended: is(false, false)}); err != nil {
		t.Fatal(err)
	}
	if err := put(Verified{Ended: before, Own: true}); !errors.Is(err, ErrNotVerified) {
		t.Errorf("asked before the marker, and another has begun: %v", err)
	}
	if err := put(Verified{Ended: is(true, false), Own: true}); err != nil {
		t.Fatal(err)
	}
	is(true, true)
	end()
	is(true, false)
}

// The names of aborted transactions outlive their producers, who are forgotten after a day.
func TestAbortedOutliveTheirProducers(t *testing.T) {
	disk, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(disk, "d", w))
	p := mustCreate(t, l, 0)
	if _, _, err := p.AppendVerified(transactionalBatchOf(7, 0, 0, 2, 0), 0, Verified{Ended: -1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.AppendBatch(Marker{ProducerID: 7}.Batch(0), 0); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 3)
	p.SetHighWatermark(3)
	l.expireProducers(p, true, time.Now().Add(25*time.Hour))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(disk, "d", newCommits()))
	defer l.Close()
	if got := l.Partition(testID(0)).Aborted(0, 3); len(got) != 1 {
		t.Errorf("after a restart: %v", got)
	}
}

// T5: what was open where the leader has deleted what came next is not open for ever.
func TestBeginForgetsOpenTransactions(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, testConfig(vfs.NewMem(), "d", w))
	defer l.Close()
	p := mustCreate(t, l, 0)
	gone, next := transactionalBatchOf(7, 0, 0, 2, 0), producerBatchOf(9, 0, 0, 5, 100)
	gone.SetLeaderEpoch(1)
	next.SetLeaderEpoch(1)
	if err := errors.Join(p.AppendReplica(gone), p.Begin(100), p.AppendReplica(next)); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 105)
	p.SetHighWatermark(105)
	if got := p.LastStable(105); got != 105 {
		t.Errorf("last stable offset %d of %d", got, p.LogEnd())
	}
}

// One that stays open for long does not have all kept that end meanwhile.
func TestEndedTransactionsAreForgottenBehindAnOpenOne(t *testing.T) {
	table := newProducerTable(0)
	at := Offset(0)
	put := func(b Batch) { table.apply(b, 0); at = b.NextOffset() }
	put(transactionalBatchOf(1, 0, 0, 1, at))
	for i := range 2000 {
		put(transactionalBatchOf(2, 0, int32(i), 1, at))
		put(markerAt(2, 0, true, 1, at))
		if got := table.stable(at); got != 0 {
			t.Fatalf("stable %d", got)
		}
	}
	if n := len(table.unstable); n > 100 {
		t.Errorf("%d kept, %d open", n, table.open)
	}
}

// A clean stop stores the producers' state, and with it that a transaction has ended; that its marker is committed it cannot know. A replica that starts with a
// high watermark below the marker must not show the records: another leader may not have it.
func TestStableBelowAMarkerThatIsNotCommitted(t *testing.T) {
	disk := vfs.NewMem()
	open := func() (*Log, *Partition) {
		l := mustOpen(t, testConfig(disk, "/d", nil))
		p := l.Partition(testID(0))
		if p == nil {
			var err error
			if p, err = l.Create(testID(0), "t", PartitionConfig{}); err != nil {
				t.Fatal(err)
			}
		}
		return l, p
	}
	l, p := open()
	if _, _, err := p.AppendBatch(transactionalBatchOf(1, 0, 0, 3, 0), 0); !errors.Is(err, ErrNotVerified) {
		t.Fatal(err)
	}
	if _, _, err := p.AppendVerified(transactionalBatchOf(1, 0, 0, 3, 0), 0, Verified{Ended: -1}); err != nil {
		t.Fatal(err)
	}
	marker, _, err := p.AppendBatch(markerAt(1, 0, true, 0, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, p = open()
	if got := p.LastStable(marker); got > 0 {
		t.Errorf("with high watermark %d, below the marker, %d is stable", marker, got)
	}
	if got := p.stableLimit(); got > 0 && p.deleteLimit() <= marker {
		t.Errorf("compaction may go up to %d", got)
	}
	if got := p.LastStable(marker + 1); got != marker+1 {
		t.Errorf("with the marker committed %d is stable, want %d", got, marker+1)
	}
}
