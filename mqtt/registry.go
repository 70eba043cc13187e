package mqtt

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// registry knows every client identifier that has a session or is about to.
type registry struct {
	mu      sync.Mutex
	clients map[string]*client
	timers  timers
}

// tenure says why a client is registered. Owned by the registry's mu.
type tenure struct {
	claims int32 // goroutines at work on it
	live   bool  // has a session
}

func (r *registry) init() {
	r.clients = map[string]*client{}
	r.timers.wake = make(chan struct{}, 1)
}

// acquire finds or makes the client; it stays registered until release.
func (r *registry) acquire(s *Server, id string) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl := r.clients[id]
	if cl == nil {
		id = strings.Clone(id) // not the whole CONNECT
		cl = &client{srv: s, id: id}
		r.clients[id] = cl
	}
	cl.tenure.claims++
	return cl
}

func (r *registry) release(cl *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl.tenure.claims--
	r.dropLocked(cl)
}

// setLive records whether the client has a session.
func (r *registry) setLive(cl *client, live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cl.tenure.live = live
	r.dropLocked(cl)
}

func (r *registry) dropLocked(cl *client) {
	if cl.tenure == (tenure{}) && r.clients[cl.id] == cl {
		delete(r.clients, cl.id)
	}
}

// find returns the client of that identifier, nil if there is none.
func (r *registry) find(id string) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[id]
}

func (r *registry) all() []*client {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*client, 0, len(r.clients))
	for _, cl := range r.clients {
		list = append(list, cl)
	}
	return list
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.clients)
}

// sessionRecord is a durable session in __mqtt_sessions under its client identifier. Numbers of fields are
// never reused. The two QoS 2 records (qos2.go) have keys of their own, since they change far more often.
type sessionRecord struct {
	Format   int            `cbor:"1,keyasint"` // recordFormat
	Version  byte           `cbor:"2,keyasint"`
	Expiry   uint32         `cbor:"3,keyasint"`
	ClosedAt int64          `cbor:"4,keyasint,omitempty"` // Unix ms, 0 while connected
	Subs     []subRecord    `cbor:"5,keyasint,omitempty"`
	Cursor   deliver.Cursor `cbor:"6,keyasint"`
	Will     *willRecord    `cbor:"7,keyasint,omitempty"`
	// Since format 2:
	Behind deliver.Cursor   `cbor:"8,keyasint"`           // places of Cursor that the floor must not raise
	Since  []deliver.Cursor `cbor:"9,keyasint,omitempty"` // moments of subscribing that Cursor has not passed
	Lost   []lossRecord     `cbor:"10,keyasint,omitempty"`
	// Since format 3:
	Window []windowRows `cbor:"11,keyasint,omitempty"` // unacknowledged; the cursor may have passed them
}

// recordFormat is what is written. Formats 1 and 2 are still read: no floor holds for the cursors of format 1.
const recordFormat = 3

// lossRecord is a deliver.Loss.
type lossRecord struct {
	Topic    []byte `cbor:"1,keyasint"`
	Index    int32  `cbor:"2,keyasint,omitempty"`
	First    int64  `cbor:"3,keyasint,omitempty"`
	Next     int64  `cbor:"4,keyasint"`
	Messages int64  `cbor:"5,keyasint"`
}

type subRecord struct {
	Filter string `cbor:"1,keyasint"`
	QoS    byte   `cbor:"2,keyasint,omitempty"`
	Flags  byte   `cbor:"3,keyasint,omitempty"` // 1 no local, 2 retain as published, retain handling << 2, 16 retained messages are owed
	ID     uint32 `cbor:"4,keyasint,omitempty"`
	Since  int    `cbor:"5,keyasint,omitempty"` // n: its moment is Since[n-1] of the session; 0: passed
}

type willRecord struct {
	Topic   string      `cbor:"1,keyasint"`
	Payload []byte      `cbor:"2,keyasint,omitempty"`
	QoS     byte        `cbor:"3,keyasint,omitempty"`
	Retain  bool        `cbor:"4,keyasint,omitempty"`
	Delay   uint32      `cbor:"5,keyasint,omitempty"`
	Expiry  *uint32     `cbor:"6,keyasint,omitempty"`
	Format  byte        `cbor:"7,keyasint,omitempty"`
	Type    []byte      `cbor:"8,keyasint,omitempty"`
	Reply   []byte      `cbor:"9,keyasint,omitempty"`
	Corr    []byte      `cbor:"10,keyasint,omitempty"`
	User    [][2][]byte `cbor:"11,keyasint,omitempty"`
}

func recordSubs(subs []deliver.Sub, owing map[string]bool) []subRecord {
	out := make([]subRecord, len(subs))
	for i, s := range subs {
		flags := s.RetainHandling << 2
		if s.NoLocal {
			flags |= 1
		}
		if s.RetainAsPublished {
			flags |= 2
		}
		if s.Owed || owing[s.Filter] {
			flags |= 16
		}
		out[i] = subRecord{Filter: s.Filter, QoS: s.QoS, Flags: flags, ID: s.ID}
	}
	return out
}

