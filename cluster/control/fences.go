package control

import (
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// peer is what the controller knows of one broker.
type peer struct {
	epoch  int64
	heard  time.Duration // when it was heard last; when the controller began, before that
	spoke  bool          // it was heard in this term, and since it was fenced
	gone   bool          // it says itself that it serves nothing
	goneAt time.Duration
	fenced bool          // in the Image that Step saw last
	up     time.Duration // since when it is not fenced
	down   time.Duration // since when it is
}

// see takes note of who is registered.
func (c *Controller) see(now time.Duration, im *meta.Image) {
	for id := range c.peers {
		if im.Broker(id) == nil {
			delete(c.peers, id)
		}
	}
	for _, b := range im.Brokers() {
		p := c.peers[b.ID]
		if p == nil || p.epoch != b.Epoch { // a registration is a sign of life
			p = &peer{epoch: b.Epoch, heard: now, spoke: !b.Fenced, up: now}
			c.peers[b.ID] = p
		}
		switch {
		case p.fenced && !b.Fenced:
			p.up = now
		case !p.fenced && b.Fenced:
			p.down = now
		}
		p.fenced = b.Fenced
	}
}

// hears says whether a broker is there at this moment: only such a one is given anything (replica/model, hole 6).
func (c *Controller) hears(now time.Duration, id int32) bool {
	p := c.peers[id]
	return p != nil && p.spoke && !p.gone && now-p.heard <= c.timing.inDoubt()
}

// silent says whether a broker may be fenced now, along with another that is due. Nobody is before Fence has passed in this term: who
// renewed with the controller before holds a lease of which this one knows nothing (replica/model, hole 8).
func (c *Controller) silent(now time.Duration, p *peer) bool {
	return p.gone || now-p.heard >= c.timing.silent() && now-c.begun >= c.timing.Fence
}

// due is when p is to be fenced if it is not heard before.
func (c *Controller) due(p *peer) time.Duration {
	if p.gone {
		return p.goneAt
	}
	return p.heard + c.timing.Fence
}

// doubt says whether a broker that is not fenced is neither heard nor silent. An election by rule could choose it, since it is not fenced.
func (c *Controller) doubt(now time.Duration, im *meta.Image) bool {
	for _, b := range im.Brokers() {
		if p := c.peers[b.ID]; p != nil && !b.Fenced && !c.hears(now, b.ID) && !c.silent(now, p) {
			return true
		}
	}
	return false
}

// Settled says whether every broker that is not fenced is heard. While it is not so, hold back commands of others that may elect or that
// may empty an ELR: StopBroker, a smaller MinInsync, and moves (replica/model, holes 5 and 6). It is so again within Fence of the last event.
func (c *Controller) Settled(now time.Duration, im *meta.Image) bool {
	for _, b := range im.Brokers() {
		if !b.Fenced && !c.hears(now, b.ID) {
			return false
		}
	}
	return true
}

// fence takes all silent brokers out in one entry, once one of them is due. As long as others are in doubt it waits, for so long as it takes them to become
// silent: one of them might be elected in this entry, and those who left be forgotten. It answers false while it waits.
func (c *Controller) fence(now time.Duration, d *draft) bool {
	if len(d.im.Brokers()) < 2 { // a broker alone is never fenced
		return true
	}
	first, cmd := never, &meta.FenceBrokers{}
	for _, b := range d.im.Brokers() {
		p := c.peers[b.ID]
		if b.Fenced {
			continue
		}
		first = min(first, c.due(p))
		if c.silent(now, p) {
			cmd.Brokers = append(cmd.Brokers, meta.Incarnation{BrokerID: b.ID, BrokerEpoch: b.Epoch})
		}
	}
	if now < first {
		return true
	}
	if now < first+c.timing.Fence && c.doubt(now, d.im) {
		return false
	}
	if d.add(cmd) {
		for _, i := range cmd.Brokers {
			c.peers[i.BrokerID].spoke = false // whatever is heard from now on lets it back
		}
	}
	return true
}

// nextFence is when somebody is due of whom Step has not seen it yet.
func (c *Controller) nextFence() time.Duration {
	next := never
	if len(c.peers) < 2 {
		return next
	}
	for _, p := range c.peers {
		if at := c.due(p); !p.fenced && at > c.stepped {
			next = min(next, at)
		}
	}
	return next
}

// unfence lets those back that are heard again, each in an entry of its own.
func (c *Controller) unfence(d *draft) {
	for _, b := range d.im.Brokers() {
		if p := c.peers[b.ID]; b.Fenced && p.spoke && !p.gone {
			d.add(&meta.UnfenceBroker{BrokerID: b.ID, BrokerEpoch: b.Epoch})
		}
	}
}
