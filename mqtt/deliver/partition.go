package deliver

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
)

// partition follows one Log. Its tail is scanned once for all live sessions.
type partition struct {
	sched
	h     *Hub
	log   Log
	id    log.PartitionID
	topic string

	notes   noted         // nil if the log has none
	collect [2]*collector // of the tail and of the shared pass; owned by run

	// tailAt and rebuildAt mirror tail and rebuild.pos for readers without the lock; rebuildAt is -1
	// while there is no rebuild.
	tailAt, rebuildAt atomic.Int64

	mu      sync.Mutex // held for one chunk of records at most, never across a read
	tail    log.Offset // first offset not scanned for live sessions
	rebuild *rebuild
	lags    map[*session]*lag
	fresh   map[*lag]struct{} // not known to be stored with their sessions' cursors
	trimmed log.Offset        // log start to which lags of absent sessions were trimmed
	scans   int               // lags that scan
	removed bool
	stop    func()
}

// rebuild is a shared pass, after a restart or for sessions that came from another node: from the lowest cursor of them
// all to the tail, noting postings for the absent and giving messages to those that came back meanwhile. Until it ends the
// tail passes them over.
type rebuild struct {
	pos     log.Offset
	from    map[*session]log.Offset // whom it is for, and where each begins
	until   log.Offset              // where the last of them begins: beyond the tail while this node's log is behind another's
	held    int                     // those who join whose subscriptions are not in the index yet: it stands still
	checked log.Offset              // end of the segment that was last looked at whether it can be skipped; owned by run
}

// of says where s begins in the pass; false if the pass is not for it.
func (r *rebuild) of(s *session) (from log.Offset, ok bool) {
	if r == nil || !s.restored {
		return 0, false
	}
	from, ok = r.from[s]
	return from, ok
}

// addPartition is called by the source. Partitions that are there at the start, or that a stored
// session knows, are followed from their end, beside a shared pass from the lowest stored cursor;
// later ones are new, so from their beginning.
func (h *Hub) addPartition(l Log) {
	p := &partition{h: h, log: l, id: l.ID(), topic: l.Topic(), lags: map[*session]*lag{}, fresh: map[*lag]struct{}{}}
	p.notes, _ = l.(noted)
	p.rebuildAt.Store(-1)
	p.mu.Lock()
	h.mu.Lock()
	if h.running && !h.knownLocked(p.id) {
		p.setTail(l.LogStart())
	} else {
		p.setTail(l.HighWatermark())
		p.startRebuild()
	}
	parts := map[log.PartitionID]*partition{p.id: p}
	for id, old := range *h.parts.Load() {
		if id != p.id {
			parts[id] = old
		}
	}
	h.parts.Store(&parts)
	h.mu.Unlock()
	p.mu.Unlock()
	stop := l.Watch(p.wake)
	p.mu.Lock()
	if p.stop = stop; p.removed {
		stop()
	}
	p.mu.Unlock()
	if p.rebuildAt.Load() >= 0 || log.Offset(p.tailAt.Load()) < l.HighWatermark() {
		h.schedule(p)
	}
}

// knownLocked says whether a stored session has a place in the partition: then it is not new, only late
// to open. h.mu must be held.
func (h *Hub) knownLocked(id log.PartitionID) (known bool) {
	knows := func(s *session) {
		if _, ok := s.start.Next(id); ok {
			known = true
		}
	}
	h.sessions.Range(func(_, v any) bool {
		knows(v.(*session))
		return !known
	})
	for _, g := range h.groups {
		knows(g.session())
	}
	return known
}

// startRebuild sets the shared pass up. p.mu must be held.
func (p *partition) startRebuild() {
	r := &rebuild{pos: p.tail, from: map[*session]log.Offset{}}
	logStart := p.log.LogStart()
	p.h.sessions.Range(func(_, v any) bool {
		r.add(v.(*session), p, logStart)
		return true
	})
	for _, g := range p.h.groups {
		r.add(g.session(), p, logStart)
	}
	p.setRebuild(r)
	p.endRebuildLocked()
}

// endRebuildLocked ends the pass when the tail can take over. p.mu must be held.
func (p *partition) endRebuildLocked() {
	if r := p.rebuild; r != nil && r.held == 0 && r.pos >= p.tail && r.pos >= r.until {
		p.setRebuild(nil)
	}
}

func (r *rebuild) add(s *session, p *partition, logStart log.Offset) {
	if !s.restored {
		return
	}
	start := s.start.start(p.id, logStart)
	if next, ok := s.start.Next(p.id); ok && next < logStart {
		p.h.lost(s, p, next, logStart)
	}
	r.pos, r.until = min(r.pos, start), max(r.until, start)
	r.from[s] = start
}

// standsAt says whether the pass may go on from there: nobody has joined it meanwhile who begins before.
func (r *rebuild) standsAt(pos log.Offset) bool { return r != nil && r.held == 0 && r.pos == pos }

func (p *partition) setRebuild(r *rebuild) {
	p.rebuild = r
	if r == nil {
		p.rebuildAt.Store(-1)
		return
	}
	p.rebuildAt.Store(int64(r.pos))
}

// setTail moves the tail. p.mu must be held.
func (p *partition) setTail(o log.Offset) {
	p.tail = o
	p.tailAt.Store(int64(o))
}

// removePartition is called by the source: what was pending in the partition is gone with it.
func (h *Hub) removePartition(id log.PartitionID) {
	p := h.partition(id)
	if p == nil {
		return
	}
	h.mu.Lock()
	parts := map[log.PartitionID]*partition{}
	for other, old := range *h.parts.Load() {
		if other != id {
			parts[other] = old
		}
	}
	h.parts.Store(&parts)
	h.mu.Unlock()
	p.unwatch()
	p.mu.Lock()
	p.removed = true
	lags := make([]*lag, 0, len(p.lags))
	for _, l := range p.lags {
		lags = append(lags, l)
	}
	for _, l := range lags {
		p.removeLag(l)
	}
	p.setRebuild(nil)
	p.mu.Unlock()
}