// trimMoments forgets the moments of subscriptions as far as the session's place has passed them, and returns what is
// left for the record. A shared subscription keeps its own: it may be all that is known of where the group began.
// subs is not changed.
func trimMoments(subs []deliver.Sub, place deliver.Cursor) (left []deliver.Sub, moments []deliver.Cursor, number []int) {
	left, number = subs, make([]int, len(subs))
	for i := range subs {
		since := subs[i].Since
		if since.IsZero() {
			continue
		}
		if !isShared(subs[i].Filter) {
			if since = since.Beyond(place); since.Len() < subs[i].Since.Len() {
				if &left[0] == &subs[0] {
					left = slices.Clone(subs)
				}
				left[i].Since = since
			}
		}
		if since.IsZero() {
			continue
		}
		if n := len(moments); n == 0 || !moments[n-1].Equal(since) {
			moments = append(moments, since)
		}
		number[i] = len(moments)
	}
	return left, moments, number
}

func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

func recordLosses(losses []deliver.Loss) (out []lossRecord) {
	for _, l := range losses {
		out = append(out, lossRecord{l.Partition.Topic[:], l.Partition.Index, int64(l.First), int64(l.Next), l.Messages})
	}
	return out
}

func restoreLosses(in []lossRecord) (out []deliver.Loss) {
	for _, l := range in {
		if len(l.Topic) == len(log.TopicID{}) {
			out = append(out, deliver.Loss{Partition: log.PartitionID{Topic: log.TopicID(l.Topic), Index: l.Index},
				First: log.Offset(l.First), Next: log.Offset(l.Next), Messages: l.Messages})
		}
	}
	return out
}

func restoreSubs(in []subRecord, moments []deliver.Cursor) []deliver.Sub {
	out := make([]deliver.Sub, len(in))
	for i, s := range in {
		out[i] = deliver.Sub{
			Filter: s.Filter, QoS: s.QoS, ID: s.ID, NoLocal: s.Flags&1 != 0, RetainAsPublished: s.Flags&2 != 0,
			RetainHandling: s.Flags >> 2 & 3, Owed: s.Flags&16 != 0,
		}
		if s.Since > 0 && s.Since <= len(moments) {
			out[i].Since = moments[s.Since-1]
		}
	}
	return out
}

func recordWill(w *packet.Will) *willRecord {
	if w == nil {
		return nil
	}
	r := &willRecord{
		Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Delay: w.Delay, Format: w.PayloadFormat,
		Type: w.ContentType, Reply: w.ResponseTopic, Corr: w.Correlation,
	}
	if w.HasExpiry {
		r.Expiry = &w.Expiry
	}
	for _, u := range w.User {
		r.User = append(r.User, [2][]byte{u.Name, u.Value})
	}
	return r
}

func (r *willRecord) will() *packet.Will {
	if r == nil {
		return nil
	}
	w := &packet.Will{
		Topic: r.Topic, Payload: r.Payload, QoS: r.QoS, Retain: r.Retain, Delay: r.Delay, PayloadFormat: r.Format,
		ContentType: r.Type, ResponseTopic: r.Reply, Correlation: r.Corr,
	}
	if r.Expiry != nil {
		w.HasExpiry, w.Expiry = true, *r.Expiry
	}
	for _, u := range r.User {
		w.User = append(w.User, packet.UserProperty{Name: u[0], Value: u[1]})
	}
	return w
}

// newSession gives the client a fresh session; under mu.
func (cl *client) newSession() {
	cl.s = session.New(cl, &cl.srv.limits, uint32(cl.epoch))
	cl.q2.forget(cl.srv)
	cl.subs, cl.cursor, cl.q2, cl.o2, cl.acked = nil, deliver.Cursor{}, nil, nil, 0
	cl.setDurable(false)
	cl.srv.absent.setLost(cl.id, nil)
	cl.srv.registry.setLive(cl, true)
}

// setDurable notes and counts whether the session outlives its connection; under mu.
func (cl *client) setDurable(durable bool) {
	if durable != cl.durable {
		cl.durable = durable
		n := int64(1)
		if !durable {
			n = -1
		}
		cl.srv.stats.durable.Add(n)
		cl.srv.homeOf(cl.id).durable.Add(n)
	}
}

