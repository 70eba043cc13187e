package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// checker keeps the books that every promise is tested against. The first that is broken is the run's violation.
type checker struct {
	s *Sim

	mu     sync.Mutex
	broken string
	books  map[log.PartitionID]*book
	views  map[view]*seen
	counts map[string]int
	acks   int
}

// book is what is known of one partition.
type book struct {
	name       string
	committed  map[log.Offset]promise
	where      map[string]log.Offset // of what is committed
	deleted    log.Offset            // all below may be gone: somebody asked for that
	acked      map[string]ack
	leaders    map[log.Epoch]*process
	newest     log.Epoch // that somebody has led in
	tainted    bool      // a leader was chosen that may have lacked something (E1, E6)
	top        log.Offset
	internal   bool                 // a room's own: what its records say, and how often, is its affair
	sparse     bool                 // compacted: offsets may be missing
	stable     map[log.Offset]bound // last stable offsets that were shown
	leaderless time.Duration        // since when nobody leads, if nobody does
	ledAt      time.Duration        // when somebody was first seen to lead in newest
}

// promise is a record that somebody called committed.
type promise struct {
	record
	who string
	at  log.Epoch // of that replica
}

// ack is a record that its producer was told is committed.
type ack struct {
	client, n int
	at        log.Epoch // newest epoch that somebody led in by then
	when      time.Duration
}

// view is one process's replica.
type view struct {
	p  *process
	id log.PartitionID
}

// seen is what a checker saw of it last.
type seen struct {
	epoch  log.Epoch
	leads  bool
	hw     log.Offset
	stable log.Offset
	looked log.Offset // all below were compared
}

func newChecker(s *Sim) *checker {
	return &checker{s: s, books: map[log.PartitionID]*book{}, views: map[view]*seen{}, counts: map[string]int{}}
}

// violated notes that a promise was broken.
func (c *checker) violated(promise, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violate(promise, format, args...)
}

func (c *checker) violate(promise, format string, args ...any) {
	if c.broken == "" {
		c.broken = promise + ": " + fmt.Sprintf(format, args...)
		c.s.trace.add("VIOLATION %s", c.broken)
	}
}

func (c *checker) fault() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

func (c *checker) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acks
}

func (c *checker) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

func (c *checker) book(id log.PartitionID) *book {
	b := c.books[id]
	if b == nil {
		b = &book{name: fmt.Sprintf("%.4s/%d", id.Topic, id.Index), committed: map[log.Offset]promise{}, where: map[string]log.Offset{}, acked: map[string]ack{}, leaders: map[log.Epoch]*process{}, newest: -1, top: -1, stable: map[log.Offset]bound{}}
		c.books[id] = b
	}
	return b
}

// watch looks at all replicas all the time.
func (c *checker) watch(ctx context.Context) {
	r := c.s.draws.of("watch")
	for sleep(ctx, between(r, 2*time.Millisecond, 8*time.Millisecond)) {
		if c.fault() != "" {
			continue
		}
		for _, n := range c.s.nodes {
			if p, b := n.broker(); b != nil {
				for _, replica := range b.Partitions() {
					c.look(p, replica)
				}
				if off := b.Offline(); len(off) > 0 && !p.excused() && !c.s.refills {
					c.violated("no replica is damaged by a disk that keeps its word", "%s: %v", p, off)
				}
			}
		}
	}
}

// excused says whether the process's disk may have lost something.
func (p *process) excused() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.n.lied || p.hurt.Load() || p.dead
}

