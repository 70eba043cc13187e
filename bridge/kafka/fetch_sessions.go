package kafka

import (
	"math"
	"time"

	"github.com/weir-io/weir/log"
)

// Fetch sessions (KIP-227). A client that has a session names only what has changed since its last
// request, and is answered only what is new. Sessions belong to the broker and not to a
// connection; they are lost with it, and any may be forgotten at any time: the client is told
// FETCH_SESSION_ID_NOT_FOUND and begins anew with a full fetch.
//
// This file decides. It knows neither clock nor lock nor dice; 01_fetch_session.go has those.

// fetchSessions are the sessions of one broker.
type fetchSessions struct {
	maxSessions int
	maxParts    int           // of one session
	maxBytes    int64         // of all sessions
	minIdle     time.Duration // who was used within it is not evicted for another
	newID       func() int32  // random and positive

	byID           map[int32]*fetchSession
	oldest, newest *fetchSession // by last use
	bytes          int64
	parts          int64
	evicted        int64
}

// fetchSession is what one client fetches from this broker, as it said in all its requests together.
type fetchSession struct {
	id        int32
	epoch     int32 // that the next request has to have
	byTopicID bool  // its requests name topics by id (v13), or by name: never both
	used      time.Time
	topics    map[sessionTopicKey]*sessionTopic
	parts     map[sessionPartKey]*sessionPart

	first, last *sessionPart // in the order in which they are served
	size        int64        // estimate in bytes

	counted      int64 // of size, in fetchSessions.bytes
	countedParts int64
	older, newer *fetchSession
}

type sessionTopicKey struct {
	id   log.TopicID // zero where the session goes by names
	name string      // empty where it goes by ids
}

// sessionTopic has the name that its id stood for when it was first known here: Apache Kafka goes on
// with that name, and so notices that a topic was made anew (INCONSISTENT_TOPIC_ID).
type sessionTopic struct {
	id    log.TopicID
	name  []byte // nil: the id means nothing here yet
	parts int
}

type sessionPartKey struct {
	topic *sessionTopic
	index int32
}

// sessionPart is one partition: what the client asks for, and what it was told last.
type sessionPart struct {
	topic      *sessionTopic
	index      int32
	ask        partAsk
	told       partTold
	prev, next *sessionPart
}

type partAsk struct {
	offset   log.Offset
	epoch    int32 // the leader epoch that the client has seen, or -1
	maxBytes int32
}

type partTold struct{ highWatermark, logStart log.Offset }

// toldNothing is of a partition that the next answer has to have.
var toldNothing = partTold{-1, -1}

// What is counted for each, found by measuring, with the maps that hold them.
const (
	sessionBytes      = 1024
	sessionTopicBytes = 256 // and the name twice
	sessionPartBytes  = 192
)

func newFetchSession(byTopicID bool) *fetchSession {
	return &fetchSession{
		epoch: 1, byTopicID: byTopicID, size: sessionBytes,
		topics: make(map[sessionTopicKey]*sessionTopic), parts: make(map[sessionPartKey]*sessionPart),
	}
}

// put adds a partition at the end, or changes what is asked of one. name is not kept.
func (s *fetchSession) put(id log.TopicID, name []byte, index int32, ask partAsk) *sessionPart {
	t := s.topics[sessionTopicKey{id, string(name)}] // does not allocate
	if t == nil {
		t = &sessionTopic{id: id}
		if !s.byTopicID {
			t.name = append([]byte{}, name...)
		}
		s.topics[sessionTopicKey{id, string(name)}] = t
		s.size += sessionTopicBytes + 2*int64(len(name))
	}
	p := s.parts[sessionPartKey{t, index}]
	if p == nil {
		p = &sessionPart{topic: t, index: index, told: toldNothing}
		s.parts[sessionPartKey{t, index}] = p
		s.size += sessionPartBytes
		t.parts++
		s.append(p)
	}
	p.ask = ask
	return p
}

