package mqtt

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// inboundQoS2 is the durable side of a client's inbound QoS 2 exchanges (M4): for each, the INTENT to append
// one record with a token to one partition, committed before the record is appended. The intents of a client
// are one record in __mqtt_sessions, rewritten as a whole; changes that arrive while a write is under way
// share the next one.
type inboundQoS2 struct {
	intents map[uint16]*intent
	file    stateFile
	pending []*intent // whose records are not appended yet, in the order of their publishes; those without a record are over
}

// intent is one exchange.
type intent struct {
	seq     uint64
	topic   string
	index   int32
	token   string     // value of header mqtt.qos2
	logEnd  log.Offset // of the partition when the intent was made: the record is not below it
	unknown bool       // whether the record exists is not known (restart, failed commit)

	// While the record is not appended yet.
	ready bool // its intent is committed, and it was not found in the log
	tried bool // the log could not take it, and will be asked again
	part  Partition
	rec   *log.Record // owned copy
	size  int         // of rec, reserved of the connections' memory
	since int64       // monotonic ms of the first try
	pub   *retainedPart
}

// hold copies the record for the time until it can be appended; false when too much is held already. first: nothing else of the client's is. Room
// for that is made in any case: all of it may be taken by what clients have sent behind such a publish, and would not become free before it.
func (in *intent) hold(s *Server, r *log.Record, first bool) bool {
	n := log.MaxRecordSize(r)
	if first {
		s.loop.MustReserve(n)
	} else if !s.loop.Reserve(n) {
		return false
	}
	in.drop(s)
	in.rec, in.size = cloneRecord(r), n
	return true
}

// drop lets go of the record: it is appended, or will not be.
func (in *intent) drop(s *Server) {
	if in.rec != nil {
		s.loop.Unreserve(in.size)
	}
	in.rec, in.size, in.part, in.pub, in.ready, in.tried = nil, 0, nil, nil, false, false
}

// enqueue has an intent wait for its turn.
func (q *inboundQoS2) enqueue(in *intent) {
	q.pending = append(slices.DeleteFunc(q.pending, func(o *intent) bool { return o == in || o.rec == nil }), in)
}

// holds says whether a record waits.
func (q *inboundQoS2) holds() bool {
	return slices.ContainsFunc(q.pending, func(in *intent) bool { return in.rec != nil })
}

// turn says whether nothing that was published before goes to the same partition.
func (q *inboundQoS2) turn(in *intent) bool {
	for _, o := range q.pending {
		switch {
		case o == in:
			return true
		case o.rec != nil && o.index == in.index && o.topic == in.topic:
			return false
		}
	}
	return true
}

// forget drops what the session that ends has waiting.
func (q *inboundQoS2) forget(s *Server) {
	if q == nil {
		return
	}
	for _, in := range q.intents {
		in.drop(s)
	}
	q.pending = nil
}

// retainedPart is what setting a retained message needs beyond the record.
type retainedPart struct {
	pub    packet.Publish // owned copy
	expiry int64
}

// appendQoS2 takes a QoS 2 PUBLISH, new or with an unknown outcome, under mu. A session that ends with its
// connection needs no stored intent: nothing of it survives that could repeat the publish.
func (cl *client) appendQoS2(seq uint64, p *packet.Publish) session.Verdict {
	if cl.q2 == nil {
		cl.q2 = &inboundQoS2{intents: map[uint16]*intent{}}
	}
	if in := cl.q2.intents[p.ID]; in != nil && in.seq == seq && in.unknown {
		return cl.resolve(in, p)
	}
	token := newToken()
	at, v := cl.srv.prepare(cl.sc, cl.identity, cl.id, p, token[:], false)
	if v != (session.Verdict{}) {
		cl.note(v)
		return v
	}
	in := &intent{
		seq: seq, topic: at.topic, index: at.part.ID().Index, token: string(token[:]), logEnd: at.part.LogEnd(), since: cl.sc.now,
	}
	if !in.hold(cl.srv, &cl.sc.rec, !cl.q2.holds()) {
		cl.note(held)
		return held
	}
	in.part = at.part
	if p.Retain && !at.dead {
		in.pub = &retainedPart{clonePublish(p), at.expiry}
	}
	cl.q2.intents[p.ID] = in
	cl.q2.enqueue(in)
	if !cl.durable {
		cl.appendInTurn(in)
		return session.Verdict{}
	}
	cl.q2.file.write(cl, keyInbound(cl.id), cl.encodeIntents, func(err error) error {
		switch {
		case cl.intent(in.seq) != in:
		case err != nil:
			return cl.outcomeUnknown(in, packet.ServerUnavailable)
		default:
			cl.appendInTurn(in)
		}
		return nil
	})
	return session.Verdict{}
}

// appendInTurn appends the records whose turn has come, now that this one is ready: those for one partition in the order of their publishes, however long
// intents, searches and refusals take (M3).
func (cl *client) appendInTurn(in *intent) {
	in.ready = true
	cl.appendPending()
}

func (cl *client) appendPending() {
	q := cl.q2
	if q == nil {
		return
	}
	for _, in := range q.pending {
		if in.ready && !in.tried && in.rec != nil && q.turn(in) {
			cl.appendIntent(in)
		}
	}
	q.pending = slices.DeleteFunc(q.pending, func(in *intent) bool { return in.rec == nil })
}

