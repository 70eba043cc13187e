package kafka

import (
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/bridge/throttle"
)

// Quotas of clients (KIP-13, KIP-219, KIP-546, KIP-599, KIP-612): quota_limits.go says what a client is held to, package throttle what he has taken of it. What he
// takes beyond is answered like all else, with the time that he is to keep still, and his connection is not listened to for as long. Each node counts by itself.

// quotas is the shell around the meters.
type quotas struct {
	limits atomic.Pointer[quotaLimits]
	start  time.Time

	mu     sync.Mutex
	meters throttle.Table[meterKey]

	devices deviceMeters

	throttled [quotaKinds]atomic.Int64
	muted     atomic.Int64 // connections now
}

// maxMeters bounds the memory of clients' meters: 4 MB where names are as long as they may be. Once it is used up, those of rules come on top, no more than there
// are rules (meta.MaxQuotas entities): their names are those of the metadata, and cost no memory of their own.
const maxMeters = 4096

func newQuotas() quotas {
	return quotas{start: time.Now(), meters: throttle.NewTable[meterKey](maxMeters), devices: newDeviceMeters()}
}

// quotaLimits are those in force here; nil where there are none.
func (s *Server) quotaLimits() *quotaLimits {
	im := s.broker.Image()
	if len(im.ClientQuotas()) == 0 {
		return nil
	}
	l := s.quotas.limits.Load()
	if l == nil || l.version != im.QuotasVersion {
		l = newQuotaLimits(im)
		s.quotas.limits.Store(l)
	}
	return l
}

// clientLimits are the limits of a connection's client, kept until something that they follow from changes.
type clientLimits struct {
	version      uint64
	user, client string
	of           [quotaConnection]limit
}

func (k *clientLimits) unlimited() bool {
	return !slices.ContainsFunc(k.of[:], func(l limit) bool { return l.perSecond > 0 })
}

// limit is what c's client is held to.
func (c *conn) limit(kind quotaKind) *limit {
	l := c.s.quotaLimits()
	if l == nil {
		return nil
	}
	if k := &c.limits; k.version != l.version || k.client != c.clientID || k.user != c.who.principal {
		*k = clientLimits{version: l.version, user: c.who.principal, client: c.clientID}
		for kind := range k.of {
			k.of[kind] = l.find(quotaKind(kind), strings.TrimPrefix(k.user, "User:"), k.client)
		}
		if k.unlimited() {
			c.unmetered.Store(l.version)
		} else {
			c.unmetered.Store(0)
		}
	}
	if found := &c.limits.of[kind]; found.perSecond > 0 {
		return found
	}
	return nil
}

// charge counts n, says how long the client is to keep still, and sees to it. The answer has the time in it.
func (c *conn) charge(kind quotaKind, n float64) (millis int32) {
	l := c.limit(kind)
	if l == nil {
		return 0
	}
	return c.mute(kind, c.s.quotas.take(l, n))
}

// take counts n, which may be 0, and says how long whoever took it is to keep still.
func (q *quotas) take(l *limit, n float64) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Since(q.start)
	return q.meters.Meter(l.client, l.rule, now, l.perSecond).Take(now, l.perSecond, n)
}

// tryTake counts n, unless whoever wants it is to keep still.
func (q *quotas) tryTake(l *limit, n float64) (wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Since(q.start)
	m := q.meters.Meter(l.client, l.rule, now, l.perSecond)
	if wait = m.Wait(now, l.perSecond); wait == 0 {
		m.Take(now, l.perSecond, n)
	}
	return wait
}

