package mqtt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/session"
)

// save writes the session's record, with the QoS 1 messages that the client has not acknowledged. The cursor in it goes
// back to the oldest one that is stored nowhere, so that after a crash nothing is missing (M9). done, which may be nil,
// hears of the commit.
func (cl *client) save() { cl.saveThen(nil) }

func (cl *client) saveThen(done func(error)) {
	cl.saving.Lock() // puts to one key must leave in the order their contents were taken
	defer cl.saving.Unlock()
	cl.mu.Lock()
	if cl.s == nil || cl.expiry == 0 {
		cl.mu.Unlock()
		if done != nil {
			done(nil)
		}
		return
	}
	r := sessionRecord{
		Format: recordFormat, Version: cl.s.Version(), Expiry: cl.expiry, ClosedAt: cl.closedAt,
		Cursor: cl.cursor.Clone(), Will: recordWill(cl.will), Lost: recordLosses(cl.srv.absent.lostBy(cl.id)),
	}
	cl.recordWindow(&r)
	r.Mark = cl.srv.homeOf(cl.id).handovers.markOf(cl.id)
	cl.stale = false
	if cl.closedAt != 0 {
		cl.srv.absent.mark(cl, &r.Cursor)
	}
	r.Behind = r.Cursor.Behind()
	var number []int
	cl.subs, r.Since, number = trimMoments(cl.subs, r.Cursor)
	r.Subs = recordSubs(cl.subs, cl.owing())
	for i := range r.Subs {
		r.Subs[i].Since = number[i]
	}
	cl.acked, cl.dirty, cl.stored = 0, false, true
	trim := cl.o2 != nil && len(cl.o2.completed)+len(cl.o2.before) > 0
	cl.mu.Unlock()
	b, err := cbor.Marshal(&r)
	if err != nil {
		panic(fmt.Sprintf("BUG: encode session %q: %v", cl.id, err))
	}
	cl.srv.putSession(cl.id, []byte(cl.id), b, func(err error) {
		if err != nil {
			cl.srv.stats.storeErrors.Add(1)
		} else if trim {
			cl.post(func(error) error { cl.trimCompleted(r.Cursor); return nil }, nil)
		}
		if done != nil {
			done(err)
		}
	})
}

// saveCursor writes the record again after deliveries, at most once a second (M9).
func (cl *client) saveCursor() {
	if cl.readCursor() {
		cl.save()
	}
}

// readCursor takes the client's place from the hub; false when the hub does not know it. The window of unacknowledged
// messages must be looked at afterwards: what is delivered in between lies beyond this cursor.
func (cl *client) readCursor() bool {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	cl.mu.Lock()
	known := cl.durable && cl.onHub
	cl.mu.Unlock()
	if known {
		cur := cl.srv.hub.Cursor(cl.id)
		cl.mu.Lock()
		cl.cursor = cur
		cl.mu.Unlock()
	}
	return known
}

// erase removes all records of the session.
func (cl *client) erase() { cl.eraseThen(nil) }

func (cl *client) eraseThen(done func(error)) {
	cl.saving.Lock()
	defer cl.saving.Unlock()
	cl.mu.Lock()
	stored := cl.stored
	cl.stored = false
	keys := [][]byte{[]byte(cl.id), keyInbound(cl.id), keyOutbound(cl.id)}
	if cl.o2 != nil {
		for id := range cl.o2.messages {
			keys = append(keys, keyMessage(cl.id, id))
		}
	}
	cl.mu.Unlock()
	if !stored {
		if done != nil {
			done(nil)
		}
		return
	}
	left, first := new(atomic.Int32), new(atomic.Pointer[error])
	left.Store(int32(len(keys)))
	erased := func(err error) {
		if err != nil {
			cl.srv.stats.storeErrors.Add(1)
			first.CompareAndSwap(nil, &err)
		}
		if left.Add(-1) > 0 || done == nil {
			return
		}
		if e := first.Load(); e != nil {
			err = *e
		}
		done(err)
	}
	for _, key := range keys {
		cl.srv.putSession(cl.id, key, nil, erased)
	}
}

// restore brings back the stored sessions of a partition and returns their clients, those of before an error too.
func (s *Server) restore(hm *home) (clients []*client, err error) {
	st, err := s.load(hm.index)
	if err != nil {
		return nil, err
	}
	if err := s.absent.restore(hm.index, st.floor); err != nil {
		return nil, err
	}
	seen := map[*client]bool{}
	for _, key := range slices.Sorted(maps.Keys(st.sessions)) { // the session's own first, its messages before what names them
		id, kind := splitKey(key)
		s.evict(id)
		cl, err := s.restoreKey(id, kind, st.sessions[key])
		if !seen[cl] {
			seen[cl] = true
			clients = append(clients, cl)
		}
		if err != nil {
			return clients, fmt.Errorf("client %q: %w", id, err)
		}
	}
	for _, cl := range clients {
		cl.restoredAll()
	}
	return clients, nil
}