// appendIntent appends the record of a committed intent. What the log cannot take now is tried again from
// the connection's timer; the client's window is held by the missing PUBREC meanwhile (M8).
func (cl *client) appendIntent(in *intent) {
	var w Waiter = cl
	var b *both
	if in.pub != nil {
		b = newBoth(cl, in.seq)
		w = b
	}
	var err error
	if cl.durable && cl.srv.cfg.Owners != nil {
		err = in.part.AppendIn(cl.srv.homeOf(cl.id).ownership(), in.rec, w, in.seq)
	} else {
		err = in.part.Append(in.rec, w, in.seq)
	}
	if err == nil {
		cl.srv.stats.published.Add(1)
		if b != nil {
			cl.retainIntent(in, b)
		}
		in.drop(cl.srv)
		return
	}
	v := cl.srv.appendVerdict(in.topic, err)
	now := cl.srv.millis()
	if v.Held && now-in.since < cl.srv.cfg.AckTimeout.Milliseconds() {
		cl.srv.stats.held.Add(1)
		in.tried = true
		time.AfterFunc(cl.srv.cfg.holdRetry, func() {
			cl.post(func(error) error {
				in.tried = false
				if in.rec != nil { // another node may lead the partition by now: the look-up after the refusal knows
					in.part = cl.srv.topics.newest(in.topic, in.part)
				}
				cl.appendPending()
				return nil
			}, nil)
		})
		return
	}
	if v.Held {
		cl.srv.stats.heldClosed.Add(1)
		in.tried = true // what is behind it waits, since the client repeats this one
		cl.post(func(error) error { return cl.outcomeUnknown(in, v.Reason) }, nil)
		return
	}
	in.drop(cl.srv)
	cl.post(func(error) error { return cl.refused2(in.seq, v.Reason) }, nil)
}

func (cl *client) retainIntent(in *intent, b *both) {
	sc := cl.srv.scratch()
	defer sc.release()
	for i := range in.pub.pub.User {
		u := &in.pub.pub.User[i]
		sc.info.UserProps = append(sc.info.UserProps, log.Header{Key: u.Name, Value: u.Value})
	}
	sc.rec.Value = in.rec.Value
	cl.srv.retain(sc, cl.id, &in.pub.pub, in.pub.expiry, b.done)
}

// committedQoS2 takes the log's word about an exchange, under mu.
func (cl *client) committedQoS2(seq uint64, err error, now int64) error {
	if err != nil {
		if in := cl.intent(seq); in != nil {
			return cl.outcomeUnknown(in, packet.ServerUnavailable)
		}
		return nil
	}
	if in := cl.intent(seq); in != nil {
		in.unknown = false
	}
	return cl.s.Stored(seq, packet.Success, now)
}

func (cl *client) intent(seq uint64) *intent {
	if cl.q2 == nil {
		return nil
	}
	if in := cl.q2.intents[uint16(seq)]; in != nil && in.seq == seq {
		return in
	}
	return nil
}

// outcomeUnknown ends the connection, since nobody can say whether the record will turn up, or will be appended. A repeat of the PUBLISH looks for it. What is
// not appended yet waits for its repeat too: it would come before the other's (M3).
func (cl *client) outcomeUnknown(in *intent, r packet.Reason) error {
	if cl.intent(in.seq) != in {
		return nil
	}
	if r != packet.QuotaExceeded {
		r = packet.ServerUnavailable
	}
	err := cl.unsettle(in, r)
	if err == nil { // the exchange is an earlier connection's, and this one goes on without it
		cl.appendPending()
		return nil
	}
	for _, o := range cl.q2.pending {
		if o.rec != nil {
			cl.unsettle(o, r)
		}
	}
	cl.q2.pending = nil
	return err
}

func (cl *client) unsettle(in *intent, r packet.Reason) error {
	in.unknown = true
	in.drop(cl.srv)
	return cl.s.Stored(in.seq, r, cl.srv.millis())
}

// refused2 ends an exchange whose record the log will not have.
func (cl *client) refused2(seq uint64, r packet.Reason) error {
	if cl.intent(seq) != nil {
		delete(cl.q2.intents, uint16(seq))
	}
	return cl.s.Stored(seq, r, cl.srv.millis())
}

// Release implements session.Effects: PUBREL came, the intent goes, then PUBCOMP. // M4
func (cl *client) Release(id uint16, seq uint64) {
	if cl.q2 != nil {
		delete(cl.q2.intents, id)
	}
	if !cl.durable || cl.q2 == nil {
		cl.post(func(error) error { return cl.s.Released(seq, true) }, nil)
		return
	}
	cl.q2.file.write(cl, keyInbound(cl.id), cl.encodeIntents, func(err error) error { return cl.s.Released(seq, err == nil) })
}

// newToken draws the name of one exchange, 16 hex digits.
func newToken() (t [16]byte) {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	hex.Encode(t[:], b[:])
	return t
}

func cloneRecord(r *log.Record) *log.Record {
	c := *r
	c.Key, c.Value = slices.Clone(r.Key), slices.Clone(r.Value)
	c.Headers = make([]log.Header, len(r.Headers))
	for i, h := range r.Headers {
		c.Headers[i] = log.Header{Key: slices.Clone(h.Key), Value: slices.Clone(h.Value)}
	}
	return &c
}

func clonePublish(p *packet.Publish) packet.Publish {
	c := *p
	c.Topic, c.Payload = slices.Clone(p.Topic), nil // the payload is in the record
	c.ContentType, c.ResponseTopic, c.Correlation = slices.Clone(p.ContentType), slices.Clone(p.ResponseTopic), slices.Clone(p.Correlation)
	c.User = make([]packet.UserProperty, len(p.User))
	for i, u := range p.User {
		c.User[i] = packet.UserProperty{Name: slices.Clone(u.Name), Value: slices.Clone(u.Value)}
	}
	return c
}

func mustCBOR(v any) []byte {
	b, err := cbor.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("BUG: encode %T: %v", v, err))
	}
	return b
}
