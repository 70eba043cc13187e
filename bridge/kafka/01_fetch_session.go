package kafka

import (
	"math/rand/v2"
	"sync"
	"time"
)

// sessionCache is the broker's fetch sessions for all connections.
type sessionCache struct {
	mu sync.Mutex // held while a session is read or changed; never over I/O
	fetchSessions
}

const (
	// maxSessionParts bounds one session, and with it what a single request can make grow.
	maxSessionParts = 4096
	// sessionMinIdle is Apache Kafka's min.incremental.fetch.session.eviction.ms.
	sessionMinIdle = 2 * time.Minute
)

func (c *sessionCache) init(cfg *Config) {
	c.maxSessions, c.maxBytes = cfg.FetchSessions, cfg.FetchSessionBytes
	c.maxParts, c.minIdle, c.newID = maxSessionParts, sessionMinIdle, rand.Int32
}

// stats are the sessions and their partitions now, and those ever evicted.
func (c *sessionCache) stats() (sessions, parts, evicted int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.byID)), c.parts, c.evicted
}

// Epochs of requests that are not incremental: they name all that they fetch, and close the session
// whose id they carry.
const (
	epochNewSession = 0
	epochNoSession  = -1
)

// enter applies the request to its session, and makes all that the session fetches the fetch's own.
func (f *fetch) enter() {
	if f.version < 7 {
		return
	}
	c := &f.s.sessions
	full := f.sessionEpoch == epochNewSession || f.sessionEpoch == epochNoSession
	if full && f.sessionID == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if full {
		if old := c.byID[f.sessionID]; old != nil {
			c.remove(old)
		}
		f.sessionID = 0
		return
	}
	s, code := c.find(f.sessionID, f.sessionEpoch, f.byTopicID())
	f.sessionID = 0 // no session is named in an answer that refuses it
	if code != errNone {
		f.code = code
		return
	}
	fits := f.update(s)
	switch {
	case len(s.parts) == 0:
		c.remove(s) // what is left is a request without a session, for nothing
	case !fits || !c.use(s, time.Now()):
		if c.byID[s.id] != nil {
			c.remove(s)
		}
		f.code = errFetchSessionIDNotFound // the client asks for a new one, with all that it fetches
	default:
		f.session, f.sessionID, f.sessionEpoch = s, s.id, s.epoch
		f.load(s)
	}
}

// update adds and changes what the request names, and forgets what it forgets. It stops at the limit.
func (f *fetch) update(s *fetchSession) bool {
	i := 0
	for _, t := range f.topics {
		for range t.parts {
			s.put(t.id, t.name, f.parts[i].index, f.parts[i].partAsk)
			i++
			if len(s.parts) > maxSessionParts {
				return false
			}
		}
	}
	d := f.forgotten
	f.eachForgotten(&d, func(t fetchTopic, index int32) { s.forget(t.id, t.name, index) })
	return true
}

// load takes the partitions of a session over, in its order.
func (f *fetch) load(s *fetchSession) {
	f.topics, f.parts = f.topics[:0], f.parts[:0]
	var last *sessionTopic
	for p := s.first; p != nil; p = p.next {
		if p.topic != last {
			last = p.topic
			f.learn(last)
			f.topics = append(f.topics, fetchTopic{id: last.id, name: last.name})
		}
		f.topics[len(f.topics)-1].parts++
		f.parts = append(f.parts, fetchPart{cached: p, index: p.index, preferred: noReplica, partAsk: p.ask, before: p.told})
	}
}

// learn notes the name of a topic that the session knows by its id only.
func (f *fetch) learn(t *sessionTopic) {
	if t.name == nil {
		if v := f.s.views().byID[t.id]; v != nil {
			t.name = []byte(v.name)
		}
	}
}

// leave notes in the session what the answer tells, or makes a session where the client wants one. The
// answer of a request that another one of the same session has overtaken is an error: what it
// tells would not be noted.
func (f *fetch) leave(out *buffer, corr int32) *buffer {
	if f.code != errNone || f.version < 7 || f.session == nil && f.sessionEpoch != epochNewSession {
		return out
	}
	if f.session == nil {
		f.open(out)
		return out
	}
	if f.note() {
		return out
	}
	f.code = errInvalidFetchSessionEpoch
	out.free()
	out, _ = f.encode(corr, 0)
	return out
}

// note is false when the session has gone on without this request. One that was evicted meanwhile takes the
// note all the same: the next request is told.
func (f *fetch) note() bool {
	c := &f.s.sessions
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.session.epoch != f.sessionEpoch {
		return false
	}
	for i := range f.parts {
		p := &f.parts[i]
		f.session.answered(p.cached, p.told(), p.records)
	}
	return true
}

// open makes a session of what was fetched, if there is room, and puts its id into the answer.
func (f *fetch) open(out *buffer) {
	if len(f.parts) == 0 || len(f.parts) > maxSessionParts {
		return
	}
	s := newFetchSession(f.byTopicID())
	i := 0
	for _, t := range f.topics {
		for range t.parts {
			p := &f.parts[i]
			i++
			part := s.put(t.id, t.name, p.index, p.partAsk)
			part.told = p.told()
			f.learn(part.topic)
		}
	}
	c := &f.s.sessions
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.add(s, time.Now()) {
		f.putSession(out.b, s.id)
	}
}

// told is what the answer says of a partition. After an error nothing counts as told, so that it is
// told again when the error is gone.
func (p *fetchPart) told() partTold {
	if p.code != errNone {
		return toldNothing
	}
	return p.now
}

// unchanged: an incremental answer leaves the partition out.
func (p *fetchPart) unchanged() bool {
	return p.cached != nil && p.code == errNone && !p.records && p.preferred == noReplica && p.now == p.before
}
