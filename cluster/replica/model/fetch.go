package model

// Fetching: what a follower asks, what the leader makes of it, and what the follower makes of the answer.

// ask is the fetch request of follower i (H1).
func (r rules) ask(s *state, i uint8) (msg, bool) {
	b, v := &s.brokers[i], s.view(i)
	if b.up == 0 || v.leader == none || v.leader == i || v.replicas&bit(i) == 0 {
		return msg{}, false
	}
	var trusts uint8
	if r.not(noT2) && b.trusts == v.leader+1 {
		trusts = 1
	}
	return msg{
		trusts: trusts,
		kind:   fetchRequest, from: i, to: v.leader, be: b.be, le: v.le,
		dleo: b.dleo, leo: b.leo, epoch: b.epochBefore(b.leo), entry: b.dep,
	}, true
}

// serve is what leader m.to makes of a fetch request.
func (r rules) serve(s *state, m msg) (msg, bool) {
	i, j := m.to, m.from
	if !s.leads(i) {
		return msg{}, false
	}
	b, v := &s.brokers[i], s.view(i)
	if v.le != m.le || v.replicas&bit(j) == 0 { // H8
		return msg{}, false
	}
	a := msg{kind: fetchAnswer, from: i, to: j, be: m.be, le: m.le, leo: m.leo, entry: m.epoch, hw: b.hw, start: b.start, leso: b.leso}
	if m.leo < b.start && !r.not(noT5) { // T5
		a.reset = 1
		return a, true
	}
	at, epoch := m.leo, m.epoch
	if r.not(divergenceAtDurable) {
		at, epoch = m.dleo, 0
		if m.dleo > 0 && m.dleo <= s.brokers[j].leo && m.be == s.brokers[j].be {
			epoch = s.brokers[j].epochBefore(m.dleo)
		}
	}
	diverged := at > b.leo || at > b.start && b.epochBefore(at) != epoch
	if epoch == 0 && at <= b.leo && !r.not(emptyLogDiverges) { // T5: it has no record that could diverge
		diverged = false
	}
	if m.trusts == 1 && at <= b.leo {
		diverged = false
	}
	if diverged {
		a.diverged = 1
		if a.epoch, a.end = b.endOf(epoch); a.epoch == 0 && !r.not(noEpochLeft) {
			a.epoch = epoch // all that could say more was deleted: cut to the log start
		}
	} else if m.leo < b.leo {
		a.record = b.log[max(m.leo, b.start)]
	}
	counts := !diverged || r.not(divergingCounts)               // H3
	if counts && (m.entry == v.le || r.not(voteWithoutEpoch)) { // H3: with the epoch entry
		told := m.dleo + 1
		if r.not(writtenCounts) {
			told = m.leo + 1
		}
		if b.ackBE[j] == m.be {
			told = max(told, b.ack[j])
		}
		if m.be >= b.ackBE[j] {
			b.ack[j], b.ackBE[j] = told, m.be
		}
		r.advance(s, i)
		a.hw = b.hw
	}
	return a, true
}

// take is what follower m.to makes of the answer. It returns false if nothing comes of it.
func (r rules) take(s *state, m msg, lie bool) bool {
	i := m.to
	b := &s.brokers[i]
	if b.up == 0 || b.be != m.be || b.leo != m.leo || s.leads(i) || s.view(i).replicas&bit(i) == 0 {
		return false
	}
	if s.view(i).le != m.le && !r.not(noH7) { // H7
		return false
	}
	if b.epochBefore(b.leo) != m.entry && !r.not(answerOfAnyFetch) { // H7
		return false
	}
	changed := false
	switch {
	case m.reset == 1: // T5
		if lie {
			return false // the model's disks lie about the journal; this makes new files
		}
		b.log = [maxLog]uint8{}
		b.start, b.leo, b.dleo, b.hw = m.start, m.start, m.start, m.start
		if !r.flush(s, i, false) {
			return false
		}
		changed = true
	case m.diverged == 1: // T1
		_, own := b.endOf(m.epoch)
		to := min(own, m.end)
		if to < b.hw {
			s.bad = badT4
			return true
		}
		if to >= b.leo {
			return false
		}
		before := b.durable(i)
		b.cut(to)
		b.ep = b.epochBefore(to)
		if lie {
			if s.liar != 0 && s.liar != i+1 || !s.spend(lies) {
				return false
			}
			s.liar = i + 1
			if s.real.who == 0 {
				s.real = before
			}
			s.doubt()
			b.dleo, b.dep = b.leo, b.ep
			return true
		}
		return r.flush(s, i, false) // T3
	case m.record != 0 && b.leo < maxLog:
		b.log[b.leo] = m.record
		b.leo++
		changed = true
	}
	if lie {
		return false
	}
	if r.not(noT2) && m.diverged == 0 && b.trusts != m.from+1 {
		b.trusts = m.from + 1
		changed = true
	}
	if hw := min(m.hw, b.leo); hw > b.hw { // H7
		b.hw = hw
		changed = true
	}
	if start := min(m.start, b.leo); start > b.start && !r.not(noT5) {
		for o := b.start; o < start; o++ {
			b.log[o] = 0
		}
		b.start = start
		b.dleo = max(b.dleo, start)
		changed = true
	}
	if m.diverged == 0 && b.leo >= m.leso && b.ep < m.le { // A3: everything below LESO is here
		b.ep = m.le
		changed = true
	}
	return changed
}
