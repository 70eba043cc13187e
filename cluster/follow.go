package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// following is whom this broker follows: one fetcher for each leader of a replica that it has, and of a partition that somebody here
// reads without one.
type following struct {
	sessions  atomic.Uint64 // begun by this process
	mu        sync.Mutex
	fetchers  map[int32]*running            // by broker
	observers map[log.PartitionID]*observer // of partitions that somebody here has asked to read without a replica
}

type running struct {
	*fetcher
	cancel context.CancelFunc
}

// followAll has each replica that does not lead followed through its leader's fetcher, and ends those that nobody needs.
func (b *Broker) followAll(table *partitionTable) {
	if b.port == nil {
		return
	}
	f := &b.follows
	f.mu.Lock()
	defer f.mu.Unlock()
	used := map[int32]bool{}
	for id, p := range table.open {
		leader := table.leader(id)
		if leader == b.id || leader == meta.NoLeader {
			continue
		}
		used[leader] = true
		if r := f.fetcher(b, leader, table.image); r != nil && p.fetch.Load() != r.fetcher && p.follows() {
			p.setFetcher(r.fetcher)
		}
	}
	for id, o := range f.observers {
		if table.image.TopicByID(id.Topic) == nil {
			o.through.Store(nil)
			delete(f.observers, id)
			continue
		}
		if !o.watched() {
			continue
		}
		leader := table.leader(id)
		if leader == meta.NoLeader || leader == b.id || table.open[id] != nil { // who has a replica reads that
			o.through.Store(nil)
			continue
		}
		used[leader] = true
		if r := f.fetcher(b, leader, table.image); r != nil && o.through.Swap(r.fetcher) != r.fetcher {
			r.mark(o)
		}
	}
	for node, r := range f.fetchers {
		if !used[node] {
			r.cancel()
			delete(f.fetchers, node)
		}
	}
}

// fetcher finds or starts the one for a broker. f.mu is held.
func (f *following) fetcher(b *Broker, node int32, im *meta.Image) *running {
	if r := f.fetchers[node]; r != nil {
		return r
	}
	k := im.Broker(node)
	if k == nil {
		return nil
	}
	select {
	case <-b.closing:
		return nil
	default:
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{newFetcher(b, node, k.UUID), cancel}
	if f.fetchers == nil {
		f.fetchers = map[int32]*running{}
	}
	f.fetchers[node] = r
	b.workers.Go(func() {
		stop := make(chan struct{})
		go func() {
			select {
			case <-b.closing:
				cancel()
			case <-stop:
			}
		}()
		r.run(ctx)
		close(stop)
	})
	return r
}

// follows says whether the replica follows somebody.
func (p *Partition) follows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.follower != nil
}

// Reader reads what is committed of one partition, from a replica here or from its leader. Safe for concurrent use.
type Reader interface {
	ID() log.PartitionID
	Topic() string
	Index() int32
	// HighWatermark is how far the partition is known here to be committed. It may lag behind what its leader has answered for, and
	// where there is no replica here it is known only while somebody watches.
	HighWatermark() log.Offset
	LogStart() log.Offset // as HighWatermark: 0 of both may mean that neither is known yet
	// Read is Partition.Read. Without a replica here it waits for the leader, and fails while there is none.
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
	// LastStable and ReadStable are for readers that are to see nothing of a transaction before it is committed.
	LastStable() log.Offset
	ReadStable(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
	// Watch has w told about moves of the high watermark from now on; the partition that it is told may be nil.
	Watch(w CommitWatcher)
	Unwatch(w CommitWatcher)
}

// Replica gives a way to read a partition from here. ErrUnknownTopic, or ErrOffline with the reason where this broker's replica cannot be used.
func (b *Broker) Replica(id log.PartitionID) (Reader, error) {
	table := b.table.Load()
	t := table.image.TopicByID(id.Topic)
	if t == nil || id.Index < 0 || int(id.Index) >= len(t.Partitions) {
		return nil, fmt.Errorf("partition %s: %w", id, ErrUnknownTopic)
	}
	if p := table.open[id]; p != nil {
		return p, nil
	}
	if err := table.offline[id]; err != nil && len(t.Partitions[id.Index].Replicas) == 1 {
		return nil, fmt.Errorf("partition %s/%d: %w", t.Name, id.Index, err)
	}
	if b.port == nil {
		return nil, fmt.Errorf("partition %s/%d: %w", t.Name, id.Index, ErrNotLeader)
	}
	return b.follows.observer(b, id, t.Name), nil
}