// evict ends a session that lives here only for its connection, where a stored one of the same client is to come back.
func (s *Server) evict(id string) {
	cl := s.registry.find(id)
	if cl == nil {
		return
	}
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	cl.mu.Lock()
	local := cl.s != nil && cl.local
	cl.mu.Unlock()
	if local {
		cl.takeOver()
	}
}

func (s *Server) restoreKey(id, kind string, value []byte) (*client, error) {
	cl := s.registry.acquire(s, id)
	defer s.registry.release(cl)
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.s == nil {
		cl.newSession()
		cl.restored = false
	}
	cl.stored, cl.local = true, false
	switch kind {
	case "":
		return cl, cl.restoreRecord(value)
	case kindInbound:
		return cl, cl.restoreInbound(value)
	case kindOutbound:
		return cl, cl.restoreOutbound(value)
	default:
		if id, ok := strings.CutPrefix(kind, kindMessage); ok {
			return cl, cl.restoreMessage(id, value)
		}
		return cl, fmt.Errorf("record of unknown kind %q", kind)
	}
}

func (cl *client) restoreRecord(value []byte) error {
	var r sessionRecord
	if err := cbor.Unmarshal(value, &r); err != nil {
		return err
	}
	if r.Format < 1 || r.Format > recordFormat {
		return fmt.Errorf("session record has format %d, this version reads 1 to %d", r.Format, recordFormat)
	}
	cl.expiry, cl.closedAt = r.Expiry, r.ClosedAt
	cl.setDurable(true)
	cl.subs, cl.cursor, cl.will = restoreSubs(r.Subs, r.Since), r.Cursor, r.Will.will()
	cl.srv.absent.setLost(cl.id, restoreLosses(r.Lost))
	cl.srv.absent.place(cl, r.Format, r.Behind)
	if err := cl.restoreWindow(r.Window); err != nil {
		return err
	}
	cl.restored, cl.willChecked = true, true
	cl.srv.homeOf(cl.id).handovers.setMark(cl.id, r.Mark)
	if slices.ContainsFunc(cl.subs, func(s deliver.Sub) bool { return isSysFilter(s.Filter) }) {
		cl.srv.sys.enter(cl)
	}
	return nil
}

// arm hands stored sessions to the hub and starts their clocks. A session that was connected when it was last stored
// counts as closed now: a node, not the client, was away. Such a client has grace to come back.
func (s *Server) arm(clients []*client, grace time.Duration) {
	now := s.cfg.Now().UnixMilli()
	var subscribers []deliver.Stored
	for _, cl := range clients {
		cl.mu.Lock()
		if !cl.restored { // QoS 2 state without a session record: the session was being erased
			cl.mu.Unlock()
			cl.endSession()
			continue
		}
		wait := time.Duration(0)
		if cl.closedAt == 0 {
			cl.closedAt, wait = now, grace
		}
		gone := time.Duration(max(0, now-cl.closedAt)) * time.Millisecond
		cl.takeTerm()
		will, expiry, epoch, cur, subs := cl.will, cl.expiry, cl.epoch, cl.cursor, cl.subs
		cl.dropUnused()
		cl.mu.Unlock()
		if len(subs) > 0 {
			cl.attaching.Lock()
			cl.onHub = true
			cl.attaching.Unlock()
			subscribers = append(subscribers, deliver.Stored{ClientID: cl.id, Cursor: cur, Subs: subs})
		}
		if will != nil {
			delay := max(wait, min(time.Duration(will.Delay), time.Duration(expiry))*time.Second-gone)
			s.registry.timers.add(delay, cl, epoch, dueWill)
		}
		if expiry != session.NoExpiry {
			s.registry.timers.add(max(0, time.Duration(expiry)*time.Second-gone), cl, epoch, dueExpiry)
		}
	}
	s.hub.RestoreAll(subscribers)
	for i := range subscribers {
		s.oweRetained(&subscribers[i])
	}
}

// takeTerm has the session's shared subscriptions know since when it is here; under mu.
func (cl *client) takeTerm() {
	cl.term = uint64(cl.srv.homeOf(cl.id).ownership().Epoch) << 32
	for i := range cl.subs {
		cl.subs[i].Term = cl.term
	}
}

// oweRetained queues what a stored session is still due of retained messages.
func (s *Server) oweRetained(st *deliver.Stored) {
	for i := range st.Subs {
		if st.Subs[i].Owed {
			s.hub.OweRetained(st.ClientID, st.Subs[i])
		}
	}
	cl := s.registry.find(st.ClientID)
	if cl == nil {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	subs := slices.Clone(cl.subs) // a record being made may be looking at the old list
	for i := range subs {
		subs[i].Owed = false
	}
	cl.subs = subs
}
