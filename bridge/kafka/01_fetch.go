package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
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
