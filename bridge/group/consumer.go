package group

import (
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Consumer is what a member of the consumer protocol says of itself.
type Consumer struct {
	ID, Instance   string // Instance is empty for a dynamic member
	Rack           string // kept and shown; assignors do not look at it
	ClientID, Host string
	Rebalance      time.Duration
	Topics         []string // in order, each once
	Pattern        string   // of further topics; empty is none
	Assignor       string   // empty: any will do

	Classic *ClassicSide // of a member that speaks the classic protocol; nil else
}

// consumer is one member of the consumer protocol. Its fields change only
// within a step of its group; what they point to never does.
type consumer struct {
	*Consumer

	// epoch is the group epoch that the member has come to, 0 before the first and
	// away while a static member is. seen is what its client came with last, and so has for certain: the
	// answer with epoch may have been lost.
	epoch, seen int32

	target   assign.Set // what it is to have
	assigned assign.Set // what it is told to have
	since    []int32    // for each of assigned, the epoch in which it was told to; known since this coordinator knows the member
	revoking assign.Set // what it is told no longer and has not shown to have given up

	// owned is what its client said last that it has, if it did since this coordinator knows of it. A client says so
	// whenever that has changed.
	owned     assign.Set
	saidOwned bool

	deadline time.Time // of its session
	revokeBy time.Time // while revoking
	syncBy   time.Time // while a member of the classic protocol has to join again, or to sync
	waiting  int       // answers to it that wait for the table
	counted  int       // bytes, in consumers.bytes
}

// away is the epoch of a static member that left and will be back (KIP-848 names it −2).
const away int32 = -2

// holds is what nobody else may be told to have.
func (m *consumer) holds(p assign.Partition) bool { return m.assigned.Has(p) || m.revoking.Has(p) }

// settled: it has come to the epoch, and has what it is to have then.
func (m *consumer) settled(epoch int32) bool {
	return m.epoch == epoch && len(m.revoking) == 0 && len(m.assigned) == len(m.target) && m.assigned.Equal(m.target)
}

// textSize is what counts towards Config.MaxGroupBytes.
func (c *Consumer) textSize() int {
	n := len(c.ID) + len(c.Instance) + len(c.Rack) + len(c.ClientID) + len(c.Host) + len(c.Pattern) + len(c.Assignor)
	for _, t := range c.Topics {
		n += len(t) + 16
	}
	if c.Classic != nil {
		n += protocolBytes(c.Classic.Protocols)
	}
	return n
}

// size is about how much memory the member takes.
func (m *consumer) size() int {
	const partition = 20
	return MemberBytes + m.textSize() + partition*(len(m.target)+len(m.assigned)+len(m.revoking)+len(m.owned)) + 4*len(m.since)
}

// with is c after what a request says.
func (c Consumer) with(r *BeatRequest) *Consumer {
	if r.Rack != "" {
		c.Rack = r.Rack
	}
	if r.Rebalance >= 0 {
		c.Rebalance = r.Rebalance
	}
	if r.Topics != nil {
		c.Topics = slices.Clone(r.Topics)
		slices.Sort(c.Topics)
		c.Topics = slices.Compact(c.Topics)
	}
	if r.Pattern != nil {
		c.Pattern = *r.Pattern
	}
	if r.Assignor != "" {
		c.Assignor = r.Assignor
	}
	if r.Instance != "" {
		c.Instance = r.Instance
	}
	c.ID, c.ClientID, c.Host, c.Classic = r.MemberID, r.ClientID, r.Host, nil
	return &c
}

// same reports whether nothing that is kept of the two differs.
func (c *Consumer) same(d *Consumer) bool {
	return c.ID == d.ID && c.Instance == d.Instance && c.Rack == d.Rack && c.ClientID == d.ClientID && c.Host == d.Host &&
		c.Rebalance == d.Rebalance && c.Assignor == d.Assignor && c.readsSame(d) && c.Classic.same(d.Classic)
}

func (c *Consumer) readsSame(d *Consumer) bool {
	return c.Pattern == d.Pattern && slices.Equal(c.Topics, d.Topics)
}