// look compares one replica with the books.
func (c *checker) look(p *process, replica *cluster.Partition) {
	at, stable, hw := replica.Probe(), replica.LastStable(), replica.HighWatermark()
	if !p.alive() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, v := c.book(replica.ID()), view{p, replica.ID()}
	last := c.views[v]
	if last == nil {
		last = &seen{epoch: -1}
		c.views[v] = last
	}
	if at.Fault != nil {
		c.violate("replica.Leader.Check", "%s %s: %v", p, b.name, at.Fault)
	}
	if at.Leads {
		c.leads(p, b, at)
	}
	switch {
	case b.tainted:
	case at.Leads && last.leads && at.Epoch == last.epoch && at.HW < last.hw:
		c.violate("H5: the high watermark does not fall in a term", "%s %s: from %d to %d in epoch %d", p, b.name, last.hw, at.HW, at.Epoch)
	case hw > at.Log.LogEnd():
		c.violate("H7: the high watermark is not above the log end", "%s %s: %d, end %d", p, b.name, hw, at.Log.LogEnd())
	}
	if at.Epoch != last.epoch || at.Leads != last.leads {
		c.s.trace.add("%s: %s epoch %d %s, end %d, durable %d/%d, hw %d", p, b.name, at.Epoch, at.Role, at.Log.LogEnd(), at.Log.Durable(), at.Log.DurableEpoch(), hw)
	}
	c.shown(p, b, last, at, stable, hw)
	last.epoch, last.leads, last.hw, last.stable = at.Epoch, at.Leads, at.HW, stable
	start := at.Log.LogStart()
	if start > b.deleted && !b.tainted {
		c.violate("nothing is deleted that nobody wants deleted", "%s %s: starts at %d, deleted up to %d", p, b.name, start, b.deleted)
	}
	last.looked = max(last.looked, start)
	if hw > last.looked && !b.tainted {
		all, err := logged(at.Log, last.looked, hw)
		if err != nil && !p.excused() && !errors.Is(err, log.ErrOutOfRange) {
			c.violate("what is committed can be read", "%s %s: %v", p, b.name, err)
		}
		for _, r := range all {
			c.saw(b, r, p.String(), at.Epoch)
			last.looked = r.offset + 1
		}
	}
}

// unknownEpoch: a reader is not told in which epoch a record was committed.
const unknownEpoch log.Epoch = math.MaxInt32

// saw notes a record that somebody calls committed: everybody calls the same ones so.
func (c *checker) saw(b *book, r record, who string, at log.Epoch) {
	switch was, is := b.committed[r.offset]; {
	case b.tainted:
	case !is:
		b.committed[r.offset] = promise{r, who, at}
		switch o, twice := b.where[r.value]; {
		case !twice, b.internal, r.marks():
		case o < b.deleted:
			c.counts["stored again after its deletion"]++ // doc.go, "What is known to be open"
		default:
			c.violate("M10, P1: however often a record is sent, it is stored once", "%s: %s at %d and %d", b.name, r.value, o, r.offset)
		}
		b.where[r.value] = r.offset
	case was.record != r:
		c.violate("below the high watermark all have the same", "%s: %s has %s, %s had %s", b.name, who, r, was.who, was.record)
	case at < was.at:
		was.at = at
		b.committed[r.offset] = was
	}
}

// leads looks at a leader: it is the only one of its epoch, and has all that was committed before it.
func (c *checker) leads(p *process, b *book, at cluster.Probe) {
	switch leader := b.leaders[at.Epoch]; {
	case leader == p:
		return
	case leader != nil:
		c.violate("one process leads in an epoch (A7)", "%s: %s and %s in epoch %d", b.name, leader, p, at.Epoch)
		return
	}
	b.leaders[at.Epoch] = p
	if at.Epoch > b.newest {
		b.newest, b.ledAt = at.Epoch, c.s.now()
	}
	c.counts["terms"]++
	if b.tainted || b.sparse {
		return
	}
	all, err := logged(at.Log, 0, at.Log.LogEnd())
	if err != nil {
		if !p.excused() {
			c.violate("a leader can read its log", "%s %s: %v", p, b.name, err)
		}
		return
	}
	has, values := map[log.Offset]record{}, map[string]bool{}
	for _, r := range all {
		has[r.offset], values[r.value] = r, true
	}
	for _, o := range slices.Sorted(maps.Keys(b.committed)) {
		if was := b.committed[o]; was.at < at.Epoch && has[o] != was.record && o >= b.deleted {
			c.violate("what was committed is at every later leader", "%s: %s leads in epoch %d and has %s, %s had %s committed in epoch %d", b.name, p, at.Epoch, has[o], was.who, was.record, was.at)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(b.acked)) {
		if a := b.acked[v]; a.at < at.Epoch && !values[v] && !b.gone(v) {
			c.violate("what was acked is at every later leader", "%s: %s leads in epoch %d without %s, acked at %v", b.name, p, at.Epoch, v, a.when)
		}
	}
}

// gone says whether a record may have been deleted. All that was deleted had been seen as committed.
func (b *book) gone(value string) bool {
	o, ok := b.where[value]
	return ok && o < b.deleted
}

// deletes notes that records are about to be deleted, which somebody has called committed.
func (c *checker) deletes(id log.PartitionID, who *process, all []record, epoch log.Epoch, before log.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.book(id)
	for _, r := range all {
		c.saw(b, r, who.String(), epoch)
	}
	b.deleted = max(b.deleted, before)
}

// deletedUpTo is below which records may be gone.
func (c *checker) deletedUpTo(id log.PartitionID) log.Offset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.book(id).deleted
}

