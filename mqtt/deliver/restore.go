package deliver

import "github.com/weir-io/weir/log"

// Stored is a durable session as its record has it, whose client is away.
type Stored struct {
	ClientID string
	Cursor   Cursor
	Subs     []Sub
}

// RestoreAll is Restore for many sessions. While the hub runs, they share a pass over the log, as those do that were there
// before Run: one by one each would read it again. Of a session that the hub knows nothing changes.
func (h *Hub) RestoreAll(list []Stored) {
	h.mu.Lock()
	running := h.running
	h.mu.Unlock()
	if !running {
		for i := range list {
			h.Restore(list[i].ClientID, list[i].Cursor, list[i].Subs)
		}
		return
	}
	h.starting.RLock()
	defer h.starting.RUnlock()
	sessions := make([]*session, len(list))
	for i := range list {
		if h.session(list[i].ClientID) != nil {
			continue
		}
		s := h.newSession(list[i].ClientID)
		s.durable.Store(true)
		if s.restored = !list[i].Cursor.IsZero(); s.restored {
			s.start = list[i].Cursor.Clone()
		}
		sessions[i] = s
	}
	joined := *h.parts.Load()
	for _, p := range joined {
		p.join(sessions)
	}
	for i, s := range sessions {
		if s != nil {
			h.enter(s, &list[i])
		}
	}
	for id, p := range *h.parts.Load() {
		if joined[id] == p {
			continue
		}
		for _, s := range sessions { // it came in between
			if s != nil && s.restored {
				p.scanFor(s, s.start)
			}
		}
	}
	for _, p := range joined {
		p.letGo()
	}
}

// enter makes a session known and puts its subscriptions into the index.
func (h *Hub) enter(s *session, st *Stored) {
	h.sessions.Store(s.id, s)
	for i := range st.Subs {
		if _, err := h.subscribe(s, st.Subs[i], st.Cursor); err != nil {
			h.cfg.Logger.Warn("stored subscription left out", "client", s.id, "filter", st.Subs[i].Filter, "err", err)
		}
	}
}

// join has the shared pass serve sessions, nil ones left out, that have no subscriptions yet: it stands still until letGo.
func (p *partition) join(sessions []*session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &rebuild{pos: p.tail, from: map[*session]log.Offset{}}
	if old := p.rebuild; old != nil {
		r.pos, r.until, r.held = old.pos, old.until, old.held
		for s, from := range old.from {
			r.from[s] = max(from, old.pos)
		}
	}
	r.held++
	logStart := p.log.LogStart()
	for _, s := range sessions {
		if s != nil {
			r.add(s, p, logStart)
		}
	}
	p.setRebuild(r)
}

func (p *partition) letGo() {
	p.mu.Lock()
	if p.rebuild != nil {
		p.rebuild.held--
	}
	p.mu.Unlock()
	p.h.schedule(p)
}
