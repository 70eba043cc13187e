package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Request is one call as its handler sees it. Control and Raw last until the handler returns.
type Request struct {
	Peer    Peer
	Method  Method
	Control []byte
	Raw     []byte
}

// Answer is what a handler gives back. Raw is not copied: Done is called once it was written or never will be.
type Answer struct {
	Control any
	Raw     []byte
	Done    func()
}

// Handler answers one call, on a goroutine that has no other until then; ctx ends with the connection.
type Handler func(ctx context.Context, r *Request) (Answer, error)

// Server answers calls.
type Server struct {
	cfg     Config
	stats   *Stats
	handler Handler
}

// NewServer answers calls with handler.
func NewServer(cfg Config, stats *Stats, handler Handler) *Server {
	return &Server{cfg: cfg.withDefaults(), stats: stats, handler: handler}
}

// Serve answers the calls of one greeted connection until it ends.
func (s *Server) Serve(ctx context.Context, c net.Conn, peer Peer) {
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	l := newLink(c, s.cfg, s.stats)
	s.stats.Connections.Add(1)
	defer s.stats.Connections.Add(-1)
	calls.Go(l.write)
	slots := make(chan struct{}, s.cfg.MaxCalls)
	idle := make(chan frame) // to goroutines that have answered before: their stacks have grown already
	work := func(f frame) {
		for {
			s.answer(ctx, l, peer, f)
			<-slots
			select {
			case f = <-idle:
			case <-ctx.Done():
				return
			}
		}
	}
	l.read(func(f frame) error {
		if f.kind != frameCall {
			f.release()
			return fmt.Errorf("kind %d from a caller: %w", f.kind, ErrFrame)
		}
		select {
		case slots <- struct{}{}: // a peer that calls more waits
		case <-ctx.Done():
			f.release()
			return ctx.Err()
		}
		select {
		case idle <- f:
		default:
			calls.Go(func() { work(f) })
		}
		return nil
	})
	cancel()
	calls.Wait()
	for { // what was queued behind the last write
		select {
		case f := <-l.out:
			f.release()
		default:
			return
		}
	}
}

func (s *Server) answer(ctx context.Context, l *link, peer Peer, f frame) {
	a, err := s.handler(ctx, &Request{peer, f.method, f.control, f.raw})
	s.stats.Calls.Add(1)
	out := frame{call: f.call, method: f.method, kind: frameAnswer, raw: a.Raw, done: a.Done}
	f.release()
	if ctx.Err() != nil { // the connection ends; what a handler says then is not an answer
		out.release()
		return
	}
	if err == nil {
		if out.control, err = Encode(a.Control); err == nil {
			err = out.fits()
		}
	}
	if err != nil {
		out.release()
		out = frame{call: f.call, method: f.method, kind: frameFailure}
		out.control = encodeFailure(s.cfg.Errors, err)
	}
	if l.send(out, ctx.Done()) != nil {
		out.release()
	}
}

// failure is an error on the wire.
type failure struct {
	_    struct{} `cbor:",toarray"`
	Code int      // place in Config.Errors from 1; 0 is none of them
	Text string
}

const maxFailureText = 4 << 10

func encodeFailure(known []error, err error) []byte {
	f := failure{Text: err.Error()}
	f.Text = f.Text[:min(len(f.Text), maxFailureText)]
	for i, e := range known {
		if errors.Is(err, e) {
			f.Code = i + 1
			break
		}
	}
	b, err := Encode(f)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// RemoteError is what a peer answered instead. It is the sentinel that it was there.
type RemoteError struct {
	Text string
	is   error
}

func (e *RemoteError) Error() string { return e.Text }

// Unwrap gives errors.Is the sentinel.
func (e *RemoteError) Unwrap() error { return e.is }

func decodeFailure(known []error, b []byte) error {
	var f failure
	if err := Decode(b, &f); err != nil {
		return err
	}
	e := &RemoteError{Text: f.Text}
	if f.Code > 0 && f.Code <= len(known) {
		e.is = known[f.Code-1]
	}
	return e
}
