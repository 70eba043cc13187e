package kafka

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/log"
)

// Fetch (key 1): v4–18
//
// Committed batches (R1), as they are stored: bytes are read from the log straight into the
// answer. With isolation level 1 they end at the last stable offset, and the answer names the aborted transactions among them (P2). Without enough of them the request waits for commits, up to its max wait; while
// it waits it holds no read buffer and none of the memory quota.
//
// Limits are Apache Kafka's: the first batch of the answer is sent whatever its size, so
// that a consumer always moves on; every further one only within the partition's and the
// request's limit. The server's own limits come on top.
//
//	v5   log start offset
//	v7   sessions (KIP-227): see fetch_sessions.go
//	v9   current leader epoch, checked (KIP-320)
//	v11  rack id: see 01_fetch_replica.go
//	v12  flexible; who leads instead, and in which epoch (KIP-595)
//	v13  topic ids instead of names (KIP-516)
//	v14  one more error, of tiered storage, which there is none of
//	v15  the replica id is a tagged field (KIP-903)
//	v16  where those who lead instead are reached (KIP-951)
//	v17  directory ids, of replicas (KIP-853)
//	v18  high watermarks, of replicas (KIP-1166)
//
// A fetch that waits is answered when this broker leads one of its partitions no longer.
func (s *Server) fetch(ctx context.Context, c *conn, r *request, rep *reply) error {
	f := fetchPool.Get().(*fetch)
	defer f.recycle()
	defer r.free() // topic names are views of it
	f.s, f.c, f.version = s, c, r.version
	if err := f.decode(r.body); err != nil {
		return err
	}
	r.charge.release()
	f.holdToQuota()
	f.enter()
	f.resolve()
	f.sendAway()
	out := f.leave(f.answer(ctx, r.corr, rep), r.corr)
	if slices.ContainsFunc(f.topics, func(t fetchTopic) bool { return t.code == errTopicAuthorizationFailed }) {
		s.n.unauthorized.Add(1)
	}
	f.throttle(out.b)
	rep.size = out.size()
	rep.complete(out)
	c.enqueue(rep)
	return nil
}

// Versions of Fetch from which on something is so.
const (
	fetchFlexible  = 12
	fetchTopicIDs  = 13
	fetchEndpoints = 16
)

type fetch struct {
	s         *Server
	c         *conn
	version   int16
	code      int16
	maxWait   time.Duration
	minBytes  int
	maxBytes  int
	committed bool   // read_committed
	rack      []byte // view of the frame
	replicas  bool   // some part is read from a replica that follows
	guarded   bool   // rules can concern it
	rules     uint64 // the version of those that it was resolved by

	sessionID    int32 // of the request; of the answer from enter on
	sessionEpoch int32 // of the request; in a session the next one's, from enter on
	session      *fetchSession
	forgotten    decoder // at the forgotten topics of the request

	topics []fetchTopic
	parts  []fetchPart
	wake   chan struct{}
	lost   <-chan struct{} // closed when one of the partitions may be led elsewhere

	// Of the answer being made:
	head    int     // where its error code and session lie
	leaders []int32 // named in it
}

// fetchTopic is what some of the parts in a row belong to.
type fetchTopic struct {
	id    log.TopicID // v13
	name  []byte      // view of the frame, or the session's; with an id nil until it is known
	parts int
	view  *topicView // nil with a code
	code  int16
}

type fetchPart struct {
	partition *cluster.Partition // nil with a code
	cached    *sessionPart       // of an incremental fetch; looked into under the lock of the sessions
	index     int32
	code      int16
	records   bool // there are some in the answer
	atReplica bool // another broker leads it
	preferred int32
	partAsk
	before, now partTold // by the answer before, where there is a session, and by the one being made
}

var fetchPool = sync.Pool{New: func() any { return &fetch{wake: make(chan struct{}, 1)} }}

const maxPooledFetchParts = 1024

