package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// What one HTTP client may take: a request must arrive, and its answer be taken, within httpTimeout, which is long enough
// for a profile of a minute and a half; between requests a connection is kept as long.
const (
	httpHeaderTimeout = 10 * time.Second
	httpTimeout       = 2 * time.Minute
	httpHeaderBytes   = 64 << 10
)

// refusalSlots is how many connections beyond the limit are heard at once, to be told so.
const refusalSlots = 16

// limitedListener bounds the connections that are open at once. Some beyond that are let in as refused ones, whose request
// is answered with 503; any further one is closed unheard.
type limitedListener struct {
	net.Listener
	max int

	mu            sync.Mutex
	open, refused int   // now
	refusedTotal  int64 // told so or closed unheard
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if lc := l.admit(c); lc != nil {
			return lc, nil
		}
		_ = c.Close() // nobody is left to tell
	}
}

func (l *limitedListener) admit(c net.Conn) *limitedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.max {
		l.open++
		return &limitedConn{Conn: c, of: l, count: &l.open}
	}
	l.refusedTotal++
	if l.refused == refusalSlots {
		return nil
	}
	l.refused++
	return &limitedConn{Conn: c, of: l, count: &l.refused}
}

func (l *limitedListener) stats() (open int, refusedTotal int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.refusedTotal
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	of    *limitedListener
	count *int // owned by of.mu
	once  sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		*c.count--
	})
	return c.Conn.Close()
}

// CloseWrite lets the server end its side first, so that an answer is not lost with input that nobody read.
func (c *limitedConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

type refusedKey struct{}

// markRefused is the server's ConnContext.
func markRefused(ctx context.Context, c net.Conn) context.Context {
	if lc, ok := c.(*limitedConn); ok && lc.count == &lc.of.refused {
		return context.WithValue(ctx, refusedKey{}, true)
	}
	return ctx
}

// refuseBeyond answers what comes over a refused connection, and ends it.
func refuseBeyond(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(refusedKey{}) == nil {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		http.Error(w, "too many connections are open: close some, or raise http.max_connections", http.StatusServiceUnavailable)
	})
}
