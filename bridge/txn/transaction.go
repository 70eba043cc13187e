package txn

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// State of a transactional id; the numbers are those of Kafka's records.
type State int8

// States, see the package's text.
const (
	Empty State = iota
	Ongoing
	PrepareCommit
	PrepareAbort
	CompleteCommit
	CompleteAbort
)

// String is Kafka's name of the state.
func (s State) String() string {
	if s < Empty || s > CompleteAbort {
		return "Unknown"
	}
	return [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"}[s]
}

// Prepared: decided, and markers are to be sent.
func (s State) Prepared() bool { return s == PrepareCommit || s == PrepareAbort }

// Fault is why a request is refused.
type Fault int

// Faults.
const (
	OK             Fault = iota
	Pending              // something is being stored, or the last transaction is being ended: ask again
	UnknownID            // no producer has that transactional id
	WrongProducer        // the producer id is not the one that the transactional id has
	Fenced               // another producer has taken over, or the transaction has timed out
	InvalidState         // there is no such transaction to be ended, or it has ended otherwise
	Hasty                // there is nothing to commit yet: ask again
	InvalidTimeout       // not positive, or longer than the limit
	NumFaults
)

// Partition that a transaction has reached. Of a group it is the one that keeps its offsets.
type Partition struct {
	Topic string
	Index int32
}

func compare(a, b Partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Index, b.Index))
}

// Producer names an instance of a producer.
type Producer struct {
	ID    int64
	Epoch int16
}

// Version of transactions, as Kafka's feature transaction.version has it: what a producer's requests say of it. Every other number is V1.
const (
	V1 = 0 // a producer keeps its id and epoch from one transaction to the next
	V2 = 2 // it goes on with a later epoch, or another id, after each (KIP-890)
)

// Record is everything that is stored of a transactional id. Its slice is not changed once it is made.
type Record struct {
	Producer
	Timeout    time.Duration
	State      State
	Partitions []Partition // sorted
	Started    int64       // ms: when the transaction began, and different for each; -1 before the first
	Updated    int64       // ms, wall clock
	Version    int16       // of the step that led here. Where the transaction is decided, V2 says that the epoch is later than all of its batches have
	Next       int64       // the id that the producer has when the markers of what is decided are there, with epoch 0; -1: it keeps its id
	Previous   int64       // the id that it had in the transaction that is completed, of V2; else -1
}

// Going is what the producer goes on with, once the transaction that is decided has ended.
func (r *Record) Going() Producer {
	if r.Next >= 0 {
		return Producer{r.Next, 0}
	}
	return r.Producer
}

// Transaction is one transactional id. Calls are made one at a time.
type Transaction struct {
	now   Record  // in force
	next  *Record // being stored; nil if nothing is
	since time.Time
	known bool     // a record is in force
	from  Producer // what the producer said it had when it got what it has now; ID -1 if it said nothing
	asker Producer // becomes from with next
	hasty Producer // has asked for the commit of nothing, once; ID -1 if nobody has
}

// MaxEpoch is the last epoch of a producer id, which only markers have: the producer's own is earlier, so that one is left to fence it.
const MaxEpoch = math.MaxInt16 - 1

// New is a transactional id that nobody has used yet.
func New() *Transaction {
	return &Transaction{now: Record{Producer: nobody, Started: -1, Next: -1, Previous: -1}, from: nobody, hasty: nobody}
}

var nobody = Producer{-1, -1}

// Restore is one with a stored record. A transaction that is open gets its whole timeout again: the clock may have been set meanwhile.
func Restore(r Record, now time.Time) *Transaction {
	return &Transaction{now: r, since: now, known: true, from: nobody, hasty: nobody}
}

// Record in force.
func (t *Transaction) Record() Record { return t.now }

// Known is whether there is one.
func (t *Transaction) Known() bool { return t.known }

// Size is about how many bytes it takes.
func (t *Transaction) Size() int { return 200 + SizeOf(t.now.Partitions) }

// SizeOf is about how many bytes partitions take.
func SizeOf(parts []Partition) (n int) {
	for _, p := range parts {
		n += 40 + len(p.Topic)
	}
	return n
}

