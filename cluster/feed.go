package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// What a leader does for its followers. A follower keeps one session with each broker that it follows, for all its partitions together: it
// tells what has changed of them, and one call of it waits for news. What is not told again stands as it was told: a call that waits
// says so for all partitions of its session, so that an idle cluster exchanges empty messages.

const (
	// feedBytes bounds the records of one answer; one batch may be larger.
	feedBytes = 1 << 20
	// feedPartBytes bounds them for one partition, so that many get their turn.
	feedPartBytes = 512 << 10
	// feedBulkBytes bounds the records of partitions in which the follower is not in sync. What is committed waits for those in which it is:
	// on a slow link an answer full of old records would hold up acknowledgements for its whole way.
	feedBulkBytes = 64 << 10
	// feedWait is how long a call waits for news. It is well below LagTime, since a call that comes says that the follower is there (I3), and no shorter than it
	// has to be: each is work for an idle gateway.
	feedWait = 2 * time.Second
	// feedRefresh is how often what a session has told counts anew as told now (I3).
	feedRefresh = 250 * time.Millisecond
	// feedPartsAtOnce bounds the partitions in one call and in one answer, whose control parts are bounded; the others follow in the next.
	feedPartsAtOnce = 4096
	// maxFeedParts bounds the partitions of one session.
	maxFeedParts = 100_000
)

// feeds are the sessions of this broker's followers.
type feeds struct {
	mu       sync.Mutex
	sessions map[int32]*feedSession // by broker
}

// feedSession is what one follower has told.
type feedSession struct {
	b       *Broker
	node    int32
	process int64
	id      uint64
	wake    chan struct{} // holds a token while queue may hold something

	mu        sync.Mutex // guards what follows, and the slots' own
	slots     map[log.PartitionID]*feedSlot
	refreshed time.Duration
	waiting   uint64 // Seq of the newest call that waited
	ended     bool

	flood flood

	queueMu sync.Mutex // a leaf: the log's committer takes it
	queue   []*feedSlot
}

// feedSlot is one partition in a session.
type feedSlot struct {
	s      *feedSession
	queued atomic.Bool
	held   atomic.Bool // it waits in the queue for company: who marks it wakes

	// guarded by s.mu
	p     *Partition // nil: there is none here
	asked feedPart
	seq   uint64 // of the call that told asked
	// owed: an answer has gone out that the follower has to act on first.
	owed              bool
	gone              bool // no longer followed
	told              bool // since the epoch was asked for, how this leader's term stands
	toldHW, toldStart int64
}

// mark notes that there may be news. It never blocks.
func (slot *feedSlot) mark() {
	if !slot.enqueue() && !slot.held.Swap(false) {
		return
	}
	select {
	case slot.s.wake <- struct{}{}:
	default:
	}
}

// enqueue has slot looked at when the next one is, and says whether it would not have been.
func (slot *feedSlot) enqueue() bool {
	if !slot.queued.CompareAndSwap(false, true) {
		return false
	}
	s := slot.s
	s.queueMu.Lock()
	s.queue = append(s.queue, slot)
	s.queueMu.Unlock()
	return true
}

// session finds the one that a call belongs to; a call with sequence number 1 begins one. nil: it is not known.
func (f *feeds) session(b *Broker, c *feedCall) *feedSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[c.Broker]
	if s != nil && s.id == c.Session && s.process == c.Epoch {
		return s
	}
	if c.Seq != 1 || s != nil && (c.Epoch < s.process || c.Epoch == s.process && c.Session < s.id) { // a call that was under way for long ends no newer one
		return nil
	}
	if s != nil {
		s.end()
	}
	s = &feedSession{b: b, node: c.Broker, process: c.Epoch, id: c.Session, wake: make(chan struct{}, 1), slots: map[log.PartitionID]*feedSlot{}}
	f.sessions[c.Broker] = s
	return s
}

// end lets go of the partitions.
func (s *feedSession) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, slot := range s.slots {
		if slot.p != nil {
			slot.p.dropFeed(slot)
		}
	}
	s.slots = nil
}

