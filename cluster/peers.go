package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// network carries calls to other nodes, by their identity. An error that is an rpc.ErrUnreachable leaves open whether the peer acted. It is an
// interface so that a simulator can carry the same messages without sockets.
type network interface {
	call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error)
}

// alone is the network of a broker without peers.
type alone struct{}

func (alone) call(context.Context, meta.UUID, rpc.Method, any, []byte, any) (rpc.Reply, error) {
	return rpc.Reply{}, fmt.Errorf("%w: this broker has no peers", rpc.ErrUnreachable)
}

// errNoAddress: neither the metadata nor gossip says where a node is.
var errNoAddress = errors.New("its address is not known")

// peers keeps one client for each other node.
type peers struct {
	cfg     rpc.Config
	stats   *rpc.Stats
	address func(meta.UUID) (string, bool) // asked before each connection: addresses change

	mu      sync.Mutex
	clients map[meta.UUID]*rpc.Client
	closed  bool
}

func newPeers(cfg rpc.Config, stats *rpc.Stats, address func(meta.UUID) (string, bool)) *peers {
	return &peers{cfg: cfg, stats: stats, address: address, clients: map[meta.UUID]*rpc.Client{}}
}

func (p *peers) call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	c, err := p.client(to)
	if err != nil {
		return rpc.Reply{}, err
	}
	return c.Call(ctx, m, request, raw, answer)
}

func (p *peers) client(to meta.UUID) (*rpc.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("%w: %w", rpc.ErrUnreachable, ErrClosed)
	}
	c := p.clients[to]
	if c == nil {
		c = rpc.NewClient(p.cfg, p.stats, rpc.UUID(to), func() (string, error) {
			if addr, known := p.address(to); known {
				return addr, nil
			}
			return "", fmt.Errorf("node %s: %w", to, errNoAddress)
		})
		p.clients[to] = c
	}
	return c, nil
}

// close ends all calls.
func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	clients := p.clients
	p.clients = nil
	p.mu.Unlock()
	for _, c := range clients {
		c.Close()
	}
}
