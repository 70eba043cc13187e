package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// followerWith is a broker's partition that has taken batches of so many records each of a leader in an epoch, and synced them.
func followerWith(t *testing.T, epoch log.Epoch, batches ...int) (*Broker, *Partition) {
	t.Helper()
	b, p := onePartition(t, nil)
	p.follow(b.id+1, 1, epoch, true)
	at := log.Offset(0)
	for _, n := range batches {
		var bb log.BatchBuilder
		for range n {
			bb.Append(&log.Record{Value: []byte("v")})
		}
		if err := p.log.AppendReplica(bb.Seal(at, epoch)); err != nil {
			t.Fatal(err)
		}
		at += log.Offset(n)
	}
	for deadline := time.Now().Add(10 * time.Second); p.log.Durable() != at; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not synced")
		}
	}
	return b, p
}

// After an unclean election the logs part below the follower's log start, or inside of the batch that this lies in: the follower ends with its leader's log, or is
// found damaged and filled again. It does not go round in circles. // T1, T4, T5
func TestLogsThatPartWithoutACommonBatch(t *testing.T) {
	for _, c := range []struct {
		mine, theirs []int
		start        log.Offset
	}{
		{[]int{105, 5}, []int{103, 5}, 105},
		{[]int{102, 8}, []int{100, 3, 5}, 105},
		{[]int{102, 8}, []int{100, 20}, 105},
		{[]int{100, 10}, []int{100, 3}, 105},
	} {
		t.Run(fmt.Sprint(c.mine, c.theirs), func(t *testing.T) {
			b1, leader := followerWith(t, 5, c.theirs...)
			b2, p := followerWith(t, 4, c.mine...)
			if err := p.log.SetLogStart(c.start); err != nil {
				t.Fatal(err)
			}
			const epoch = 9
			if err := leader.lead(replica.Term{Self: b1.id, Epoch: epoch, State: replica.State{ISR: []int32{b1.id}, MinInsync: 1, Replicas: []replica.Replica{{ID: b1.id, Epoch: b1.epoch, Eligible: true}}}}); err != nil {
				t.Fatal(err)
			}
			p.log.SetHighWatermark(p.log.LogEnd())
			p.follow(b2.id, b2.epoch, epoch, true)
			f := newFetcher(b2, 9, b1.ident.UUID)
			p.fetch.Store(f)
			for range 8 {
				part, ok := p.tells(f)
				if !ok {
					return // damaged
				}
				n := feedNews{wirePartition: part.wirePartition, AskedFrom: part.From, AskedLast: part.LastEpoch, AskedEpoch: part.LeaderEpoch}
				raw := leader.news(part.fetch(&feedCall{Broker: b2.id + 1, Epoch: 1}), false, feedPartBytes, &n, nil)
				p.takes(f, &n, raw)
				if hw, end := p.knownHW(), int64(p.log.LogEnd()); hw > end {
					t.Fatalf("high watermark %d above the log end %d (H7)", hw, end)
				}
				if p.log.LogEnd() == leader.log.LogEnd() && p.log.LastEpoch() >= 5 {
					return
				}
			}
			t.Errorf("starts at %d, ends at %d; the leader's ends at %d", p.log.LogStart(), p.log.LogEnd(), leader.log.LogEnd())
		})
	}
}

// T5: a follower that has begun anew where its leader's log ends has to hear of the term once more, though nothing else is new.
func TestNewsForWhoHasBegunAnew(t *testing.T) {
	b, p := onePartition(t, nil)
	appendAll(t, p, "a", "b", "c", "d")
	if _, err := p.DeleteRecords(-1); err != nil {
		t.Fatal(err)
	}
	epoch := int32(p.LeaderEpoch())
	s := &feedSession{b: b, node: b.id + 1, process: 1, id: 1, wake: make(chan struct{}, 1), slots: map[log.PartitionID]*feedSlot{}}
	for seq, part := range []feedPart{
		{Durable: 2, From: 4, LastEpoch: epoch, Behind: 1},
		{Durable: 4, From: 4, LastEpoch: -1, Behind: 5},
	} {
		part.wirePartition, part.LeaderEpoch, part.Entry = toWire(p.id), epoch, epoch-1
		if err := s.tell(&feedCall{Broker: b.id + 1, Epoch: 1, Session: 1, Seq: uint64(seq + 1), Parts: []feedPart{part}}); err != nil {
			t.Fatal(err)
		}
		if n, _, is, _ := s.answer(s.slots[p.id], nil, feedPartBytes, false); !is || n.LogStart != 4 || n.Code != feedOK {
			t.Errorf("call %d: news %t: %+v", seq+1, is, n)
		}
	}
}

// I8: a replica that was taken away and given back, without a word in between, has another log: it has to hear of the term, though nothing is new.
func TestNewsForWhoHasComeAgain(t *testing.T) {
	b, p := onePartition(t, nil)
	epoch := int32(p.LeaderEpoch())
	s := &feedSession{b: b, node: b.id + 1, process: 1, id: 1, wake: make(chan struct{}, 1), slots: map[log.PartitionID]*feedSlot{}}
	for seq, want := range []bool{true, false, true} {
		part := feedPart{wirePartition: toWire(p.id), LeaderEpoch: epoch, LastEpoch: -1, Entry: epoch, Behind: 1, PartitionEpoch: int32(1 + seq/2)}
		if err := s.tell(&feedCall{Broker: b.id + 1, Epoch: 1, Session: 1, Seq: uint64(seq + 1), Parts: []feedPart{part}}); err != nil {
			t.Fatal(err)
		}
		if n, _, is, _ := s.answer(s.slots[p.id], nil, feedPartBytes, false); is != want {
			t.Errorf("call %d: news %t: %+v", seq+1, is, n)
		}
	}
}

// A call that begins a session and was under way for long ends no newer session.
func TestLateFirstCallOfASession(t *testing.T) {
	b, _ := onePartition(t, nil)
	f := &feeds{sessions: map[int32]*feedSession{}}
	call := func(process int64, session uint64, seq uint64) *feedSession {
		return f.session(b, &feedCall{Broker: 7, Epoch: process, Session: session, Seq: seq})
	}
	newest := call(2, 5, 1)
	if newest == nil || call(2, 4, 1) != nil || call(1, 9, 1) != nil || call(2, 5, 2) != newest {
		t.Error("an older session took the place of a newer one")
	}
	if next := call(3, 1, 1); next == nil || next == newest || call(2, 5, 3) != nil {
		t.Error("a newer process's session did not take its place")
	}
}

// I8: what a follower has told may have ceased to count: it tells again when it hears that a replica has left, and only then.
func TestFollowerTellsAgainWhenAReplicaHasLeft(t *testing.T) {
	b, p := onePartition(t, nil)
	if _, err := produce(t, p, oneBatch(-1, -1, "x"), -1); err != nil { // that its own epoch is synced is no news any more
		t.Fatal(err)
	}
	p.follow(b.id, b.epoch, p.LeaderEpoch()+1, false)
	f := newFetcher(b, 9, b.ident.UUID)
	p.setFetcher(f)
	f.next(0)
	for _, c := range []struct {
		epoch, left int32
		tells       bool
	}{{20, 0, false}, {21, 21, true}, {22, 21, false}} {
		p.configure(p.settings, replica.State{PartitionEpoch: c.epoch, Left: c.left})
		if got := f.any(); got != c.tells {
			t.Errorf("partition epoch %d: tells %t", c.epoch, got)
		}
		f.next(0)
	}
}
