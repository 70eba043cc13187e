package deliver

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
)

// session is a subscriber: a client's session, or a shared subscription's group.
//
// In each partition it is in one of two states. Usually it is live: the partition's tail gives it
// each record as it passes, and its place is that of the tail. Or it lags: it is absent, or refused a
// message, or came with an old cursor; then a lag holds its place. Absent sessions without a lag cost
// nothing per partition.
type session struct {
	sched
	h         *Hub
	id        string
	seq       uint64 // order of creation; sorts hits
	durable   atomic.Bool
	group     *Group // the group that this is, nil for a client's session
	target    atomic.Pointer[Target]
	lagging   atomic.Int32 // number of lags
	listening bool         // counted in h.listeners; under h.mu

	// full is set when the target refused and cleared by Ready; readySeq counts Ready calls, so that one
	// that came while the refusal was on its way back is not lost.
	full     atomic.Bool
	readySeq atomic.Uint64
	lostOnce atomic.Bool // loss to retention was logged
	dense    atomic.Bool // its last postings were dense: the next lag scans from the start
	waiting  atomic.Bool // pending, or the group's redo, is not empty
	grouped  atomic.Bool // was a member of a group once
	refused  atomic.Bool // a message that another node's leader of a group gave, and Room is owed for it

	// catchUp is held while messages from lags or retained ones are given, in turns. Before any p.mu.
	catchUp sync.Mutex
	turn    int // where the next turn begins among the lags
	kept    *keptChunk

	// restored sessions are served by a shared pass of each partition until it has caught up with the tail. They begin at
	// start. Both are set before the session has subscriptions, of groups before Run.
	restored bool
	start    Cursor
	startAt  Cursor // of a group that is not in the index yet

	mu      sync.Mutex // leaf: nothing is locked under it
	subs    map[string]*subscription
	lags    []*lag
	groups  []*Group // that the session is a member of; replaced, never changed
	pending []*retainedRun
}

func (h *Hub) newSession(id string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newSessionLocked(id)
}

func (h *Hub) newSessionLocked(id string) *session {
	h.nextSeq++
	return &session{h: h, id: id, seq: h.nextSeq, subs: map[string]*subscription{}}
}

// online is the target, nil while the session is absent.
func (s *session) online() Target {
	if t := s.target.Load(); t != nil {
		return *t
	}
	return nil
}

// takeUp gives a new session its stored subscriptions and place. One attached before Run waits for
// the shared pass; later ones scan from where they were. Subscriptions come first: what the tail
// passes from then on is noted, what it passed before is left to the scan.
func (h *Hub) takeUp(s *session, cur Cursor, subs []Sub) {
	h.starting.RLock()
	defer h.starting.RUnlock()
	if s.restored = !h.running && !cur.IsZero(); s.restored {
		s.start = cur.Clone()
	}
	for i := range subs {
		if _, err := h.subscribe(s, subs[i], cur); err != nil {
			h.cfg.Logger.Warn("stored subscription left out", "client", s.id, "filter", subs[i].Filter, "err", err)
		}
	}
	if !s.restored && !cur.IsZero() {
		h.scanFrom(s, cur)
	}
}

// scanFrom puts a session behind wherever its cursor is before the tail.
func (h *Hub) scanFrom(s *session, cur Cursor) {
	h.mu.Lock()
	listening := s.listening
	h.mu.Unlock()
	if !listening {
		return
	}
	for _, p := range *h.parts.Load() {
		p.scanFor(s, cur)
	}
}

// scanFor puts a session behind if its cursor is before the tail.
func (p *partition) scanFor(s *session, cur Cursor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	logStart := p.log.LogStart()
	next := cur.start(p.id, logStart)
	if was, ok := cur.Next(p.id); ok && was < logStart {
		p.h.lost(s, p, was, logStart)
	}
	if next < p.tail {
		l := p.lags[s]
		if l == nil {
			l = p.newLag(s, next)
		}
		l.toScan(next)
	}
}

// absent takes the target away and returns the session's place. No Deliver is under way after it.
func (h *Hub) absent(s *session) Cursor {
	s.target.Store(nil)
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		g.memberLeft(s)
	}
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
	s.dropChunk()
	s.mu.Lock()
	s.pending = slices.DeleteFunc(s.pending, func(r *retainedRun) bool { return r.qos == 0 })
	s.mu.Unlock()
	return h.placeOf(s)
}

// awaitCatchUp returns when no catch-up that began before the call is under way.
func (s *session) awaitCatchUp() {
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
}

// placeOf collects the place in every partition. Passing through each p.mu also waits for the tail to
// leave the session's target. catchUp must be held.
func (h *Hub) placeOf(s *session) Cursor {
	parts := *h.parts.Load()
	cur := Cursor{at: make([]place, 0, len(parts))}
	for _, p := range parts {
		p.mu.Lock()
		pl := place{id: p.id, next: p.positionLocked(s)}
		if l := p.lags[s]; l != nil {
			pl.next, pl.behind = l.place(), true
		}
		p.mu.Unlock()
		cur.at = append(cur.at, pl)
	}
	slices.SortFunc(cur.at, func(a, b place) int { return comparePlaces(a, b.id) })
	return cur
}

