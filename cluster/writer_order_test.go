package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"testing"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// forwardAll is a call of another broker's with these batches for p.
func forwardAll(t *testing.T, b *Broker, p *Partition, batches ...log.Batch) (outcomes []error) {
	t.Helper()
	var c appendCall
	var raw []byte
	for _, batch := range batches {
		c.Parts = append(c.Parts, appendPart{wirePartition: toWire(p.id), Bytes: len(batch)})
		raw = append(raw, batch...)
	}
	a := b.answerAppend(within(t), &c, raw)
	for i := range a.Parts {
		outcomes = append(outcomes, a.Parts[i].err())
	}
	return outcomes
}

// M3, M10: what stands behind a batch that is refused for a while is not taken before it. A leader that has had nothing of the producer yet takes any
// sequence.
func TestForwardedBatchesStayInOrder(t *testing.T) {
	b, p := onePartition(t, nil)
	large := make([]byte, 4<<10)
	limit := func(bytes int) {
		p.mu.Lock()
		p.settings.log.MaxMessageBytes = bytes
		p.mu.Unlock()
	}
	limit(1 << 10)
	first, second, other := oneBatch(7, 0, string(large)), oneBatch(7, 1, "b"), oneBatch(8, 0, "c")
	got := forwardAll(t, b, p, first, second)
	if !errors.Is(got[0], log.ErrTooLarge) || got[1] == nil || p.LogEnd() != 0 {
		t.Fatalf("outcomes %v, log end %d", got, p.LogEnd())
	}
	limit(1 << 20)
	if got := forwardAll(t, b, p, first, second, other); got[0] != nil || got[1] != nil || got[2] != nil {
		t.Fatalf("again: %v", got)
	}
	if got := readAll(t, p); len(got) != 3 || got[1] != "b" {
		t.Errorf("%d records", len(got))
	}
}

// A8: a peer's batch is looked at like a client's: one that is not sound, its checksum aside, is refused.
func TestForwardedBatchIsValidated(t *testing.T) {
	b, p := onePartition(t, nil)
	bad := oneBatch(7, 0, "a", "b")
	binary.BigEndian.PutUint32(bad[23:], 200) // it takes more offsets than it has records
	binary.BigEndian.PutUint32(bad[17:], crc32.Checksum(bad[21:], castagnoli))
	if err := bad.CheckCRC(); err != nil {
		t.Fatal(err)
	}
	if got := forwardAll(t, b, p, bad); !errors.Is(got[0], log.ErrCorrupt) || p.LogEnd() != 0 {
		t.Errorf("outcome %v, log end %d", got, p.LogEnd())
	}
}

// M3: a broker comes to lead what it has forwarded so far. Who has the way from before would be overtaken by those who get the replica after him: one more
// record of a client's in the forwarder, and its next one straight in the log.
func TestForwarderTakesNothingBesideTheReplica(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	before, err := b.forwards.to(within(t), id, topic, 1)
	if err != nil {
		t.Fatal(err)
	}
	a := newAcks()
	record := &log.Record{Timestamp: 1, Value: []byte("v")}
	if err := before.Append(record, a, 0); err != nil {
		t.Fatal(err)
	}
	a.await(t, 1)
	if a.errs[0] != nil {
		t.Fatal(a.errs[0])
	}
	g.await("the replica, once nothing waits before it", func() bool {
		w, err := b.Writer(within(t), id)
		_, is := w.(*Partition)
		return err == nil && is
	})
	if err := before.Append(record, nil, 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("the forwarder takes a record beside the replica: %v", err)
	}
	// As one whose look at the metadata is older than that.
	if again, err := b.forwards.to(within(t), id, topic, 1); err != nil || !errors.Is(again.Append(record, nil, 0), ErrNotLeader) {
		t.Errorf("a late one: %v", err)
	}
	if later, err := b.forwards.to(within(t), id, topic, b.Image().Version+1); err != nil || later.Append(record, nil, 0) != nil {
		t.Errorf("once another broker leads: %v", err)
	}
}

// M7, M10: a partition that nobody takes records for fills its own share of what may wait, and those of the others go on.
func TestStuckPartitionLeavesRoomForOthers(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	var ways [2]*forwarder
	for i := range ways {
		if ways[i], err = b.forwards.to(within(t), log.PartitionID{Topic: topic.ID, Index: int32(i)}, topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	stuck, other := ways[0], ways[1]
	call := func(is bool) {
		stuck.mu.Lock()
		stuck.calling = is // one that does not end
		stuck.mu.Unlock()
	}
	call(true)
	room := make(chan struct{}, 100)
	b.OnRoom(func() { room <- struct{}{} })
	record := &log.Record{Timestamp: 1, Value: make([]byte, 100<<10)}
	a, n := newAcks(), 0
	for err = nil; err == nil && n < 2*forwardBytes/len(record.Value); n++ {
		err = stuck.Append(record, a, uint64(n))
	}
	if !errors.Is(err, log.ErrBusy) || n < 10 {
		t.Fatalf("record %d: %v", n, err)
	}
	done := newAcks()
	if err := other.Append(record, done, 0); err != nil {
		t.Fatalf("another partition's record: %v", err)
	}
	done.await(t, 1)
	call(false)
	b.forwards.poke()
	a.await(t, n-1)
	<-room // whoever was refused is told
	if err := stuck.Append(record, done, 1); err != nil {
		t.Error(err)
	}
	done.await(t, 2)
	if s := b.forwards.stats(); s.Waiting != 0 {
		t.Errorf("%d bytes wait", s.Waiting)
	}
}

// A broker that closes does not say "not committed yet" of what it was forwarded: it is sent again at once, and a broker that forwards to itself did nothing else.
func TestABrokerThatClosesIsNotSentTheSameAtOnce(t *testing.T) {
	disk := vfs.NewFault(vfs.OS{})
	cfg := testConfig(t.TempDir())
	cfg.FS = disk
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	hold := make(chan struct{})
	disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Times: 1, Hook: func(vfs.Op, string) { <-hold }})
	got := make(chan []error, 1)
	go func() { got <- forwardAll(t, b, p, oneBatch(7, 0, "a")) }()
	for p.waitingEntries() == 0 {
		runtime.Gosched()
	}
	closed := make(chan error, 1)
	go func() { closed <- b.Close(context.Background()) }()
	if outcomes := <-got; !errors.Is(outcomes[0], ErrClosed) || errors.Is(outcomes[0], errUndecided) {
		t.Errorf("outcome %v", outcomes[0])
	}
	close(hold)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