// Stored reports whether the record that the last step asked for is stored. If it is not known to be, the caller lets go of the transaction and restores it.
func (t *Transaction) Stored(ok bool, now time.Time) {
	if ok && t.next != nil {
		if t.next.State != t.now.State {
			t.since = now
		}
		t.now, t.known, t.from = *t.next, true, t.asker
	}
	t.next = nil
}

// store begins a change, after which the producer that was asker has what it has.
func (t *Transaction) store(r Record, asker Producer, now time.Time) *Record {
	r.Updated = now.UnixMilli()
	t.next, t.asker = &r, asker
	return t.next
}

// InitProducer begins a producer's life: with another epoch, so that those before are fenced. fresh is asked for a producer id where a new one is needed. have is what the producer
// had before, from one that goes on after an error (KIP-360); its ID is -1 otherwise. A nil record with OK: it has what it asks for, and did not hear of it. Where a transaction is open it is aborted first: the record says so, and the producer has to ask again.
func (t *Transaction) InitProducer(have Producer, timeout time.Duration, fresh func() (int64, error), now time.Time) (*Record, Fault, error) {
	switch {
	case t.next != nil || t.now.State.Prepared():
		return nil, Pending, nil
	case have.ID >= 0 && t.now.State != Ongoing && have == t.from:
		return nil, OK, nil
	case have.ID >= 0 && t.known && have != t.now.Producer:
		return nil, Fenced, nil
	case t.now.State == Ongoing:
		return t.fence(now), Pending, nil
	}
	r := t.now
	r.State, r.Partitions, r.Timeout, r.Version, r.Previous = Empty, nil, timeout, V1, -1
	if r.Epoch++; !t.known || r.Epoch >= MaxEpoch {
		id, err := fresh()
		if err != nil {
			return nil, OK, err
		}
		r.Producer = Producer{id, 0}
	}
	return t.store(r, have, now), OK, nil
}

// fence decides to abort over the head of the producer.
func (t *Transaction) fence(now time.Time) *Record {
	r := t.now
	r.State, r.Version = PrepareAbort, V2
	r.Epoch++ // at most MaxEpoch
	return t.store(r, nobody, now)
}

// check is for what a producer asks in its transaction.
func (t *Transaction) check(p Producer) Fault {
	switch {
	case !t.known:
		return UnknownID
	case t.now.Next >= 0 && p == t.now.Going(): // and it has heard so
		return Pending
	case p.ID != t.now.ID:
		return WrongProducer
	case p.Epoch != t.now.Epoch || p.Epoch >= MaxEpoch:
		return Fenced
	case t.next != nil:
		return Pending
	}
	return OK
}

// AddPartitions has the transaction reach them, and begins it if none is open. A nil record with OK: nothing has to be stored.
func (t *Transaction) AddPartitions(p Producer, add []Partition, version int16, now time.Time) (*Record, Fault) {
	if f := t.check(p); f != OK {
		return nil, f
	}
	if t.now.State.Prepared() {
		return nil, Pending
	}
	r := t.now
	r.Version, r.Previous = version, -1
	if r.State != Ongoing {
		r.State, r.Partitions = Ongoing, nil
		r.Started = max(now.UnixMilli(), r.Started+1)
	}
	add = slices.Clone(add)
	slices.SortFunc(add, compare)
	all := append(slices.Compact(add), r.Partitions...)
	slices.SortFunc(all, compare)
	all = slices.Compact(all)
	if t.now.State == Ongoing && len(all) == len(r.Partitions) {
		return nil, OK
	}
	r.Partitions = all
	return t.store(r, nobody, now), OK
}

// Verify says whether the partition is part of the producer's open transaction, and when that began. That others are being added does not matter.
func (t *Transaction) Verify(p Producer, at Partition) (started int64, f Fault) {
	switch f := t.check(p); {
	case f == Pending && t.next != nil && t.next.State == Ongoing && t.now.State == Ongoing:
	case f != OK:
		return 0, f
	}
	if t.now.State.Prepared() {
		return 0, Pending
	}
	if _, in := slices.BinarySearchFunc(t.now.Partitions, at, compare); t.now.State != Ongoing || !in {
		return 0, InvalidState
	}
	return t.now.Started, OK
}

