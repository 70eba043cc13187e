package deliver

import "github.com/weir-io/weir/log"

// worker runs tasks. All its memory is its own, so that giving a record out takes no lock but the
// partition's, which no publisher ever takes.
type worker struct {
	h     *Hub
	cache *matchCache
	scan  scanner
	msg   Message
	buf   []byte // chunk read from a log
	topic []byte // derived topics
	ids   []uint32
	posts []log.Offset
	now   int64 // clock in ms, read once per chunk

	chunkStart log.Offset // of the chunk being given out
	collect    *collector // of the topics in it; nil: nobody notes them

	wanted             int   // records that a session which catches up subscribes to
	scanned, delivered int64 // added to the hub's counters after each task
}

func newWorker(h *Hub) *worker {
	return &worker{h: h, cache: newMatchCache(&h.index, h.limits.MatchCache)}
}

func (w *worker) loop() {
	for {
		t, ok := w.h.queue.pop()
		if !ok {
			return
		}
		w.runTask(t)
		w.h.counters.scanned.Add(w.scanned)
		w.h.counters.delivered.Add(w.delivered)
		w.scanned, w.delivered = 0, 0
	}
}

// maxKeptChunk is the largest chunk whose buffer a worker keeps: one huge batch must not pin its size.
const maxKeptChunk = 4 << 20

func (w *worker) keep(chunk []byte) {
	if cap(chunk) > cap(w.buf) && cap(chunk) <= maxKeptChunk {
		w.buf = chunk
	}
}

// giveOutBudget is how many deliveries may pass before the partition's lock is let go for a moment.
const giveOutBudget = 2048

// giveOut passes records below limit to the subscribers that are served from this scan, until the
// chunk ends (true) or the budget is used up. p.mu must be held.
func (w *worker) giveOut(p *partition, limit log.Offset, rebuilding bool) (done bool) {
	var r rawRecord
	for budget := giveOutBudget; budget > 0; {
		ok, err := w.scan.scan(&r)
		if err != nil {
			w.h.readError(p, w.scan.position(), err)
			if w.collect != nil {
				w.collect.giveUp(w.h)
			}
			continue
		}
		if !ok || r.offset >= limit {
			return true
		}
		w.scanned++
		topic := w.topicOf(&r, p.topic)
		found := w.cache.lookup(topic)
		hits := found.hits
		if w.collect != nil {
			w.collect.see(w.h, found, topic, r.offset)
		}
		budget--
		if len(hits) == 0 {
			continue
		}
		if !w.msg.load(&r, p.id, topic, w.now) {
			w.h.readError(p, r.offset, log.ErrCorrupt)
			continue
		}
		if w.msg.expired() {
			w.h.counters.expired.Add(1)
			continue
		}
		budget -= len(hits)
		for i := range hits {
			s := hits[i].s
			if from, ok := p.rebuild.of(s); ok {
				if !rebuilding || r.offset < from {
					continue
				}
			} else if rebuilding {
				continue
			}
			w.give(p, &hits[i])
		}
	}
	return false
}

func (w *worker) topicOf(r *rawRecord, logTopic string) []byte {
	topic, buf := r.topic(logTopic, w.topic)
	w.topic = buf
	return topic
}

// give passes the current message to one session as the tail reaches it: to its target if it is
// live, else to its lag. p.mu must be held.
func (w *worker) give(p *partition, h *hit) {
	s := h.s
	g, ok := h.resolve(p, &w.msg, w.ids)
	if !ok {
		return
	}
	if !h.plain {
		w.ids = g.ids[:0]
	}
	t, qos := s.online(), min(g.qos, w.msg.QoS)
	if s.lagging.Load() > 0 {
		if l := p.lags[s]; l != nil {
			if qos > 0 || t != nil {
				l.note(w.msg.Offset)
			}
			return
		}
	}
	switch {
	case t == nil:
		if qos > 0 {
			p.fallBehind(s, w.msg.Offset)
			if s.online() != nil { // it came in between, and saw nothing to catch up with
				w.h.schedule(s)
			}
		}
	case qos == 0:
		if w.deliver(t, qos, &g) {
			w.delivered++
		} else {
			w.h.counters.dropped.Add(1)
		}
	case s.full.Load():
		p.fallBehind(s, w.msg.Offset)
		if !s.full.Load() {
			w.h.schedule(s)
		}
	default:
		seq := s.readySeq.Load()
		if w.deliver(t, qos, &g) {
			w.delivered++
			return
		}
		p.fallBehind(s, w.msg.Offset)
		w.refused(s, seq)
	}
}

func (w *worker) deliver(t Target, qos byte, g *grant) bool {
	return t.Deliver(&w.msg, qos, g.rap && w.msg.Retain, g.ids)
}

// refused notes that a target had no room; a Ready that overtook the answer counts.
func (w *worker) refused(s *session, seq uint64) {
	s.full.Store(true)
	w.h.counters.refused.Add(1)
	if s.readySeq.Load() != seq {
		s.full.Store(false)
		w.h.schedule(s)
	}
}
