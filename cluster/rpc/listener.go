package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config says who a node is among its peers, and its limits. Zero fields take the default in brackets.
type Config struct {
	// Self is asked at each greeting, since a node that joins gets its cluster id later. It must not block.
	Self func() Self
	// Keys are the cluster's keys; the first is used, any is accepted, so that they can be exchanged one node after the
	// other. Without any, whoever reaches the port is believed.
	Keys func() [][]byte

	// Errors are the sentinels that keep their identity across a call. Their order is part of the wire form.
	Errors []error

	// Onward dials a node for a stream that another passes on to it through this one; nil passes none on. It must not go through a third.
	Onward func(ctx context.Context, to UUID) (net.Conn, error)

	MaxConnections int           // incoming, greeting ones included; and streams passed on, besides [256]
	MaxCalls       int           // at work at once, per incoming connection [128]
	WriteTimeout   time.Duration // a peer that takes no bytes for so long is given up [10 s]
	// Silent is for how long nothing may come while an answer is due: then the connection is made anew, since TCP tries a line that was down for long ever more
	// rarely, and would find out late that it is back [5 s].
	Silent time.Duration
	Logger *slog.Logger // [discard]
}

func (c Config) withDefaults() Config {
	if c.Keys == nil {
		c.Keys = func() [][]byte { return nil }
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 256
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = 128
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = 10 * time.Second
	}
	if c.Silent == 0 {
		c.Silent = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Listener owns the port that nodes talk on.
type Listener struct {
	cfg   Config
	ln    net.Listener
	serve func(context.Context, net.Conn, Peer) // calls
	stats *Stats

	quorum  chan net.Conn // greeted connections for raft
	streams chan net.Conn // and for those who take streams
	slots   chan struct{} // MaxConnections
	untaken chan struct{} // streams that wait to be taken: half of them
	onward  chan struct{} // streams that are passed on: MaxConnections
	said    refusalLog
	done    chan struct{}
	once    sync.Once
}

// Listen binds addr. serve is called for each connection of calls, on a goroutine of its own, and the connection is closed when it
// returns; see Server.Serve. Nothing is accepted before Run.
func Listen(addr string, cfg Config, stats *Stats, serve func(context.Context, net.Conn, Peer)) (*Listener, error) {
	cfg = cfg.withDefaults()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes: %w", err)
	}
	return &Listener{
		cfg: cfg, ln: ln, serve: serve, stats: stats,
		quorum: make(chan net.Conn), streams: make(chan net.Conn), slots: make(chan struct{}, cfg.MaxConnections), untaken: make(chan struct{}, max(cfg.MaxConnections/2, 1)),
		onward: make(chan struct{}, cfg.MaxConnections),
		done:   make(chan struct{}),
	}, nil
}

// Addr is the address that is really bound.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Run accepts until ctx ends, then closes every connection of calls and waits for it.
func (l *Listener) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.ln.Accept()
		if err != nil {
			select {
			case <-l.done:
				return nil
			default:
			}
			var passing interface{ Temporary() bool } // out of descriptors, say
			if errors.As(err, &passing) && passing.Temporary() {
				l.cfg.Logger.Warn("cannot accept a node's connection, trying again", "error", err)
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-l.done:
					return nil
				}
			}
			return fmt.Errorf("accept nodes: %w", err)
		}
		select {
		case l.slots <- struct{}{}:
		default:
			l.stats.refused(RefusedBusy)
			c.Close()
			continue
		}
		conns.Go(func() {
			free := sync.OnceFunc(func() { <-l.slots })
			defer free()
			l.greet(ctx, c, free)
		})
	}
}

