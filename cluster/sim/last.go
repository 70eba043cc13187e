package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// patience is how long a cluster may take to be whole again once nothing troubles it.
const patience = 3 * time.Minute

// last waits until the cluster is whole again, and compares all that everybody has with all that was promised.
func (c *checker) last() {
	why := ""
	if !c.s.await(patience, func() bool { c.s.revive(); why = c.unsettled(); return why == "" }) {
		if c.fault() == "" && c.s.whole() > len(c.s.nodes)/2 {
			c.violated("a cluster heals", "%v after all trouble: %s", patience, why)
		}
		return
	}
	c.s.trace.add("all is well")
	for _, t := range c.s.image().Topics() {
		for i := range t.Partitions {
			c.compare(log.PartitionID{Topic: t.ID, Index: int32(i)}, &t.Partitions[i])
		}
	}
	if c.s.upper != nil && c.fault() == "" {
		c.s.upper.Last(c.s)
	}
}

// whole is how many nodes have a disk that can be used.
func (s *Sim) whole() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.nodes {
		if o.broken == nil {
			n++
		}
	}
	return n
}

// lied says whether some disk has not kept its word.
func (s *Sim) lied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.nodes, func(n *node) bool { return n.lied })
}

// image is the newest metadata.
func (s *Sim) image() *meta.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quorum.images[len(s.quorum.images)-1]
}

// nodeFor finds a node by its broker's id.
func (s *Sim) nodeFor(im *meta.Image, id int32) *node {
	if k := im.Broker(id); k != nil {
		return s.nodeOf(k.UUID)
	}
	return nil
}

// replicas are those of a partition whose nodes can run, and that are not known to be damaged.
func (c *checker) replicas(im *meta.Image, p *meta.Partition, id log.PartitionID) (all []*cluster.Partition, missing string) {
	for _, r := range p.Replicas {
		n := c.s.nodeFor(im, r)
		if n == nil {
			return nil, fmt.Sprintf("broker %d is nowhere", r)
		}
		c.s.mu.Lock()
		broken := n.broken
		c.s.mu.Unlock()
		if broken != nil || slices.Contains(p.Damaged, r) {
			continue
		}
		_, b := n.broker()
		if b == nil {
			return nil, fmt.Sprintf("n%d is not up", n.i)
		}
		i := slices.IndexFunc(b.Partitions(), func(p *cluster.Partition) bool { return p.ID() == id })
		if i < 0 {
			return nil, fmt.Sprintf("n%d has no replica of %v", n.i, id)
		}
		all = append(all, b.Partitions()[i])
	}
	return all, ""
}

// unsettled says what is not well yet.
func (c *checker) unsettled() string {
	im := c.s.image()
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p, id := &t.Partitions[i], log.PartitionID{Topic: t.ID, Index: int32(i)}
			all, missing := c.replicas(im, p, id)
			switch {
			case missing != "":
				return missing
			case len(all) == 0: // it was on a disk that is beyond use
			case p.Leader == meta.NoLeader || len(p.ISR) < len(all) || len(p.Adding)+len(p.Removing) > 0:
				return fmt.Sprintf("%s/%d: %+v%s", t.Name, i, *p, roles(all))
			}
			for _, r := range all {
				if leads := startOfLeader(all); r.LogStart() < leads {
					return fmt.Sprintf("%s/%d: a replica starts at %d, its leader at %d%s", t.Name, i, r.LogStart(), leads, roles(all))
				}
				if at := r.Probe(); at.Log.LogEnd() != all[0].LogEnd() || r.HighWatermark() != at.Log.LogEnd() || at.Role == "none" {
					return fmt.Sprintf("%s/%d: a replica has end %d and hw %d, another %d: %s", t.Name, i, at.Log.LogEnd(), r.HighWatermark(), all[0].LogEnd(), at.Role)
				}
				if stable := r.LastStable(); stable < r.HighWatermark() && !c.tainted(id) {
					return fmt.Sprintf("%s/%d: a transaction is open from %d on", t.Name, i, stable)
				}
			}
		}
	}
	if c.s.upper != nil {
		return c.s.upper.Unsettled(c.s)
	}
	return ""
}

