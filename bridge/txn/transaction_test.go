package txn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var start = time.UnixMilli(1_000_000)

// world stores what is asked for, and can lose it.
type world struct {
	t   *testing.T
	x   *Transaction
	ids int64
	now time.Time
}

func newWorld(t *testing.T) *world { return &world{t: t, x: New(), ids: 100, now: start} }

func (w *world) fresh() (int64, error) { w.ids++; return w.ids, nil }

// done stores the record, if there is one.
func (w *world) done(r *Record, f Fault) Fault {
	if r != nil {
		w.x.Stored(true, w.now)
	}
	return f
}

func (w *world) init() Producer {
	w.t.Helper()
	r, f, err := w.x.InitProducer(Producer{ID: -1, Epoch: -1}, time.Minute, w.fresh, w.now)
	if w.done(r, f) != OK || err != nil {
		w.t.Fatal(f, err)
	}
	return w.x.Record().Producer
}

func (w *world) add(p Producer, parts ...Partition) Fault {
	return w.done(w.x.AddPartitions(p, parts, w.now))
}

func (w *world) end(p Producer, commit bool) Fault { return w.done(w.x.End(p, commit, w.now)) }

var a, b, c = Partition{"t", 0}, Partition{"t", 1}, Partition{"u", 0}

func TestTransaction(t *testing.T) {
	w := newWorld(t)
	if r, f := w.x.AddPartitions(Producer{1, 0}, []Partition{a}, w.now); r != nil || f != UnknownID {
		t.Fatal(f)
	}
	p := w.init()
	if p != (Producer{101, 0}) {
		t.Fatal(p)
	}
	if f := w.end(p, true); f != InvalidState {
		t.Errorf("end of nothing: %v", f)
	}
	if f := w.add(p, b, a); f != OK || !slices.Equal(w.x.Record().Partitions, []Partition{a, b}) {
		t.Fatal(f, w.x.Record())
	}
	if r, f := w.x.AddPartitions(p, []Partition{a}, w.now); r != nil || f != OK {
		t.Error("what is there is stored again")
	}
	first := w.x.Record().Started
	if got, f := w.x.Verify(p, b); got != first || f != OK {
		t.Error(got, f)
	}
	if _, f := w.x.Verify(p, c); f != InvalidState {
		t.Error(f)
	}
	if _, f := w.x.Verify(Producer{p.ID + 1, 0}, a); f != WrongProducer {
		t.Error(f)
	}
	// What is there can be verified while more is added.
	w.x.AddPartitions(p, []Partition{c}, w.now)
	if _, f := w.x.Verify(p, b); f != OK {
		t.Errorf("while another is added: %v", f)
	}
	if _, f := w.x.Verify(p, c); f != InvalidState {
		t.Errorf("that is being added: %v", f)
	}
	w.x.Stored(false, w.now)
	// Nothing counts before it is stored.
	r, f := w.x.End(p, true, w.now)
	if f != OK || r.State != PrepareCommit || w.x.Record().State != Ongoing {
		t.Fatal(f, r)
	}
	for what, f := range map[string]Fault{"add": second(w.x.AddPartitions(p, []Partition{c}, w.now)), "end": second(w.x.End(p, true, w.now)), "abort": second(w.x.End(p, false, w.now))} {
		if f != Pending {
			t.Errorf("%s meanwhile: %v", what, f)
		}
	}
	w.x.Stored(false, w.now)
	if w.x.Record().State != Ongoing || w.end(p, true) != OK {
		t.Fatal("it was not stored, and is asked again")
	}
	// Decided.
	if f := w.end(p, false); f != InvalidState {
		t.Errorf("abort of what is committed: %v", f)
	}
	if f := w.end(p, true); f != Pending {
		t.Errorf("commit again: %v", f)
	}
	if f := w.add(p, c); f != Pending {
		t.Errorf("the next one, before the last has ended: %v", f)
	}
	if _, f, _ := w.x.InitProducer(Producer{-1, -1}, time.Minute, w.fresh, w.now); f != Pending {
		t.Errorf("the next producer: %v", f)
	}
	w.x.Ended(w.now)
	if r := w.x.Record(); r.State != CompleteCommit || len(r.Partitions) != 0 {
		t.Fatal(r)
	}
	if w.x.Ended(w.now) != nil {
		t.Error("ended twice")
	}
	if w.end(p, true) != OK || w.end(p, false) != InvalidState {
		t.Error("a repeat of the end")
	}
	if w.add(p, c) != OK || w.x.Record().Started <= first {
		t.Errorf("the next transaction began at %d, the one before at %d", w.x.Record().Started, first)
	}
}

func second[T any](_ T, f Fault) Fault { return f }