func (f *fetch) recycle() {
	clear(f.topics)
	clear(f.parts)
	f.s, f.c, f.topics, f.parts, f.code, f.lost = nil, nil, f.topics[:0], f.parts[:0], errNone, nil
	f.rack, f.replicas = nil, false
	f.session, f.sessionID, f.sessionEpoch, f.forgotten, f.leaders = nil, 0, 0, decoder{}, f.leaders[:0]
	if cap(f.parts) <= maxPooledFetchParts {
		fetchPool.Put(f)
	}
}

// decode reads the request.
//
//	v4–14: int32 replica | int32 max wait ms | int32 min bytes | int32 max bytes | int8 isolation |
//	v7: int32 session, int32 session epoch | array of (topic | array of partitions) |
//	v7: array of forgotten (topic | array of int32) | v11: string rack
//
// A topic is a string, or from v13 on an id of 16 bytes. Our replicas use another protocol: what
// is only theirs is passed over.
func (f *fetch) decode(body []byte) error {
	d := decoder{b: body}
	flexible := f.version >= fetchFlexible
	if f.version < 15 {
		d.int32()
	}
	f.maxWait = time.Duration(d.int32()) * time.Millisecond
	f.minBytes = int(d.int32())
	f.maxBytes = int(d.int32())
	f.committed = d.int8() == 1
	if f.version >= 7 {
		f.sessionID, f.sessionEpoch = d.int32(), d.int32()
	}
	for range d.array(flexible, 2) {
		t := f.decodeTopic(&d)
		t.parts = d.array(flexible, 16)
		for range t.parts {
			f.parts = append(f.parts, f.decodePart(&d))
			if d.bad {
				break
			}
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			break
		}
		f.topics = append(f.topics, t)
	}
	if f.version >= 7 {
		f.forgotten = d
		f.eachForgotten(&d, nil)
	}
	if f.version >= 11 {
		f.rack = d.string(flexible)
	}
	if flexible {
		d.tags()
	}
	if d.bad {
		return errors.New("fetch request ends early")
	}
	return nil
}

func (f *fetch) byTopicID() bool { return f.version >= fetchTopicIDs }

func (f *fetch) decodeTopic(d *decoder) (t fetchTopic) {
	if f.byTopicID() {
		copy(t.id[:], d.take(len(t.id)))
	} else {
		t.name = d.string(f.version >= fetchFlexible)
	}
	return t
}

// eachForgotten reads the forgotten topics, and calls fn, if there is one, for each partition.
func (f *fetch) eachForgotten(d *decoder, fn func(t fetchTopic, index int32)) {
	flexible := f.version >= fetchFlexible
	for range d.array(flexible, 2) {
		t := f.decodeTopic(d)
		for range d.array(flexible, 4) {
			if index := d.int32(); fn != nil {
				fn(t, index)
			}
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			return
		}
	}
}

// int32 index | v9: int32 leader epoch | int64 offset | v12: int32 last epoch |
// v5: int64 log start (of followers) | int32 max bytes
func (f *fetch) decodePart(d *decoder) fetchPart {
	p := fetchPart{index: d.int32(), preferred: noReplica, partAsk: partAsk{epoch: -1}}
	if f.version >= 9 {
		p.epoch = d.int32()
	}
	p.offset = log.Offset(d.int64())
	if f.version >= 12 {
		d.int32()
	}
	if f.version >= 5 {
		d.int64()
	}
	p.maxBytes = d.int32()
	if f.version >= fetchFlexible {
		d.tags()
	}
	return p
}

// resolve finds the partitions and judges what does not change while they are led here in the same
// term.
func (f *fetch) resolve() {
	f.lost = f.s.losses.wait() // before looking: what is lost after the look is noticed
	f.rules, f.guarded = f.s.broker.Image().RulesVersion, f.s.guarded(f.c)
	i := 0
	for j := range f.topics {
		t := &f.topics[j]
		f.resolveTopic(t)
		for range t.parts {
			f.resolvePart(t, &f.parts[i])
			i++
		}
	}
}

