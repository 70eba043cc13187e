package deliver

import (
	"errors"
	"slices"

	"github.com/weir-io/weir/log"
)

// turnsPerRun is how many chunks a session may take before others get the worker.
const turnsPerRun = 8

// postingsPerTurn bounds how many postings are copied out at a time.
const postingsPerTurn = 512

// sparse is the distance of postings from which reading on to the next one does not pay.
const sparse = 1024

// run lets a connected session catch up: first retained messages, then messages of a shared
// subscription that lost their member, then its lags in turns, until it is live everywhere or its
// target has no room.
func (s *session) run(w *worker) (again bool) {
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
	w.now = w.h.cfg.Now().UnixMilli()
	if !w.sendPending(s) {
		return false
	}
	if s.group != nil && s.group.session() == s && !w.redispatch(s.group) {
		return false
	}
	for range turnsPerRun {
		l := s.nextLag()
		if l == nil {
			return false
		}
		if s.full.Load() || s.online() == nil || !w.takeTurn(s, l) {
			return false
		}
	}
	return true
}

// nextLag goes round the session's lags, but stays with one while its chunk is put aside.
func (s *session) nextLag() *lag {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lags) == 0 {
		return nil
	}
	if s.kept != nil && slices.Contains(s.lags, s.kept.l) {
		return s.kept.l
	}
	s.turn++
	return s.lags[s.turn%len(s.lags)]
}

// takeTurn gives a lag one chunk; false when the session has to wait for Ready or for better times.
func (w *worker) takeTurn(s *session, l *lag) (goOn bool) {
	p := l.p
	p.mu.Lock()
	if p.lags[s] != l {
		p.mu.Unlock()
		return true
	}
	limit := p.positionLocked(s)
	from := l.next
	w.posts = w.posts[:0]
	scan := l.scan
	if !scan {
		w.posts = append(w.posts, l.post[:min(len(l.post), postingsPerTurn)]...)
		from = max(from, w.posts[0])
	}
	p.mu.Unlock()

	next, goOn := from, true
	if scan {
		next = w.skipLag(s, l, from, limit)
	}
	if next == from && (from < limit || !scan) {
		next, goOn = w.giveLag(s, l, from, limit, scan)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lags[s] != l {
		return goOn
	}
	l.settle(next)
	return goOn
}

// giveLag gives what one chunk holds for s from the lag's place to limit: all that matches, or the
// postings in w.posts. It returns the first offset not dealt with.
func (w *worker) giveLag(s *session, l *lag, from, limit log.Offset, scan bool) (next log.Offset, goOn bool) {
	if !s.resume(w, l, from) {
		if skipTo, ok := w.readLag(s, l, from, scan); !ok {
			return skipTo, skipTo > from
		}
	}
	posts := w.posts
	var r rawRecord
	seen, wanted := 0, w.wanted
	defer func() {
		if scan && seen >= denseFrom && w.wanted-wanted < seen/8 {
			s.dense.Store(false)
		}
	}()
	for {
		seen++
		ok, err := w.scan.scan(&r)
		if err != nil {
			w.h.readError(l.p, w.scan.position(), err)
			continue
		}
		if !ok {
			if next = w.scan.position(); next <= from { // damaged; the log deals with that
				w.h.retryLater(s)
				return from, false
			}
			return next, true
		}
		if r.offset >= limit {
			return limit, true
		}
		if !scan {
			// A posting that compaction removed is passed over.
			for len(posts) > 0 && posts[0] < r.offset {
				posts = posts[1:]
			}
			if len(posts) == 0 {
				w.scan.back(&r)
				s.keepChunk(w, l)
				return r.offset, true
			}
			if posts[0] != r.offset {
				continue
			}
		}
		if !w.offer(s, l, &r) {
			w.scan.back(&r)
			s.keepChunk(w, l)
			return r.offset, false
		}
	}
}

// readLag reads one chunk. When it cannot, skipTo is where the log begins if retention passed from;
// else skipTo is from, and the session tries again later.
func (w *worker) readLag(s *session, l *lag, from log.Offset, scan bool) (skipTo log.Offset, ok bool) {
	maxBytes := w.h.limits.ReadBytes
	if !scan && (len(w.posts) == 1 || w.posts[1]-w.posts[0] > sparse) {
		maxBytes = 1 // one batch
	}
	chunk, err := l.p.log.Read(from, maxBytes, w.buf)
	if start := l.p.log.LogStart(); errors.Is(err, log.ErrOutOfRange) && start > from {
		w.h.lost(s, l.p, from, start)
		return start, false
	}
	if err != nil || len(chunk) == 0 {
		if err != nil {
			w.h.readError(l.p, from, err)
		}
		w.h.retryLater(s)
		return from, false
	}
	w.keep(chunk)
	w.scan.reset(chunk, from)
	return from, true
}

// keptChunk is a chunk that a target with a small window left unfinished. Without it each Ready would
// read the same batch again.
type keptChunk struct {
	l    *lag
	scan scanner
	buf  []byte
}

// keepChunk puts the worker's chunk aside, if there is room for one more; the worker goes on with
// other buffers. catchUp must be held.
func (s *session) keepChunk(w *worker, l *lag) {
	h := s.h
	if h.kept.Add(1) > int64(h.limits.KeptChunks) {
		h.kept.Add(-1)
		return
	}
	k := h.chunks.Get().(*keptChunk)
	k.l = l
	k.scan, w.scan = w.scan, k.scan
	k.buf, w.buf = w.buf, k.buf
	s.kept = k
}

// resume makes a chunk that was put aside the worker's again, if it is the one to go on with. Any
// other is let go. catchUp must be held.
func (s *session) resume(w *worker, l *lag, from log.Offset) bool {
	k := s.kept
	if k == nil {
		return false
	}
	fits := k.l == l && k.scan.position() <= from && from < k.scan.end()
	if fits {
		k.scan, w.scan = w.scan, k.scan
		k.buf, w.buf = w.buf, k.buf
	}
	s.dropChunk()
	return fits
}

// dropChunk lets a chunk go. catchUp must be held.
func (s *session) dropChunk() {
	if k := s.kept; k != nil {
		s.kept, k.l = nil, nil
		s.h.chunks.Put(k)
		s.h.kept.Add(-1)
	}
}

// offer gives one record of a lag to the session; false when it has no room or is gone.
func (w *worker) offer(s *session, l *lag, r *rawRecord) bool {
	t := s.online()
	if t == nil {
		return false
	}
	topic := w.topicOf(r, l.p.topic)
	h := w.cache.lookup(topic).find(s)
	if h == nil {
		return true
	}
	w.wanted++
	if !w.msg.load(r, l.p.id, topic, w.now) {
		w.h.readError(l.p, r.offset, log.ErrCorrupt)
		return true
	}
	g, ok := h.resolve(l.p, &w.msg, w.ids)
	if !h.plain {
		w.ids = g.ids[:0]
	}
	qos := min(g.qos, w.msg.QoS)
	if !ok || qos == 0 && r.offset < l.qos0From {
		return true
	}
	if w.msg.expired() {
		w.h.counters.expired.Add(1)
		return true
	}
	seq := s.readySeq.Load()
	if !w.deliver(t, qos, &g) {
		w.refused(s, seq)
		return false
	}
	w.delivered++
	return true
}
