package mqtt

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// scratch is the memory one publish is worked on in. It is borrowed per batch of packets, so that an idle
// client owns none.
type scratch struct {
	pub     packet.Publish
	route   RouteScratch
	info    PublishInfo
	headers []log.Header
	rec     log.Record
	expiry  []byte
	now     int64   // monotonic milliseconds
	wall    int64   // Unix milliseconds
	client  *client // whose publish it is, nil for wills
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *Server) scratch() *scratch {
	sc := scratches.Get().(*scratch)
	sc.now, sc.wall = s.millis(), s.cfg.Now().UnixMilli()
	return sc
}

// release drops every view, which would otherwise keep read buffers alive.
func (sc *scratch) release() {
	clear(sc.headers)
	clear(sc.info.UserProps)
	sc.info = PublishInfo{UserProps: sc.info.UserProps[:0]}
	sc.rec, sc.client = log.Record{}, nil
	sc.pub = packet.Publish{User: sc.pub.User[:0]}
	scratches.Put(sc)
}

// Header keys as bytes, made once.
var (
	keyTopic         = []byte(deliver.HeaderTopic)
	keyClient        = []byte(deliver.HeaderClient)
	keyRetain        = []byte(deliver.HeaderRetain)
	keyContentType   = []byte(deliver.HeaderContentType)
	keyResponseTopic = []byte(deliver.HeaderResponseTopic)
	keyCorrelation   = []byte(deliver.HeaderCorrelation)
	keyPayloadFormat = []byte(deliver.HeaderPayloadFormat)
	keyExpiry        = []byte(deliver.HeaderExpiry)
	keyQoS2          = []byte(deliver.HeaderQoS2)
	keyQoS           = []byte(deliver.HeaderQoS)
	valueOne         = []byte("1")
	valueQoS         = [3][]byte{[]byte("0"), []byte("1"), []byte("2")}
)

// verdicts of ingress that are not a plain acceptance.
var (
	held    = session.Verdict{Held: true}
	refused = func(r packet.Reason) session.Verdict { return session.Verdict{Reason: r} }
)

// place is where a record goes.
type place struct {
	topic  string
	part   Partition
	dead   bool // a dead letter: not a message for subscribers under its topic
	expiry int64
}

// prepare authorises and routes p and builds its record in sc.rec, whose slices are views into p, sc and
// clientID. A verdict other than the zero one ends the publish here.
func (s *Server) prepare(sc *scratch, id *Identity, clientID string, p *packet.Publish, token []byte, checked bool) (place, session.Verdict) {
	if !checked && !s.allowPublish(id, p.Topic) {
		s.stats.unauthorized.Add(1)
		return place{}, refused(packet.NotAuthorized)
	}
	client := viewBytes(clientID)
	in := &sc.info
	in.ClientID, in.Payload, in.Time = client, p.Payload, sc.wall
	in.UserProps = in.UserProps[:0]
	for i := range p.User {
		in.UserProps = append(in.UserProps, log.Header{Key: p.User[i].Name, Value: p.User[i].Value})
	}
	res, err := s.router.Load().Match(p.Topic, &sc.route, in)
	if err != nil {
		switch {
		case errors.Is(err, ErrPayload):
			return place{}, refused(packet.PayloadFormatInvalid)
		case errors.Is(err, ErrNoSchema):
			return place{}, held
		}
		return place{}, refused(packet.TopicNameInvalid)
	}
	parts, v := s.topics.get(s, res.LogTopic, sc)
	if v != (session.Verdict{}) {
		return place{}, v
	}
	at := place{topic: res.LogTopic, part: parts[PartitionFor(res.Key, len(parts))], dead: res.DeadLetter}
	if p.HasExpiry {
		at.expiry = sc.wall + int64(p.Expiry)*1000
	}
	sc.rec = log.Record{Timestamp: res.Timestamp, Key: res.Key, Value: res.Value}
	sc.buildHeaders(client, p, at.expiry, res.Headers, token)
	return at, session.Verdict{}
}

// buildHeaders keeps deliver's contract: mqtt.topic first, mqtt.qos last of ours, user properties behind it,
// so that no user property can pass for one of ours.
func (sc *scratch) buildHeaders(client []byte, p *packet.Publish, expiry int64, extra []log.Header, token []byte) {
	h := append(sc.headers[:0], log.Header{Key: keyTopic, Value: p.Topic}, log.Header{Key: keyClient, Value: client})
	if p.Retain {
		h = append(h, log.Header{Key: keyRetain, Value: valueOne})
	}
	if p.ContentType != nil {
		h = append(h, log.Header{Key: keyContentType, Value: p.ContentType})
	}
	if p.ResponseTopic != nil {
		h = append(h, log.Header{Key: keyResponseTopic, Value: p.ResponseTopic})
	}
	if p.Correlation != nil {
		h = append(h, log.Header{Key: keyCorrelation, Value: p.Correlation})
	}
	if p.PayloadFormat == 1 {
		h = append(h, log.Header{Key: keyPayloadFormat, Value: valueOne})
	}
	if expiry != 0 {
		sc.expiry = strconv.AppendInt(sc.expiry[:0], expiry, 10)
		h = append(h, log.Header{Key: keyExpiry, Value: sc.expiry})
	}
	if token != nil {
		h = append(h, log.Header{Key: keyQoS2, Value: token})
	}
	h = append(h, extra...)
	h = append(h, log.Header{Key: keyQoS, Value: valueQoS[p.QoS]})
	h = append(h, sc.info.UserProps...)
	sc.headers, sc.rec.Headers = h, h
}

