package mqtt

import "github.com/weir-io/weir/internal/door"

// TurnAway has all clients go to other nodes while this one can serve nobody, since its disk does not answer (E9): connections end with 0x8B, new ones are refused
// by the system, those under way end, and sessions that live here are let go of as if another node owned them already, without touching what is stored. A client that went on
// waiting for the disk would wait where nobody acknowledges anything, though others could. With false the server serves again, and loads the sessions that
// are still its own. A server alone ignores it: its clients have nowhere else to go.
func (s *Server) TurnAway(away bool) {
	if s.cfg.Owners == nil || s.away.Swap(away) == away {
		return
	}
	if away {
		s.cfg.Logger.Warn("the disk hangs: clients are sent to other nodes until it answers")
	} else {
		s.cfg.Logger.Info("the disk answers: clients are served again")
	}
	for _, ln := range s.lns {
		if d, ok := ln.(*door.Door); ok && away {
			d.Shut()
		} else if ok {
			d.Open()
		}
	}
	for i := range s.holdings.homes {
		s.holdings.homes[i].turned(away)
	}
	if !away {
		return
	}
	for _, cl := range s.registry.all() {
		cl.turnAway()
	}
}

// turned gives the sessions here up, or takes on those that are still the node's.
func (hm *home) turned(away bool) {
	hm.mu.Lock()
	hm.settleLocked()
	var passed []*link
	if away {
		for l := range hm.links {
			passed = append(passed, l)
		}
	}
	hm.mu.Unlock()
	hm.tick()
	for _, l := range passed {
		l.c[clientSide].Close(errMoved)
	}
}

// turnAway ends the connection of a session that ends with it; the others' homes end theirs.
func (cl *client) turnAway() {
	cl.lock()
	defer cl.unlock()
	if cl.s != nil && cl.local && cl.c != nil {
		cl.s.Fail(movedReason)
		cl.c.Close(errMoved)
	}
}