// answerFeed takes what a follower tells, and waits for news if it asks for them.
func (b *Broker) answerFeed(ctx context.Context, c *feedCall) (rpc.Answer, error) {
	if b.Image().Broker(c.Broker) == nil { // sessions are as many as brokers
		return rpc.Answer{}, fmt.Errorf("broker %d is not known here: %w", c.Broker, meta.ErrNotFound)
	}
	s := b.feeds.session(b, c)
	if s == nil {
		return rpc.Answer{Control: feedAnswer{Lost: true}}, nil
	}
	if err := s.tell(c); err != nil {
		return rpc.Answer{}, err
	}
	if c.WaitMS <= 0 || !s.waits(c) {
		return rpc.Answer{Control: feedAnswer{}}, nil
	}
	s.refresh()
	timer := time.NewTimer(min(time.Duration(c.WaitMS)*time.Millisecond, 2*feedWait))
	defer timer.Stop()
	hold, held := s.busy(), (<-chan time.Time)(nil)
	for {
		news, raw, done, some := s.collect(hold)
		if len(news) > 0 {
			s.sent(len(raw))
			return rpc.Answer{Control: feedAnswer{Parts: news}, Raw: raw, Done: done}, nil
		}
		if some && held == nil {
			patience := time.NewTimer(feedHold)
			defer patience.Stop()
			held = patience.C
		}
		select {
		case <-s.wake:
		case <-held:
			hold, held = false, nil
		case <-timer.C:
			return rpc.Answer{Control: feedAnswer{}}, nil
		case <-ctx.Done():
			return rpc.Answer{}, ctx.Err()
		case <-b.closing:
			return rpc.Answer{}, ErrClosed
		}
	}
}

// waits says whether a call may wait for news: one that has come a second time would take them away from the follower.
func (s *feedSession) waits(c *feedCall) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Seq <= s.waiting {
		return false
	}
	s.waiting = c.Seq
	return true
}

// busy says whether the follower gets records all the time.
func (s *feedSession) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flood.on
}

// sent notes an answer, with so many bytes of records.
func (s *feedSession) sent(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flood.answer(bytes, time.Now())
}

// tell takes over what has changed.
func (s *feedSession) tell(c *feedCall) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	if len(s.slots)+len(c.Parts) > 2*maxFeedParts {
		return errors.New("too many partitions in one session")
	}
	for i := range c.Gone {
		if id, ok := c.Gone[i].id(); ok {
			if slot := s.slots[id]; slot != nil && slot.seq < c.Seq { // it stays, so that no late call counts
				slot.seq, slot.gone = c.Seq, true
				if slot.p != nil {
					slot.p.dropFeed(slot)
					slot.p = nil
				}
			}
		}
	}
	for i := range c.Parts {
		id, ok := c.Parts[i].id()
		if !ok {
			continue
		}
		slot := s.slots[id]
		if slot == nil {
			slot = &feedSlot{s: s}
			s.slots[id] = slot
		}
		if c.Seq <= slot.seq { // a later one has overtaken it
			continue
		}
		if slot.gone || !c.Parts[i].continues(&slot.asked) {
			slot.told = false // somebody else asks, who has heard nothing yet
		}
		slot.asked, slot.seq, slot.owed, slot.gone = c.Parts[i], c.Seq, false, false
		s.hear(id, slot)
		slot.mark()
	}
	return nil
}

// hear counts what a slot has told (H3, H8). s.mu is held.
func (s *feedSession) hear(id log.PartitionID, slot *feedSlot) {
	if p := s.b.table.Load().open[id]; p != slot.p {
		if slot.p != nil {
			slot.p.dropFeed(slot)
		}
		if slot.p = p; p != nil {
			p.addFeed(slot)
		}
	}
	if slot.p == nil || slot.asked.Observe {
		return
	}
	f := slot.fetch()
	if _, diverges, _, err := slot.p.compare(f); err == nil && !diverges {
		slot.p.fetched(f)
	}
}

func (slot *feedSlot) fetch() replica.Fetch {
	return slot.asked.fetch(&feedCall{Broker: slot.s.node, Epoch: slot.s.process})
}

// refresh counts everything that was told as told now: a call that waits says that nothing else has changed.
func (s *feedSession) refresh() {
	now := s.b.mono()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now-s.refreshed < feedRefresh {
		return
	}
	s.refreshed = now
	for id, slot := range s.slots {
		if slot.gone {
			continue
		}
		s.hear(id, slot)
		if slot.p == nil || slot.p.LogStart() > log.Offset(slot.toldStart) {
			slot.mark()
		}
	}
}

// feedBuffers are what answers are put together in.
var feedBuffers = sync.Pool{New: func() any { return new([]byte) }}

