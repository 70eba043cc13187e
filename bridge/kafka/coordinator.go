package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf16"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/log"
)

// offsetsTable is what the coordinator needs of the table behind
// __consumer_offsets (cluster.Table). A term is the leader epoch in which this
// broker leads a partition; what is asked for in another one is
// cluster.ErrNotLeader.
type offsetsTable interface {
	// Settle waits until Load gives all that was answered for in earlier terms.
	Settle(ctx context.Context, partition int32, term log.Epoch) error

	// Load gives every committed entry of a partition to fn, in order; a nil
	// value is a removal. Key and value are views.
	Load(partition int32, fn func(key, value []byte) error) error

	// PutIn writes an entry after those put before it into the same partition,
	// in that term only. It does not block; done is called when the entry is
	// committed or cannot be, on a goroutine of the table's, and must not block.
	// It says whether the entry was appended.
	PutIn(partition int32, term log.Epoch, key, value []byte, done func(error)) (appended bool)
}

// coordinatorConfig is what a coordinator is made of.
type coordinatorConfig struct {
	GroupConfig
	table      offsetsTable
	partitions int32 // of the table

	// term is the leader epoch in which this broker leads a partition of the
	// table, by the metadata in force; false if it does not.
	term func(partition int32) (epoch log.Epoch, leads bool)
	// lapsed is whether this broker's lease has run out [never].
	lapsed func() bool
	// partitionsOf is how many partitions a topic has; false if there is no such topic.
	partitionsOf func(topic string) (n int32, ok bool)
	// listTopics is every topic there is.
	listTopics func() []*group.Topic
	// paceOf is what a group of the consumer protocol has configs of its own for.
	paceOf func(group string) group.Pace

	log *slog.Logger
}

// coordinator is the shell around group.Group: it finds a group, locks it, lets
// it take a step, and does what the step asks for.
//
//	requests     any goroutine: lock the group, take the step, put stores and
//	             writes into the table, wait for the answer without the lock
//	table        calls done on its own goroutine: the outcome goes into a queue
//	run          one goroutine: terms, outcomes, timers, expiry
//	load         one goroutine for each term that is being loaded
//
// Locks: groupEntry.mu, then any of term.mu, timers.mu, outcomeMu. Answers are
// sent under groupEntry.mu into channels with room.
//
// A group lives in the partition of __consumer_offsets that Kafka's hash names,
// and the leader of that partition is its coordinator, see coordinator_term.go.
type coordinator struct {
	cfg    coordinatorConfig
	log    *slog.Logger
	terms  []atomic.Pointer[term] // by partition; nil where another broker leads; set by run
	count  atomic.Int64           // groups
	bytes  atomic.Int64           // of all groups
	timers groupTimers
	wakeup chan struct{} // run has something to do

	outcomeMu sync.Mutex
	outcomes  []outcome // of stores and writes, not yet told to their groups

	moved  atomic.Bool                  // the metadata has changed, or a term ended
	topics atomic.Pointer[group.Topics] // as of the last change; set by run
	steps  clockSteps                   // run's

	loaded  chan loadedTerm // load → run
	unread  chan error      // load → run: the table cannot be read
	reading chan struct{}   // a token for each partition that is read now
	loads   sync.WaitGroup

	n struct{ rebalances, commits, expired, badRecords atomic.Int64 }
}

// groupEntry is one group with its lock.
type groupEntry struct {
	id   string
	term *term

	mu       sync.Mutex // guards what follows
	g        *group.Group
	gone     bool // no longer in its term: look again
	tickets  group.Ticket
	calls    map[group.Ticket]chan<- group.Answer // requests that wait; closed when the term ends
	removals []chan<- bool                        // DeleteGroups that wait; true when the group is gone, closed when the term ends
	bytes    int64                                // counted in coordinator.bytes
	pending  pendingOffsets                       // of transactions (coordinator_pending.go)

	pendingBytes int64 // counted in coordinator.bytes as well
	timer        groupTimer
}

