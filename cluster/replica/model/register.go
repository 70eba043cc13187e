package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// The registration of one broker, by itself: nonces, crashes between their writes, late and repeated requests, and a second
// directory made from a copy (C4, E5). The partition model takes a registration for one step.

const (
	maxLate   = 3
	maxNonces = 7 // nonces are numbers from 1 on, sets of them are bits
)

// directory is a data directory and the process that runs on it.
type directory struct {
	is     uint8 // 1: exists
	held   uint8 // nonces on disk
	stale  uint8 // it was copied before the registration that counts now
	up     uint8
	nonce  uint8 // of the process
	be     uint8 // the process was told that it is registered, with this BE
	denied uint8 // BE+1 when it was refused
}

type request struct{ nonce, held uint8 }

type registry struct {
	accepted uint8 // the nonce accepted last
	be       uint8
	told     [maxNonces + 1]uint8
	drawn    uint8
	dirs     [2]directory
	late     [maxLate]request
	starts   uint8 // left
	repeats  uint8 // left
	copies   uint8 // left
	evicted  uint8 // 1: replicas were taken out of every ISR and ELR although their disk was the newest
	admitted uint8 // directory+1, a stale one that was let in with its replicas
}

const (
	// The nonce is presented before it is synced (E5).
	nonceUnsynced deviation = 1 << (iota + 48)
	// Older nonces are forgotten when a new one is drawn (E5).
	forgetsEarly
	// Any nonce is accepted (E5).
	acceptsAny
	// A copy takes the place of a process that is alive (C4).
	copyTakesOver

	// As first written: a request without the last nonce takes the replicas out at once (E5).
	refusalEvicts
	// As first written: a request that arrives twice registers twice (E5).
	repeatRegisters
)

const (
	kStart = kNonce + iota
	kRequest
	kConfirm
	kDeny
	kOld
	kDie
	kCopyAway
)

// registering is the machine.
type registering struct {
	rules
	first registry
}

func (m *registering) start() registry         { return m.first }
func (m *registering) same(s *registry) uint64 { return maphash.Comparable(hashSeed, *s) }
func nonces(set uint8) (list []uint8)          { return bitsOf(set >> 1) }
func (m *registering) begin(l registry) *registering {
	l.accepted, l.be, l.drawn = 1, 1, 1
	l.dirs[0] = directory{is: 1, held: bit(1), nonce: 1}
	m.first = l
	return m
}

func bitsOf(set uint8) (list []uint8) {
	for i := uint8(0); set != 0; i, set = i+1, set>>1 {
		if set&1 != 0 {
			list = append(list, i+1)
		}
	}
	return list
}

func (m *registering) next(s *registry, emit func(step, *registry)) {
	try := func(k kind, a, b uint8, do func(n *registry) bool) {
		n := *s
		if do(&n) {
			emit(step{kind: k, a: a, b: b}, &n)
		}
	}
	for d := range uint8(2) {
		try(kStart, d, s.drawn+1, func(n *registry) bool { return m.startOn(n, d) })
		try(kDie, d, 0, func(n *registry) bool {
			k := &n.dirs[d]
			if k.up == 0 {
				return false
			}
			if m.not(nonceUnsynced) && k.be == 0 {
				k.held &^= bit(k.nonce)
			}
			k.up, k.nonce, k.be, k.denied = 0, 0, 0, 0
			return true
		})
		try(kConfirm, d, s.told[s.dirs[d].nonce], func(n *registry) bool {
			k := &n.dirs[d]
			if k.up == 0 || k.be != 0 || n.told[k.nonce] == 0 {
				return false
			}
			k.be, k.held = n.told[k.nonce], bit(k.nonce) // only now are the older ones forgotten
			return true
		})
		try(kOld, d, 0, func(n *registry) bool {
			k := &n.dirs[d]
			other := &n.dirs[1-d]
			// It names the BE that it was refused for, and takes no place of a process that is alive (C4).
			if k.up == 0 || k.denied == 0 || k.denied != n.be+1 || other.up == 1 && !m.not(copyTakesOver) {
				return false
			}
			if k.stale == 0 || other.up == 1 && other.stale == 0 {
				n.evicted = 1
			}
			k.denied = 0
			m.accept(n, k.nonce)
			k.stale, other.stale = 0, 1 // from here on this directory is the broker
			return true
		})
	}
	for i := range maxLate {
		if s.late[i].nonce == 0 {
			continue
		}
		for stays := range uint8(2) {
			try(kRequest, s.late[i].nonce, stays, func(n *registry) bool {
				q := n.late[i]
				if stays == 1 {
					if n.repeats == 0 {
						return false
					}
					n.repeats--
				} else {
					copy(n.late[i:], n.late[i+1:])
					n.late[maxLate-1] = request{}
				}
				m.request(n, q)
				return true
			})
		}
	}
	try(kCopyAway, 0, 0, func(n *registry) bool {
		if n.copies == 0 || n.dirs[1].is == 1 {
			return false
		}
		n.copies--
		n.dirs[1] = directory{is: 1, held: n.dirs[0].held}
		return true
	})
}