// End decides how the transaction ends. A nil record with OK: it has ended so already, and Going says what the producer has now. V2: it goes on with the next epoch, or an id that
// fresh is asked for; and it may abort where no transaction is, for it does not know whether one of its batches has begun it. If it commits where none is, it is told once to ask
// again: Apache Kafka's own producer may ask before it has sent its first batch (its sender looks for batches, and only then takes the request that the application has added with
// them), and gives up for good where it is refused. Who asks again has sent them by then.
func (t *Transaction) End(p Producer, commit bool, version int16, fresh func() (int64, error), now time.Time) (*Record, Fault, error) {
	if version == V2 && t.hadBefore(p) {
		f := t.endAgain(commit)
		if f == InvalidState && commit { // its time was over: clients come back from this word, and not from the other (KAFKA-20785)
			f = Fenced
		}
		return nil, f, nil
	}
	if f := t.check(p); f != OK {
		return nil, f, nil
	}
	switch none := !t.now.State.Prepared() && t.now.State != Ongoing; {
	case t.now.State.Prepared(), none && version != V2:
		return nil, t.endAgain(commit), nil
	case none && commit && t.hasty != p:
		t.hasty = p
		return nil, Hasty, nil
	case none && commit:
		return nil, InvalidState, nil
	}
	r := t.now
	if r.State != Ongoing {
		r.Partitions, r.Started = nil, max(now.UnixMilli(), r.Started+1)
	}
	if r.State = PrepareAbort; commit {
		r.State = PrepareCommit
	}
	r.Version, r.Previous = version, -1
	asker := nobody
	if version == V2 {
		if r.Epoch++; r.Epoch >= MaxEpoch {
			id, err := fresh()
			if err != nil {
				return nil, OK, err
			}
			r.Next = id
		}
		asker = p
	}
	return t.store(r, asker, now), OK, nil
}

// endAgain answers for a transaction that is decided, or was.
func (t *Transaction) endAgain(commit bool) Fault {
	switch s := t.now.State; {
	case t.next != nil:
		return Pending
	case s == PrepareCommit && commit, s == PrepareAbort && !commit:
		return Pending
	case s == CompleteCommit && commit, s == CompleteAbort && !commit:
		return OK
	}
	return InvalidState
}

// hadBefore says whether p is what the producer had in the transaction that is decided, where it goes on with something else. Also after its time was over: it may go on
// like one that has aborted. Not where it would go on with an epoch that is left for markers.
func (t *Transaction) hadBefore(p Producer) bool {
	r := &t.now
	switch {
	case !t.known || r.Version != V2 || !r.State.Prepared() && r.State != CompleteCommit && r.State != CompleteAbort:
		return false
	case r.Next >= 0:
		return p == Producer{r.ID, r.Epoch - 1}
	case r.Epoch == 0: // no end leaves it but with another id
		return p == Producer{r.Previous, MaxEpoch - 1}
	}
	return r.Epoch < MaxEpoch && p == Producer{r.ID, r.Epoch - 1}
}

// Ended: all markers are committed. The record is in force at once, and Stored is not told of it: where it is lost, the markers are sent once
// more, which does nothing. Nil if the transaction is not one that is being ended.
func (t *Transaction) Ended(now time.Time) *Record {
	if t.next != nil || !t.now.State.Prepared() {
		return nil
	}
	r := t.now
	r.State += CompleteCommit - PrepareCommit
	r.Partitions, r.Updated = nil, now.UnixMilli()
	if r.Version == V2 {
		r.Previous = r.ID
	}
	r.Producer, r.Next = r.Going(), -1
	t.now, t.since = r, now
	return &r
}

// Due aborts an open transaction whose time is over; nil if there is none.
func (t *Transaction) Due(now time.Time) *Record {
	if t.next != nil || t.now.State != Ongoing || now.Sub(t.since) < t.now.Timeout {
		return nil
	}
	return t.fence(now)
}

// Idle says whether the id has had no transaction since before that wall clock time [ms], and may be forgotten.
func (t *Transaction) Idle(before int64) bool {
	return t.next == nil && t.now.State != Ongoing && !t.now.State.Prepared() && t.now.Updated < before
}