func (q *quotas) stats() (throttled [quotaKinds]int64, meters, muted int64) {
	for kind := range throttled {
		throttled[kind] = q.throttled[kind].Load()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return throttled, int64(q.meters.Len() + q.devices.len()), q.muted.Load()
}

// mute has nothing more be heard of the client for that long, and gives the time as answers have it.
func (c *conn) mute(kind quotaKind, wait time.Duration) (millis int32) {
	if wait <= 0 {
		return 0
	}
	c.s.quotas.throttled[kind].Add(1)
	c.mutedUntil = max(c.mutedUntil, time.Since(c.s.quotas.start)+wait)
	return int32((wait + time.Millisecond - 1) / time.Millisecond)
}

// mutedFor is how long the client is to keep still yet: where quotas have changed since he was told, no longer than by those of now.
func (c *conn) mutedFor() time.Duration {
	now := time.Since(c.s.quotas.start)
	if c.mutedUntil <= now {
		return 0
	}
	if l := c.s.quotaLimits(); l == nil || l.version != c.limits.version {
		var owed time.Duration
		for kind := range quotaConnection {
			if l := c.limit(kind); l != nil {
				owed = max(owed, c.s.quotas.take(l, 0))
			}
		}
		c.mutedUntil = min(c.mutedUntil, now+owed)
	}
	return c.mutedUntil - now
}

// lookAgain is how often a muted connection looks whether quotas have changed.
const lookAgain = time.Second

// awaitUnmuted returns when the client's time to keep still is over, when he is gone, or the server stops: what was read is answered then.
func (c *conn) awaitUnmuted() (waited bool) {
	wait := c.mutedFor()
	if wait <= 0 {
		return false
	}
	c.s.quotas.muted.Add(1)
	defer c.s.quotas.muted.Add(-1)
	timer := time.NewTimer(min(wait, lookAgain))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return true
		case <-c.s.draining:
			return true
		}
		if wait = c.mutedFor(); wait <= 0 {
			return true
		}
		timer.Reset(min(wait, lookAgain))
	}
}

// metered says whether something is limited for the client, or may be: it is not known before the first request that counts, and anew when quotas change.
func (c *conn) metered() bool {
	l := c.s.quotaLimits()
	return l != nil && c.unmetered.Load() != l.version
}

// awaitTurn keeps the reader from reading ahead of a client who is limited: frames of one who is muted, for whatever he took, would take the room of all others. The
// frame that comes next has begun by then, so that a client who goes away while he is muted, with nothing more sent, is noticed.
func (c *conn) awaitTurn() (waited bool) {
	for ; c.metered(); waited = true {
		if c.unhandled.Load() == 0 { // the handler has nothing: what is its own may be read
			return c.awaitUnmuted() || waited
		}
		select {
		case <-c.handled:
		case <-c.ctx.Done():
			return true
		case <-c.s.draining:
			return true
		}
	}
	return waited
}

// handledOne lets the reader go on, who may wait for it though nothing is limited any more.
func (c *conn) handledOne() {
	c.unhandled.Add(-1)
	select {
	case c.handled <- struct{}{}:
	default:
	}
}

// maxHeld is how long a connection that comes too soon is kept before it is closed, as Kafka does: who is turned away at once comes again at once.
const maxHeld = time.Second

// turnedAway says how long a new connection from that address is to be held before it is closed; 0 means that it is welcome.
func (s *Server) turnedAway(peer net.Addr) time.Duration {
	l := s.quotaLimits()
	if l == nil {
		return 0
	}
	found := l.findIP(quotaConnection, anonymous(peer.String()).host)
	if found.perSecond == 0 {
		return 0
	}
	wait := s.quotas.tryTake(&found, 1)
	if wait > 0 {
		s.quotas.throttled[quotaConnection].Add(1)
	}
	return min(wait, maxHeld)
}

// mutation is what one request may change of topics, by controller_mutation_rate: partitions that it makes and deletes. Strict, nothing is taken while the client is
// to keep still; else all is taken, and waited for (KIP-599).
type mutation struct {
	c      *conn
	limit  *limit // nil: none
	strict bool
	wait   time.Duration
}

func (c *conn) mutation(strict bool) *mutation {
	return &mutation{c: c, limit: c.limit(quotaMutation), strict: strict}
}

// refused says whether the client is to keep still instead.
func (m *mutation) refused() bool {
	if m.limit == nil || !m.strict {
		return false
	}
	m.wait = m.c.s.quotas.take(m.limit, 0)
	return m.wait > 0
}

// took counts partitions that were made or deleted.
func (m *mutation) took(partitions int) {
	if m.limit == nil {
		return
	}
	if wait := m.c.s.quotas.take(m.limit, float64(partitions)); !m.strict {
		m.wait = wait
	}
}

// end mutes the client as long as the answer says.
func (m *mutation) end() (millis int32) { return m.c.mute(quotaMutation, m.wait) }

const throttledMessage = "controller_mutation_rate of the client is exhausted: try again after the throttle time of the answer"