// startOn draws a nonce, syncs it next to those held, and presents them all. A copy is only started where the design promises to
// tell: after a later registration.
func (m *registering) startOn(n *registry, d uint8) bool {
	k := &n.dirs[d]
	if k.is == 0 || k.up == 1 || n.starts == 0 || n.drawn == maxNonces || n.late[maxLate-1].nonce != 0 {
		return false
	}
	if d == 1 {
		if k.held&bit(n.accepted) != 0 {
			return false
		}
		k.stale = 1
	}
	n.starts--
	n.drawn++
	if m.not(forgetsEarly) {
		k.held = 0
	}
	k.held |= bit(n.drawn)
	k.up, k.nonce, k.be, k.denied = 1, n.drawn, 0, 0
	for i := range n.late {
		if n.late[i].nonce == 0 {
			n.late[i] = request{n.drawn, k.held}
			break
		}
	}
	return true
}

func (m *registering) accept(n *registry, nonce uint8) {
	n.accepted = nonce
	n.be++
	n.told[nonce] = n.be
}

// request is RegisterBroker at the controller.
func (m *registering) request(n *registry, q request) {
	from := -1
	for d := range n.dirs {
		if n.dirs[d].up == 1 && n.dirs[d].nonce == q.nonce {
			from = d
		}
	}
	switch {
	case q.nonce == n.accepted && !m.not(repeatRegisters): // the same request again: the same answer
	case q.held&bit(n.accepted) != 0 || m.not(acceptsAny):
		if from >= 0 && n.dirs[from].stale == 1 {
			n.admitted = uint8(from) + 1
		}
		m.accept(n, q.nonce)
	case m.not(refusalEvicts):
		if from < 0 || n.dirs[from].stale == 0 {
			n.evicted = 1 // the broker is thrown out, whoever sent the request
		}
		m.accept(n, q.nonce)
	case from >= 0 && n.dirs[from].be == 0:
		n.dirs[from].denied = n.be + 1
	}
}

func (m *registering) broken(s *registry) string {
	switch {
	case s.admitted != 0:
		return "an old copy of a disk keeps its place in ISR and ELR (E5)"
	case s.evicted != 0:
		return "a broker that lost nothing is thrown out of ISR and ELR (E5)"
	}
	for d := range s.dirs {
		if k := &s.dirs[d]; k.up == 1 && k.be != 0 && k.nonce == s.accepted && k.be != s.be {
			return "the newest process has another BE than the controller knows (C4)"
		}
	}
	return ""
}

func (m *registering) show(s *registry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "accepted=%d BE%d", s.accepted, s.be)
	for d, k := range s.dirs {
		if k.is == 1 {
			fmt.Fprintf(&b, " | directory %d holds %v", d, nonces(k.held))
			if k.up == 1 {
				fmt.Fprintf(&b, " runs as %d, BE%d", k.nonce, k.be)
			}
		}
	}
	for _, q := range s.late {
		if q.nonce != 0 {
			fmt.Fprintf(&b, " | late %d with %v", q.nonce, nonces(q.held))
		}
	}
	return b.String()
}
