package mqtt

import (
	"context"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/conn"
)

// This file is how a front takes the connections that it has passed on to the next owner of their sessions: doc.go, "Moving with open connections".

// linkStage is how far a link has come on its way to the next owner.
type linkStage uint8

const (
	linkStays linkStage = iota
	linkEnds            // the owner has let go of it: nothing more is read of the client, and what was read goes out
	linkEnded           // the owner has been told that nothing follows, and sends what it still has
	linkMoves           // what the owner has not read is here again: the client's next turn takes it off
	linkGone
)

const (
	// followTime bounds each step of a link to the next owner.
	followTime = 2 * time.Second
	// followTries is how often a former owner is asked again who has not let go of a link, and followPause what is in between.
	followTries = 3
	followPause = 50 * time.Millisecond
)

// follow takes links to the next owner whose sessions their owner was about to lose, and has parked. The others he ends himself.
func (s *Server) follow(links []*link) {
	var following sync.WaitGroup
	slots := make(chan struct{}, parkCrew)
	for _, l := range links {
		if l.node == 0 || !l.c[ownerSide].CanEndOutput() {
			continue
		}
		slots <- struct{}{}
		following.Go(func() {
			defer func() { <-slots }()
			l.end()
		})
	}
	following.Wait()
}

// stays says that the link is not on its way to the next owner.
func (l *link) stays() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stage == linkStays
}

// end asks the former owner whether he has let go of the session, and ends what goes to him if so.
func (l *link) end() {
	s := l.home.srv
	ctx, cancel := context.WithTimeout(s.far.ctx, followTime)
	defer cancel()
	state, err := s.cfg.Owners.Release(ctx, l.node, l.name)
	for try := 0; err != nil && try < followTries && l.stays() && s.far.sleep(followPause); try++ { // he may be at it
		state, err = s.cfg.Owners.Release(ctx, l.node, l.name)
	}
	var r originResume
	if err == nil {
		err = cbor.Unmarshal(state, &r)
	}
	if err != nil {
		s.cfg.Logger.Debug("a connection does not move with its session", "partition", l.home.index, "err", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage == linkStays && !l.flow[clientSide].shut && !l.flow[ownerSide].shut {
		l.stage, l.resume = linkEnds, &r
		l.c[ownerSide].Wake()
		time.AfterFunc(2*followTime, l.giveUp)
	}
}

// giveUp ends a link that does not come to the next owner in time.
func (l *link) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != linkGone {
		l.c[clientSide].Close(errMoved)
	}
}

// collect gets, once the owner's side has ended, what he has not read; false where the link ends with him.
func (l *link) collect() bool {
	l.mu.Lock()
	ended := l.stage == linkEnded
	l.mu.Unlock()
	s := l.home.srv
	return ended && s.far.start(func() {
		ctx, cancel := context.WithTimeout(s.far.ctx, followTime)
		defer cancel()
		unread, err := s.cfg.Owners.Collect(ctx, l.node, l.name)
		if err != nil {
			s.cfg.Logger.Debug("a connection does not move with its session", "partition", l.home.index, "err", err)
			l.shut(ownerSide)
			return
		}
		if !l.receive(unread) {
			l.shut(ownerSide)
		}
	})
}

// receive takes what the former owner has not read; false where it finds no room, or nobody.
func (l *link) receive(unread []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flow[clientSide].shut || !l.home.srv.loop.Reserve(len(unread)) {
		return false
	}
	l.stage, l.unread = linkMoves, unread
	l.c[clientSide].Wake()
	return true
}

// moveOn has the client's connection, on its own turn, wait for the next owner.
func (l *link) moveOn(c *conn.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != linkMoves {
		return
	}
	l.stage = linkGone
	s := l.home.srv
	h := &handshake{srv: s, parked: true, unread: l.unread, out: l.flow[clientSide].buf}
	l.flow[clientSide].buf, l.unread = nil, nil
	s.stats.passed.Add(-1)
	c.Pause()
	c.SetDeadline(2 * s.cfg.ConnectTimeout)
	c.SetHandler(h)
	r := l.resume
	s.loop.Go(func() {
		l.home.removeLink(l)
		s.sendOn(c, h, r, l.home)
	})
}
