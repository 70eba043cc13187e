package meta

import (
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Network is how a node reaches the quorum's other members. Its listener gives connections that have been greeted already.
type Network interface {
	net.Listener
	// DialPeer connects to the member that is meant to be at addr.
	DialPeer(addr string, timeout time.Duration) (net.Conn, error)
	// Address is where the member of that id is to be found now, if that is known: addresses change, ids do not.
	Address(id string) (addr string, known bool)
}

// layer makes a Network raft's. It owns the connections: raft's transport leaves those that it accepted open when it is closed.
type layer struct {
	Network
	mu     sync.Mutex
	open   map[*conn]struct{}
	closed bool
	muted  bool // see Node.Mute
}

// conn leaves the layer's books when it is closed.
type conn struct {
	net.Conn
	of *layer
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (l *layer) keep(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.muted {
		c.Close()
		return nil, net.ErrClosed
	}
	kept := &conn{c, l}
	l.open[kept] = struct{}{}
	return kept, nil
}

// Accept implements net.Listener.
func (l *layer) Accept() (net.Conn, error) {
	for {
		c, err := l.Network.Accept()
		if err == nil && l.isMuted() {
			c.Close()
			continue
		}
		return l.keep(c, err)
	}
}

func (l *layer) isMuted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.muted && !l.closed
}

// mute ends all connections, and new ones.
func (l *layer) mute(muted bool) {
	l.mu.Lock()
	l.muted = muted
	var open []*conn
	if muted {
		open = slices.Collect(maps.Keys(l.open))
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// Dial implements raft.StreamLayer.
func (l *layer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return l.keep(l.DialPeer(string(addr), timeout))
}

// Close implements net.Listener. It may be called more than once.
func (l *layer) Close() error {
	l.mu.Lock()
	l.closed = true
	open := l.open
	l.open = map[*conn]struct{}{}
	l.mu.Unlock()
	for c := range open {
		c.Conn.Close()
	}
	return l.Network.Close()
}

// ServerAddr implements raft.ServerAddressProvider.
func (l *layer) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if addr, known := l.Address(string(id)); known {
		return raft.ServerAddress(addr), nil
	}
	return "", errNoAddress // raft takes the address that the configuration has
}

const (
	connectionsPerPeer = 3
	transportTimeout   = 10 * time.Second
)

// transport is raft's, with a way in for one message of our own (see electAlone).
type transport struct {
	raft.Transport
	in      chan raft.RPC
	closing chan struct{}
	ended   sync.WaitGroup
}

func newTransport(inner raft.Transport) *transport {
	t := &transport{Transport: inner, in: make(chan raft.RPC), closing: make(chan struct{})}
	t.ended.Go(func() {
		for {
			select {
			case rpc := <-inner.Consumer():
				t.inject(rpc)
			case <-t.closing:
				return
			}
		}
	})
	return t
}

func (t *transport) inject(rpc raft.RPC) {
	select {
	case t.in <- rpc:
	case <-t.closing:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.in }

// RequestPreVote implements raft.WithPreVote: without it a node that was cut off would disturb the others when it is back.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.Transport.(raft.WithPreVote).RequestPreVote(id, to, args, resp)
}

// Close implements raft.WithClose. It may be called more than once.
func (t *transport) Close() error {
	select {
	case <-t.closing:
		return nil
	default:
	}
	close(t.closing)
	t.ended.Wait()
	return t.Transport.(raft.WithClose).Close()
}
