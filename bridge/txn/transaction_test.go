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
	return w.done(w.x.AddPartitions(p, parts, V1, w.now))
}

func (w *world) end(p Producer, commit bool) Fault { return w.done(w.ask(p, commit, V1)) }

// ask for an end, and do not store it.
func (w *world) ask(p Producer, commit bool, version int16) (*Record, Fault) {
	r, f, err := w.x.End(p, commit, version, w.fresh, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, f
}

var a, b, c = Partition{"t", 0}, Partition{"t", 1}, Partition{"u", 0}

func TestTransaction(t *testing.T) {
	w := newWorld(t)
	if r, f := w.x.AddPartitions(Producer{1, 0}, []Partition{a}, V1, w.now); r != nil || f != UnknownID {
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
	if r, f := w.x.AddPartitions(p, []Partition{a}, V1, w.now); r != nil || f != OK {
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
	w.x.AddPartitions(p, []Partition{c}, V1, w.now)
	if _, f := w.x.Verify(p, b); f != OK {
		t.Errorf("while another is added: %v", f)
	}
	if _, f := w.x.Verify(p, c); f != InvalidState {
		t.Errorf("that is being added: %v", f)
	}
	w.x.Stored(false, w.now)
	// Nothing counts before it is stored.
	r, f := w.ask(p, true, V1)
	if f != OK || r.State != PrepareCommit || w.x.Record().State != Ongoing {
		t.Fatal(f, r)
	}
	for what, f := range map[string]Fault{"add": second(w.x.AddPartitions(p, []Partition{c}, V1, w.now)), "end": second(w.ask(p, true, V1)), "abort": second(w.ask(p, false, V1))} {
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
	p := w.x.Record().Producer
	w.add(p, a)
	w.end(p, true)
	w.x.Ended(w.now)
	if _, f, _ := w.x.InitProducer(now, time.Minute, w.fresh, w.now); f != Fenced {
		t.Errorf("and again, late: %v", f)
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
			newest, version := w.x.Record().Producer, int16(V2*rng.IntN(2))
			switch rng.IntN(8) {
			case 0:
				r, _, _ = w.x.InitProducer(Producer{-1, -1}, time.Minute, w.fresh, w.now)
			case 1, 2, 3:
				r, _ = w.x.AddPartitions(p, []Partition{{"t", int32(rng.IntN(3))}}, version, w.now)
			case 4, 5:
				r, _ = w.ask(p, rng.IntN(2) == 0, version)
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
				if bumped := r.Epoch > newest.Epoch; r.ID != newest.ID || bumped != (r.Version == V2) {
					t.Fatalf("seed %d: a marker of %v, version %d, after batches of %v", seed, r.Producer, r.Version, newest)
				}
				producers = append(producers, r.Going())
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

// Of version 2 a producer goes on with another epoch after each transaction, whatever becomes of the first answer.
func TestEachTransactionHasItsEpoch(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	for i, commit := range []bool{true, false, true} {
		otherwise := InvalidState
		if !commit {
			otherwise = Fenced
		}
		if r, f := w.x.AddPartitions(p, []Partition{a, b}, V2, w.now); w.done(r, f) != OK {
			t.Fatal(f)
		}
		r, f := w.ask(p, commit, V2)
		if want := (Producer{p.ID, p.Epoch + 1}); f != OK || r.Producer != want || r.Going() != want {
			t.Fatalf("transaction %d: %v, %+v", i, f, r)
		}
		if _, f := w.ask(p, commit, V2); f != Pending {
			t.Errorf("again, while that is stored: %v", f)
		}
		w.x.Stored(true, w.now)
		for range 2 { // also at the next coordinator
			if _, f := w.ask(p, commit, V2); f != Pending {
				t.Errorf("again, while markers are on their way: %v", f)
			}
			if _, f := w.ask(p, !commit, V2); f != otherwise {
				t.Errorf("otherwise, while markers are on their way: %v", f)
			}
			if _, f := w.x.AddPartitions(r.Producer, []Partition{c}, V2, w.now); f != Pending {
				t.Errorf("the next one, before the last has ended: %v", f)
			}
			if _, f := w.x.AddPartitions(p, []Partition{c}, V2, w.now); f != Fenced {
				t.Errorf("a late batch of what is decided: %v", f)
			}
			w.x = Restore(w.x.Record(), w.now)
		}
		w.x.Ended(w.now)
		for range 2 {
			if r, f := w.ask(p, commit, V2); r != nil || f != OK || w.x.Record().Producer != (Producer{p.ID, p.Epoch + 1}) {
				t.Errorf("again, when it has ended: %v, %+v", f, r)
			}
			if _, f := w.ask(p, !commit, V2); f != otherwise {
				t.Errorf("otherwise, when it has ended: %v", f)
			}
			if _, f := w.ask(p, commit, V1); f != Fenced {
				t.Errorf("again, by who knows of no epochs: %v", f)
			}
			if _, f := w.x.AddPartitions(p, []Partition{c}, V2, w.now); f != Fenced {
				t.Errorf("a late batch of what has ended: %v", f)
			}
			w.x = Restore(w.x.Record(), w.now)
		}
		p = w.x.Record().Producer
	}
	for _, want := range []Fault{Hasty, InvalidState, InvalidState} {
		if _, f := w.ask(p, true, V2); f != want {
			t.Errorf("commit of nothing: %v, want %v", f, want)
		}
	}
	r, f := w.ask(p, false, V2)
	if f != OK || r.State != PrepareAbort || len(r.Partitions) != 0 || r.Going() != (Producer{p.ID, p.Epoch + 1}) {
		t.Errorf("abort of nothing, from who does not know: %v, %+v", f, r)
	}
	// Who has not heard of the end, and begins anew, is told what it has.
	w.x.Stored(true, w.now)
	w.x.Ended(w.now)
	if r, f, _ := w.x.InitProducer(p, time.Minute, w.fresh, w.now); r != nil || f != OK || w.x.Record().Epoch != p.Epoch+1 {
		t.Errorf("begun anew: %v, %+v", f, r)
	}
}

// The epochs of an id run out in the middle: the end hands out another id, as often as it is asked.
func TestEndGivesAnotherID(t *testing.T) {
	w := newWorld(t)
	old := Producer{7, MaxEpoch - 1}
	w.x = Restore(Record{Producer: old, State: Ongoing, Partitions: []Partition{a}, Timeout: time.Minute, Version: V2, Next: -1, Previous: -1}, w.now)
	failed := errors.New("no quorum")
	if r, _, err := w.x.End(old, true, V2, func() (int64, error) { return 0, failed }, w.now); r != nil || err != failed {
		t.Fatal(r, err)
	}
	r, f := w.ask(old, true, V2)
	next := Producer{101, 0}
	if f != OK || r.Producer != (Producer{7, MaxEpoch}) || r.Going() != next {
		t.Fatal(f, r)
	}
	w.x.Stored(true, w.now)
	for range 2 {
		if _, f := w.ask(old, true, V2); f != Pending {
			t.Errorf("again: %v", f)
		}
		for what, f := range map[string]Fault{
			"add": second(w.x.AddPartitions(next, []Partition{c}, V2, w.now)), "end": second(w.ask(next, false, V2)), "verify": second(w.x.Verify(next, c)),
		} {
			if f != Pending {
				t.Errorf("%s with the next id, before the last has ended: %v", what, f)
			}
		}
		w.x = Restore(w.x.Record(), w.now)
	}
	w.x.Ended(w.now)
	for range 2 {
		if r, f := w.ask(old, true, V2); r != nil || f != OK || w.x.Record().Producer != next {
			t.Errorf("again, when it has ended: %v, %+v", f, w.x.Record())
		}
		if _, f := w.ask(old, false, V2); f != InvalidState {
			t.Errorf("otherwise: %v", f)
		}
		w.x = Restore(w.x.Record(), w.now)
	}
	if f := w.add(next, c); f != OK {
		t.Errorf("the next one: %v", f)
	}
	if _, f := w.ask(old, true, V2); f != WrongProducer {
		t.Errorf("late: %v", f)
	}
}

// A transaction whose time is over: its producer may abort, and goes on. It commits nothing, and where somebody else has taken over it does nothing.
func TestAbortOfWhatWasAborted(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	w.add(p, a)
	w.now = w.now.Add(time.Minute)
	if w.x.Due(w.now) == nil {
		t.Fatal("not due")
	}
	w.x.Stored(true, w.now)
	w.x.Ended(w.now)
	if _, f := w.ask(p, true, V2); f != Fenced {
		t.Errorf("commit: %v", f)
	}
	if _, f := w.ask(p, false, V2); f != OK || w.x.Record().Producer != (Producer{p.ID, p.Epoch + 1}) {
		t.Errorf("abort: %v, and it goes on as %v", f, w.x.Record().Producer)
	}
	other := w.init()
	if _, f := w.ask(p, false, V2); f != Fenced {
		t.Errorf("abort, when another one has taken over: %v", f)
	}
	// The other one is of version 1, and keeps its epoch: its transactions are not those of the one that had the epoch before.
	before := Producer{other.ID, other.Epoch - 1}
	w.add(other, a)
	w.end(other, false)
	w.x.Ended(w.now)
	if _, f := w.ask(before, false, V2); f != Fenced {
		t.Errorf("abort with the epoch before: %v", f)
	}
	// The last epoch is left for markers.
	last := Producer{7, MaxEpoch - 1}
	w.x = Restore(Record{Producer: last, State: Ongoing, Timeout: time.Minute, Next: -1, Previous: -1}, w.now)
	w.now = w.now.Add(time.Minute)
	w.x.Due(w.now)
	w.x.Stored(true, w.now)
	w.x.Ended(w.now)
	if _, f := w.ask(last, false, V2); f != Fenced {
		t.Errorf("abort, without an epoch to go on with: %v", f)
	}
	if f := w.add(Producer{7, MaxEpoch}, a); f != Fenced {
		t.Errorf("a producer with the epoch of markers: %v", f)
	}
}

// A store that was refused changes nothing of who has what.
func TestRefusedStoreIsForgotten(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	w.x.InitProducer(p, time.Minute, w.fresh, w.now)
	w.x.Stored(false, w.now)
	if r, f, _ := w.x.InitProducer(p, time.Minute, w.fresh, w.now); f != OK || r == nil || r.Epoch != p.Epoch+1 {
		t.Errorf("again: %v, %+v: sequences would begin anew in the epoch that has some", f, r)
	}
}

// Whatever is lost on the way, and whichever versions they speak: no two producers go on with the same id and epoch, and none with one that batches of an earlier
// transaction had, under version 2.
func TestNoTwoProducersAreOne(t *testing.T) {
	rotated := false
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 9))
		w := newWorld(t)
		if rng.IntN(2) == 0 {
			w.x = Restore(Record{Producer: Producer{7, MaxEpoch - int16(1+rng.IntN(6))}, Started: -1, Next: -1, Previous: -1, Timeout: time.Minute}, w.now)
		}
		stored := w.x.Record()
		clients := make([]struct {
			Producer
			version int16
		}, 3)
		owner := map[Producer]int{}
		marked := map[int64]int16{} // by id: the epoch of the newest marker of version 2
		for i := range clients {
			clients[i].Producer, clients[i].version = nobody, int16(V2*rng.IntN(2))
		}
		restored := func() *Transaction {
			if stored.ID < 0 {
				return New()
			}
			return Restore(stored, w.now)
		}
		grant := func(i int, p Producer) {
			if was, taken := owner[p]; taken && was != i {
				t.Fatalf("seed %d: producers %d and %d are both %v", seed, was, i, p)
			}
			if p.Epoch >= MaxEpoch {
				t.Fatalf("seed %d: %v leaves no epoch to fence it", seed, p)
			}
			if owner[p] = i; rng.IntN(4) > 0 { // else the answer is lost
				clients[i].Producer = p
			}
			rotated = rotated || p.ID != 7 && p.Epoch == 0 && stored.ID == 7
		}
		for range 300 {
			w.now = w.now.Add(time.Duration(rng.IntN(20)) * time.Second)
			i := rng.IntN(len(clients))
			c := &clients[i]
			var r *Record
			var f Fault
			granted := false
			switch op := rng.IntN(10); op {
			case 0, 1:
				have := nobody
				if rng.IntN(2) == 0 {
					have = c.Producer
				}
				r, f, _ = w.x.InitProducer(have, time.Minute, w.fresh, w.now)
				granted = f == OK
			case 2, 3, 4:
				if r, f = w.x.AddPartitions(c.Producer, []Partition{a}, c.version, w.now); f == OK && c.Epoch < marked[c.ID] {
					t.Fatalf("seed %d: %v is in a transaction, behind a marker of epoch %d", seed, c.Producer, marked[c.ID])
				}
			case 5, 6, 7:
				r, f = w.ask(c.Producer, rng.IntN(2) == 0, c.version)
				granted = f == OK && c.version == V2
			case 8:
				r = w.x.Due(w.now)
			case 9:
				if r := w.x.Ended(w.now); r != nil && rng.IntN(2) == 0 {
					stored = *r
				}
				continue
			}
			if r == nil {
				if granted {
					now := w.x.Record()
					grant(i, now.Going())
				}
				continue
			}
			fate := rng.IntN(8)
			if r.State.Prepared() && r.Version == V2 && fate != 1 && fate != 2 {
				marked[r.ID] = r.Epoch
			}
			switch fate {
			case 0: // written, and its coordinator is gone
				stored = *r
				w.x = restored()
			case 1:
				w.x = restored()
			case 2:
				w.x.Stored(false, w.now)
			default:
				stored = *r
				w.x.Stored(true, w.now)
				if granted {
					grant(i, r.Going())
				}
			}
		}
	}
	if !rotated {
		t.Error("no id's epochs ran out")
	}
}

// Apache Kafka's producer may ask for the commit before its first batch is on its way: it is told once, with each epoch, to come again, and has its transaction then.
func TestCommitThatOvertakesItsBatches(t *testing.T) {
	w := newWorld(t)
	p := w.init()
	for range 3 {
		if r, f := w.ask(p, true, V2); r != nil || f != Hasty {
			t.Fatalf("before its batches: %v, %+v", f, r)
		}
		r, f := w.x.AddPartitions(p, []Partition{a}, V2, w.now)
		if r == nil || f != OK {
			t.Fatalf("its batch: %v", f)
		}
		w.x.Stored(true, w.now)
		if r, f := w.ask(p, true, V2); r == nil || f != OK {
			t.Fatalf("again: %v", f)
		}
		w.x.Stored(true, w.now)
		p = w.x.Ended(w.now).Producer
	}
	if _, f := w.ask(p, true, V1); f == Hasty {
		t.Errorf("of version 1: %v", f)
	}
}
