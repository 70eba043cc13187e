package model

import "math/bits"

// What the controller does. Each function changes an image into the next and says whether it may; the caller commits it. A
// choice that the design leaves open (which member leads) is an argument, and all of its values are tried.

func inSync(set uint8) int { return bits.OnesCount8(set) }

// heard are the brokers that the controller hears when it asks: none is elected that does not answer. With the deviation, those
// that it has not fenced yet are enough.
func (r rules) heard(s *state) (set uint8) {
	for i := range uint8(maxN) {
		if b := &s.brokers[i]; b.up == 1 && b.be == s.hist[0].be[i] || r.not(electUnasked) {
			set |= bit(i)
		}
	}
	return set
}

// candidates are those who may lead without further question: E1, E5.
func (im *image) candidates(heard uint8) uint8 {
	if im.isr == 0 {
		return im.ready(im.elr, heard)
	}
	return im.ready(im.isr, heard)
}

// settle elects pick when there is no leader and somebody may lead. lost: there was a leader before this entry.
func (r rules) settle(im *image, heard uint8, lost bool, pick uint8) bool {
	c := im.candidates(heard)
	if im.leader != none || c == 0 {
		if lost { // E2
			im.le++
			im.pe++
		}
		return pick == none
	}
	if pick == none || c&bit(pick) == 0 {
		return false
	}
	r.elect(im, heard, pick)
	return true
}

// elect makes pick the leader, a member of the ISR or else of the ELR.
func (r rules) elect(im *image, heard, pick uint8) {
	if im.isr&bit(pick) == 0 { // I5
		im.elr = (im.elr | im.isr) &^ bit(pick)
		im.isr = bit(pick)
	}
	im.leader = pick
	im.restarted &^= bit(pick)
	im.le++ // E2
	im.pe++
	r.trim(im, heard)
}

// ready are the members of set that are heard and have everything as far as anybody knows.
func (im *image) ready(set, heard uint8) uint8 {
	return set & heard &^ (im.fenced | im.stopping | im.restarted)
}

// trim empties the ELR once the ISR is large enough (E3), and its leader is there.
func (r rules) trim(im *image, heard uint8) {
	led := im.leader != none && heard&bit(im.leader) != 0
	if inSync(im.isr) >= im.effective() && (led || r.not(emptyELRLeaderless)) {
		im.elr = 0
	}
}

// keep puts members that leave the ISR into the ELR if those who stay are too few, or none of them is ready (E3).
func (r rules) keep(im *image, heard, removed uint8) {
	if few := inSync(im.isr) < im.effective(); few || im.ready(im.isr, heard) == 0 && !r.not(noE3) {
		im.elr |= removed
	}
}

// leave takes i out of the ISR and of leadership (fence, shutdown, stall).
func (r rules) leave(im *image, heard, i, pick uint8) bool {
	lost := im.leader == i
	if lost {
		im.leader = none
	}
	if im.isr&bit(i) != 0 {
		im.isr &^= bit(i)
		r.trim(im, heard)
		r.keep(im, heard, bit(i))
		if !lost {
			im.pe++
		}
	}
	return r.settle(im, heard, lost, pick)
}

func (r rules) fence(s *state, i, pick uint8) bool {
	im := s.hist[0]
	if im.fenced&bit(i) != 0 || !s.spend(fences) {
		return false
	}
	if s.brokers[i].lease == 1 { // E4
		if !r.not(earlyFence) || !s.spend(earlies) {
			return false
		}
	}
	im.fenced |= bit(i)
	return r.leave(&im, r.heard(s), i, pick) && s.commit(im)
}

// unfence: i was heard again. It costs nothing: there are no more of it than fences.
func (r rules) unfence(s *state, i, pick uint8) bool {
	im := s.hist[0]
	if im.fenced&bit(i) == 0 || s.brokers[i].up == 0 || s.brokers[i].be != im.be[i] {
		return false
	}
	im.fenced &^= bit(i)
	return r.settle(&im, r.heard(s), false, pick) && s.commit(im)
}

// handover elects another member of the ISR while the leader is well: the preferred leader.
func (r rules) handover(s *state, pick uint8) bool {
	im := s.hist[0]
	if im.leader == none || im.leader == pick || im.candidates(r.heard(s))&im.isr&bit(pick) == 0 || !s.spend(handovers) {
		return false
	}
	r.elect(&im, r.heard(s), pick)
	return s.commit(im)
}

