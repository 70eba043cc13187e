package deliver

import (
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
)

// counters only grow.
type counters struct {
	scanned, delivered, refused, dropped, expired atomic.Int64
	collapsed, lostRecords, readErrors            atomic.Int64
	redispatched, skipped                         atomic.Int64

	stalledMu sync.Mutex
	stalled   map[task]struct{}
}

// Stats are the hub's figures; doc.go says what each means.
type Stats struct {
	Sessions, Online, Lagging, Groups int
	Postings                          int64
	Retained, RetainedBytes           int64
	Scanned, Delivered, Refused       int64
	Dropped, Expired, Collapsed       int64
	LostRecords, ReadErrors           int64
	Redispatched, Skipped             int64
	RebuildingPartitions              int
}

// Stats collects the figures. It walks all sessions: for a scrape, not for a hot path.
func (h *Hub) Stats() Stats {
	c := &h.counters
	st := Stats{
		Postings: h.postings.Load(), Scanned: c.scanned.Load(), Delivered: c.delivered.Load(), Refused: c.refused.Load(),
		Dropped: c.dropped.Load(), Expired: c.expired.Load(), Collapsed: c.collapsed.Load(), LostRecords: c.lostRecords.Load(),
		ReadErrors: c.readErrors.Load(), Redispatched: c.redispatched.Load(), Skipped: c.skipped.Load(),
	}
	h.sessions.Range(func(_, v any) bool {
		s := v.(*session)
		st.Sessions++
		if s.online() != nil {
			st.Online++
		}
		if s.lagging.Load() > 0 {
			st.Lagging++
		}
		return true
	})
	for _, p := range *h.parts.Load() {
		if p.rebuildAt.Load() >= 0 {
			st.RebuildingPartitions++
		}
	}
	h.mu.Lock()
	st.Groups = len(h.groups)
	h.mu.Unlock()
	st.Retained, st.RetainedBytes = h.retained.size()
	return st
}

// lost notes that retention took records a session had not been given. first to next, half open, is
// an upper bound: how many of them it subscribed to is not known any more.
func (h *Hub) lost(s *session, p *partition, first, next log.Offset) {
	h.lostMessages(s, p, Loss{Partition: p.id, First: first, Next: next, Messages: int64(next - first)})
}

func (h *Hub) lostMessages(s *session, p *partition, l Loss) {
	h.counters.lostRecords.Add(l.Messages)
	if h.cfg.Lost != nil && s.group == nil {
		h.cfg.Lost(s.id, l)
	}
	if s.lostOnce.CompareAndSwap(false, true) {
		h.cfg.Logger.Warn("retention passed a session's cursor; lengthen the topic's retention or the session is away too long",
			"client", s.id, "topic", p.topic, "partition", p.id.Index, "first", l.First, "next", l.Next, "messages", l.Messages)
	}
}

// readError counts records that could not be read; the log itself reports damage.
func (h *Hub) readError(p *partition, at log.Offset, err error) {
	if h.counters.readErrors.Add(1) == 1 {
		h.cfg.Logger.Warn("cannot read for delivery", "topic", p.topic, "partition", p.id.Index, "offset", at, "err", err)
	}
}

// retryLater runs a task again with the next tick: its log could not be read just now.
func (h *Hub) retryLater(t task) {
	h.counters.stalledMu.Lock()
	defer h.counters.stalledMu.Unlock()
	if h.counters.stalled == nil {
		h.counters.stalled = map[task]struct{}{}
	}
	h.counters.stalled[t] = struct{}{}
}

func (h *Hub) retryStalled() {
	h.counters.stalledMu.Lock()
	stalled := h.counters.stalled
	h.counters.stalled = nil
	h.counters.stalledMu.Unlock()
	for t := range stalled {
		h.schedule(t)
	}
}