// ackedAt notes what a producer was told. offset is -1 where it was not.
func (c *checker) ackedAt(id log.PartitionID, client, n int, value string, offset log.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.book(id)
	c.s.trace.add("client: %s/%s acked, %d", b.name, value, offset)
	b.acked[value] = ack{client, n, b.newest, c.s.now()}
	b.top = max(b.top, offset)
	c.acks++
}

// topOf is the highest offset that was acked.
func (c *checker) topOf(id log.PartitionID) log.Offset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.book(id).top
}

// ended compares what a leader says is the end with what had been acked before it was asked (R2).
func (c *checker) ended(id log.PartitionID, who *process, before, end log.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch b := c.book(id); {
	case end > before || b.tainted || c.s.plan.liar > 0:
	case c.s.now()-b.ledAt < 2*c.s.plan.timing.Stop:
		c.counts["old end of a deposed leader"]++ // doc.go, "What is known to be open"
	default:
		c.violate("Ends: everything that was answered for before lies below", "%s: asked through %s: %d, %d was acked before", b.name, who, end, before)
	}
}

// read notes what a consumer read.
func (c *checker) read(id log.PartitionID, who string, all []record, from log.Offset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.book(id)
	for i, r := range all {
		if want := from + log.Offset(i); r.offset != want && !b.tainted && !b.sparse {
			c.violate("a consumer misses nothing", "%s: %s gave %s at %d", b.name, who, r, want)
		}
		c.saw(b, r, who, unknownEpoch)
	}
}

// strayed notes that a leader has told a consumer, where it got by reading, that there is no such offset (R4).
func (c *checker) strayed(id log.PartitionID, who *process, epoch log.Epoch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch b := c.book(id); {
	case b.tainted || c.s.plan.liar > 0:
	case epoch < b.newest:
		c.counts["strayed by a deposed leader"]++ // doc.go, "What is known to be open"
	default:
		c.violate("R4: no consumer is told OFFSET_OUT_OF_RANGE where it got by reading", "%s: %s: %v", b.name, who, err)
	}
}

// elected looks for elections that promise nothing.
func (c *checker) elected(old, im *meta.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range im.Topics() {
		was := old.TopicByID(t.ID)
		for i := range t.Partitions {
			known := c.book(log.PartitionID{Topic: t.ID, Index: int32(i)})
			known.internal, known.sparse = t.Internal, strings.Contains(t.Configs["cleanup.policy"], "compact")
			if was == nil || i >= len(was.Partitions) {
				continue
			}
			b, p, before := c.book(log.PartitionID{Topic: t.ID, Index: int32(i)}), &t.Partitions[i], &was.Partitions[i]
			if p.Leader == meta.NoLeader && before.Leader != meta.NoLeader {
				b.leaderless = c.s.now()
			}
			if p.LastUnclean != before.LastUnclean {
				b.tainted = true
				c.counts["unclean"]++
				if waited := c.s.now() - b.leaderless; waited < c.s.plan.timing.Grace-100*time.Millisecond { // it is decided on what will be
					c.violate("E6: members that are not there are waited for", "%s: a leader was chosen after %v without all", b.name, waited)
				}
			}
		}
	}
}

// newest is the newest epoch that somebody has led a partition in, unless nothing is promised of it any more.
func (c *checker) newest(id log.PartitionID) log.Epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.book(id); !b.tainted {
		return b.newest
	}
	return -1
}