// Closed implements conn.Handler: the connection is gone.
func (cl *client) Closed(c *conn.Conn, err error) {
	cl.lock()
	if cl.c != c {
		cl.unlock()
		return
	}
	cl.c, cl.ending = nil, true
	defer cl.ended()
	cl.live.Store(nil)
	cl.s.Lost()
	cl.handleResults() //nolint:errcheck // there is no connection to close
	cl.resending = false
	cl.reclaim()
	if cl.leaving {
		cl.unlock()
		cl.srv.stats.moved.Add(1)
		cl.srv.noteClosed(cl, err)
		return // forget follows
	}
	will, delay := cl.will, time.Duration(0)
	if will != nil {
		delay = min(time.Duration(will.Delay), time.Duration(cl.expiry)) * time.Second
	}
	if delay == 0 {
		cl.will = nil
	}
	cl.closedAt = cl.srv.cfg.Now().UnixMilli()
	who, expiry, epoch := cl.author(), cl.expiry, cl.epoch
	cl.setDurable(cl.durable && expiry > 0)
	cl.unlock()

	cl.srv.noteClosed(cl, err)
	if will != nil && delay == 0 { // MQTT5 [MQTT-3.1.2-8] [MQTT-3.1.3-9]
		cl.srv.wills.publish(who, will)
	}
	if expiry == 0 { // MQTT5 [MQTT-3.1.2-23]
		cl.endSession()
		return
	}
	cl.detach()
	cl.save()
	if delay > 0 {
		cl.srv.registry.timers.add(delay, cl, epoch, dueWill)
	}
	if expiry != session.NoExpiry {
		cl.srv.registry.timers.add(time.Duration(expiry)*time.Second, cl, epoch, dueExpiry)
	}
}

// ended tells whoever waits to take the client over that its last connection has been dealt with.
func (cl *client) ended() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.ending = false
	if cl.gone != nil {
		close(cl.gone)
		cl.gone = nil
	}
}

// reclaim gives unacked messages of shared subscriptions back, so that another member gets them; under mu.
// MQTT5 §4.8.2
func (cl *client) reclaim() {
	for u := range cl.s.Unacked(0) {
		if x, ok := u.Extra.(*outExtra); ok && x.group != nil && u.QoS == 1 &&
			x.group.Reclaim(cl.id, partitionOf(u.Ref), log.Offset(u.Ref.Offset)) {
			cl.s.Drop(u.ID)
		}
	}
}

// detach takes the client off the hub and keeps its place.
func (cl *client) detach() {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	if !cl.onHub {
		return
	}
	cur := cl.srv.hub.Detach(cl.id)
	cl.mu.Lock()
	cl.cursor = cur
	cl.mu.Unlock()
}

// attach puts the client on the hub, unless c is not its connection any more. A client without subscriptions
// joins with its first one: most devices only publish, and the hub then need not know them. force is for that
// first one.
func (cl *client) attach(c *conn.Conn, force bool) {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	cl.mu.Lock()
	current, resending := cl.c == c, cl.resending
	durable, cur, subs := cl.durable, cl.cursor, cl.subs
	cl.mu.Unlock()
	switch {
	case !current:
	case resending:
		if force && !cl.onHub { // it subscribes before its window was sent again: known, but absent until then
			cl.onHub = true
			cl.srv.hub.Attach(cl.id, nil, durable, cur, subs)
		}
	case force && !cl.onHub, !force && (cl.onHub || len(subs) > 0):
		cl.onHub = true
		cl.srv.hub.Attach(cl.id, cl, durable, cur, subs)
	}
}

// leaveHub makes the hub forget the client.
func (cl *client) leaveHub() {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	if cl.onHub {
		cl.onHub = false
		cl.srv.hub.Forget(cl.id)
	}
}

// endSession forgets everything about the client's session, and publishes a will that still waits: the end
// of the session is its moment too. // MQTT5 [MQTT-3.1.2-8]
func (cl *client) endSession() { cl.endThen(nil) }

// endThen is endSession; done, which may be nil, hears when all that was stored of the session is gone for good.
func (cl *client) endThen(done func(error)) {
	cl.leaveHub()
	cl.lock()
	if cl.s == nil {
		cl.unlock()
		if done != nil {
			done(nil)
		}
		return
	}
	will, who := cl.will, cl.author()
	cl.will, cl.s, cl.subs = nil, nil, nil
	cl.q2.forget(cl.srv)
	cl.setDurable(false)
	cl.srv.absent.setLost(cl.id, nil)
	cl.unlock()
	if will != nil {
		cl.srv.wills.publish(who, will)
	}
	cl.srv.sys.remove(cl)
	cl.eraseThen(done)
	cl.srv.registry.setLive(cl, false)
}

// discard ends the client's session, and returns when nothing of it can come back.
func (cl *client) discard(ctx context.Context) error {
	gone := make(chan error, 1)
	cl.endThen(func(err error) { gone <- err })
	select {
	case err := <-gone:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forget drops a session that another node owns now. What is stored of it stays. Behind it nothing of the client is put.
func (cl *client) forget() {
	cl.leaveHub()
	cl.saving.Lock()
	defer cl.saving.Unlock()
	cl.lock()
	cl.will, cl.s, cl.subs = nil, nil, nil
	cl.q2.forget(cl.srv)
	cl.setDurable(false)
	cl.epoch++ // timers are stale
	cl.stored, cl.leaving, cl.dirty, cl.stale = false, false, false, false
	cl.srv.absent.setLost(cl.id, nil)
	cl.unlock()
	cl.srv.sys.remove(cl)
	cl.srv.registry.setLive(cl, false)
}

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
