package model

// Leases and reads (E4, R1, R2, R4).

func (s *state) lapse(i uint8) bool {
	b := &s.brokers[i]
	if b.lease == 0 || !s.spend(lapses) {
		return false
	}
	b.lease, b.behind = 0, 0
	return true
}

// renew: the controller accepts a renewal, and the answer names the newest entry; the lease holds once that is applied (E4).
func (r rules) renew(s *state, i uint8) bool {
	b, im := &s.brokers[i], &s.hist[0]
	if im.be[i] != b.be || im.fenced&bit(i) != 0 || b.lease == 1 && b.behind == 0 || b.lag != 0 && !r.not(leaseWithoutLog) {
		return false
	}
	b.lease, b.behind = 1, 0
	return true
}

// read is one fetch of a consumer. It reads on where it stands and never sees why a broker does not answer.
func (r rules) read(s *state, i uint8, follower bool) bool {
	b, v := &s.brokers[i], s.view(i)
	if s.leads(i) == follower || v.replicas&bit(i) == 0 {
		return false
	}
	if !follower && b.lease == 0 && !r.not(noR2) { // R2
		return false
	}
	if !follower && b.lag > b.behind && s.hist[b.behind].le != v.le {
		s.bad = badStale
		return true
	}
	switch at := s.reader; {
	case at < b.start:
		return false
	case at < b.hw: // R1
		if s.promised[at] != 0 && s.promised[at] != b.log[at] {
			s.bad = badTwice
		}
		s.reader++
	case at > b.leo && (!follower || r.not(followerRange)), at > b.hw && r.not(rangeAtHW): // R4
		s.bad = badRange
	default:
		return false
	}
	return true
}

// mayShrink: replica.lag.time is longer than a lease. A member that has not applied this epoch for so long has no lease
// left, if leases are renewed as they must.
func (p *partition) mayShrink(s *state, i, isr uint8) bool {
	if !p.reads {
		return true
	}
	for j := range p.n {
		if (s.view(i).isr&^isr)&bit(j) != 0 && s.brokers[j].lease == 1 && s.view(j).le < s.view(i).le && !p.not(leaseWithoutLog) {
			return false
		}
	}
	return true
}