// greet finds out what a connection is for. It calls free once the connection does not count as incoming any more, at the latest when it returns.
func (l *Listener) greet(ctx context.Context, c net.Conn, free func()) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	purpose, peer, err := greetListener(c, l.cfg.Self(), l.cfg.Keys())
	if err != nil {
		c.Close()
		var refusal *Refusal
		if errors.As(err, &refusal) {
			l.stats.refused(refusal.Code)
			l.said.once(l.cfg.Logger, c.RemoteAddr(), refusal)
		}
		return
	}
	switch {
	case purpose == ForQuorum:
		stop()
		l.give(c, l.quorum)
	case purpose == ForStreams && peer.Onward != nil:
		defer c.Close()
		free()
		l.passOn(ctx, c, peer)
	case purpose == ForStreams:
		stop()
		// Nobody takes them while the node starts, and calls are what it starts with.
		select {
		case l.untaken <- struct{}{}:
			l.give(c, l.streams)
			<-l.untaken
		default:
			l.stats.refused(RefusedBusy)
			c.Close()
		}
	default:
		defer c.Close()
		l.serve(ctx, c, peer)
	}
}

// give hands a connection to whoever takes it, and closes it from then on.
func (l *Listener) give(c net.Conn, to chan<- net.Conn) {
	select {
	case to <- c:
	case <-l.done:
		c.Close()
	}
}

// Close stops accepting. It may be called more than once.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.ln.Close()
}

// refusalLog logs each reason once per address in ten minutes: a stranger that tries for ever must not fill the disk.
type refusalLog struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	sayAgainAfter = 10 * time.Minute
	maxSaid       = 256
)

func (r *refusalLog) once(logger *slog.Logger, from net.Addr, refusal *Refusal) {
	host, _, _ := net.SplitHostPort(from.String())
	key := host + " " + refusal.Code.String()
	now := time.Now()
	r.mu.Lock()
	at, said := r.last[key]
	said = said && now.Sub(at) < sayAgainAfter
	if !said {
		if r.last == nil || len(r.last) >= maxSaid {
			r.last = map[string]time.Time{}
		}
		r.last[key] = now
	}
	r.mu.Unlock()
	if !said {
		logger.Warn("refused a node", "from", from.String(), "reason", refusal.Code.String(), "error", refusal.Text)
	}
}

// Stats are the figures of doc.go's metrics. The zero value is ready.
type Stats struct {
	Connections, Calls, Received, Sent atomic.Int64
	Refused                            [RefusedBusy + 1]atomic.Int64 // by RefusalCode
}

func (s *Stats) refused(code RefusalCode) {
	if int(code) < len(s.Refused) {
		s.Refused[code].Add(1)
	}
}

// layer is the side of the port that belongs to one purpose.
type layer struct {
	l    *Listener
	from chan net.Conn
	done chan struct{}
	once sync.Once
}

// QuorumLayer is the side of the port that belongs to raft: a raft.StreamLayer.
type QuorumLayer struct {
	layer
	// peer tells whose address it is, when that is known; the dialer then insists on meeting that node.
	peer func(addr string) (UUID, bool)
}

// Quorum gives raft its connections.
func (l *Listener) Quorum(peer func(addr string) (UUID, bool)) *QuorumLayer {
	return &QuorumLayer{layer: layer{l: l, from: l.quorum, done: make(chan struct{})}, peer: peer}
}

// Accept implements net.Listener.
func (q *layer) Accept() (net.Conn, error) {
	select {
	case c := <-q.from:
		return c, nil
	case <-q.l.done:
	case <-q.done:
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener; the port itself belongs to the Listener. It may be called more than once.
func (q *layer) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *layer) Addr() net.Addr { return q.l.Addr() }

// DialPeer connects to another node's quorum.
func (q *QuorumLayer) DialPeer(addr string, timeout time.Duration) (net.Conn, error) {
	var want *UUID
	if id, known := q.peer(addr); known {
		want = &id
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, _, err := dial(ctx, addr, ForQuorum, q.l.cfg, want, nil)
	return c, err
}

// dial connects and greets.
func dial(ctx context.Context, addr string, purpose Purpose, cfg Config, want, onward *UUID) (net.Conn, Peer, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Peer{}, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	peer, err := greetDialer(c, purpose, cfg.Self(), cfg.Keys(), want, onward)
	if err == nil && onward != nil {
		err = awaitOnward(c)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, peer, fmt.Errorf("node at %s: %w", addr, err)
	}
	return c, peer, nil
}
