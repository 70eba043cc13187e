package model

// A scenario is where a search begins and how often what may happen in it. They are small, each with a part of the whole, because a
// search that has everything on at once does not end.
type scenario struct {
	name    string
	p       *partition
	without deviation
}

// limits say how often something may happen.
type limits map[int]uint8

// begin is a partition of n brokers. The first replicas of them hold it and are in sync; A leads in LE1, with nothing in the log.
func begin(n, replicas uint8, l limits) *partition {
	p := &partition{n: n}
	s := &p.first
	for limit, times := range l {
		s.left[limit] = times
	}
	set := bit(replicas) - 1
	im := &s.hist[0]
	*im = image{le: 1, pe: 1, isr: set, replicas: set, minInsync: min(2, replicas)}
	for i := range n {
		im.be[i] = 1
		b := &s.brokers[i]
		b.up, b.be = 1, 1
		if i < replicas {
			b.ep, b.dep = 1, 1
		}
	}
	return p
}

func (p *partition) withMin(n uint8) *partition {
	p.first.hist[0].minInsync = n
	return p
}

// reading adds leases and a consumer.
func (p *partition) reading() *partition {
	p.reads = true
	for i := range p.n {
		p.first.brokers[i].lease = 1
	}
	return p
}

// outside: broker i is a replica out of sync.
func (p *partition) outside(i uint8) *partition {
	p.first.hist[0].isr &^= bit(i)
	return p
}

// stoppedB: B has stopped cleanly and has left the ISR.
func (p *partition) stoppedB() *partition {
	p.first.hist[0].stopping = 2
	b := &p.first.brokers[1]
	b.clean, b.mark = b.be+1, b.leo
	b.stop()
	return p.outside(1)
}

// restartedB: B has restarted once, and was not seen to have everything yet.
func (p *partition) restartedB() *partition {
	im := &p.first.hist[0]
	im.be[1], im.restarted = 2, 2
	p.first.brokers[1].be = 2
	return p
}

// aside: A led in LE1 and left a record that nobody has, B led in LE2 and left another if wrote, A leads again; nothing
// is committed.
func (p *partition) aside(wrote bool) *partition {
	s := &p.first
	s.hist[0].le = 3
	a, b := &s.brokers[0], &s.brokers[1]
	a.log[0], a.leo, a.dleo, a.leso, a.ep, a.dep = 1<<4|1, 1, 1, 1, 3, 1
	b.ep, b.dep = 2, 2
	if wrote {
		b.log[0], b.leo, b.dleo = 2<<4|2, 1, 1
	}
	s.values = 2
	return p
}

// figure8: C led in LE1 and left two records that nobody has, B led in LE2 and left one, C leads again.
func (p *partition) figure8() *partition {
	s := &p.first
	s.hist[0].le, s.hist[0].leader = 3, 2
	b, c := &s.brokers[1], &s.brokers[2]
	b.log[0], b.leo, b.dleo, b.ep, b.dep = 2<<4|3, 1, 1, 2, 2
	c.log[0], c.log[1], c.leo, c.dleo, c.leso, c.ep, c.dep = 1<<4|1, 1<<4|2, 2, 2, 2, 3, 3
	s.values = 3
	return p
}

// voted: in LE1, A had a record and B synced it too, C did not get it; now C leads.
func (p *partition) voted() *partition {
	s := &p.first
	s.hist[0].le, s.hist[0].leader = 2, 2
	a, b, c := &s.brokers[0], &s.brokers[1], &s.brokers[2]
	a.log[0], a.leo = 1<<4|1, 1
	b.log[0], b.leo, b.dleo = 1<<4|1, 1, 1
	if p.not(votesOutliveEpoch) {
		a.ack[1], a.ackBE[1] = 2, 1
	}
	c.ep = 2
	s.values = 1
	return p
}

func (p *partition) less(d deviation) *partition {
	p.without = d
	return p
}

// small are searched in each run of the tests.
func small() []scenario {
	return []scenario{
		{"a restart", begin(2, 2, limits{appends: 2, crashes: 1, fences: 1}), 0},
		{"restarts, min.insync 1", begin(2, 2, limits{appends: 1, crashes: 2, changes: 1}).withMin(1), electUnasked},
		{"one replica", begin(1, 1, limits{appends: 3, crashes: 3, retention: 1, stops: 1}), 0},
		{"late fetches and answers", begin(2, 2, limits{appends: 2, handovers: 1, late: 2}), 0},
		{"copies of proposals", begin(2, 2, limits{appends: 1, copies: 1, changes: 2, fences: 1}).withMin(1), 0},
		{"figure 8, a disk lies", begin(2, 2, limits{lies: 2, siteCuts: 1}).aside(true), 0},
		{"a disk lies", begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, fences: 1}), 0},
		{"an old disk", begin(2, 2, limits{appends: 1, crashes: 2, backups: 1}), 0},
		{"min.insync changes", begin(2, 2, limits{appends: 1, configs: 2, fences: 1}), 0},
		{"a move", begin(3, 2, limits{appends: 1, reassigns: 1, changes: 1}), 0},
		{"retention", begin(2, 2, limits{appends: 2, retention: 1, crashes: 1, changes: 1}).withMin(1).outside(1), 0},
		{"reads and leases", begin(2, 2, limits{appends: 1, fences: 1, lapses: 1, handovers: 1}).withMin(1).reading(), 0},
		{"a clean shutdown", begin(2, 2, limits{appends: 1, stops: 1, changes: 1, crashes: 1}), 0},
		{"a stalled broker", begin(2, 2, limits{appends: 2, stalls: 1, changes: 1}), 0},
	}
}

