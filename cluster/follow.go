package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
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

// observer finds or makes the one of a partition: all who read it here share it, and with it what the leader tells.
func (f *following) observer(b *Broker, id log.PartitionID, topic string) *observer {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.observers[id]
	if o == nil {
		o = &observer{b: b, id: id, topic: topic}
		if f.observers == nil {
			f.observers = map[log.PartitionID]*observer{}
		}
		f.observers[id] = o
	}
	return o
}

// observer reads a partition of which there is no replica here.
type observer struct {
	b       *Broker
	id      log.PartitionID
	topic   string
	through atomic.Pointer[fetcher] // nil unless somebody watches, and somebody leads

	hw, start atomic.Int64

	mu       sync.Mutex
	watchers []CommitWatcher
}

const readTimeout = 5 * time.Second

// ID implements Reader.
func (o *observer) ID() log.PartitionID { return o.id }

// Topic implements Reader.
func (o *observer) Topic() string { return o.topic }

// Index implements Reader.
func (o *observer) Index() int32 { return o.id.Index }

// HighWatermark implements Reader.
func (o *observer) HighWatermark() log.Offset { return log.Offset(o.hw.Load()) }

// LastStable implements Reader: what a leader tells those who have no replica is just that.
func (o *observer) LastStable() log.Offset { return o.HighWatermark() }

// ReadStable implements Reader. The leader reads up to its high watermark: who looks for a record of his own has to see that far.
func (o *observer) ReadStable(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	stable := o.LastStable()
	b, err := o.Read(from, maxBytes, buf)
	for at := 0; at < len(b); {
		batch, err := log.NextBatch(b[at:], 0)
		if err != nil {
			return b[:at], err
		}
		if batch.BaseOffset() >= stable {
			return b[:at], nil
		}
		at += batch.Size()
	}
	return b, err
}

// LogStart implements Reader.
func (o *observer) LogStart() log.Offset { return log.Offset(o.start.Load()) }

// Read implements Reader.
func (o *observer) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	if from >= o.HighWatermark() {
		return buf[:0], nil
	}
	return o.b.ReadLeader(o.id, from, maxBytes, buf)
}

// ReadLeader is Partition.Read at the leader, here or elsewhere: it reaches everything that was answered for before.
func (b *Broker) ReadLeader(id log.PartitionID, from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	table := b.table.Load()
	if p, err := table.led(id); err == nil {
		return b.readLed(p, from, maxBytes, buf)
	}
	leader := table.leader(id)
	if leader == meta.NoLeader || leader == b.id {
		return buf[:0], fmt.Errorf("read partition %s: it has no leader: %w", id, ErrNotLeader)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), readTimeout, errors.New("no answer in time"))
	defer cancel()
	reply, err := b.CallNode(ctx, leader, methodRead, readCall{toWire(id), int64(from), maxBytes}, nil, nil)
	if err != nil {
		return buf[:0], fmt.Errorf("read partition %s: %w", id, err)
	}
	defer reply.Release()
	return append(buf[:0], reply.Raw...), nil
}

// readLed reads as the leader: only while nobody else can have taken its place (R2), and once all is known to be committed that leaders before it
// answered for (R3): who finds nothing takes it for not written.
func (b *Broker) readLed(p *Partition, from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	if !p.Settled() {
		return buf[:0], p.wrap("read", fmt.Errorf("its leader does not know yet what is committed: %w", ErrUnavailable))
	}
	aborted := p.log.Aborted(from, p.HighWatermark())
	got, err := p.Read(from, maxBytes, buf)
	hideAborted(got, aborted)
	if !b.HoldsLease() { // looked at last: nobody else led while it was read
		return got[:0], p.wrap("read", ErrNotLeader)
	}
	return got, err
}

// leaderReader loads a table's partition from its leader.
type leaderReader struct {
	b     *Broker
	id    log.PartitionID
	topic string
}

// LogStart is the beginning: a table loses nothing at its start but what compaction takes.
func (r leaderReader) LogStart() log.Offset { return 0 }

func (r leaderReader) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	return r.b.ReadLeader(r.id, from, maxBytes, buf)
}

func (r leaderReader) wrap(doing string, err error) error {
	return fmt.Errorf("%s %s/%d: %w", doing, r.topic, r.id.Index, err)
}

// Watch implements Reader.
func (o *observer) Watch(w CommitWatcher) {
	o.mu.Lock()
	o.watchers = append(o.watchers, w)
	o.mu.Unlock()
	f := &o.b.follows
	f.mu.Lock()
	defer f.mu.Unlock()
	table := o.b.table.Load()
	if leader := table.leader(o.id); leader != meta.NoLeader && leader != o.b.id && table.open[o.id] == nil {
		if r := f.fetcher(o.b, leader, table.image); r != nil && o.through.Swap(r.fetcher) != r.fetcher {
			r.mark(o)
		}
	}
}