// tainted says whether nothing is promised of a partition.
func (c *checker) tainted(id log.PartitionID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.book(id).tainted
}

// startOfLeader is where the log of the replica that leads starts. One that follows may have heard of a later deletion by a leader before.
func startOfLeader(all []*cluster.Partition) log.Offset {
	for _, r := range all {
		if r.Probe().Leads {
			return r.LogStart()
		}
	}
	return 0
}

// roles is where some replicas stand.
func roles(all []*cluster.Partition) (s string) {
	for _, r := range all {
		at := r.Probe()
		s += fmt.Sprintf("; end %d, durable %d/%d, hw %d, epoch %d %s", at.Log.LogEnd(), at.Log.Durable(), at.Log.DurableEpoch(), r.HighWatermark(), at.Epoch, at.Role)
	}
	return s
}

// compare tests one partition.
func (c *checker) compare(id log.PartitionID, p *meta.Partition) {
	all, missing := c.replicas(c.s.image(), p, id)
	if missing != "" {
		c.violated("a cluster that is whole stays so", "%s", missing)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.book(id)
	var first []record
	sound := 0
	start := log.Offset(0)
	for _, r := range all {
		start = max(start, r.LogStart())
	}
	for _, r := range all {
		at := r.Probe()
		got, err := logged(at.Log, start, r.HighWatermark())
		for _, rec := range got { // the newest may not have been looked at
			c.saw(b, rec, "a replica in the end", at.Epoch)
		}
		if b.sparse && !b.internal {
			got = b.history().newest(got) // what compaction has left of the rest is another thing at each replica
		}
		switch {
		case err != nil && c.s.lied(): // its disk may have lost that
			continue
		case err != nil:
			c.violate("all can be read in the end", "%s: %v", b.name, err)
			return
		case sound > 0 && !slices.Equal(got, first):
			c.violate("replicas are equal in the end", "%s: %v and %v", b.name, first, got)
		}
		first = got
		sound++
	}
	if b.tainted || sound == 0 {
		return
	}
	c.transactions(b, all)
	if b.sparse {
		if !b.internal {
			c.compacted(b, first)
		}
		return
	}
	at := map[string]log.Offset{}
	for i, r := range first {
		if r.offset != start+log.Offset(i) {
			c.violate("A2: offsets are dense", "%s: %s at place %d behind %d", b.name, r, i, start)
		}
		if r.marks() {
			continue
		}
		if o, twice := at[r.value]; twice {
			c.violate("M10, P1: however often a record is sent, it is stored once", "%s: %s at %d and %d", b.name, r.value, o, r.offset)
		}
		at[r.value] = r.offset
	}
	for v, o := range b.where {
		if _, twice := at[v]; o < start && !twice {
			at[v] = o // it has been deleted
		}
	}
	for _, o := range slices.Sorted(maps.Keys(b.committed)) {
		if was := b.committed[o]; o >= start && (int(o-start) >= len(first) || first[o-start] != was.record) {
			c.violate("what was committed is there in the end", "%s: %s called %s committed", b.name, was.who, was.record)
		}
	}
	c.order(b, at)
}

// order tests that what each producer was told is stored is stored in the order in which it was sent.
func (c *checker) order(b *book, at map[string]log.Offset) {
	values := slices.SortedFunc(maps.Keys(b.acked), func(x, y string) int {
		return cmp.Or(cmp.Compare(b.acked[x].client, b.acked[y].client), cmp.Compare(b.acked[x].n, b.acked[y].n))
	})
	for i, v := range values {
		o, is := at[v]
		if !is {
			c.violate("what was acked is there in the end", "%s: %s, acked at %v", b.name, v, b.acked[v].when)
			return
		}
		if i > 0 && b.acked[values[i-1]].client == b.acked[v].client && at[values[i-1]] > o {
			c.violate("records of one producer keep their order", "%s: %s at %d, %s at %d", b.name, values[i-1], at[values[i-1]], v, o)
		}
	}
}