// resolveTopic finds a topic by what the request calls it. An id that was known by a name and is not
// any more belongs to a topic that is gone, perhaps with another of that name in its place.
func (f *fetch) resolveTopic(t *fetchTopic) {
	views := f.s.views()
	t.code = errUnknownTopicOrPartition
	switch {
	case !f.byTopicID():
		t.view = views.byName[string(t.name)] // does not allocate
	case views.byID[t.id] != nil:
		t.view = views.byID[t.id]
	case t.name == nil:
		t.view, t.code = nil, errUnknownTopicID
	default:
		if t.view = nil; views.byName[string(t.name)] != nil {
			t.code = errInconsistentTopicID
		}
	}
	if f.guarded && !f.mayRead(t) {
		t.view, t.code = nil, errTopicAuthorizationFailed
	}
}

// mayRead: a topic that is not there is refused like one that is, to whom may read neither.
func (f *fetch) mayRead(t *fetchTopic) bool {
	switch {
	case t.view != nil:
		return f.s.mayTopic(f.c, access.Read, t.view.name)
	case t.name == nil:
		return true // an id that is unknown to everybody
	}
	return f.s.mayTopic(f.c, access.Read, string(t.name))
}

func (f *fetch) resolvePart(t *fetchTopic, p *fetchPart) {
	if t.view == nil {
		p.partition, p.code = nil, t.code
		return
	}
	p.atReplica = false
	p.partition, p.code = f.s.partitionIn(t.view.name, p.index, p.epoch)
	if p.code == errNotLeaderOrFollower && f.nearby() {
		if replica := f.s.replica(t.view, p.index); replica != nil {
			p.partition, p.code, p.atReplica, f.replicas = replica, errNone, true, true
		}
	}
	if f.byTopicID() && p.code == errNone && p.partition.ID().Topic != t.id { // made anew since the views were
		p.partition, p.code = nil, errInconsistentTopicID
	}
}

// answer waits until there is something to say, and says it. What the answer takes of the
// budget for fetch answers is left in rep.held.
func (f *fetch) answer(ctx context.Context, corr int32, rep *reply) *buffer {
	deadline := time.Now().Add(min(f.maxWait, maxFetchWait))
	if f.replicas {
		deadline = time.Now().Add(min(f.maxWait, maxReplicaWait))
	}
	for {
		if f.rules != f.s.broker.Image().RulesVersion { // what was read for may be somebody else's by now
			f.resolve()
		}
		if f.astray() {
			f.confirm(ctx)
		}
		if f.code != errNone || f.maxWait <= 0 || f.refused() || f.ready() {
			rep.held = f.grant()
			out, n := f.encode(corr, rep.held)
			f.s.fetching.Add(out.size() - rep.held) // most ask for much more than there is
			rep.held = out.size()
			if n >= f.minBytes || f.code != errNone || f.refused() || len(f.parts) == 0 || !f.canWait(ctx, deadline) {
				f.s.n.fetchBytes.Add(int64(n))
				if n == 0 && f.damaged() {
					f.pause(ctx, deadline)
				}
				return out
			}
			out.free()
			f.s.fetching.Add(-rep.held)
			rep.held = 0
		}
		f.wait(ctx, deadline)
		select {
		case <-f.lost:
			f.resolve()
		default:
			if f.replicas || !f.s.broker.HoldsLease() { // R2: that there is nothing new is not for this broker to say
				f.resolve()
			}
		}
		if !f.canWait(ctx, deadline) {
			f.maxWait = 0 // the next round answers with what there is
		}
	}
}

const (
	// maxFetchWait bounds a wait that a client asks for; it asks again.
	maxFetchWait = 5 * time.Minute
	// minFetchPause keeps a fetch that waits for many bytes from counting them anew at
	// each small commit.
	minFetchPause = 10 * time.Millisecond
	// damagedFetchPause slows down a consumer that asks again and again for what the disk has lost.
	damagedFetchPause = 500 * time.Millisecond
)

// damaged tells whether a partition's records could not be read.
func (f *fetch) damaged() bool {
	for i := range f.parts {
		if c := f.parts[i].code; c == errCorruptMessage || c == errKafkaStorageError {
			return true
		}
	}
	return false
}