// stop begins a clean shutdown of i (E8), or says that it is stalled (E9): it gives up leadership and leaves the ISR.
func (r rules) stopping(s *state, i, pick uint8, limit int) bool {
	im := s.hist[0]
	if s.brokers[i].up == 0 || im.stopping&bit(i) != 0 || im.fenced&bit(i) != 0 || !s.spend(limit) {
		return false
	}
	im.stopping |= bit(i)
	if !r.leave(&im, r.heard(s), i, pick) {
		return false
	}
	if limit == stalls { // over at once: it may come back as soon as it can sync again
		im.stopping &^= bit(i)
	}
	return s.commit(im)
}

// stopped ends it: the broker has applied that it leads nothing, flushes, writes the marker and goes.
func (r rules) stopped(s *state, i uint8, lie bool) bool {
	b := &s.brokers[i]
	if b.up == 0 || s.view(i).stopping&bit(i) == 0 || s.leads(i) {
		return false
	}
	if !r.flush(s, i, lie) {
		return false
	}
	b.clean, b.mark = b.be+1, b.leo
	b.stop()
	s.forget()
	return true
}

// register is the start of broker i, up to and with its registration (A7, E5).
func (r rules) register(s *state, i, pick uint8, lie bool) bool {
	b, im := &s.brokers[i], s.hist[0]
	if b.up == 1 {
		return false
	}
	old := b.be != im.be[i] // the last accepted nonce is not on this disk
	clean := b.clean != 0 && b.mark == b.leo && (b.clean == im.be[i]+1 || r.not(markerOfAnyBE))
	had := b.clean
	if lie && had == 0 || !r.restart(s, i, lie) {
		return false
	}
	im.be[i]++
	im.fenced &^= bit(i)
	im.stopping &^= bit(i)
	lost := false
	if im.leader == i && !r.not(noA7) {
		im.leader, lost = none, true
	}
	switch {
	case old && !r.not(noOldDiskCheck):
		if (im.isr|im.elr)&bit(i) != 0 {
			im.isr &^= bit(i)
			im.elr &^= bit(i)
			if !lost {
				im.pe++
			}
		}
	case !clean && im.leader != i && !r.not(restartForgiven):
		im.restarted |= bit(i)
	}
	if !r.settle(&im, r.heard(s)|bit(i), lost, pick) || !s.commit(im) {
		return false
	}
	b.be, b.up, b.lag = im.be[i], 1, 0
	s.forget()
	r.enter(s, i, nil)
	return true
}

// restart is recovery, and the removal of the marker.
func (r rules) restart(s *state, i uint8, lie bool) bool {
	b := &s.brokers[i]
	if b.clean == 0 { // recovery syncs nothing that the last process had not synced, if its disk was true
		return true
	}
	if r.not(markerStays) {
		return !lie
	}
	if !r.flush(s, i, lie) {
		return false
	}
	b.clean, b.mark = 0, 0
	return true
}

// recover is E6: nobody may lead without question, and everybody answers.
func (r rules) recover(s *state, pick uint8) bool {
	im := s.hist[0]
	asked := im.isr | im.elr
	if im.leader != none || im.candidates(r.heard(s)) != 0 || asked&bit(pick) == 0 {
		return false
	}
	best, mine := 0, 0
	for i := range uint8(maxN) {
		if asked&bit(i) == 0 {
			continue
		}
		b := &s.brokers[i]
		if b.up == 0 || b.lag != 0 && !r.not(answersOfAnyEpoch) || !im.alive(i) { // an answer is for the leader epoch that was asked about
			if !r.not(electAnyone) || i == pick {
				return false
			}
			continue
		}
		length := r.lastEpoch(b)<<8 | int(b.leo)
		best = max(best, length)
		if i == pick {
			mine = length
		}
	}
	if mine < best && !r.not(electAnyone) {
		return false
	}
	r.elect(&im, r.heard(s), pick)
	return s.commit(im)
}

func (r rules) lastEpoch(b *broker) int {
	if r.not(recordEpochsOnly) {
		return int(b.epochBefore(b.leo))
	}
	return int(b.ep)
}

// setMin changes min.insync.replicas.
func (r rules) setMin(s *state, to uint8) bool {
	im := s.hist[0]
	if im.minInsync == to || !s.spend(configs) {
		return false
	}
	im.minInsync = to
	if before := im.elr; !r.not(noI7) {
		if r.trim(&im, r.heard(s)); im.elr != before {
			im.pe++
		}
	}
	return s.commit(im)
}
