package group

import "time"

// mayConvert reports whether a group of the classic protocol can become one of
// the consumer protocol now.
func (g *Group) mayConvert() Fault {
	if len(g.members) > 0 {
		return NotFound
	}
	return OK
}

// toConsumers makes a group that mayConvert one of the consumer protocol. Its
// epochs go on from its generations, so that none comes back.
func (g *Group) toConsumers(now time.Time) {
	cs := newConsumers(g.cfg)
	cs.epoch = g.generation
	cs.store.formerly = g.storeSeq > 0
	if cs.store.formerly {
		cs.store.put(Record{Kind: ClassicRecord, Gone: true})
	}
	g.consumers = cs
	clear(g.pending)
	g.protocolType, g.protocol, g.leader = "consumer", "", ""
	g.wake = time.Time{}
	if g.state != Empty {
		g.become(Empty, now)
	}
}

// toClassic makes a group of the consumer protocol one of the classic protocol,
// which goes on from its epochs. That takes that it has no members, and that the table knows of
// that: what is removed with members could not be told from what is left of a removal.
func (g *Group) toClassic(fx *Effects) Fault {
	cs := g.consumers
	switch {
	case len(cs.members) > 0:
		return InconsistentProtocol
	case len(cs.store.inflight) > 0 || cs.store.behind:
		return NotAvailable
	}
	cs.none()
	g.flush(fx)
	g.generation = cs.epoch
	g.consumers = nil
	return OK
}
