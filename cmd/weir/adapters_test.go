package main

import (
	"context"
	"testing"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// M4: the search for a record begins below where another leader may put it, which cuts off what is not committed.
func TestSearchBeginsAtWhatIsCommitted(t *testing.T) {
	disk := vfs.NewFault(vfs.OS{})
	b, err := cluster.Open(t.Context(), cluster.Config{DataDir: t.TempDir(), FS: disk, Log: log.Config{JournalFileBytes: 1 << 20, BallastBytes: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(context.Background())
	parts, err := sink{broker: b, spec: func(name string) cluster.TopicSpec { return cluster.TopicSpec{Name: name, Partitions: 1} }}.Topic("a")
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	defer close(hold) // before the broker closes, which commits
	disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) { <-hold }})
	if err := parts[0].Append(&log.Record{Value: []byte("x")}, nil, 0); err != nil {
		t.Fatal(err)
	}
	if at := parts[0].LogEnd(); at != 0 {
		t.Errorf("a search would begin at %d, and nothing is committed", at)
	}
}

// M8: that no broker takes replicas now passes by itself: a publish that needs a new topic is held meanwhile.
func TestTopicWithoutABrokerForItIsHeld(t *testing.T) {
	b, err := cluster.Open(t.Context(), cluster.Config{DataDir: t.TempDir(), Log: log.Config{JournalFileBytes: 1 << 20, BallastBytes: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(context.Background())
	if _, err := b.Propose(t.Context(), &meta.DrainBroker{BrokerID: b.NodeID()}); err != nil {
		t.Fatal(err)
	}
	s := sink{broker: b, spec: func(name string) cluster.TopicSpec { return cluster.TopicSpec{Name: name, Partitions: 1} }}
	if _, err := s.Topic("a"); err == nil || !s.Transient(err) {
		t.Errorf("%v does not pass by itself", err)
	}
}

// P2: MQTT subscribers are given records of a transaction when it is committed, and none of one that was aborted.
func TestSubscribersSeeCommittedTransactionsOnly(t *testing.T) {
	b, err := cluster.Open(t.Context(), cluster.Config{DataDir: t.TempDir(), Log: log.Config{JournalFileBytes: 1 << 20, BallastBytes: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(context.Background())
	if _, err := b.CreateTopic(t.Context(), cluster.TopicSpec{Name: "a", Partitions: 1}, false); err != nil {
		t.Fatal(err)
	}
	p, err := b.Partition("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	l := newDeliverLog(p)
	for producer, commit := range []bool{false, true} {
		var bb log.BatchBuilder
		bb.SetProducer(int64(producer), 0, 0)
		bb.SetFlags(log.AttrTransactional)
		bb.Append(&log.Record{Value: []byte("x")})
		done := make(chan error, 1)
		p.ProduceVerified(bb.Seal(0, 0), -1, log.Verified{Ended: -1}, func(_ log.Offset, _ int64, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		at := log.Offset(2 * producer)
		if l.HighWatermark() != at {
			t.Errorf("subscribers read below %d while the transaction at %d is open", l.HighWatermark(), at)
		}
		if err := b.EndTransaction(t.Context(), []log.PartitionID{p.ID()}, log.Marker{ProducerID: int64(producer), Commit: commit})[0]; err != nil {
			t.Fatal(err)
		}
		got, err := l.Read(at, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if batch, err := log.NextBatch(got, 0); err != nil || batch.IsControl() == commit || batch.BaseOffset() != at {
			t.Errorf("read the batch at %d, to be passed over: %t; it was committed: %t, %v", batch.BaseOffset(), batch.IsControl(), commit, err)
		}
	}
}