// A producer that takes over ends what the one before had open, and fences it.
func TestTakeover(t *testing.T) {
	w := newWorld(t)
	old := w.init()
	w.add(old, a)
	r, f, _ := w.x.InitProducer(Producer{-1, -1}, time.Minute, w.fresh, w.now)
	if f != Pending || r == nil || r.State != PrepareAbort || r.Epoch != old.Epoch+1 {
		t.Fatal(f, r)
	}
	w.x.Stored(true, w.now)
	if f := w.end(old, true); f != Fenced {
		t.Errorf("the old one commits: %v", f)
	}
	w.x.Ended(w.now)
	if p := w.init(); p != (Producer{old.ID, old.Epoch + 2}) {
		t.Error(p)
	}
	if f := w.add(old, a); f != Fenced {
		t.Errorf("the old one goes on: %v", f)
	}
	// KIP-360: who goes on says what he had, also twice, when the first answer was lost.
	if _, f, _ := w.x.InitProducer(old, time.Minute, w.fresh, w.now); f != Fenced {
		t.Errorf("the old one begins anew: %v", f)
	}
	now := w.x.Record().Producer
	r, f, _ = w.x.InitProducer(now, time.Minute, w.fresh, w.now)
	if f != OK || r.Epoch != now.Epoch+1 {
		t.Error(f, r)
	}
	w.x.Stored(true, w.now)
	if r, f, _ := w.x.InitProducer(now, time.Minute, w.fresh, w.now); r != nil || f != OK || w.x.Record().Epoch != now.Epoch+1 {
		t.Error(f, r)
	}
	w.init() // somebody else
	if _, f, _ := w.x.InitProducer(now, time.Minute, w.fresh, w.now); f != Fenced {
		t.Errorf("and again, when another one has taken over: %v", f)
	}
}

func TestTimeout(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	w.add(p, a)
	w.now = w.now.Add(time.Minute - 1)
	if w.x.Due(w.now) != nil {
		t.Error("too early")
	}
	again := Restore(w.x.Record(), w.now) // at a restart the whole time is given again
	w.now = w.now.Add(1)
	if again.Due(w.now) != nil {
		t.Error("too early after a restart")
	}
	r := w.x.Due(w.now)
	if r == nil || r.State != PrepareAbort || r.Epoch != p.Epoch+1 {
		t.Fatal(r)
	}
	w.x.Stored(true, w.now)
	if f := w.end(p, true); f != Fenced {
		t.Errorf("commit after the time: %v", f)
	}
}

// Epochs run out: the next producer has another id.
func TestEpochsRunOut(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	for seen := map[Producer]bool{}; p.ID == 101; p = w.init() {
		if seen[p] || p.Epoch >= MaxEpoch {
			t.Fatalf("%v again, or too late to be fenced", p)
		}
		seen[p] = true
	}
	if p != (Producer{102, 0}) {
		t.Error(p)
	}
	failed := errors.New("no quorum")
	w.x = New()
	if r, _, err := w.x.InitProducer(Producer{-1, -1}, time.Minute, func() (int64, error) { return 0, failed }, w.now); r != nil || err != failed {
		t.Error(r, err)
	}
}

func TestIdle(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	at := w.x.Record().Updated
	if w.x.Idle(at) || !w.x.Idle(at+1) {
		t.Error("idle")
	}
	if w.add(p, a); w.x.Idle(at + 1e9) {
		t.Error("an open transaction is forgotten")
	}
}

// P2, over random runs with lost stores and restarts: what is decided stays decided, a fenced producer changes nothing, epochs never fall, and each
// transaction ends once.
func TestRandomRuns(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		var producers []Producer
		var log []Record // stored
		decided := map[int64]State{}
		ended := false // the last one has, and that is not in the log
		for range 200 {
			w.now = w.now.Add(time.Duration(rng.IntN(20)) * time.Second)
			var r *Record
			p := Producer{-1, -1}
			if len(producers) > 0 {
				p = producers[rng.IntN(len(producers))]
			}
			newest := w.x.Record().Producer
			switch rng.IntN(8) {
			case 0:
				r, _, _ = w.x.InitProducer(Producer{-1, -1}, time.Minute, w.fresh, w.now)
			case 1, 2, 3:
				r, _ = w.x.AddPartitions(p, []Partition{{"t", int32(rng.IntN(3))}}, w.now)
			case 4, 5:
				r, _ = w.x.End(p, rng.IntN(2) == 0, w.now)
			case 6:
				if r = w.x.Ended(w.now); r != nil && rng.IntN(3) > 0 {
					log = append(log, *r) // else it is lost
				} else if r != nil {
					ended = true
				}
				continue
			case 7:
				r = w.x.Due(w.now)
			}
			if r == nil {
				continue
			}
			if r.Producer == newest && p != newest && p.ID >= 0 && r.State == Ongoing {
				t.Fatalf("seed %d: fenced %v changed %v", seed, p, r)
			}
			switch rng.IntN(10) {
			case 0: // not stored, and not known to be: restored from what is
				if len(log) == 0 {
					w.x = New()
				} else {
					w.x = Restore(log[len(log)-1], w.now)
				}
				ended = false
				continue
			case 1: // refused before it was written
				w.x.Stored(false, w.now)
				continue
			}
			last := Record{Producer: Producer{-1, -1}}
			if len(log) > 0 {
				last = log[len(log)-1]
			}
			if r.ID < last.ID || r.ID == last.ID && r.Epoch < last.Epoch {
				t.Fatalf("seed %d: %v after %v", seed, r.Producer, last.Producer)
			}
			if r.State.Prepared() {
				if was, ok := decided[r.Started]; ok {
					t.Fatalf("seed %d: decided twice, %v and %v", seed, was, r.State)
				}
				decided[r.Started] = r.State
			}
			if last.State.Prepared() && !ended {
				t.Fatalf("seed %d: %v after %v", seed, r, last)
			}
			ended = false
			log = append(log, *r)
			w.x.Stored(true, w.now)
			if r.State == Empty {
				producers = append(producers, r.Producer)
			}
		}
		if len(decided) == 0 {
			t.Fatal(fmt.Sprint("seed ", seed, ": no transaction ended"))
		}
	}
}
