package rpc

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client makes calls to one peer. It connects when it is first used, and again after the connection was lost. All its
// methods may be called concurrently.
type Client struct {
	cfg   Config
	stats *Stats
	peer  UUID
	addr  func() (string, error)
	dial  func(ctx context.Context, addr string) (net.Conn, error) // tests

	mu      sync.Mutex
	conn    *clientConn // nil: none yet, or the last one is dead
	dialing chan struct{}
	closed  bool
	workers sync.WaitGroup
}

// NewClient calls the node with that identity. addr is asked before each connection: addresses change.
func NewClient(cfg Config, stats *Stats, peer UUID, addr func() (string, error)) *Client {
	c := &Client{cfg: cfg.withDefaults(), stats: stats, peer: peer, addr: addr}
	c.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		conn, _, err := dial(ctx, addr, ForCalls, c.cfg, &c.peer, nil)
		return conn, err
	}
	return c
}

// Reply is the answer to a call. Raw lasts until Release.
type Reply struct {
	Raw   []byte
	frame frame
}

// Release gives the reply's memory back. Raw must not be used afterwards.
func (r *Reply) Release() {
	r.Raw = nil
	r.frame.release()
}

// clientConn is one connection and who waits on it.
type clientConn struct {
	*link
	patience time.Duration // Config.Silent

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan frame
}

// Call sends request with raw behind it, and reads the answer's control part into answer, unless that is nil. raw must not change until Call returns.
// An error that is an ErrUnreachable leaves open whether the peer acted; a *RemoteError is the peer's own.
func (c *Client) Call(ctx context.Context, m Method, request any, raw []byte, answer any) (Reply, error) {
	control, err := Encode(request)
	if err != nil {
		return Reply{}, err
	}
	f := frame{method: m, control: control, raw: raw}
	if err := f.fits(); err != nil {
		return Reply{}, err
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return Reply{}, err
	}
	got, err := conn.call(ctx, f)
	if err != nil {
		return Reply{}, err
	}
	switch {
	case got.method != m:
		err = fmt.Errorf("answer to method %d, asked %d: %w", got.method, m, ErrFrame)
	case got.kind == frameFailure:
		err = decodeFailure(c.cfg.Errors, got.control)
	case answer != nil:
		err = Decode(got.control, answer)
	}
	if err != nil {
		got.release()
		return Reply{}, err
	}
	return Reply{Raw: got.raw, frame: got}, nil
}

func (c *clientConn) call(ctx context.Context, f frame) (frame, error) {
	ch := make(chan frame, 1)
	c.mu.Lock()
	if len(c.calls) == 0 {
		c.hear() // nothing was due
	}
	c.next++
	f.call = c.next
	c.calls[f.call] = ch
	c.mu.Unlock()
	var sent chan struct{}
	if len(f.raw) > 0 {
		sent = make(chan struct{})
		f.done = sync.OnceFunc(func() { close(sent) })
	}
	err := c.send(f, ctx.Done())
	if err == nil {
		select {
		case got := <-ch:
			return got, nil
		case <-c.dead:
			err = c.err
		case <-ctx.Done():
			err = fmt.Errorf("%w: no answer in time: %w", ErrUnreachable, context.Cause(ctx))
			if s := c.silent(); s >= c.patience {
				c.fail(fmt.Errorf("%w: nothing has come for %s", ErrUnreachable, s.Round(time.Millisecond)))
			}
		}
		if sent != nil { // the writer must be through with raw before the caller has it back
			select {
			case <-sent:
			case <-c.idle:
			}
		}
	} else if err == errGaveUp {
		err = fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	}
	c.mu.Lock()
	delete(c.calls, f.call)
	c.mu.Unlock()
	select {
	case late := <-ch: // arrived meanwhile
		late.release()
	default:
	}
	return frame{}, err
}

// arrived hands an answer to its caller, who may be gone.
func (c *clientConn) arrived(f frame) error {
	if f.kind == frameCall {
		f.release()
		return fmt.Errorf("a call from the side that answers: %w", ErrFrame)
	}
	c.mu.Lock()
	ch := c.calls[f.call]
	delete(c.calls, f.call)
	if ch != nil {
		ch <- f // has room: one answer per call
	}
	c.mu.Unlock()
	if ch == nil {
		f.release()
	}
	return nil
}

// connect gives the living connection or makes one; who comes meanwhile waits for the same.
func (c *Client) connect(ctx context.Context) (*clientConn, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, fmt.Errorf("%w: the client is closed", ErrUnreachable)
		}
		if c.conn != nil {
			select {
			case <-c.conn.dead:
				c.conn = nil
			default:
				conn := c.conn
				c.mu.Unlock()
				return conn, nil
			}
		}
		if c.dialing == nil {
			c.dialing = make(chan struct{})
			c.mu.Unlock()
			return c.reach(ctx)
		}
		dialing := c.dialing
		c.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
		}
	}
}

func (c *Client) reach(ctx context.Context) (*clientConn, error) {
	addr, err := c.addr()
	var raw net.Conn
	if err == nil {
		raw, err = c.dial(ctx, addr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.dialing)
	c.dialing = nil
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if c.closed {
		raw.Close()
		return nil, fmt.Errorf("%w: the client is closed", ErrUnreachable)
	}
	conn := &clientConn{link: newLink(raw, c.cfg, c.stats), patience: c.cfg.Silent, calls: map[uint64]chan frame{}}
	c.conn = conn
	c.stats.Connections.Add(1)
	c.workers.Go(conn.write)
	c.workers.Go(func() {
		defer c.stats.Connections.Add(-1)
		conn.read(conn.arrived)
	})
	return conn, nil
}

// Close ends the connection and all calls on it, and waits for both.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		conn.fail(fmt.Errorf("%w: the client is closed", ErrUnreachable))
	}
	c.workers.Wait()
}
