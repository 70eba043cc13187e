package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Accept returns the handler of a new connection, nil to drop it. full says that the connection is beyond
// MaxConnections: its handler may tell the peer so and must then close.
type Accept func(c *Conn, full bool) Handler

// Serve accepts connections on ln until it is closed, and then returns nil. Kind of transport: plain TCP when
// t is zero. Run it in its own goroutine; it is the only one that accepts on ln.
func (l *Loop) Serve(ln net.Listener, t Transport, accept Accept) error {
	take := func(c *Conn) {
		l.throttle()
		l.admit(c, accept)
	}
	var err error
	if tcp, ok := ln.(*net.TCPListener); ok && t.plain() {
		err = l.acceptPlain(tcp, take)
	} else {
		err = l.acceptStreams(ln, t.setup(), take)
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// admit gives a new connection its handler, unless there are too many.
func (l *Loop) admit(c *Conn, accept Accept) {
	l.stats.accepted.Add(1)
	open, limit := l.stats.open.Load(), int64(l.cfg.MaxConnections)
	full := open >= limit
	if full {
		l.stats.refused.Add(1)
		if open >= limit+int64(l.cfg.RefusalSlots) {
			return
		}
	}
	c.lastRead = l.wheel.elapsed()
	c.h = accept(c, full)
}

// Adopt serves a connection that was accepted elsewhere as Serve does those of its listener, but for AcceptRate. It takes nc
// over.
func (l *Loop) Adopt(nc net.Conn, accept Accept) error {
	return l.addMade(nc, func(c *Conn) { l.admit(c, accept) })
}

// Join adds a connection that this side has opened to serve one that it has accepted: it is not counted. It takes nc over.
func (l *Loop) Join(nc net.Conn, handler func(*Conn) Handler) error {
	return l.addMade(nc, func(c *Conn) {
		c.inner = true
		c.lastRead = l.wheel.elapsed()
		c.h = handler(c)
	})
}

// Transport says what lies between the socket and MQTT.
type Transport struct {
	TLS       *tls.Config
	WebSocket *WebSocket
}

func (t Transport) plain() bool { return t.TLS == nil && t.WebSocket == nil }

// setup returns the handshakes to run on a fresh connection, nil for none.
func (t Transport) setup() func(net.Conn) (net.Conn, error) {
	if t.plain() {
		return nil
	}
	return func(nc net.Conn) (net.Conn, error) {
		if t.TLS != nil {
			tc := tls.Server(nc, t.TLS)
			if err := tc.HandshakeContext(context.Background()); err != nil {
				return nil, err
			}
			nc = tc
		}
		if t.WebSocket != nil {
			return t.WebSocket.upgrade(nc)
		}
		return nc, nil
	}
}

func (l *Loop) acceptStreams(ln net.Listener, setup func(net.Conn) (net.Conn, error), accept func(*Conn)) error {
	for {
		nc, err := ln.Accept()
		if err != nil {
			var ne net.Error
			if err := l.acceptFailed(err, errors.As(err, &ne) && ne.Timeout()); err != nil {
				return err
			}
			continue
		}
		l.addStream(nc, setup, accept)
	}
}

func (l *Loop) addStream(nc net.Conn, setup func(net.Conn) (net.Conn, error), accept func(*Conn)) {
	c := &Conn{loop: l, fd: -1}
	c.stream = newStream(c, nc, setup)
	accept(c)
	if c.h == nil || !l.add(c) {
		nc.Close()
		return
	}
	l.start(c.stream.readLoop)
	l.start(c.stream.writeLoop)
	c.Wake() // arms the deadline that the handler asked for
}

// Attach adds a connection that was made elsewhere, for instance one end of a net.Pipe.
func (l *Loop) Attach(nc net.Conn, accept Accept) {
	l.addStream(nc, nil, func(c *Conn) { c.h = accept(c, false) })
}

// acceptFailed decides what a failed accept means: the end when the listener is closed, a pause when the
// process has no descriptor left (the peers wait in the backlog), nothing for a peer that went away early.
func (l *Loop) acceptFailed(err error, pause bool) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if pause {
		l.cfg.Logger.Warn("cannot accept connections for now", "err", err)
		select {
		case <-l.done:
			return net.ErrClosed
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	}
	l.cfg.Logger.Debug("accept", "err", err)
	return nil
}