func newCoordinator(cfg coordinatorConfig) (*coordinator, error) {
	cfg.setDefaults()
	if cfg.lapsed == nil {
		cfg.lapsed = func() bool { return false }
	}
	if err := cfg.Config.Validate(); err != nil {
		return nil, fmt.Errorf("consumer groups: %w", err)
	}
	if cfg.partitions < 1 {
		return nil, fmt.Errorf("consumer groups: %s has %d partitions", offsetsTopic, cfg.partitions)
	}
	if cfg.log == nil {
		cfg.log = slog.New(slog.DiscardHandler)
	}
	c := &coordinator{
		cfg: cfg, log: cfg.log,
		terms:  make([]atomic.Pointer[term], cfg.partitions),
		wakeup: make(chan struct{}, 1),
		loaded: make(chan loadedTerm), unread: make(chan error, 1), reading: make(chan struct{}, loadsAtOnce),
	}
	c.topics.Store(group.NewTopics(1, nil))
	c.moved.Store(true)
	return c, nil
}

// maxGroupIDBytes bounds what a name can cost; Kafka's own limit is 32 KiB.
const maxGroupIDBytes = 1024

// partitionOf is the partition that Kafka's clients and tools would look in:
// Java's String.hashCode, over UTF-16.
func (c *coordinator) partitionOf(groupID string) int32 {
	return hashPartition(groupID, c.cfg.partitions)
}

// hashPartition is the partition of n that Kafka keeps a group or a transactional id in.
func hashPartition(id string, n int32) int32 {
	var h int32
	for _, r := range id {
		if hi, lo := utf16.EncodeRune(r); hi != 0xfffd {
			h = (h*31+hi)*31 + lo
			continue
		}
		h = h*31 + r
	}
	if h == -1<<31 {
		return 0
	}
	return max(h, -h) % n
}

// find is the term in which requests for the group are answered; nil with the
// reason why they cannot be.
func (c *coordinator) find(groupID string) (*term, int16) {
	switch {
	case c == nil:
		return nil, errCoordinatorNotAvailable
	case len(groupID) > maxGroupIDBytes:
		return nil, errInvalidGroupID
	}
	return c.serves(c.partitionOf(groupID))
}

// serves is the term in which requests for the groups of a partition are answered; nil with the reason why they
// cannot be.
func (c *coordinator) serves(partition int32) (*term, int16) {
	switch t := c.terms[partition].Load(); {
	case t != nil && t.serving() && c.cfg.lapsed():
		return nil, errCoordinatorNotAvailable // R2: somebody else may coordinate them by now
	case t != nil && t.serving():
		return t, errNone
	case t != nil && t.state.Load() == termAbsent:
		return nil, errCoordinatorNotAvailable
	}
	if _, leads := c.cfg.term(partition); leads {
		return nil, errCoordinatorLoadInProgress
	}
	return nil, errNotCoordinator
}

// lock returns the group's entry, locked; nil with a code if requests for it
// cannot be answered here, if there is no such group and none is to be made
// (errGroupIDNotFound), or too many exist (errGroupMaxSizeReached).
func (c *coordinator) lock(id string, create bool) (*groupEntry, int16) {
	t, code := c.find(id)
	if code != errNone {
		return nil, code
	}
	for {
		e := t.group(id)
		if e == nil {
			if !create {
				return nil, errGroupIDNotFound
			}
			if e, code = c.create(t, id); e == nil {
				return nil, code
			}
		}
		e.mu.Lock()
		if !t.serving() { // nothing is answered from what is left of it
			e.mu.Unlock()
			return nil, errNotCoordinator
		}
		if !e.gone {
			return e, errNone
		}
		e.mu.Unlock()
	}
}

func (c *coordinator) create(t *term, id string) (*groupEntry, int16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.serving() {
		return nil, errNotCoordinator
	}
	if e := t.groups[id]; e != nil {
		return e, errNone
	}
	if c.count.Load() >= int64(c.cfg.MaxGroups) {
		c.log.Warn("kafka: group refused, limit reached", "group", id, "limit", c.cfg.MaxGroups)
		return nil, errGroupMaxSizeReached
	}
	e := newEntry(id, t, group.New(id, &c.cfg.Config, time.Now()))
	t.groups[id] = e
	c.count.Add(1)
	return e, errNone
}

