package mqtt

import (
	"context"
	"sync"
	"sync/atomic"
)

// A client identifier is served by one node at a time. Whoever lets a client in has the owner of its session make sure of
// that: the owner takes one such claim after the other, ends what it serves itself, and has all other nodes drop the
// client. A node may be told to drop a client that it is about to let in; numbers tell whose claim was later.
type claims struct {
	count atomic.Uint32

	mu   sync.Mutex
	open map[string]uint64 // by client identifier: the last claim that was heard of while one's own was under way
}

func (c *claims) init() { c.open = map[string]uint64{} }

func (c *claims) begin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[id] = 0
}

// heard notes another node's claim.
func (c *claims) heard(id string, claim uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.open[id]; ok {
		c.open[id] = max(last, claim)
	}
}

// end returns the last claim that was heard of since begin.
func (c *claims) end(id string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.open[id]
	delete(c.open, id)
	return last
}

// Claim makes sure that no node but from serves the client, whose session ended there or is discarded: it is to begin a
// new one that ends with its connection. The owner's side of Owners.Claim.
func (s *Server) Claim(ctx context.Context, clientID string, from int32) (claim uint64, err error) {
	if !s.far.join() {
		return 0, ErrNotOwner
	}
	defer s.far.leave()
	hm := s.homeOf(clientID)
	if !hm.serve() {
		return 0, ErrNotOwner
	}
	defer hm.served()
	cl := s.registry.acquire(s, clientID)
	defer s.registry.release(cl)
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	claim = hm.claimNumber()
	cl.takeOver()
	if err := cl.discard(ctx); err != nil {
		return 0, err
	}
	return claim, s.cfg.Owners.Drop(ctx, clientID, claim, from)
}

// Drop ends a connection of the client that this node serves, and returns when it has been dealt with. Every other node's
// side of Owners.Drop.
func (s *Server) Drop(clientID string, claim uint64) {
	if !s.far.join() {
		return
	}
	defer s.far.leave()
	s.claims.heard(clientID, claim) // before the look: a CONNECT under way is either seen here or sees this
	if cl := s.registry.find(clientID); cl != nil {
		cl.takeOver()
	}
}

// connectHere lets a client in whose session lives here, or may: this node is its owner.
func (s *Server) connectHere(ctx context.Context, a *arrival) error {
	cl := s.registry.acquire(s, a.req.ClientID)
	defer s.registry.release(cl)
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	if s.sessionsFull(cl, a.req) {
		s.refuseFull(a)
		return nil
	}
	cl.takeOver()
	if s.cfg.Owners == nil || a.assigned != "" {
		cl.begin(a)
		return nil
	}
	s.claims.begin(cl.id)
	claim := a.home.claimNumber()
	if err := s.cfg.Owners.Drop(ctx, cl.id, claim, 0); err != nil {
		s.claims.end(cl.id)
		return err
	}
	cl.beginClaimed(a, claim)
	return nil
}

// beginClaimed is begin for a client that this node has claimed: another node may have been faster with a later claim.
func (cl *client) beginClaimed(a *arrival, claim uint64) {
	cl.mu.Lock()
	cl.term = claim
	cl.mu.Unlock()
	cl.begin(a)
	if cl.srv.claims.end(cl.id) > claim {
		cl.takeOver()
	}
}

// connectAway lets a client in whose session ends with its connection, on a node that need not own its identifier.
func (s *Server) connectAway(ctx context.Context, a *arrival) error {
	cl := s.registry.acquire(s, a.req.ClientID)
	defer s.registry.release(cl)
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	if a.assigned != "" {
		cl.begin(a)
		return nil
	}
	s.claims.begin(cl.id)
	claim, err := s.cfg.Owners.Claim(ctx, a.home.index, cl.id)
	if err != nil {
		s.claims.end(cl.id)
		return err
	}
	cl.takeOver()
	cl.beginClaimed(a, claim)
	return nil
}
