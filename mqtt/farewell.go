package mqtt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/internal/door"
)

// This file is how a node that is about to stop takes leave of the clients whose sessions others own: doc.go, "A node that stops".

const (
	// partTime is how long owners take at the most to say goodbye to the clients of one front: their publishes are committed and acknowledged before.
	partTime = drainTime + time.Second
	// partLinks is how many connections one call names.
	partLinks = 4096
	// leaveLook is how often a stopping node looks whether it is through.
	leaveLook = 5 * time.Millisecond
)

// errFrontStops ends the connections of clients whose front stops.
var errFrontStops = errors.New("the node that the client is connected to stops")

// Shut has the system refuse new clients: they go to other nodes. Those that are connected are served on.
func (s *Server) Shut() {
	for _, ln := range s.lns {
		if d, ok := ln.(*door.Door); ok {
			d.Shut()
		}
	}
}

// Leave has the clients that are connected here, and served elsewhere, go to other nodes: once their sessions have arrived at whoever owns them from now on,
// those owners answer what they have taken, and say goodbye. It returns when that is done, or with ctx; what is left then ends with the server.
func (s *Server) Leave(ctx context.Context) error {
	if s.cfg.Owners == nil {
		return nil
	}
	if !await(ctx, s.arrived) {
		return fmt.Errorf("%d connections still wait for the next owner of their sessions: %w", s.stats.moving.Load(), context.Cause(ctx))
	}
	by := map[int32][]*link{}
	for i := range s.holdings.homes {
		for _, l := range s.holdings.homes[i].allLinks() {
			by[l.node] = append(by[l.node], l)
		}
	}
	delete(by, 0) // nobody knows them by a name
	var parting sync.WaitGroup
	var left atomic.Int64
	for node, links := range by {
		for some := range slices.Chunk(links, partLinks) {
			parting.Go(func() { left.Add(s.leave(ctx, node, some)) })
		}
	}
	parting.Wait()
	if n := left.Load(); n > 0 {
		return fmt.Errorf("%d clients were not told that this node stops", n)
	}
	return nil
}

// arrived says whether no connection is on its way from one owner of its session to the next.
func (s *Server) arrived() bool {
	s.handed.mu.Lock()
	defer s.handed.mu.Unlock()
	return s.stats.moving.Load() == 0 && len(s.handed.leaves) == 0
}

// leave has the owner of sessions say goodbye to their clients, and answers how many are still there.
func (s *Server) leave(ctx context.Context, node int32, links []*link) (left int64) {
	names := make([]uint64, len(links))
	for i, l := range links {
		names[i] = l.name
	}
	if err := s.cfg.Owners.Part(ctx, node, names); err != nil {
		s.cfg.Logger.Debug("a node does not say goodbye to clients of this one", "node", node, "clients", len(links), "err", err)
	} else {
		await(ctx, func() bool { return !slices.ContainsFunc(links, (*link).passes) })
	}
	for _, l := range links {
		if l.passes() {
			left++
		}
	}
	return left
}

// passes says whether the client is connected still.
func (l *link) passes() bool {
	l.home.mu.Lock()
	defer l.home.mu.Unlock()
	_, is := l.home.links[l]
	return is
}

func (hm *home) allLinks() []*link {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	return slices.Collect(maps.Keys(hm.links))
}

// await returns true once is holds, false with ctx.
func await(ctx context.Context, is func() bool) bool {
	tick := time.NewTicker(leaveLook)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Part says goodbye to clients whose front stops, by the names of its connections, once what was taken of them is answered or partTime has passed. Their
// sessions stay, and wills wait, as where sessions move: the clients are about to come back through another node. The owner's side of Owners.Part.
func (s *Server) Part(ctx context.Context, links []uint64) {
	if !s.far.join() {
		return
	}
	defer s.far.leave()
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	names := make(map[uint64]struct{}, len(links))
	for _, name := range links {
		names[name] = struct{}{}
	}
	var parting []*client
	for _, cl := range s.registry.all() {
		cl.mu.Lock() // who takes the client over is not stopped in its place
		_, is := names[s.homeOf(cl.id).handovers.linkOf(cl)]
		cl.stopped = cl.stopped || is
		cl.mu.Unlock()
		if is {
			parting = append(parting, cl)
		}
	}
	for _, cl := range parting {
		await(ctx, func() bool { return !cl.waiting() })
	}
	for _, cl := range parting {
		cl.part(names)
	}
}

// part ends the client's connection, if it is one of those.
func (cl *client) part(names map[uint64]struct{}) {
	cl.lock()
	defer cl.unlock()
	if _, is := names[cl.srv.homeOf(cl.id).handovers.linkOf(cl)]; !is || cl.s == nil || cl.c == nil || cl.leaving {
		return
	}
	cl.s.Fail(movedReason)
	cl.c.Close(errFrontStops)
}
