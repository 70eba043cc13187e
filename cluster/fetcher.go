package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// fetcher follows one other broker: it keeps this broker's replicas of all partitions that the other leads as they are there. One call of it waits
// for news; meanwhile at most one more tells what has been synced here (H1), so that a commit is not held up by the wait.
type fetcher struct {
	b    *Broker
	node int32
	uuid meta.UUID
	wake chan struct{} // holds a token while changed may hold something

	mu      sync.Mutex
	changed []followed // what the leader has to be told of

	// of run
	session uint64
	seq     uint64
	parts   map[log.PartitionID]followed
	failing bool // said so
	flood   flood
	behind  bool // by the last answer with news the leader has much more

	stats struct{ bytes, answers, failures, last atomic.Int64 } // last is when it answered, of Broker.mono
}

// followed is a replica that is fetched, or a partition without one here that is observed.
type followed interface {
	ID() log.PartitionID
	// tells what the leader is told; false: it is not followed through f any more.
	tells(f *fetcher) (feedPart, bool)
	// takes acts on news, and says after how long the leader is to be told again; 0 is at once, and less than 0 not at all.
	takes(f *fetcher, n *feedNews, raw []byte) time.Duration
}

const (
	// feedTimeout is beyond the wait: the leader has not answered, and may be gone.
	feedTimeout = feedWait + 3500*time.Millisecond
	feedRetry   = 100 * time.Millisecond // after a failure
	// takeRetry is when a partition is asked for again that its leader could not answer for, as when the metadata has not arrived there.
	takeRetry = 20 * time.Millisecond
)

func newFetcher(b *Broker, node int32, uuid meta.UUID) *fetcher {
	f := &fetcher{b: b, node: node, uuid: uuid, wake: make(chan struct{}, 1), parts: map[log.PartitionID]followed{}}
	f.stats.last.Store(int64(b.mono()))
	return f
}

// note has the next call tell of p.
func (f *fetcher) note(p followed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, p)
}

// mark has the leader told of p at once. It never blocks; the completer calls it.
func (f *fetcher) mark(p followed) {
	f.note(p)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// told is the end of one call.
type told struct {
	waited bool
	answer feedAnswer
	raw    []byte
	done   func()
	err    error
}

// run follows until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		f.follow(ctx)
		select {
		case <-time.After(feedRetry):
		case <-ctx.Done():
		}
	}
}

// follow is one session, until it fails.
func (f *fetcher) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	ended := make(chan told, 2) // room for both calls, so that neither waits for a session that is over
	caller := func() chan<- *feedCall {
		todo := make(chan *feedCall, 1)
		calls.Go(func() {
			for {
				select {
				case c := <-todo:
					ended <- f.call(ctx, c)
				case <-ctx.Done():
					return
				}
			}
		})
		return todo
	}
	waiter, teller := caller(), caller()
	waiting, telling := false, false
	f.begin()
	if t := f.call(ctx, f.next(0)); !f.took(&t) { // no other call may overtake the one that begins the session
		return
	}
	var pause pause
	defer pause.end()
	for {
		if !waiting && !pause.on() {
			waiter <- f.next(int32(feedWait / time.Millisecond))
			waiting = true
		}
		if !telling && waiting && f.any() {
			teller <- f.next(0)
			telling = true
		}
		select {
		case <-f.wake:
			pause.end()
		case <-pause.over:
			pause.end()
		case t := <-ended:
			waiting, telling = waiting && !t.waited, telling && t.waited
			if !f.took(&t) {
				return
			}
			if t.waited && f.flood.on && !f.behind {
				pause.begin()
			}
		case <-ctx.Done():
			return
		}
	}
}

// begin starts a session: everything is told again.
func (f *fetcher) begin() {
	f.session, f.seq = f.b.follows.sessions.Add(1), 0
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.parts {
		f.changed = append(f.changed, p)
	}
}

func (f *fetcher) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.changed) > 0
}

// next is a call that tells of everything that has changed.
func (f *fetcher) next(waitMS int32) *feedCall {
	f.mu.Lock()
	changed := f.changed[:min(len(f.changed), feedPartsAtOnce)]
	f.changed = f.changed[len(changed):]
	f.mu.Unlock()
	f.seq++
	c := &feedCall{Broker: f.b.id, Epoch: f.b.epoch, Session: f.session, Seq: f.seq, WaitMS: waitMS}
	seen := make(map[log.PartitionID]followed, len(changed))
	for _, p := range changed {
		id := p.ID()
		if seen[id] == p {
			continue
		}
		seen[id] = p
		part, follows := p.tells(f)
		switch {
		case follows:
			f.parts[id] = p
			c.Parts = append(c.Parts, part)
		case f.parts[id] == p:
			delete(f.parts, id)
		}
	}
	for id := range seen {
		if f.parts[id] == nil {
			c.Gone = append(c.Gone, feedPart{wirePartition: toWire(id)})
		}
	}
	return c
}

