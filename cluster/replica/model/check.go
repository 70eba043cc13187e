package model

import (
	"fmt"
	"hash/maphash"
)

// broken tests the invariants in one state.
func (p *partition) broken(s *state) string {
	if s.bad != ok {
		return faults[s.bad]
	}
	im := &s.hist[0]
	for i := range p.n {
		b := &s.brokers[i]
		for j := range i {
			c := &s.brokers[j]
			if s.leads(i) && s.leads(j) && s.view(i).le == s.view(j).le {
				return fmt.Sprintf("%s and %s lead in LE%d", name(j), name(i), s.view(i).le)
			}
			for o := max(b.start, c.start); o < min(b.leo, c.leo); o++ {
				if b.log[o] != c.log[o] && epochOf(b.log[o]) == epochOf(c.log[o]) {
					return fmt.Sprintf("offset %d has two records of one epoch, at %s and %s (A7)", o, name(j), name(i))
				}
			}
		}
		if why := p.keeps(s, i); why != "" {
			return why
		}
		// With true disks more holds: whoever may be elected has everything, durably.
		if (im.isr|im.elr)&bit(i) != 0 && b.be == im.be[i] && p.first.left[lies] == 0 {
			if o := s.lacks(i, b.dleo); o >= 0 {
				return fmt.Sprintf("%s is in ISR or ELR and has not synced the committed record at %d", name(i), o)
			}
		}
	}
	return ""
}

// keeps: what i has below its HW is what was committed, and a leader in the newest epoch has all of it.
func (p *partition) keeps(s *state, i uint8) string {
	b := &s.brokers[i]
	if b.up == 0 {
		return ""
	}
	if b.hw > b.leo {
		return fmt.Sprintf("the HW of %s is above its log end", name(i))
	}
	for o := b.start; o < b.hw; o++ {
		if s.promised[o] != 0 && s.promised[o] != b.log[o] {
			return fmt.Sprintf("%s has another record below its HW at %d than was committed", name(i), o)
		}
	}
	if s.leads(i) && s.view(i).le == s.hist[0].le {
		if o := s.lacks(i, b.leo); o >= 0 {
			return fmt.Sprintf("committed record at %d is lost: leader %s in LE%d does not have it", o, name(i), s.view(i).le)
		}
	}
	return ""
}

// lacks finds the first offset whose committed record i does not have below end.
func (s *state) lacks(i, end uint8) int {
	b := &s.brokers[i]
	for o := s.gone; o < maxLog; o++ {
		if r := s.promised[o]; r != 0 && (o >= end || b.log[o] != r) {
			return int(o)
		}
	}
	return -1
}

// --- equal up to the names of brokers

var perms2 = [][maxN]uint8{{0, 1, 2}, {1, 0, 2}}
var perms3 = [][maxN]uint8{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

func (p *partition) same(s *state) uint64 {
	perms := perms3
	if p.n == 2 {
		perms = perms2
	}
	if p.n == 1 {
		perms = perms2[:1]
	}
	base := s.oldestPE()
	lowest := ^uint64(0)
	var t state
	for k := range perms {
		t = *s
		t.rename(&perms[k], base)
		var late uint64
		for j := range t.net {
			if t.net[j].kind != 0 {
				late += maphash.Comparable(hashSeed, t.net[j]) // in no order
				t.net[j] = msg{}
			}
		}
		lowest = min(lowest, maphash.Comparable(hashSeed, t)+late*3)
	}
	return lowest
}

// oldestPE: partition epochs are only compared; how many there were before does not matter.
func (s *state) oldestPE() uint8 {
	base := s.hist[0].pe
	for k := range s.hist {
		if s.hist[k].replicas != 0 {
			base = min(base, s.hist[k].pe)
		}
	}
	for i := range s.brokers {
		if s.brokers[i].pend != 0 {
			base = min(base, s.brokers[i].pendPE)
		}
	}
	for k := range s.net {
		if s.net[k].kind == alterISR {
			base = min(base, s.net[k].pe)
		}
	}
	return base
}

type renaming [maxN]uint8

func (to *renaming) set(m uint8) uint8 {
	return m&1<<to[0] | m>>1&1<<to[1] | m>>2&1<<to[2]
}

func (to *renaming) one(i uint8) uint8 {
	if i >= maxN {
		return i
	}
	return to[i]
}

func (to *renaming) all(a [maxN]uint8) (b [maxN]uint8) {
	for i := range a {
		b[to[i]] = a[i]
	}
	return b
}

func (s *state) rename(perm *[maxN]uint8, base uint8) {
	to := (*renaming)(perm)
	for k := range s.hist {
		im := &s.hist[k]
		if im.replicas == 0 {
			continue
		}
		im.pe -= base
		im.leader = to.one(im.leader)
		im.isr, im.elr, im.replicas = to.set(im.isr), to.set(im.elr), to.set(im.replicas)
		im.adding, im.removing = to.set(im.adding), to.set(im.removing)
		im.fenced, im.stopping, im.restarted = to.set(im.fenced), to.set(im.stopping), to.set(im.restarted)
		im.be = to.all(im.be)
	}
	var bs [maxN]broker
	for i := range s.brokers {
		b := s.brokers[i]
		b.ack, b.ackBE = to.all(b.ack), to.all(b.ackBE)
		if b.pend != 0 {
			b.pend = to.set(b.pend)
			b.pendPE -= base
		}
		if b.trusts != 0 {
			b.trusts = to[b.trusts-1] + 1
		}
		bs[to[i]] = b
	}
	s.brokers = bs
	for k := range s.net {
		m := &s.net[k]
		if m.kind == 0 {
			continue
		}
		m.from = to[m.from]
		if m.kind != alterISR {
			m.to = to[m.to]
		} else {
			m.pe -= base
			m.isr, m.cleared, m.bes = to.set(m.isr), to.set(m.cleared), to.all(m.bes)
		}
	}
	for _, w := range []*uint8{&s.real.who, &s.backup.who, &s.liar} {
		if *w != 0 {
			*w = to[*w-1] + 1
		}
	}
}