func newEntry(id string, t *term, g *group.Group) *groupEntry {
	e := &groupEntry{id: id, term: t, g: g, calls: map[group.Ticket]chan<- group.Answer{}}
	e.timer.index = -1
	return e
}

// full reports whether n more bytes of members' data or offsets are too many.
// Concurrent requests may pass it together: the bound is soft by what is in
// flight, which the connections' quota bounds.
func (c *coordinator) full(n int) bool {
	return c.bytes.Load()+int64(n) > c.cfg.MaxBytes
}

// unlock does what a step asked for and unlocks the group.
func (c *coordinator) unlock(e *groupEntry, before group.State, fx group.Effects) {
	c.apply(e, before, fx)
	e.mu.Unlock()
}

// apply does what a step asked for. before is the group's state before the step.
func (c *coordinator) apply(e *groupEntry, before group.State, fx group.Effects) {
	for _, w := range fx.Writes {
		c.putWrite(e, w, nil, 0)
	}
	for _, st := range fx.Stores {
		key, value := encodeGroup(e.id, st.Snapshot)
		seq := st.Seq
		c.cfg.table.PutIn(e.term.partition, e.term.epoch, key, value, func(err error) {
			c.report(outcome{e: e, err: err, store: seq})
		})
	}
	for i := range fx.Batches {
		c.putBatch(e, &fx.Batches[i])
	}
	for i := range fx.Answers {
		a := &fx.Answers[i]
		if call := e.calls[a.Ticket]; call != nil {
			delete(e.calls, a.Ticket)
			call <- *a
		}
	}
	if state := e.g.State(); state != before {
		if state == group.PreparingRebalance || state == group.Reconciling {
			c.n.rebalances.Add(1)
		}
		c.log.Debug("kafka: group", "group", e.id, "state", state, "was", before, "generation", e.g.Generation(), "members", e.g.Members())
	}
	c.settle(e)
}

// settle brings what is kept about the group up to date with it.
func (c *coordinator) settle(e *groupEntry) {
	if bytes := int64(e.g.Bytes()); bytes != e.bytes {
		c.bytes.Add(bytes - e.bytes)
		e.bytes = bytes
	}
	gone := e.g.Gone() && len(e.pending) == 0
	if len(e.removals) > 0 && (gone || e.g.State() != group.Dead) {
		for _, ch := range e.removals {
			ch <- gone
		}
		e.removals = nil
	}
	if gone {
		c.drop(e)
		return
	}
	if c.timers.set(&e.timer, e, e.g.Next()) {
		c.wake()
	}
}

// drop takes a group that came to its end out of its term.
func (c *coordinator) drop(e *groupEntry) {
	e.gone = true
	c.countPending(e, -e.pendingBytes)
	c.timers.set(&e.timer, e, time.Time{})
	e.term.mu.Lock()
	delete(e.term.groups, e.id)
	e.term.mu.Unlock()
	c.count.Add(-1)
}

// run loads what is stored where this broker leads, and serves terms, outcomes
// and timers until ctx ends. An error means that the table cannot be read.
func (c *coordinator) run(ctx context.Context) error {
	defer c.loads.Wait()
	ctx, endLoads := context.WithCancel(ctx)
	defer endLoads()
	c.noteTopics()
	c.moveTerms(ctx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	expireAt := time.Now().Add(c.cfg.ExpireEvery)
	var batch []outcome
	for {
		now := time.Now()
		next := c.timers.next(expireAt)
		timer.Reset(next.Sub(now))
		select {
		case <-ctx.Done():
			return nil
		case err := <-c.unread:
			return err
		case l := <-c.loaded:
			c.install(l)
		case <-c.wakeup:
		case <-timer.C:
		}
		batch = c.takeOutcomes(batch)
		if c.moved.Swap(false) {
			c.moveTerms(ctx)
			c.forgetDeletedTopics()
		}
		now = time.Now()
		for e := c.timers.due(now); e != nil; e = c.timers.due(now) {
			c.step(e, func() group.Effects { return e.g.Tick(now) })
		}
		if !now.Before(expireAt) {
			expireAt = now.Add(c.cfg.ExpireEvery)
			c.expire()
		}
	}
}