func (f *fetcher) call(ctx context.Context, c *feedCall) (t told) {
	t.waited = c.WaitMS > 0
	ctx, cancel := context.WithTimeoutCause(ctx, feedTimeout, errors.New("no answer in time"))
	defer cancel()
	reply, err := f.b.net.call(ctx, f.uuid, methodFeed, c, nil, &t.answer)
	if err != nil {
		t.err = err
		return t
	}
	t.raw, t.done = reply.Raw, reply.Release
	return t
}

// took acts on the end of a call; false: the session is over.
func (f *fetcher) took(t *told) bool {
	if t.done != nil {
		defer t.done()
	}
	if t.err != nil || t.answer.Lost {
		f.stats.failures.Add(1)
		if k := f.b.Image().Broker(f.node); k != nil && errors.Is(t.err, rpc.ErrUnreachable) {
			f.b.suspect(k)
		}
		if t.err != nil && !f.failing {
			f.failing = true
			f.b.cfg.Logger.Warn("cannot follow a broker, trying on", "broker", f.node, "error", t.err)
		}
		return false
	}
	if f.failing {
		f.failing = false
		f.b.cfg.Logger.Info("following a broker again", "broker", f.node)
	}
	f.stats.answers.Add(1)
	f.stats.last.Store(int64(f.b.mono()))
	f.stats.bytes.Add(int64(len(t.raw)))
	if t.waited {
		f.flood.answer(len(t.raw), time.Now())
		f.behind = false
	}
	raw := t.raw
	for i := range t.answer.Parts {
		n := &t.answer.Parts[i]
		if n.Bytes < 0 || n.Bytes > len(raw) {
			return false // no sound answer
		}
		own := raw[:n.Bytes]
		raw = raw[n.Bytes:]
		id, ok := n.id()
		if p := f.parts[id]; ok && p != nil {
			f.behind = f.behind || n.leaves(own)
			switch wait := p.takes(f, n, own); {
			case wait > 0:
				time.AfterFunc(wait, func() { f.mark(p) })
			case wait == 0:
				f.note(p)
			}
		}
	}
	return true
}

