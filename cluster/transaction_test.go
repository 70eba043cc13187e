package cluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

func transactionalBatch(producer int64, seq int32, values ...string) log.Batch {
	var bb log.BatchBuilder
	bb.SetProducer(producer, 0, seq)
	bb.SetFlags(log.AttrTransactional)
	for _, v := range values {
		bb.Append(&log.Record{Value: []byte(v)})
	}
	return bb.Seal(0, 0)
}

// transact produces a batch that has been verified.
func transact(t *testing.T, p *Partition, b log.Batch) error {
	t.Helper()
	_, ended := p.InTransaction(b.ProducerID(), b.ProducerEpoch(), false)
	done := make(chan error, 1)
	p.ProduceVerified(b, -1, log.Verified{Ended: ended, Started: 1}, func(_ log.Offset, _ int64, err error) { done <- err })
	return <-done
}

// visible are the records of a read, but those of control batches.
func visible(t *testing.T, b []byte) (values []string) {
	t.Helper()
	for len(b) > 0 {
		batch, err := log.NextBatch(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		b = b[batch.Size():]
		var rr log.RecordReader
		var r log.Record
		for ok, err := true, rr.Reset(batch); ok && err == nil && !batch.IsControl(); {
			if ok, err = rr.Next(&r); ok && err == nil {
				values = append(values, string(r.Value))
			}
		}
	}
	return values
}

// P2: readers of committed records see a transaction when its marker is committed, and nothing of one that was aborted.
func TestReadersOfCommittedRecords(t *testing.T) {
	b, p := onePartition(t, nil)
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	end := func(producer int64, commit bool, started int64) error {
		return b.EndTransaction(t.Context(), []log.PartitionID{p.ID()}, log.Marker{ProducerID: producer, Commit: commit, CoordinatorEpoch: 3, Started: started})[0]
	}
	check := func(want string, stable log.Offset, aborted int) {
		t.Helper()
		_, names, err := p.ReadCommitted(0, 1<<20, nil)
		if err != nil || p.LastStable() != stable || len(names) != aborted {
			t.Errorf("stable %v, %d aborted, %v; want %v, %d", p.LastStable(), len(names), err, stable, aborted)
		}
		quiet, err := p.ReadStable(0, 1<<20, nil)
		if err != nil || fmt.Sprint(visible(t, quiet)) != want {
			t.Errorf("visible %v, %v; want %s", visible(t, quiet), err, want)
		}
	}
	step(transact(t, p, transactionalBatch(1, 0, "a")))
	_, err := produce(t, p, oneBatch(-1, -1, "plain"), -1)
	step(err)
	step(transact(t, p, transactionalBatch(2, 0, "b")))
	check("[]", 0, 0)
	if _, err := p.ReadStable(99, 10, nil); !errors.Is(err, log.ErrOutOfRange) {
		t.Errorf("behind the end: %v", err)
	}
	step(end(1, false, 1))
	check("[plain]", 2, 1)
	step(end(2, true, 1))
	check("[plain b]", 5, 1)
	step(transact(t, p, transactionalBatch(1, 1, "c")))
	if err := end(1, true, 77); !errors.Is(err, log.ErrTransactionState) {
		t.Errorf("a marker of another transaction: %v", err)
	}
	if all, _ := p.Producers(9); len(all) != 2 || all[1].Transaction != 5 || all[1].Coordinator != 3 || all[0].Transaction != -1 {
		t.Errorf("producers: %+v", all)
	}
	step(end(1, true, 1))
	check("[plain b c]", 7, 1)

	none := log.PartitionID{Topic: p.ID().Topic, Index: 9}
	if errs := b.EndTransaction(t.Context(), []log.PartitionID{none, p.ID()}, log.Marker{ProducerID: 1, CoordinatorEpoch: 2}); !errors.Is(errs[0], ErrUnknownTopic) ||
		!errors.Is(errs[1], log.ErrCoordinatorFenced) {
		t.Errorf("%v", errs)
	}
	// Another broker that asks keeps the reasons; one that knows no such topic yet says that it does not lead.
	strange := wireTerm{wirePartition: wirePartition{Topic: make([]byte, 16)}}
	now := wireTerm{toWire(p.ID()), int32(p.LeaderEpoch())}
	a := b.answerEndTransaction(t.Context(), &endTransactionCall{Parts: []wireTerm{now, strange}, Producer: 1, Coordinator: 2}, nil)
	if err := a.Parts[0].err(); !errors.Is(err, log.ErrCoordinatorFenced) {
		t.Error(err)
	}
	if err := a.Parts[1].err(); !errors.Is(err, ErrNotLeader) {
		t.Error(err)
	}
	// One that was sent in an earlier epoch has come late.
	step(transact(t, p, transactionalBatch(1, 2, "d")))
	now.Epoch--
	a = b.answerEndTransaction(t.Context(), &endTransactionCall{Parts: []wireTerm{now}, Producer: 1, Coordinator: 4}, nil)
	if err := a.Parts[0].err(); !errors.Is(err, ErrTermOver) || p.LastStable() != 7 {
		t.Errorf("%v, stable %d", err, p.LastStable())
	}
	// One of a transaction that has its epoch for itself ends none of that epoch, whoever sends it.
	now.Epoch++
	a = b.answerEndTransaction(t.Context(), &endTransactionCall{Parts: []wireTerm{now}, Producer: 1, Coordinator: 4, Own: true}, nil)
	if err := a.Parts[0].err(); !errors.Is(err, log.ErrTransactionState) {
		t.Error(err)
	}
	m := log.Marker{ProducerID: 1, CoordinatorEpoch: 4, Own: true}
	if err := b.EndTransaction(t.Context(), []log.PartitionID{p.ID()}, m)[0]; !errors.Is(err, log.ErrTransactionState) {
		t.Error(err)
	}
	m.ProducerEpoch = 1
	step(b.EndTransaction(t.Context(), []log.PartitionID{p.ID()}, m)[0])
	if p.LastStable() != 9 {
		t.Errorf("stable %d", p.LastStable())
	}
}

// What a broker without a replica reads for readers of committed records ends where it was told that they may read to.
func TestObserverReadsCommittedRecordsOnly(t *testing.T) {
	b, p := onePartition(t, nil)
	if _, err := produce(t, p, oneBatch(-1, -1, "plain"), -1); err != nil {
		t.Fatal(err)
	}
	if err := transact(t, p, transactionalBatch(1, 0, "open")); err != nil {
		t.Fatal(err)
	}
	o := &observer{b: b, id: p.ID(), topic: "t"}
	o.hw.Store(int64(p.LastStable())) // as news tells
	got, err := o.ReadStable(0, 1<<20, nil)
	if err != nil || fmt.Sprint(visible(t, got)) != "[plain]" {
		t.Errorf("below %d it reads %v, %v", o.LastStable(), visible(t, got), err)
	}
}

// A follower that begins with the batch in which its leader's log starts has no transaction open there of which the end is gone: the leader does not tell its start for stable.
func TestNewsOfATransactionInWhichTheLogStarts(t *testing.T) {
	b, p := onePartition(t, nil)
	if err := transact(t, p, transactionalBatch(1, 0, "a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.DeleteRecords(2); err != nil {
		t.Fatal(err)
	}
	var n feedNews
	p.news(replica.Fetch{Node: b.id + 1, LeaderEpoch: int32(p.LeaderEpoch()), LastEpoch: -1}, false, feedPartBytes, &n, nil)
	if n.Code != feedOK || n.HW != 3 || n.LogStart != 0 || n.Stable != 0 || p.LastStable() != 2 {
		t.Errorf("the follower is told %+v, readers have %d", n, p.LastStable())
	}
}

// A replica that was away while compaction removed the end of a transaction is filled again: it would hold up readers for ever.
func TestTransactionWhoseEndIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		news  feedNews
		stray bool
	}{
		"open at the leader too":       {feedNews{HW: 8, Stable: 0}, false},
		"there is more to come":        {feedNews{HW: 9, Stable: 8}, false},
		"a leader that does not tell":  {feedNews{HW: 8}, false},
		"below the leader's log start": {feedNews{HW: 8, Stable: 8, LogStart: 1}, false},
		"ended at the leader":          {feedNews{HW: 8, Stable: 8}, true},
	} {
		_, p := followerWith(t, 5)
		open, next := transactionalBatch(1, 0, "a", "b"), oneBatch(-1, -1, "c", "d", "e")
		open.SetLeaderEpoch(5)
		next.SetBaseOffset(5)
		next.SetLeaderEpoch(5)
		if err := errors.Join(p.log.AppendReplica(open), p.log.AppendReplica(next)); err != nil {
			t.Fatal(err)
		}
		if first, stray := p.strayTransaction(&c.news); stray != c.stray || stray && first != 0 {
			t.Errorf("%s: %v, from %d on", name, stray, first)
		}
	}
}