func (p *partition) unwatch() {
	p.mu.Lock()
	stop := p.stop
	p.stop = nil
	p.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// wake is called after each commit, on the committer's goroutine.
func (p *partition) wake() {
	if p.h.listeners.Load() > 0 {
		p.h.schedule(p)
	}
}

// skipIfIdleLocked moves all tails to the end while nobody listens: what passed meanwhile is nobody's.
// h.mu must be held.
func (h *Hub) skipIfIdleLocked() {
	if h.listeners.Load() > 0 {
		return
	}
	for _, p := range *h.parts.Load() {
		p.mu.Lock()
		if hw := p.log.HighWatermark(); hw > p.tail {
			p.setTail(hw)
		}
		p.mu.Unlock()
	}
}

// listen counts a session or group as a listener.
func (h *Hub) listen(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.listening {
		return
	}
	if h.running {
		h.skipIfIdleLocked()
	}
	s.listening = true
	h.listeners.Add(1)
	// A commit between the two was not announced to anyone.
	for _, p := range *h.parts.Load() {
		if p.log.HighWatermark() > log.Offset(p.tailAt.Load()) {
			h.schedule(p)
		}
	}
}

// unlisten ends what listen began, with everything that is pending for s.
func (h *Hub) unlisten(s *session) {
	h.mu.Lock()
	if s.listening {
		s.listening = false
		h.listeners.Add(-1)
	}
	h.mu.Unlock()
	h.dropLags(s)
}

// position is how far records were scanned for a session without a lag, or less far.
func (p *partition) position(s *session) log.Offset {
	if at := p.rebuildAt.Load(); at >= 0 && s.restored {
		return log.Offset(at)
	}
	return log.Offset(p.tailAt.Load())
}

// positionLocked is position, not before the session's own beginning. p.mu must be held.
func (p *partition) positionLocked(s *session) log.Offset {
	if from, ok := p.rebuild.of(s); ok {
		return max(p.rebuild.pos, from)
	}
	return p.tail
}

// run brings the tail, then the shared pass, one chunk forward.
func (p *partition) run(w *worker) (again bool) {
	if p.advance(w, false) {
		again = true
	}
	if p.rebuildAt.Load() < 0 {
		p.dropCollector(&p.collect[1])
	} else if p.skipRebuild(w) || p.advance(w, true) {
		again = true
	}
	return again
}

// advance reads one chunk and gives its records out; true when there is more.
func (p *partition) advance(w *worker, rebuilding bool) (more bool) {
	p.mu.Lock()
	if rebuilding && (p.rebuild == nil || p.rebuild.held > 0) {
		p.mu.Unlock()
		return false
	}
	from, limit := p.tail, p.log.HighWatermark()
	if rebuilding {
		from, limit = p.rebuild.pos, p.tail
	}
	if p.removed || from >= limit {
		if rebuilding && !p.removed {
			p.endRebuildLocked()
		}
		if p.removed {
			p.dropCollector(&p.collect[0])
			p.dropCollector(&p.collect[1])
		}
		p.mu.Unlock()
		return false
	}
	// Who scans reads everything again anyway: with no other listener there is nothing to do here.
	if !rebuilding && int64(p.scans) == p.h.listeners.Load() {
		p.setTail(limit)
		p.mu.Unlock()
		return false
	}
	p.mu.Unlock()

	chunk, err := p.log.Read(from, w.h.limits.ReadBytes, w.buf)
	if err != nil {
		return p.readFailed(from, rebuilding, err)
	}
	if len(chunk) == 0 {
		w.h.retryLater(p)
		return false
	}
	w.keep(chunk)
	w.scan.reset(chunk, from)
	w.chunkStart = from
	w.now = w.h.cfg.Now().UnixMilli()
	w.collect = p.collectFrom(rebuilding, from)
	defer func() { w.collect = nil }()
	for done := false; !done; {
		p.mu.Lock()
		if p.removed || rebuilding && !p.rebuild.standsAt(from) || !rebuilding && p.tail != from {
			p.mu.Unlock()
			return true
		}
		done = w.giveOut(p, limit, rebuilding)
		from = min(w.scan.position(), limit)
		if w.collect != nil {
			w.collect.pos = from
		}
		if rebuilding {
			p.rebuild.pos = from
			p.setRebuild(p.rebuild)
			p.endRebuildLocked()
		} else {
			p.setTail(from)
		}
		p.mu.Unlock()
	}
	if w.collect != nil {
		p.noteClosed(rebuilding)
	}
	if from == w.chunkStart {
		w.h.retryLater(p) // damaged from its first byte on; the log deals with that
		return false
	}
	if rebuilding {
		return p.rebuildAt.Load() >= 0 && int64(from) < p.tailAt.Load()
	}
	return from < p.log.HighWatermark()
}

// readFailed steps over what retention took; any other error is tried again after a while.
func (p *partition) readFailed(from log.Offset, rebuilding bool, err error) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := p.log.LogStart()
	if p.removed || !errors.Is(err, log.ErrOutOfRange) || start <= from {
		p.h.readError(p, from, err)
		p.h.retryLater(p)
		return false
	}
	p.h.counters.lostRecords.Add(int64(start - from))
	switch {
	case rebuilding && p.rebuild != nil:
		p.rebuild.pos = start
		p.setRebuild(p.rebuild)
	case !rebuilding && p.tail == from:
		p.setTail(start)
	}
	return true
}
