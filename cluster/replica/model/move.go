package model

// move begins to move the partition from one broker to another. Both are replicas meanwhile.
func (r rules) move(s *state, from, to uint8) bool {
	im := s.hist[0]
	if im.adding != 0 || im.replicas&bit(from) == 0 || im.replicas&bit(to) != 0 || !im.alive(to) || !s.spend(reassigns) {
		return false
	}
	im.adding, im.removing = bit(to), bit(from)
	im.replicas |= im.adding
	im.pe++
	return s.commit(im)
}

// moved ends it: the new replicas are in the ISR, which stays large enough without the old ones; somebody of it leads or may lead.
func (r rules) moved(s *state, pick uint8, back bool) bool {
	im := s.hist[0]
	out := im.removing
	if back {
		out = im.adding
	}
	if im.adding == 0 || im.leader == none {
		return false
	}
	if r.not(moveWithoutISR) && !back {
		im.isr |= im.adding
	}
	rest := im.isr &^ out
	im.replicas &^= out
	done := im.adding
	im.adding, im.removing = 0, 0
	if !back && rest&done == 0 || inSync(rest) < im.effective() || im.ready(rest, r.heard(s)) == 0 {
		return false
	}
	im.isr = rest
	im.elr &^= out
	lost := out&bit(im.leader) != 0
	if lost {
		im.leader = none
	} else {
		im.pe++
	}
	if !r.settle(&im, r.heard(s), lost, pick) {
		return false
	}
	r.trim(&im, r.heard(s))
	return s.commit(im)
}