// tells implements followed.
func (p *Partition) tells(f *fetcher) (feedPart, bool) {
	if p.fetch.Load() != f {
		return feedPart{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.follower == nil {
		return feedPart{}, false
	}
	v := p.view()
	q := p.follower.Fetch(v)
	p.told = q
	return feedPart{
		wirePartition: toWire(p.id), LeaderEpoch: q.LeaderEpoch, Durable: q.Durable, From: q.From, LastEpoch: q.LastEpoch, Entry: q.Entry, Refilled: p.begunAnew && !p.b.duties.spoils(p.id), Behind: v.Start + 1,
		PartitionEpoch: p.inForce,
	}, true
}

// untold says whether the leader does not know yet what is synced here.
func (p *Partition) untold(durable log.Offset, entry log.Epoch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told.Durable != int64(durable) || p.told.Entry != int32(entry)
}

// view is where this log stands, for a follower.
func (p *Partition) view() replica.Log {
	durable, entry := p.log.Durable(), p.log.DurableEpoch() // before the end: neither may seem to be above it
	start, end, last := p.log.Ends()
	return replica.Log{Start: int64(start), End: int64(end), Durable: int64(min(durable, end)), LastEpoch: int32(last), Entry: int32(entry), Ends: p.ends}
}

// takes implements followed: it does to the log what the leader's answer means.
func (p *Partition) takes(f *fetcher, n *feedNews, raw []byte) time.Duration {
	p.role.Lock()
	defer p.role.Unlock()
	if p.fetch.Load() != f {
		return 0
	}
	switch n.Code {
	case feedOK:
	case feedFailed:
		f.b.cfg.Logger.Warn("a replica's leader cannot send what comes next", "topic", p.topic, "partition", p.id.Index, "leader", f.node, "at", n.AskedFrom)
		return time.Second
	default:
		return takeRetry
	}
	p.mu.Lock()
	fo := p.follower
	if fo == nil {
		p.mu.Unlock()
		return 0
	}
	order := fo.Answered(n.asked(), n.answer(), p.view())
	p.mu.Unlock()
	err := p.carryOut(order, fo, n, raw)
	p.lag.Store(max(0, n.LogEnd-int64(p.log.LogEnd())))
	p.done.add(p) // the high watermark may have moved
	switch {
	case err == nil:
		return 0
	case errors.Is(err, log.ErrBusy), errors.Is(err, log.ErrDiskFull):
		return takeRetry
	case errors.Is(err, log.ErrFailed), errors.Is(err, log.ErrClosed):
		return time.Second // the broker stops
	}
	f.b.cfg.Logger.Warn("a replica cannot take what its leader sends", "topic", p.topic, "partition", p.id.Index, "leader", f.node, "error", err)
	return time.Second
}

// carryOut does what the follower's rules demand. p.role is held, p.mu is not: it waits for the disk.
func (p *Partition) carryOut(order replica.Order, fo *replica.Follower, n *feedNews, raw []byte) error {
	switch order.Act {
	case replica.Append:
		if err := p.appendFrom(fo, n, raw); err != nil {
			return err
		}
		if first, stray := p.strayTransaction(n); stray {
			p.damaged(fmt.Sprintf("a transaction is open from offset %d on that has ended at the leader: compaction has removed its end while this replica was away", first))
		}
	case replica.Truncate:
		p.b.cfg.Logger.Info("cutting a replica to where its leader's log parts from it", "topic", p.topic, "partition", p.id.Index,
			"to", order.To, "end", p.log.LogEnd(), "epoch", n.LeaderEpoch)
		p.b.stats.truncations.Add(1)
		if err := p.log.Truncate(log.Offset(order.To)); err != nil {
			return err
		}
		p.mu.Lock()
		fo.Cut(int64(p.log.LogEnd()))
		p.mu.Unlock()
	case replica.Reset:
		p.b.cfg.Logger.Info("a replica begins anew where its leader's log starts", "topic", p.topic, "partition", p.id.Index,
			"at", order.To, "end", p.log.LogEnd(), "epoch", n.LeaderEpoch)
		if err := p.log.Begin(log.Offset(order.To)); err != nil {
			return err
		}
		p.mu.Lock()
		fo.Began(order.To)
		p.mu.Unlock()
	case replica.Damage:
		p.damaged(order.Why)
	}
	return nil
}

// strayTransaction finds one that is open here and has ended at the leader, in a log that has all that the leader had committed: its marker will not come (P2). Whether
// it was aborted nobody knows any more.
func (p *Partition) strayTransaction(n *feedNews) (first log.Offset, stray bool) {
	if int64(p.log.LogEnd()) < n.HW {
		return 0, false
	}
	first = p.log.FirstOpen()
	return first, first >= log.Offset(n.LogStart) && first < log.Offset(n.Stable)
}

// appendFrom takes the leader's records, and the beginning of its epoch when the log has come there (H3).
func (p *Partition) appendFrom(fo *replica.Follower, n *feedNews, raw []byte) error {
	var err error
	for len(raw) > 0 && err == nil {
		var b log.Batch
		if b, err = log.NextBatch(raw, 0); err != nil {
			break
		}
		if end := p.log.LogEnd(); p.log.LastEpoch() > b.LeaderEpoch() {
			// An epoch began here that left no record, and that the leader's log knows nothing of: nobody followed in it.
			if err = p.log.Truncate(end); err != nil { // T3
				break
			}
		}
		if err = p.log.AppendReplica(b); err == nil {
			raw = raw[b.Size():]
		}
	}
	p.mu.Lock()
	v := p.view()
	fo.Appended(n.HW, v.End)
	_, begins := fo.Begins(v)
	epoch := fo.Epoch()
	p.mu.Unlock()
	if err == nil && begins && p.log.LastEpoch() < log.Epoch(epoch) {
		err = p.log.BeginEpoch(log.Epoch(epoch))
	}
	if start := log.Offset(n.LogStart); err == nil && start > p.log.LogStart() && start <= p.log.Durable() {
		err = p.log.SetLogStart(start)
	}
	if err != nil {
		return fmt.Errorf("append what the leader sent: %w", err)
	}
	return nil
}

// setFetcher chooses through whom the replica follows; nil is nobody.
func (p *Partition) setFetcher(f *fetcher) {
	p.fetch.Store(f)
	if f != nil {
		f.mark(p)
	}
}
