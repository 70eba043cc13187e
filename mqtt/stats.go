package mqtt

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/weir-io/weir/mqtt/conn"
)

type counters struct {
	published, delivered, refused, expired, lost atomic.Int64
	held, heldClosed, commitErrors, storeErrors  atomic.Int64
	throttled                                    atomic.Int64
	connected, denied, handshakeErrors           atomic.Int64
	takeovers, sessionsExpired, protocolErrors   atomic.Int64
	wills, willsLost                             atomic.Int64
	durable, sessionsRefused                     atomic.Int64 // durable is a gauge: clients with their durable flag set
	waiting, passed, moving                      atomic.Int64 // gauges; moving: connections that wait for the next owner of their session
	passedAll, moved, resumed, ownerErrors       atomic.Int64
	unauthenticated, unauthorized                atomic.Int64
}

// Stats are counters since start, except where they say "now". See doc.go for their metric names.
type Stats struct {
	conn.Stats
	Sessions        int64 // now, absent ones included
	Published       int64 // publishes handed to the log
	Delivered       int64 // messages written towards clients
	Refused         int64 // publishes and wills refused for good
	Expired         int64 // deliveries dropped because the message had expired
	Lost            int64 // unacknowledged messages that could not be sent again
	Held            int64 // times a publish had to wait for the log
	Throttled       int64 // times a client had published more than its quota
	HeldClosed      int64 // connections closed because a publish waited too long
	CommitErrors    int64 // commit results that were errors
	StoreErrors     int64 // session records that could not be written
	Connected       int64 // accepted CONNECTs
	Denied          int64 // refused CONNECTs
	Unauthenticated int64 // of these, for who the client is or does not prove to be
	Unauthorized    int64 // publishes, wills and subscriptions that nothing allows, and subscriptions that a rule took
	HandshakeErrors int64 // connections that ended before a CONNECT was accepted
	Takeovers       int64
	SessionsExpired int64
	ProtocolErrors  int64 // connections closed because of what the client sent
	Wills           int64
	WillsLost       int64
	DurableSessions int64 // now
	SessionsRefused int64
	Waiting         int64 // now: CONNECTs that wait for the owner of their session
	Passed          int64 // now: connections passed on to the owner of their session
	PassedOn        int64 // those there ever were
	Moved           int64 // connections closed because another node owns the session now
	Resumed         int64 // connections that came with their session, or stayed with it after all
	OwnerErrors     int64 // times the owner of a session did not answer
}

// Stats returns the counters. Safe for concurrent use.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Sessions: int64(s.registry.count()), Published: c.published.Load(), Delivered: c.delivered.Load(), Refused: c.refused.Load(),
		Expired: c.expired.Load(), Lost: c.lost.Load(), Held: c.held.Load(), Throttled: c.throttled.Load(), HeldClosed: c.heldClosed.Load(),
		CommitErrors: c.commitErrors.Load(), StoreErrors: c.storeErrors.Load(), Connected: c.connected.Load(),
		Denied: c.denied.Load(), HandshakeErrors: c.handshakeErrors.Load(), Takeovers: c.takeovers.Load(),
		SessionsExpired: c.sessionsExpired.Load(), ProtocolErrors: c.protocolErrors.Load(), Wills: c.wills.Load(),
		WillsLost: c.willsLost.Load(), DurableSessions: c.durable.Load(), SessionsRefused: c.sessionsRefused.Load(),
		Waiting: c.waiting.Load(), Passed: c.passed.Load(), PassedOn: c.passedAll.Load(), Moved: c.moved.Load(),
		Resumed: c.resumed.Load(), OwnerErrors: c.ownerErrors.Load(),
		Unauthenticated: c.unauthenticated.Load(), Unauthorized: c.unauthorized.Load(),
	}
	st.Stats = s.loop.Stats()
	return st
}

// noteClosed counts and logs the end of a client's connection.
func (s *Server) noteClosed(cl *client, err error) {
	switch {
	case err == io.EOF, errors.Is(err, errGoodbye), errors.Is(err, conn.ErrStopped), errors.Is(err, errTakenOver), errors.Is(err, errMoved), errors.Is(err, errFrontStops):
		s.cfg.Logger.Debug("connection closed", "client", cl.id, "why", err)
	default:
		s.stats.protocolErrors.Add(1)
		s.cfg.Logger.Info("connection closed", "client", cl.id, "why", err)
	}
}