// collect answers for the partitions in the queue that have news. With hold, what only is committed by now stays in the queue unless there is other news; held
// says that there is such.
func (s *feedSession) collect(hold bool) (news []feedNews, raw []byte, done func(), held bool) {
	s.queueMu.Lock()
	queue := slices.Clone(s.queue)
	s.queue = s.queue[:0]
	s.queueMu.Unlock()
	if len(queue) == 0 {
		return nil, nil, nil, false
	}
	buf := feedBuffers.Get().(*[]byte)
	raw = (*buf)[:0]
	var bulk, later []*feedSlot
	for _, slot := range queue {
		slot.held.Store(false)
		slot.queued.Store(false) // before looking: what comes after the look queues it again
		if s.lags(slot) {
			bulk = append(bulk, slot)
			continue
		}
		var wait bool
		if news, raw, wait = s.add(slot, news, raw, feedBytes, feedPartBytes, hold); wait {
			later = append(later, slot)
		}
	}
	for _, slot := range bulk {
		news, raw, _ = s.add(slot, news, raw, feedBulkBytes, feedBulkBytes, false)
	}
	for _, slot := range later {
		if len(news) > 0 {
			news, raw, _ = s.add(slot, news, raw, feedBytes, feedPartBytes, false)
		} else {
			slot.held.Store(true) // what comes behind ends the wait
			slot.enqueue()
		}
	}
	*buf = raw
	done = func() {
		if cap(*buf) <= 4*feedBytes {
			feedBuffers.Put(buf)
		}
	}
	if len(news) == 0 {
		done()
		return nil, nil, nil, len(later) > 0
	}
	return news, raw, done, false
}

// continues says whether it is the same log that asks, in the same term. A replica that was taken away and given back is told by the partition epoch (I8).
func (p *feedPart) continues(was *feedPart) bool {
	return p.LeaderEpoch == was.LeaderEpoch && p.Observe == was.Observe && p.Refilled == was.Refilled && p.PartitionEpoch == was.PartitionEpoch
}

// mayStartAt says whether the follower's log starts below start and will start there: at once if it has synced that far, and if it has to begin anew. Where it could not,
// it is told again once it can.
func (p *feedPart) mayStartAt(start int64) bool {
	return !p.Observe && p.Behind > 0 && p.Behind <= start && (start <= p.Durable || start >= p.From)
}

// lags says whether the follower has to catch up first.
func (s *feedSession) lags(slot *feedSlot) bool {
	s.mu.Lock()
	p := slot.p
	s.mu.Unlock()
	return p != nil && !p.inSync(s.node)
}

func (p *Partition) inSync(node int32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader != nil && p.leader.InSync(node)
}

// add answers for one partition as long as the answer has less than total bytes of records; held is answer's.
func (s *feedSession) add(slot *feedSlot, news []feedNews, raw []byte, total, each int, hold bool) (_ []feedNews, _ []byte, held bool) {
	if len(raw) >= total || len(news) >= feedPartsAtOnce {
		slot.mark()
		return news, raw, false
	}
	n, raw, is, held := s.answer(slot, raw, each, hold)
	if is {
		news = append(news, n)
	}
	return news, raw, held
}

// answer is the news of one partition, with at most maxBytes of records, or one batch, behind raw. With hold, held says that more is committed by now and nothing
// else is new: the follower counts as not told. Who only observes waits for nothing else, and is told.
func (s *feedSession) answer(slot *feedSlot, raw []byte, maxBytes int, hold bool) (n feedNews, _ []byte, is, held bool) {
	s.mu.Lock()
	p, asked, seq := slot.p, slot.asked, slot.seq
	if s.ended || slot.owed || slot.gone || seq == 0 {
		s.mu.Unlock()
		return n, raw, false, false
	}
	f := slot.fetch()
	s.mu.Unlock()

	n = feedNews{wirePartition: asked.wirePartition, AskedFrom: asked.From, AskedLast: asked.LastEpoch, AskedEpoch: asked.LeaderEpoch}
	owed := true
	if p == nil {
		n.Code = feedNotLeader
	} else {
		raw = p.news(f, asked.Observe, maxBytes, &n, raw)
		owed = n.Code != feedOK || n.Diverges || n.Bytes > 0 || n.LogStart > asked.From && !asked.Observe || asked.mayStartAt(n.LogStart)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || slot.seq != seq { // it was told something else meanwhile, and marked
		return n, raw[:len(raw)-n.Bytes], false, false
	}
	if !owed && slot.told && n.LogStart == slot.toldStart {
		if n.HW == slot.toldHW {
			return n, raw, false, false
		}
		if hold && !asked.Observe {
			return n, raw, false, true
		}
	}
	// What only has the follower ask again leaves it without a word on this term: that follows, though nothing else is new (T2).
	slot.owed, slot.told, slot.toldHW, slot.toldStart = owed, !owed || n.Bytes > 0, n.HW, n.LogStart
	return n, raw, true, false
}