// present gives the session a target, taking it from an older one.
func (h *Hub) present(s *session, t Target) {
	if s.online() != nil {
		h.absent(s)
	}
	s.catchUp.Lock()
	for _, l := range s.lagList() {
		l.p.mu.Lock()
		l.qos0From = l.p.positionLocked(s)
		l.p.mu.Unlock()
	}
	s.full.Store(false)
	s.target.Store(&t)
	s.catchUp.Unlock()
	s.mu.Lock()
	groups := s.groups
	s.mu.Unlock()
	for _, g := range groups {
		g.memberCame(s)
	}
	h.ready(s)
}

// Subscribe adds or replaces a subscription; existed says which. Messages committed before the call
// are not given for it. Errors wrap ErrFilter. The session must be attached.
func (h *Hub) Subscribe(clientID string, sub Sub) (existed bool, err error) {
	s := h.session(clientID)
	if s == nil {
		return false, fmt.Errorf("subscribe: session %q is not attached", clientID)
	}
	h.starting.RLock()
	defer h.starting.RUnlock()
	return h.subscribe(s, sub, Cursor{})
}

// subscribe puts a subscription into the index. With a cursor it is one that existed before, and its
// session has its place already.
func (h *Hub) subscribe(s *session, sub Sub, cur Cursor) (existed bool, err error) {
	name := sub.name()
	groupName, filter, err := ParseFilter(name)
	if err != nil {
		return false, err
	}
	if groupName != "" {
		if !cur.IsZero() && !sub.Since.IsZero() {
			cur = sub.Since // the group began there, unless it has a cursor of its own
		}
		return h.joinGroup(s, name, filter, &sub, cur), nil
	}
	h.listen(s)
	entry := &subscription{s: s, filter: filter, qos: sub.QoS, noLocal: sub.NoLocal, rap: sub.RetainAsPublished, id: sub.ID}
	s.mu.Lock()
	old := s.subs[name]
	s.subs[name] = entry
	s.mu.Unlock()
	if old != nil {
		entry.since.Store(old.since.Load()) // what was due under the old one stays due
	} else {
		h.guard(entry, cur, sub.Since)
	}
	h.index.put(entry, old)
	return old != nil, nil
}

// name is the filter as the client wrote it.
func (sub *Sub) name() string {
	if sub.ShareGroup != "" {
		return sharePrefix + sub.ShareGroup + "/" + sub.Filter
	}
	return sub.Filter
}

// guard fills the subscription's since: a record below the high watermark of its moment is too old for
// it, one below the cursor for a stored one. Partitions that the session follows closely need none.
func (h *Hub) guard(sub *subscription, cur, moment Cursor) {
	if sub.s.restored && !(cur.IsZero() && h.running) {
		// The shared pass knows where each session begins, but not each subscription.
		if !moment.IsZero() {
			sub.since.Store(&moment)
		}
		return
	}
	var since Cursor
	for _, p := range *h.parts.Load() {
		from, needed := h.guardIn(p, sub.s, cur, moment)
		if needed {
			since.Set(p.id, from)
		}
	}
	if !since.IsZero() {
		sub.since.Store(&since)
	}
}

func (h *Hub) guardIn(p *partition, s *session, cur, moment Cursor) (from log.Offset, needed bool) {
	at, known := moment.Next(p.id)
	if cur.IsZero() {
		if moment.IsZero() {
			at = p.log.HighWatermark()
		}
		return at, at > 0 && (s.lagging.Load() > 0 || p.position(s) < at)
	}
	if from = cur.start(p.id, p.log.LogStart()); known && at > from {
		return at, true
	}
	return from, from > p.position(s) // else the scan begins there
}

// Ends is where all partitions end: the moment of a subscription that is made next.
func (h *Hub) Ends() Cursor {
	parts := *h.parts.Load()
	cur := Cursor{at: make([]place, 0, len(parts))}
	for _, p := range parts {
		cur.at = append(cur.at, place{id: p.id, next: p.log.HighWatermark()})
	}
	slices.SortFunc(cur.at, func(a, b place) int { return comparePlaces(a, b.id) })
	return cur
}

// Unsubscribe removes a subscription by the filter as it was subscribed; false if there was none.
// Messages found before the call that nothing else subscribes to are not given any more.
func (h *Hub) Unsubscribe(clientID, filter string) (existed bool) {
	s := h.session(clientID)
	if s == nil {
		return false
	}
	if group, _, err := ParseFilter(filter); err == nil && group != "" {
		return h.leaveGroup(s, filter)
	}
	s.mu.Lock()
	sub := s.subs[filter]
	delete(s.subs, filter)
	s.pending = slices.DeleteFunc(s.pending, func(r *retainedRun) bool { return r.name == filter })
	s.mu.Unlock()
	if sub == nil {
		return false
	}
	h.drop(s, sub)
	return true
}

// drop takes a subscription out of the index and stops reading for the session when it was the last.
func (h *Hub) drop(s *session, sub *subscription) {
	h.index.remove(sub)
	s.mu.Lock()
	last := len(s.subs) == 0
	s.mu.Unlock()
	if last {
		h.unlisten(s)
	}
}