// pause holds an answer back for damagedFetchPause, or as long as the client lets us.
func (f *fetch) pause(ctx context.Context, deadline time.Time) {
	timer := time.NewTimer(min(damagedFetchPause, time.Until(deadline)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-f.s.draining:
	}
}

// ready: an error, or a committed record, is there.
func (f *fetch) ready() bool {
	if f.minBytes <= 0 || len(f.parts) == 0 {
		return true
	}
	for i := range f.parts {
		if p := &f.parts[i]; p.code != errNone || f.end(p) > p.offset {
			return true
		}
	}
	return false
}

// end is the offset up to which the client may read.
func (f *fetch) end(p *fetchPart) log.Offset {
	if f.committed {
		return p.partition.LastStable()
	}
	return p.partition.HighWatermark()
}

// refused says whether a partition has an error, or is to be read elsewhere.
func (f *fetch) refused() bool {
	for i := range f.parts {
		if f.parts[i].code != errNone || f.parts[i].preferred != noReplica {
			return true
		}
	}
	return false
}

// astray looks for offsets out of range, and says whether one lies behind the end of its log as this broker knows it.
func (f *fetch) astray() (behind bool) {
	for i := range f.parts {
		p := &f.parts[i]
		if p.code == errNone && outOfRange(p.partition, p.offset) {
			p.code = errOffsetOutOfRange
			behind = behind || !p.atReplica && p.offset > p.partition.LogStart()
		}
	}
	return behind
}

// confirmTimeout is how long a client waits at most to hear that its offset lies behind the end.
const confirmTimeout = 5 * time.Second

// confirm looks at those again once it is sure who leads: another broker may have taken over in good order, have committed more, and this one not have heard of
// it yet (R4). While nobody can say, the client is to ask again.
func (f *fetch) confirm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := f.s.broker.Confirm(ctx)
	i := 0
	for j := range f.topics {
		t := &f.topics[j]
		for range t.parts {
			p := &f.parts[i]
			i++
			if p.code != errOffsetOutOfRange || p.atReplica {
				continue
			}
			if err != nil {
				p.partition, p.code = nil, errNotLeaderOrFollower
				continue
			}
			if f.resolvePart(t, p); p.code == errNone && outOfRange(p.partition, p.offset) {
				p.code = errOffsetOutOfRange
			}
		}
	}
}

func (f *fetch) canWait(ctx context.Context, deadline time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-f.s.draining:
		return false
	default:
		return f.maxWait > 0 && time.Now().Before(deadline)
	}
}

// Advanced wakes the wait (cluster.CommitWatcher). A late call is a spurious wake, perhaps
// of the next request that uses this struct: it looks, and waits again.
func (f *fetch) Advanced(*cluster.Partition) {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wait returns after a commit in one of the partitions, when one is led elsewhere, or when nothing
// more is waited for.
func (f *fetch) wait(ctx context.Context, deadline time.Time) {
	select {
	case <-f.wake: // stale
	default:
	}
	f.s.n.fetchWaiting.Add(1)
	for i := range f.parts {
		f.parts[i].partition.Watch(f) // not nil: a refused part is not waited with
	}
	defer func() {
		for i := range f.parts {
			f.parts[i].partition.Unwatch(f)
		}
		f.s.n.fetchWaiting.Add(-1)
	}()
	started := time.Now()
	if f.minBytes <= 1 && f.ready() { // it came before the watch
		return
	}
	timeout := time.NewTimer(deadline.Sub(started))
	defer timeout.Stop()
	select {
	case <-f.wake:
	case <-f.lost:
		return
	case <-timeout.C:
		return
	case <-ctx.Done():
		return
	case <-f.s.draining:
		return
	}
	if pause := minFetchPause - time.Since(started); f.minBytes > 1 && pause > 0 {
		timeout.Reset(min(pause, time.Until(deadline)))
		select {
		case <-timeout.C:
		case <-f.lost:
		case <-ctx.Done():
		case <-f.s.draining:
		}
	}
}
