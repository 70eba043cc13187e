package mqtt

import (
	"context"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// author is on whose behalf a will is published.
type author struct {
	clientID string
	identity *Identity
	checked  bool // authorised before a restart; the identity is gone
}

// author describes the client; under mu.
func (cl *client) author() author { return author{cl.id, cl.identity, cl.willChecked} }

// willQueue publishes wills through the same ACL, routes and log as any publish, and holds them for the same
// time when the log cannot take them (M8). It has one goroutine, so that wills never occupy those that serve
// clients.
type willQueue struct {
	mu      sync.Mutex
	pending []pendingWill
	wake    chan struct{}
}

type pendingWill struct {
	who   author
	will  *packet.Will
	since time.Time
}

func (q *willQueue) init() { q.wake = make(chan struct{}, 1) }

func (q *willQueue) publish(who author, w *packet.Will) {
	q.mu.Lock()
	q.pending = append(q.pending, pendingWill{who, w, time.Now()})
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *willQueue) run(ctx context.Context, s *Server) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		wait := time.Hour
		if q.pass(s) {
			wait = willRetry
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-t.C:
		}
	}
}

const willRetry = 250 * time.Millisecond

// pass tries every pending will once; true when some are held.
func (q *willQueue) pass(s *Server) (held bool) {
	q.mu.Lock()
	list := q.pending
	q.pending = nil
	q.mu.Unlock()
	for i := range list {
		if s.publishWill(&list[i]) {
			continue
		}
		if time.Since(list[i].since) > s.cfg.AckTimeout {
			q.lost(s, &list[i])
			continue
		}
		q.mu.Lock()
		q.pending = append(q.pending, list[i])
		q.mu.Unlock()
		held = true
	}
	return held
}

// drain gives the wills of connections that the stopping server closed one try, and says which are lost.
func (q *willQueue) drain(s *Server) {
	q.pass(s)
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.pending {
		q.lost(s, &q.pending[i])
	}
	q.pending = nil
}

func (q *willQueue) lost(s *Server, p *pendingWill) {
	s.stats.willsLost.Add(1)
	s.cfg.Logger.Error("will not published in time", "client", p.who.clientID, "topic", p.will.Topic)
}

// publishWill is false when the log cannot take the will now.
func (s *Server) publishWill(p *pendingWill) bool {
	w := p.will
	sc := s.scratch()
	defer sc.release()
	sc.pub = packet.Publish{
		Topic: []byte(w.Topic), Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, HasExpiry: w.HasExpiry, Expiry: w.Expiry,
		PayloadFormat: w.PayloadFormat, ContentType: w.ContentType, ResponseTopic: w.ResponseTopic, Correlation: w.Correlation,
		User: append(sc.pub.User[:0], w.User...),
	}
	at, v := s.prepare(sc, p.who.identity, p.who.clientID, &sc.pub, nil, p.who.checked)
	if v.Held {
		return false
	}
	if v.Reason >= packet.UnspecifiedError {
		s.stats.refused.Add(1)
		s.cfg.Logger.Warn("will refused", "client", p.who.clientID, "topic", w.Topic, "reason", v.Reason)
		return true
	}
	if err := at.part.Append(&sc.rec, discard{}, 1); err != nil {
		return !s.appendVerdict(at.topic, err).Held
	}
	s.stats.wills.Add(1)
	if w.Retain && !at.dead { // MQTT5 [MQTT-3.1.2-14] [MQTT-3.1.2-15]
		s.retain(sc, p.who.clientID, &sc.pub, at.expiry, func(error) {})
	}
	return true
}