// Unwatch implements Reader.
func (o *observer) Unwatch(w CommitWatcher) {
	o.mu.Lock()
	for i := range o.watchers {
		if o.watchers[i] == w {
			o.watchers = append(o.watchers[:i:i], o.watchers[i+1:]...)
			break
		}
	}
	o.mu.Unlock()
	f := &o.b.follows
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.watched() {
		return
	}
	if through := o.through.Swap(nil); through != nil {
		through.mark(o) // tells the leader that nobody observes
	}
}

func (o *observer) watched() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.watchers) > 0
}

// tells implements followed.
func (o *observer) tells(f *fetcher) (feedPart, bool) {
	return feedPart{wirePartition: toWire(o.id), LastEpoch: -1, Observe: true}, o.through.Load() == f
}

// takes implements followed.
func (o *observer) takes(f *fetcher, n *feedNews, _ []byte) time.Duration {
	switch {
	case o.through.Load() != f:
		return 0
	case n.Code != feedOK:
		return takeRetry
	}
	o.start.Store(max(n.LogStart, o.start.Load())) // first: who sees how far it is committed sees where it begins
	moved := o.hw.Swap(max(n.HW, o.hw.Load())) < n.HW
	if moved {
		o.mu.Lock()
		watchers := append([]CommitWatcher(nil), o.watchers...)
		o.mu.Unlock()
		o.b.completer.call(func() {
			for _, w := range watchers {
				w.Advanced(nil)
			}
		})
	}
	return -1 // nothing has changed that the leader should be told
}

// answerRead reads for a broker without a replica.
func (b *Broker) answerRead(c *readCall) (rpc.Answer, error) {
	id, ok := c.id()
	if !ok {
		return rpc.Answer{}, ErrUnknownTopic
	}
	p, err := b.table.Load().led(id)
	if err != nil {
		return rpc.Answer{}, err
	}
	buf := feedBuffers.Get().(*[]byte)
	got, err := b.readLed(p, log.Offset(c.From), min(max(c.MaxBytes, 1), feedBytes), *buf)
	if err != nil {
		feedBuffers.Put(buf)
		return rpc.Answer{}, err
	}
	*buf = got
	return rpc.Answer{Control: struct{}{}, Raw: got, Done: func() { feedBuffers.Put(buf) }}, nil
}

// answerEnds tells how far partitions are committed that this broker leads, or how far their logs go.
func (b *Broker) answerEnds(c *endsCall) endsAnswer {
	table := b.table.Load()
	a := endsAnswer{Ends: make([]int64, len(c.Parts))}
	for i, w := range c.Parts {
		a.Ends[i] = -1
		id, ok := w.id()
		if !ok {
			continue
		}
		p, err := table.led(id)
		if err != nil || table.image.Version < c.Since || !c.Appended && !p.Settled() {
			continue
		}
		end := p.HighWatermark()
		if c.Appended {
			end = p.appended()
		}
		if b.HoldsLease() { // looked at last: nobody else led while it was read
			a.Ends[i] = int64(end)
		}
	}
	return a
}

// Ends asks the leader of a partition how far it is committed: everything that was answered for before the call lies below. ErrNotLeader while
// nobody can say.
func (b *Broker) Ends(ctx context.Context, id log.PartitionID) (log.Offset, error) {
	return b.ends(ctx, id, false)
}

const (
	settlePause   = 10 * time.Millisecond // doubles up to settleLongest: thousands of sessions may wait for one partition
	settleLongest = 160 * time.Millisecond
	settleAgain   = time.Second // then another leader may have a shorter log
)

// Settle waits until the leader of a partition has committed all that is in its log by now, and answers where that ends. What was appended
// before and is not below will never be read: what a new leader has of an earlier term becomes committed only after it has led for a moment. Of terms that are over
// by what this broker knows the leader takes nothing any more.
func (b *Broker) Settle(ctx context.Context, id log.PartitionID) (log.Offset, error) {
	end, asked := log.Offset(-1), time.Time{}
	for pause := settlePause; ; pause = min(2*pause, settleLongest) {
		var err error
		if end < 0 || time.Since(asked) > settleAgain {
			asked = time.Now()
			end, err = b.ends(ctx, id, true)
		}
		if err == nil {
			var committed log.Offset
			if committed, err = b.ends(ctx, id, false); err == nil && committed >= end {
				return end, nil
			}
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("settle partition %s: %w", id, cmp.Or(err, context.Cause(ctx)))
		case <-time.After(pause):
		}
	}
}

func (b *Broker) ends(ctx context.Context, id log.PartitionID, appended bool) (log.Offset, error) {
	table := b.table.Load()
	leader := table.leader(id)
	call := endsCall{Parts: []wirePartition{toWire(id)}, Appended: appended, Since: table.image.Version}
	var a endsAnswer
	switch leader {
	case meta.NoLeader:
		return -1, ErrNotLeader
	case b.id:
		a = b.answerEnds(&call)
	default:
		reply, err := b.CallNode(ctx, leader, methodEnds, call, nil, &a)
		if err != nil {
			return -1, err
		}
		reply.Release()
	}
	if len(a.Ends) != 1 || a.Ends[0] < 0 {
		return -1, ErrNotLeader
	}
	return log.Offset(a.Ends[0]), nil
}