// forget removes a partition; it need not be there.
func (s *fetchSession) forget(id log.TopicID, name []byte, index int32) {
	t := s.topics[sessionTopicKey{id, string(name)}]
	p := s.parts[sessionPartKey{t, index}]
	if p == nil {
		return
	}
	s.unlink(p)
	delete(s.parts, sessionPartKey{t, index})
	s.size -= sessionPartBytes
	if t.parts--; t.parts == 0 {
		delete(s.topics, sessionTopicKey{id, string(name)})
		s.size -= sessionTopicBytes + 2*int64(len(name))
	}
}

// answered notes what the client was told of p. One that had records goes behind the others, so
// that all come to be served when the answers are too small for all.
func (s *fetchSession) answered(p *sessionPart, told partTold, records bool) {
	p.told = told
	if records && s.last != p {
		s.unlink(p)
		s.append(p)
	}
}

func (s *fetchSession) append(p *sessionPart) {
	p.prev, p.next = s.last, nil
	if s.last != nil {
		s.last.next = p
	} else {
		s.first = p
	}
	s.last = p
}

func (s *fetchSession) unlink(p *sessionPart) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		s.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		s.last = p.prev
	}
}

// find is the session of an incremental request, or the code that refuses it.
func (c *fetchSessions) find(id, epoch int32, byTopicID bool) (*fetchSession, int16) {
	s := c.byID[id]
	switch {
	case s == nil:
		return nil, errFetchSessionIDNotFound
	case s.epoch != epoch:
		return nil, errInvalidFetchSessionEpoch
	case s.byTopicID != byTopicID:
		return nil, errFetchSessionTopicID
	}
	return s, errNone
}

// add gives a new session its id, unless there is no room for it.
func (c *fetchSessions) add(s *fetchSession, now time.Time) bool {
	if len(s.parts) > c.maxParts || !c.makeRoom(s.size, 1, now) {
		return false
	}
	for s.id = c.newID(); s.id <= 0 || c.byID[s.id] != nil; {
		s.id = c.newID()
	}
	if c.byID == nil {
		c.byID = make(map[int32]*fetchSession)
	}
	c.byID[s.id] = s
	c.enqueue(s)
	c.account(s)
	s.used = now
	return true
}

// use accepts a request that has changed s: the next one is of the next epoch. A session that has
// grown beyond its limits is removed instead.
func (c *fetchSessions) use(s *fetchSession, now time.Time) bool {
	c.dequeue(s)
	c.enqueue(s) // first: so it is not evicted for itself
	s.used = now
	if len(s.parts) > c.maxParts || !c.makeRoom(s.size-s.counted, 0, now) {
		c.remove(s)
		return false
	}
	c.account(s)
	if s.epoch++; s.epoch == math.MaxInt32 {
		s.epoch = 1
	}
	return true
}

// makeRoom evicts sessions that have not been used for long, and says whether there is room then.
func (c *fetchSessions) makeRoom(bytes int64, sessions int, now time.Time) bool {
	for len(c.byID)+sessions > c.maxSessions || c.bytes+bytes > c.maxBytes {
		if c.oldest == nil || now.Sub(c.oldest.used) <= c.minIdle {
			return false
		}
		c.remove(c.oldest)
		c.evicted++
	}
	return true
}

func (c *fetchSessions) remove(s *fetchSession) {
	delete(c.byID, s.id)
	c.dequeue(s)
	c.bytes -= s.counted
	c.parts -= s.countedParts
}

func (c *fetchSessions) account(s *fetchSession) {
	c.bytes += s.size - s.counted
	c.parts += int64(len(s.parts)) - s.countedParts
	s.counted, s.countedParts = s.size, int64(len(s.parts))
}

func (c *fetchSessions) enqueue(s *fetchSession) {
	s.older, s.newer = c.newest, nil
	if c.newest != nil {
		c.newest.newer = s
	} else {
		c.oldest = s
	}
	c.newest = s
}

func (c *fetchSessions) dequeue(s *fetchSession) {
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		c.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		c.newest = s.older
	}
}
