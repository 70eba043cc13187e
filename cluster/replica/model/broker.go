package model

// What a broker does by itself: its log and disk, its state as leader or follower. Nothing here reads the state of another
// broker, except through a message.

// epochBefore is the epoch of the record before offset, 0 if there is none.
func (b *broker) epochBefore(offset uint8) uint8 {
	if offset <= b.start || offset > b.leo {
		return 0
	}
	return epochOf(b.log[offset-1])
}

// endOf is the newest epoch not above epoch and the offset behind its last record (KIP-101).
func (b *broker) endOf(epoch uint8) (newest, end uint8) {
	end = b.start
	for o := b.start; o < b.leo && epochOf(b.log[o]) <= epoch; o++ {
		newest, end = epochOf(b.log[o]), o+1
	}
	return newest, end
}

func (b *broker) cut(to uint8) {
	for o := to; o < b.leo; o++ {
		b.log[o] = 0
	}
	b.leo = to
	b.dleo = min(b.dleo, to)
}

func (r rules) append(s *state, i uint8) bool {
	b, v := &s.brokers[i], s.view(i)
	if !s.leads(i) || b.leo == maxLog || inSync(v.isr) < v.effective() || !s.spend(appends) { // A1, H6
		return false
	}
	s.values++
	b.log[b.leo] = v.le<<4 | s.values // A2
	b.leo++
	b.ep = v.le // A3
	return true
}

// sync is a commit of the journal. A disk that lies tells of success and keeps what it had.
func (r rules) sync(s *state, i uint8, lie bool) bool {
	b := &s.brokers[i]
	if b.up == 0 || b.dleo == b.leo && b.dep == b.ep {
		return false
	}
	if !r.flush(s, i, lie) {
		return false
	}
	r.advance(s, i)
	return true
}

// flush makes all that i has written durable, or only says so. Call it after the change of a truncation too (T3).
func (r rules) flush(s *state, i uint8, lie bool) bool {
	b := &s.brokers[i]
	if lie {
		if s.liar != 0 && s.liar != i+1 || !s.spend(lies) {
			return false
		}
		s.liar = i + 1
		if s.real.who == 0 {
			s.real = b.durable(i)
		}
		s.doubt()
	} else if s.real.who == i+1 {
		s.real = disk{}
	}
	b.dleo, b.dep = b.leo, b.ep
	return true
}

// doubt: is a disk that lies the only one that counts?
func (s *state) doubt() {
	if im := &s.hist[0]; s.liar != 0 && im.isr|im.elr == bit(s.liar-1) && s.lacks(s.liar-1, maxLog) < 0 {
		s.alone = 1
	}
}

// durable is what the disk of broker i holds if all its syncs so far were true.
func (b *broker) durable(i uint8) disk {
	d := disk{who: i + 1, log: b.log, start: b.start, leo: b.dleo, ep: b.dep, be: b.be, clean: b.clean, mark: b.mark}
	for o := d.leo; o < maxLog; o++ {
		d.log[o] = 0
	}
	return d
}

func (b *broker) load(d disk) {
	b.log, b.start, b.leo, b.dleo, b.ep, b.dep, b.clean, b.mark = d.log, d.start, d.leo, d.leo, d.ep, d.ep, d.clean, d.mark
}

// advance moves the HW as far as the maximal ISR allows.
func (r rules) advance(s *state, i uint8) {
	if !s.leads(i) {
		return
	}
	b, v := &s.brokers[i], s.view(i)
	if inSync(v.isr) < v.effective() && !r.not(noH4) { // H4
		return
	}
	members := v.isr
	if !r.not(committedISROnly) { // H3
		members |= b.pend
	}
	if b.dep != v.le && !r.not(voteWithoutEpoch) {
		return
	}
	hw := b.dleo // H2
	if r.not(leaderVotesWritten) {
		hw = b.leo
	}
	for j := range uint8(maxN) {
		if j != i && members&bit(j) != 0 {
			if b.ack[j] == 0 {
				return
			}
			hw = min(hw, b.ack[j]-1)
		}
	}
	if hw <= b.hw { // H5
		return
	}
	b.hw = hw
	for o := b.start; o < hw; o++ {
		switch s.promised[o] {
		case 0:
			s.promised[o] = b.log[o]
		case b.log[o]:
		default:
			s.bad = badTwice
		}
	}
}

// enter begins life under the metadata that i applied last.
func (r rules) enter(s *state, i uint8, before *image) {
	b, v := &s.brokers[i], s.view(i)
	if v.replicas&bit(i) == 0 { // moved away: the files are deleted
		*b = broker{up: b.up, be: b.be, lag: b.lag, lease: b.lease, behind: b.behind}
		if s.real.who == i+1 {
			s.real = disk{}
		}
		return
	}
	if before != nil && before.le == v.le {
		if b.pend != 0 && v.pe > b.pendPE {
			b.pend, b.pendPE = 0, 0
		}
		r.advance(s, i)
		return
	}
	b.pend, b.pendPE, b.leso = 0, 0, 0
	if !r.not(votesOutliveEpoch) {
		b.ack, b.ackBE = [maxN]uint8{}, [maxN]uint8{}
	}
	if v.leader == i {
		b.leso = b.leo
		b.ep = v.le // A3, journalled when the term begins
		r.advance(s, i)
		return
	}
	if r.not(cutToHW) && v.leader != none && b.leo > b.hw {
		b.cut(b.hw)
	}
}

// apply takes the next metadata entry.
func (r rules) apply(s *state, i uint8) bool {
	b := &s.brokers[i]
	if b.up == 0 || b.lag == 0 {
		return false
	}
	before := *s.view(i)
	b.lag--
	r.enter(s, i, &before)
	s.forget()
	return true
}

// --- losing power

// crash ends the process of i. keep is how much of its log is there afterwards, between dleo and leo; lost says that a lying disk
// shows what it really holds.
func (r rules) crash(s *state, i, keep uint8, epoch, lost bool) bool {
	b := &s.brokers[i]
	if lost {
		if s.real.who != i+1 {
			return false
		}
		b.load(s.real)
		s.real = disk{}
	} else {
		if b.up == 0 || keep < b.dleo || keep > b.leo || epoch && (keep < b.leo || b.ep == b.dep) {
			return false
		}
		durable := b.durable(i)
		before := b.dep
		if keep < b.leo || !epoch {
			b.cut(keep)
			b.ep = max(before, b.epochBefore(keep))
		}
		if r.not(readableIsDurable) && keep > durable.leo && s.real.who == 0 {
			s.real = durable // J7 off: the bytes were in the page cache
		}
		b.dleo, b.dep = b.leo, b.ep
	}
	b.stop()
	s.forget()
	return true
}

func (b *broker) stop() {
	*b = broker{
		be: b.be, clean: b.clean, mark: b.mark, log: b.log, start: b.start, leo: b.leo, dleo: b.dleo, ep: b.ep, dep: b.dep,
		hw: b.start, // the worst: an old one
	}
}
