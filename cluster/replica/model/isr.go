package model

// Changes of the ISR that the leader wishes.

// propose is the leader's wish to have isr for its ISR, or a repetition of it (I2).
func (r rules) propose(s *state, i, isr uint8) (msg, bool) {
	b, v := &s.brokers[i], s.view(i)
	if !s.leads(i) || isr&bit(i) == 0 || b.pend != 0 && (b.pend != isr || b.pendPE != v.pe) && !r.not(lostIsRefused) {
		return msg{}, false
	}
	var cleared uint8
	for j := range uint8(maxN) {
		if j == i || isr&bit(j) == 0 {
			continue
		}
		whole := b.ack[j] != 0 && b.ackBE[j] == v.be[j] && b.ack[j]-1 >= b.hw && (b.ack[j]-1 >= b.leso || r.not(joinBelowLESO))
		switch {
		case whole:
			cleared |= bit(j)
		case v.isr&bit(j) == 0: // I4
			return msg{}, false
		}
	}
	cleared &= v.restarted
	if isr == v.isr && cleared == 0 && b.pend == 0 {
		return msg{}, false
	}
	if b.pend == 0 && !s.spend(changes) {
		return msg{}, false
	}
	b.pend, b.pendPE = isr, v.pe
	return msg{kind: alterISR, from: i, be: b.be, le: v.le, pe: v.pe, isr: isr, cleared: cleared, bes: v.be}, true
}

// alter is AlterPartition at the controller (I1).
func (r rules) alter(s *state, m msg) bool {
	im := s.hist[0]
	if im.leader != m.from || im.be[m.from] != m.be || im.le != m.le || im.pe != m.pe {
		return false
	}
	im.pe++
	var refused bool
	for j := range uint8(maxN) {
		if (m.isr&^im.isr)&bit(j) != 0 && (!im.alive(j) || im.be[j] != m.bes[j] || im.replicas&bit(j) == 0) {
			refused = true
		}
	}
	if refused { // I2
		if r.not(refusalLeavesPE) {
			b := &s.brokers[m.from]
			if b.up == 0 || b.be != m.be || b.pend != m.isr {
				return false
			}
			b.pend, b.pendPE = 0, 0
			r.advance(s, m.from)
			return true
		}
		return s.commit(im)
	}
	removed := im.isr &^ m.isr
	for j := range uint8(maxN) {
		if m.cleared&bit(j) != 0 && (im.be[j] == m.bes[j] || r.not(clearedInAnyLife)) {
			im.restarted &^= bit(j)
		}
	}
	im.restarted &^= m.isr &^ im.isr
	im.isr = m.isr
	im.elr &^= im.isr
	r.keep(&im, r.heard(s), removed)
	r.trim(&im, r.heard(s))
	if !s.commit(im) {
		return false
	}
	if b := &s.brokers[m.from]; r.not(isrFromAnswer) && b.up == 1 && b.be == m.be && b.lag > 1 && s.view(m.from).le == m.le {
		s.hist[b.lag].isr = m.isr // what it takes itself to know
		b.pend, b.pendPE = 0, 0
		r.advance(s, m.from)
	}
	return true
}