func (s *Server) allowPublish(id *Identity, topic []byte) bool {
	if isSys(topic) {
		return false
	}
	return s.cfg.Auth == nil || s.cfg.Auth.Allow(*id, Publish, topic)
}

// appendVerdict sorts an error of Partition.Append. Only a record that can never fit is refused; anything
// else is held, since a negative ack would end the exchange for good (M8).
func (s *Server) appendVerdict(topic string, err error) session.Verdict {
	if errors.Is(err, log.ErrTooLarge) {
		return refused(packet.PacketTooLarge)
	}
	if errors.Is(err, log.ErrBusy) {
		return held // Retry says when
	}
	s.topics.refresh(s, topic)
	if errors.Is(err, log.ErrDiskFull) {
		return session.Verdict{Held: true, Reason: packet.QuotaExceeded}
	}
	return held
}

// retain asks for the retained message of p's topic to be set. p's views are copied by the hub.
func (s *Server) retain(sc *scratch, clientID string, p *packet.Publish, expiry int64, done func(error)) {
	s.hub.SetRetained(&deliver.Message{
		Topic: p.Topic, Payload: sc.rec.Value, QoS: p.QoS, Retain: true, Timestamp: sc.wall, Publisher: viewBytes(clientID),
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, Correlation: p.Correlation,
		PayloadFormat: p.PayloadFormat == 1, ExpiresAt: expiry, UserProps: sc.info.UserProps,
	}, done)
}

// both joins the two commits that a retained publish waits for (M6) into one result.
type both struct {
	w    Waiter
	seq  uint64
	left atomic.Int32
	err  atomic.Pointer[error]
}

func newBoth(w Waiter, seq uint64) *both {
	b := &both{w: w, seq: seq}
	b.left.Store(2)
	return b
}

// Committed takes the record's result.
func (b *both) Committed(_ uint64, _ int, err error) { b.done(err) }

// done takes the retained message's result.
func (b *both) done(err error) {
	if err != nil {
		b.err.CompareAndSwap(nil, &err)
	}
	if b.left.Add(-1) > 0 {
		return
	}
	if e := b.err.Load(); e != nil {
		err = *e
	}
	b.w.Committed(b.seq, 1, err)
}

// viewBytes views a string as bytes, for readers only.
func viewBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// topicCache keeps the partitions of topics in use, so that publishing never waits for the catalogue: an
// unknown topic holds the publish while a background look-up (or creation) runs, a known one is looked up
// again about once a second.
type topicCache struct {
	entries atomic.Pointer[map[string]*topicEntry]
	mu      sync.Mutex // serialises changes to the map
}

type topicEntry struct {
	parts   []Partition
	refused bool  // does not exist and is not created
	at      int64 // monotonic milliseconds of the look-up, 0 before the first
	busy    atomic.Bool

	mu      sync.Mutex
	waiting []*client // for the first look-up
	done    bool      // it is over
}

const topicTTL = 1000 // milliseconds

func (t *topicCache) init() { t.entries.Store(&map[string]*topicEntry{}) }

func (t *topicCache) get(s *Server, name string, sc *scratch) ([]Partition, session.Verdict) {
	e := (*t.entries.Load())[name]
	if e == nil {
		e = t.set(name, &topicEntry{}, true)
	}
	if e.at == 0 || sc.now-e.at > topicTTL {
		t.lookUp(s, name, e)
	}
	switch {
	case len(e.parts) > 0:
		return e.parts, session.Verdict{}
	case e.refused:
		return nil, refused(packet.TopicNameInvalid)
	default:
		e.wait(sc.client)
		return nil, held
	}
}

// wait arranges for a client whose publish is held to be woken when the look-up under way is done.
func (e *topicEntry) wait(cl *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case cl == nil || e.at != 0:
	case e.done: // meanwhile
		cl.c.Wake()
	default:
		e.waiting = append(e.waiting, cl)
	}
}

// settle wakes those who wait for a first look-up.
func (e *topicEntry) settle() {
	e.mu.Lock()
	list := e.waiting
	e.waiting, e.done = nil, true
	e.mu.Unlock()
	for _, cl := range list {
		if c := cl.live.Load(); c != nil {
			c.Wake()
		}
	}
}

// refresh looks a topic up again soon, after an append that failed.
func (t *topicCache) refresh(s *Server, name string) {
	if e := (*t.entries.Load())[name]; e != nil {
		t.lookUp(s, name, e)
	}
}

// newest is the way to a partition that the last look-up found; as it is while none has.
func (t *topicCache) newest(name string, p Partition) Partition {
	if e := (*t.entries.Load())[name]; e != nil {
		for _, found := range e.parts {
			if found.ID() == p.ID() {
				return found
			}
		}
	}
	return p
}

func (t *topicCache) lookUp(s *Server, name string, e *topicEntry) {
	if !e.busy.CompareAndSwap(false, true) {
		return
	}
	s.loop.Go(func() {
		parts, err := s.cfg.Sink.Topic(name)
		next := &topicEntry{parts: parts, at: s.millis()}
		switch {
		case err == nil && len(parts) > 0:
		case err != nil && !s.cfg.Sink.Transient(err):
			next.refused = true
			s.cfg.Logger.Warn("topic cannot be written", "topic", name, "err", err)
		default:
			next.parts = e.parts // what was known may still do
		}
		t.set(name, next, false)
		e.settle()
	})
}

// set publishes an entry; with keep, one that appeared meanwhile wins.
func (t *topicCache) set(name string, e *topicEntry, keep bool) *topicEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.entries.Load()
	if have := old[name]; have != nil && keep {
		return have
	}
	next := make(map[string]*topicEntry, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[name] = e
	t.entries.Store(&next)
	return e
}
