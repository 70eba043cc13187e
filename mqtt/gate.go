package mqtt

import (
	"container/list"
	"context"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// gate is where CONNECTs wait that need the owner of their session: until the node has loaded the session's partition, or
// the owner answers. They wait as parked connections, not as goroutines: of those there are gateCrew for a partition.
type gate struct {
	waiting list.List // of *arrival
	working int
	pause   time.Time // the owner did not answer: not before then
	armed   bool      // a timer will call tick
}

const (
	gateCrew  = 8
	gateRetry = 250 * time.Millisecond
	// gateSoon is for connections that came with their session: the next owner may take a moment longer to learn that he is.
	gateSoon = 25 * time.Millisecond
)

// arrive takes up a CONNECT; its connection is paused.
func (hm *home) arrive(a *arrival) {
	if !a.h.wait(a) {
		return // the peer has gone
	}
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.srv.stats.waiting.Add(1)
	a.at = hm.gate.waiting.PushBack(a)
	hm.kickLocked()
}

func (hm *home) dequeueLocked(a *arrival) {
	if a.at != nil {
		hm.gate.waiting.Remove(a.at)
		a.at = nil
		hm.srv.stats.waiting.Add(-1)
	}
}

// again puts an arrival back whose owner did not answer.
func (hm *home) again(a *arrival, err error) {
	s := hm.srv
	s.stats.ownerErrors.Add(1)
	s.cfg.Logger.Debug("owner of a session does not answer", "client", a.req.ClientID, "partition", hm.index, "err", err)
	pause := gateRetry
	if a.resume != nil {
		pause = gateSoon
	}
	hm.mu.Lock()
	hm.gate.pause = time.Now().Add(pause)
	hm.mu.Unlock()
	hm.arrive(a)
}

// cancel forgets an arrival whose peer has gone.
func (hm *home) cancel(a *arrival) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.dequeueLocked(a)
}

// tick refuses what has waited long enough; it runs while anything waits.
func (hm *home) tick() {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	g, now := &hm.gate, time.Now()
	g.armed = false
	for e := g.waiting.Front(); e != nil; {
		a := e.Value.(*arrival)
		e = e.Next()
		switch {
		case hm.srv.away.Load():
			hm.dequeueLocked(a)
			a.h.sendAway(a.c)
		case !now.Before(a.until) && a.resume != nil:
			hm.dequeueLocked(a)
			if a.h.front == nil || hm.srv.handed.claim(a) {
				a.h.sendAway(a.c)
			}
		case !now.Before(a.until):
			hm.dequeueLocked(a)
			a.h.deny(a.c, a.req.Version, packet.ServerUnavailable)
		}
	}
	hm.kickLocked()
}

// kickLocked sets to work what can go on, in the order of arrival.
func (hm *home) kickLocked() {
	g := &hm.gate
	for !hm.comingLocked() && !hm.resting && g.working < gateCrew && g.waiting.Len() > 0 && !time.Now().Before(g.pause) {
		a := g.waiting.Front().Value.(*arrival)
		if !hm.srv.far.start(func() { hm.work(a) }) {
			return // the server stops
		}
		hm.dequeueLocked(a)
		g.working++
	}
	if g.waiting.Len() > 0 && !g.armed {
		g.armed = true
		time.AfterFunc(g.lookIn(time.Now()), hm.tick)
	}
}

// lookIn is when those that wait are looked at again: all of them, so no sooner than somebody may go on.
func (g *gate) lookIn(now time.Time) time.Duration {
	if left := g.pause.Sub(now); left > 0 {
		return max(min(left, gateRetry), gateSoon)
	}
	return gateRetry
}

func (hm *home) work(a *arrival) {
	hm.srv.goOn(a)
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.gate.working--
	hm.kickLocked()
}

// goOn takes an arrival a step further, by what the node owns now.
func (s *Server) goOn(a *arrival) {
	ctx, cancel := context.WithDeadline(s.far.ctx, a.until)
	defer cancel()
	var err error
	switch {
	case a.home.serve():
		if a.resume != nil {
			s.reattach(a)
		} else if a.identity == nil { // it came when the node did not own it yet
			s.loop.Go(func() { s.connect(a) })
		} else {
			err = s.connectHere(ctx, a)
		}
		a.home.served()
	case a.local():
		err = s.connectAway(ctx, a)
	case a.h.front != nil: // its front comes for it
		time.AfterFunc(goodbyeTime, func() { s.dropHanded(a) })
	case a.h.passed != nil: // given up since the front was told that it is taken
		a.h.sendAway(a.c)
	default:
		err = s.passOn(ctx, a)
	}
	if err != nil {
		a.home.again(a, err)
	}
}
