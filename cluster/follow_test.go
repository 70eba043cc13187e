package cluster

import (
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// M4: who looks for a record hears of the end only when what may be it is committed; the high watermark alone says nothing about that.
func TestSettleWaitsForWhatIsNotCommitted(t *testing.T) {
	disk := vfs.NewFault(vfs.OS{})
	cfg := testConfig(t.TempDir())
	cfg.FS = disk
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	hold := make(chan struct{})
	disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Times: 1, Hook: func(vfs.Op, string) { <-hold }})
	if err := p.Append(&log.Record{Timestamp: 1, Value: []byte("x")}, newAcks(), 0); err != nil {
		t.Fatal(err)
	}
	if end, err := b.Ends(within(t), p.ID()); err != nil || end != 0 {
		t.Fatalf("committed up to %d, %v, before the sync", end, err)
	}
	settled := make(chan log.Offset, 1)
	go func() {
		end, err := b.Settle(within(t), p.ID())
		if err != nil {
			t.Error(err)
		}
		settled <- end
	}()
	for asked := 0; asked < 3; asked++ { // it goes on asking
		if end, err := b.ends(within(t), p.ID(), true); err != nil || end != 1 {
			t.Fatalf("the log goes to %d, %v", end, err)
		}
		select {
		case end := <-settled:
			t.Fatalf("it settled at %d before the record was committed", end)
		default:
		}
	}
	close(hold)
	if end := <-settled; end != 1 || p.HighWatermark() < end {
		t.Errorf("it settled at %d with high watermark %d", end, p.HighWatermark())
	}
}

// M5: two who read a partition that has no replica here, and asked for the way to it before either watched, both hear of what is committed, also after one
// has gone.
func TestWhoObservesAPartitionSharesTheNews(t *testing.T) {
	g := openGroup(t, 2)
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1, Replicas: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	lead, _ := g.leaderOf("a", 0)
	other := g.brokers[0]
	if other == lead {
		other = g.brokers[1]
	}
	g.await("the topic everywhere", func() bool { return other.Image().TopicByID(topic.ID) != nil })
	var readers [2]Reader
	var told [2]settling
	for i := range readers {
		if readers[i], err = other.Replica(id); err != nil {
			t.Fatal(err)
		}
		told[i] = make(settling, 1)
	}
	hears := func(i int, want log.Offset) {
		t.Helper()
		for ctx := within(t); readers[i].HighWatermark() < want; {
			select {
			case <-told[i]:
			case <-ctx.Done():
				t.Fatalf("reader %d hears of %d, %d are committed", i, readers[i].HighWatermark(), want)
			}
		}
	}
	for i, r := range readers {
		r.Watch(told[i])
	}
	appendUntil(t, lead, id, "x")
	hears(0, 1)
	hears(1, 1)
	readers[0].Unwatch(told[0])
	appendUntil(t, lead, id, "y")
	hears(1, 2)
}

// R3: a leader that does not know yet what is committed gives no records: who finds fewer than were answered for takes them for never written.
func TestReadWaitsUntilTheTermIsSettled(t *testing.T) {
	b, p := onePartition(t, nil)
	appendAll(t, p, "a", "b")
	read := func() error {
		_, err := b.ReadLeader(p.ID(), 0, 1<<20, nil)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	settled := p.leader
	p.leader = replica.Lead(replica.Term{Self: b.id, Epoch: int32(p.epoch), Start: 3, HighWatermark: 2, State: replica.State{ISR: []int32{b.id}}}, 0)
	p.mu.Unlock()
	if err := read(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("before that: %v", err)
	}
	if _, err := b.Ends(within(t), p.ID()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("it says where the log ends: %v", err)
	}
	p.mu.Lock()
	p.leader = settled
	p.mu.Unlock()
	if err := read(); err != nil {
		t.Errorf("after that: %v", err)
	}
}
