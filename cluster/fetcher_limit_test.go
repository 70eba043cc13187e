package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// manyFollowed is a partition of very many.
type manyFollowed log.PartitionID

func (m *manyFollowed) ID() log.PartitionID { return log.PartitionID(*m) }

func (m *manyFollowed) tells(*fetcher) (feedPart, bool) {
	return feedPart{wirePartition: toWire(m.ID()), LeaderEpoch: 1 << 20, Durable: 1 << 40, From: 1 << 40, LastEpoch: 1 << 20, Entry: 1 << 20}, true
}

func (m *manyFollowed) takes(*fetcher, *feedNews, []byte) time.Duration { return 0 }

// leaderOfMany counts what it is told, and holds on to calls that wait.
type leaderOfMany struct {
	calls chan *feedCall
}

func (l leaderOfMany) call(ctx context.Context, _ meta.UUID, _ rpc.Method, request any, _ []byte, _ any) (rpc.Reply, error) {
	c := request.(*feedCall)
	l.calls <- c
	if c.WaitMS > 0 {
		<-ctx.Done()
		return rpc.Reply{}, ctx.Err()
	}
	return rpc.Reply{}, nil
}

// A follower of more partitions than a call has room for tells of them in several, and does not wait for news before it has told of all.
func TestManyPartitionsAreTold(t *testing.T) {
	l := leaderOfMany{make(chan *feedCall)}
	f := newFetcher(&Broker{net: l, cfg: testConfig("").withDefaults()}, 1, meta.UUID{})
	const n = 30_000
	for i := range n {
		id := manyFollowed{Index: int32(i)}
		f.parts[log.PartitionID(id)] = &id
	}
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan struct{})
	go func() {
		f.follow(ctx)
		close(ended)
	}()
	told := map[int32]bool{}
	for seq := uint64(1); len(told) < n; seq++ {
		var c *feedCall
		select {
		case c = <-l.calls:
		case <-ctx.Done():
			t.Fatalf("%d of %d partitions were told of", len(told), n)
		}
		if seq == 1 && (c.Seq != 1 || c.WaitMS > 0) {
			t.Errorf("the session begins with call %d, which waits %d ms", c.Seq, c.WaitMS)
		}
		if b, err := rpc.Encode(c); err != nil || len(b) > 1<<20 {
			t.Fatalf("a call of %d bytes with %d partitions: %v", len(b), len(c.Parts), err)
		}
		for i := range c.Parts {
			told[c.Parts[i].Index] = true
		}
	}
	cancel()
	for {
		select {
		case <-l.calls:
		case <-ended:
			return
		}
	}
}

// Nor are they answered for all at once.
func TestManyPartitionsAreAnsweredFor(t *testing.T) {
	b, _ := onePartition(t, nil)
	s := b.feeds.session(b, &feedCall{Broker: 9, Session: 1, Seq: 1})
	const n = 3*feedPartsAtOnce + 1
	for seq := uint64(1); seq <= 4; seq++ {
		c := &feedCall{Broker: 9, Session: 1, Seq: seq}
		for i := range feedPartsAtOnce {
			if at := (int(seq)-1)*feedPartsAtOnce + i; at < n {
				c.Parts = append(c.Parts, feedPart{wirePartition: toWire(log.PartitionID{Index: int32(at)}), LastEpoch: -1})
			}
		}
		if err := s.tell(c); err != nil {
			t.Fatal(err)
		}
	}
	answered := 0
	for answered < n {
		news, _, done, _ := s.collect(false)
		if len(news) == 0 || len(news) > feedPartsAtOnce {
			t.Fatalf("%d answers at once, %d before", len(news), answered)
		}
		answered += len(news)
		done()
	}
}

// A cluster's topics promise no batches that calls between its brokers cannot carry: one would end the sessions that it is in, for all partitions.
func TestLargestBatchFitsACall(t *testing.T) {
	cfg := testConfig("")
	cfg.Log.JournalFileBytes = 1 << 28
	alone := cfg.maxBatch()
	cfg.Peer = &PeerConfig{}
	if n := cfg.maxBatch(); n >= alone || n+feedBytes+1<<20 > rpc.MaxFrame {
		t.Errorf("a batch of %d bytes, %d alone", n, alone)
	}
	cfg.DataDir, cfg.DefaultConfigs = "d", map[string]string{maxMessageBytes: "8388608"}
	if err := cfg.Validate(); err == nil {
		t.Error("a topic may promise more")
	}
}
