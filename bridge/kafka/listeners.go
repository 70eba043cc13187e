package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/weir-io/weir/internal/door"
)

type boundListener struct {
	*door.Door
	tls    *tls.Config // nil: plain
	host   string      // told to clients of this listener
	port   int32
	secure bool // TLS
}

func (s *Server) bind(l Listener) error {
	nl, err := door.Listen(l.Addr)
	if err != nil {
		return fmt.Errorf("kafka listener %s: %w", l.Addr, err)
	}
	addr := nl.Addr().(*net.TCPAddr)
	host := l.Advertise
	if host == "" {
		host = addr.IP.String()
	}
	s.listeners = append(s.listeners, boundListener{Door: nl, tls: l.TLS, host: host, port: int32(addr.Port), secure: l.TLS != nil})
	return nil
}

func (s *Server) unbind() {
	for _, l := range s.listeners {
		l.Close() // nothing to lose: no connection hangs on it
	}
}

// Addrs are the addresses listened on, in the order of Config.Listeners.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// accept hands connections to serve until the listener is closed.
func (s *Server) accept(ctx context.Context, ln net.Listener, l boundListener, serving *sync.WaitGroup) {
	if l.tls != nil {
		ln = tls.NewListener(ln, l.tls)
	}
	for {
		nc, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// Out of descriptors, or a peer that went away in the backlog: both pass.
			s.log.Warn("kafka: accept", "addr", l.Addr(), "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		s.n.connsTotal.Add(1)
		if s.n.conns.Load() >= int64(s.cfg.MaxConnections) {
			s.n.connsRefused.Add(1)
			s.log.Warn("kafka: connection refused, limit reached", "peer", nc.RemoteAddr(), "limit", s.cfg.MaxConnections)
			nc.Close()
			continue
		}
		s.n.conns.Add(1)
		if wait := s.turnedAway(nc.RemoteAddr()); wait > 0 {
			serving.Go(func() { s.hold(ctx, nc, wait) })
			continue
		}
		c := newConn(s, nc, l)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		if s.away {
			c.close()
		}
		s.mu.Unlock()
		serving.Go(func() {
			c.serve(ctx)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.n.conns.Add(-1)
		})
	}
}

// hold closes a connection that comes too soon after a while. It counts as one meanwhile.
func (s *Server) hold(ctx context.Context, nc net.Conn, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.draining:
	}
	nc.Close()
	s.n.conns.Add(-1)
}

// TurnAway ends all connections, and has the system refuse new ones, while this node can serve nobody, since its disk does not answer (E9): clients find others in the
// metadata of another node. With false the server serves again.
func (s *Server) TurnAway(away bool) {
	s.mu.Lock()
	s.away = away
	s.mu.Unlock()
	for _, l := range s.listeners {
		if away {
			l.Shut()
		} else {
			l.Open()
		}
	}
	if away {
		s.eachConn((*conn).close)
	}
}

func (s *Server) eachConn(fn func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		fn(c)
	}
}