// large are searched in soak runs. With true disks the design must hold whether or not a candidate is asked first (doc.go, hole 6).
func large() []scenario {
	honest := []scenario{
		{"restarts", begin(2, 2, limits{appends: 2, crashes: 2, fences: 1, changes: 1}), 0},
		{"restarts, min.insync 1", begin(2, 2, limits{appends: 2, crashes: 2, changes: 2}).withMin(1), 0},
		{"restarts of three", begin(3, 3, limits{appends: 1, crashes: 1, fences: 1}), 0},
		{"late fetches", begin(2, 2, limits{appends: 2, handovers: 1, late: 2, crashes: 1}), 0},
		{"late fetches and a fence", begin(2, 2, limits{appends: 2, handovers: 1, late: 1, copies: 1, fences: 1, changes: 1}).withMin(1), 0},
		{"copies of proposals", begin(2, 2, limits{appends: 1, copies: 2, late: 1, changes: 3, fences: 1}).withMin(1), 0},
		{"copies of proposals, three", begin(3, 3, limits{appends: 1, copies: 1, late: 1, changes: 2}).withMin(1), 0},
		{"an old disk", begin(2, 2, limits{appends: 2, crashes: 2, backups: 1, changes: 1}), 0},
		{"an old disk of three", begin(3, 3, limits{appends: 1, crashes: 2, backups: 1}), 0},
		{"min.insync changes", begin(2, 2, limits{appends: 2, configs: 2, fences: 2, changes: 1}), 0},
		{"min.insync changes, restart", begin(2, 2, limits{appends: 1, configs: 2, fences: 1, changes: 1, crashes: 1}).withMin(1), 0},
		{"a move and a fence", begin(3, 2, limits{appends: 1, reassigns: 1, fences: 1, changes: 1}), 0},
		{"a move and a crash", begin(3, 2, limits{appends: 1, reassigns: 1, crashes: 1, changes: 1}), 0},
		{"a move of one replica", begin(2, 1, limits{appends: 2, reassigns: 1, crashes: 1, changes: 2, late: 1}), 0},
		{"retention", begin(2, 2, limits{appends: 3, retention: 1, changes: 2, crashes: 1}).withMin(1), 0},
		{"retention, three", begin(3, 3, limits{appends: 2, retention: 1, changes: 1, handovers: 1}), 0},
		{"reads", begin(2, 2, limits{appends: 1, fences: 1, lapses: 2, handovers: 1, changes: 1}).withMin(1).reading(), 0},
		{"reads and a restart", begin(2, 2, limits{appends: 2, fences: 1, lapses: 1, crashes: 1}).withMin(1).reading(), 0},
		{"reads of three", begin(3, 3, limits{appends: 1, lapses: 1, handovers: 1, changes: 1}).reading(), 0},
		{"clean shutdowns", begin(2, 2, limits{appends: 2, stops: 2, changes: 1, crashes: 1}), 0},
		{"stalls", begin(2, 2, limits{appends: 2, stalls: 2, changes: 2}), 0},
		{"a stall of three", begin(3, 3, limits{appends: 1, stalls: 1, changes: 1, crashes: 1}), 0},
	}
	all := []scenario{
		{"figure 8, a disk lies", begin(2, 2, limits{appends: 2, handovers: 2, lies: 2, siteCuts: 1}), 0},
		{"figure 8, answers of any epoch", begin(2, 2, limits{appends: 1, handovers: 1, lies: 2, siteCuts: 1, fences: 1}), answersOfAnyEpoch},
		{"figure 8, three", begin(3, 3, limits{fences: 1, lies: 2, siteCuts: 1}).figure8(), 0},
		{"a disk lies, site cut", begin(2, 2, limits{appends: 1, crashes: 1, lies: 2, siteCuts: 1, changes: 1}), 0},
		{"a disk lies, site cut and fence", begin(2, 2, limits{appends: 1, lies: 1, siteCuts: 1, fences: 1, changes: 1}), 0},
		{"a disk lies, min.insync 1", begin(2, 2, limits{appends: 1, lies: 1, siteCuts: 1, fences: 2}).withMin(1), 0},
		{"a disk lies, min.insync changes", begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, configs: 2, fences: 1}), 0},
		{"a disk of three lies", begin(3, 3, limits{appends: 1, crashes: 1, lies: 1, fences: 1}), 0},
		{"a disk lies in a move", begin(3, 2, limits{appends: 1, reassigns: 1, crashes: 1, lies: 1}), 0},
		{"a disk lies, clean shutdown", begin(2, 2, limits{appends: 1, stops: 1, changes: 1, crashes: 1, lies: 1, fences: 1}).withMin(1).stoppedB(), 0},
		{"a disk lies, site cut in a shutdown", begin(2, 2, limits{appends: 1, stops: 1, crashes: 1, lies: 2, siteCuts: 1}), 0},
	}
	for _, s := range honest {
		all = append(all, s)
		if left := s.p.first.left; left[crashes]+left[stops] > 0 { // where somebody may be down
			all = append(all, scenario{s.name + ", unasked", s.p, electUnasked})
		}
	}
	return all
}
