package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// term is one spell in which this broker coordinates the groups of one partition:
// as long as it leads the partition in one leader epoch. The groups live in it
// alone. They are loaded when it begins, once all that earlier coordinators
// answered for is known to be committed, and dropped when it ends; a later term,
// here or on another broker, loads them anew, and so finds all that was answered
// in this one (D11).
//
// It ends at the moment when the metadata says so: from then on nothing is
// answered from what it holds, what it writes is refused by the table, and
// outcomes that come late are answered NOT_COORDINATOR whatever they say. So
// nothing is answered that a later term, which may have been loaded already,
// does not know of.
type term struct {
	partition int32
	epoch     log.Epoch
	state     atomic.Int32
	stop      context.CancelFunc // ends the loading
	ends      atomic.Uint64      // transactions whose end has come to these groups

	mu     sync.RWMutex
	groups map[string]*groupEntry // nil until it serves, and after it was dropped
}

// States of a term.
const (
	termLoading int32 = iota
	termAbsent        // its log is damaged or missing: its groups wait for a repair
	termServing
	termEnded
)

func (t *term) serving() bool { return t.state.Load() == termServing }

func (t *term) end() {
	t.state.Store(termEnded)
	t.stop()
}

func (t *term) group(id string) *groupEntry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.groups[id]
}

// metadataChanged ends the terms that are over, and leaves the rest to run. It
// does not block.
func (c *coordinator) metadataChanged() {
	for p := range c.terms {
		if t := c.terms[p].Load(); t != nil && !c.current(t) {
			t.end()
		}
	}
	c.moved.Store(true)
	c.wake()
}

func (c *coordinator) current(t *term) bool {
	epoch, leads := c.cfg.term(t.partition)
	return leads && epoch == t.epoch
}

// lost ends a term that the table knows to be over before the metadata does.
func (c *coordinator) lost(t *term) {
	t.end()
	c.moved.Store(true)
	c.wake()
}

// moveTerms drops what has ended, and begins to load what this broker leads.
// Only run calls it.
func (c *coordinator) moveTerms(ctx context.Context) {
	for p := range c.terms {
		old := c.terms[p].Load()
		if old != nil {
			if old.state.Load() != termEnded && c.current(old) {
				continue
			}
			old.end()
			c.terms[p].Store(nil)
			c.dropAll(old)
		}
		if epoch, leads := c.cfg.term(int32(p)); leads {
			pause := time.Duration(0)
			if old != nil && old.epoch == epoch { // the table did not want it, and may not yet
				pause = loadAgain
			}
			c.terms[p].Store(c.begin(ctx, int32(p), epoch, pause))
		}
	}
}

func (c *coordinator) begin(ctx context.Context, partition int32, epoch log.Epoch, pause time.Duration) *term {
	ctx, stop := context.WithCancel(ctx)
	t := &term{partition: partition, epoch: epoch, stop: stop}
	c.loads.Go(func() {
		defer stop()
		c.load(ctx, t, pause)
	})
	return t
}

// dropAll answers everybody who waits in an ended term, and forgets its groups.
func (c *coordinator) dropAll(t *term) {
	t.mu.Lock()
	groups := t.groups
	t.groups = nil
	t.mu.Unlock()
	for _, e := range groups {
		e.mu.Lock()
		if !e.gone {
			for _, call := range e.calls {
				close(call)
			}
			for _, removal := range e.removals {
				close(removal)
			}
			e.calls, e.removals = nil, nil
			c.bytes.Add(-e.bytes)
			e.bytes = 0
			c.drop(e)
		}
		e.mu.Unlock()
	}
	if len(groups) > 0 {
		c.log.Info("kafka: consumer groups are coordinated elsewhere", "topic", offsetsTopic, "partition", t.partition, "epoch", t.epoch, "groups", len(groups))
	}
}

const (
	// loadsAtOnce bounds how many partitions are read at once, and held in memory twice.
	loadsAtOnce = 2
	// loadAgain is the pause before a partition is loaded again in the same term.
	loadAgain = time.Second
	// loadDamaged is the pause before a partition that is offline is tried again.
	loadDamaged = 10 * time.Second
)

type loadedTerm struct {
	*term
	stored storedGroups
	since  time.Time
}

// load reads what a partition holds and hands it to run; it tries again until it
// has, or the term ends. A partition whose log is damaged costs its own groups
// only: the node has other work. Nothing is committed for them meanwhile, so no
// offset goes back.
func (c *coordinator) load(ctx context.Context, t *term, pause time.Duration) {
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		since := time.Now()
		stored, err := c.read(ctx, t)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			select {
			case c.loaded <- loadedTerm{t, stored, since}:
			case <-ctx.Done():
			}
			return
		case errors.Is(err, cluster.ErrOffline):
			if t.state.CompareAndSwap(termLoading, termAbsent) {
				c.log.Error("kafka: groups are not served, their partition is damaged", "topic", offsetsTopic, "partition", t.partition, "err", err)
			}
			pause = loadDamaged
		case errors.Is(err, cluster.ErrNotLeader): // the metadata will say so, or the broker gets there
			pause = loadAgain
		case errors.Is(err, cluster.ErrClosed), errors.Is(err, log.ErrClosed):
			return
		default:
			select {
			case c.unread <- fmt.Errorf("load %s/%d: %w", offsetsTopic, t.partition, err):
			default: // one reason will do
			}
			return
		}
	}
}

// read waits until a partition holds all that was answered for in earlier terms,
// and decodes it. An entry that makes no sense is counted and left out: one bad
// record must not cost a site all its groups, and the group's consumers commit
// again. An entry in a newer format does make sense, to others: to go on without
// it would lose offsets.
func (c *coordinator) read(ctx context.Context, t *term) (storedGroups, error) {
	if err := c.cfg.table.Settle(ctx, t.partition, t.epoch); err != nil {
		return nil, err
	}
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	live := liveEntries{}
	err := c.cfg.table.Load(t.partition, func(key, value []byte) error {
		live.put(key, value)
		return ctx.Err()
	})
	// Again: a log that was truncated in between was read in two states, whatever Load made of it.
	if over := c.cfg.table.Settle(ctx, t.partition, t.epoch); over != nil {
		return nil, over
	}
	if err != nil {
		return nil, err
	}
	stored := storedGroups{}
	for key, value := range live {
		if err := stored.add(key, *value); errors.Is(err, errNewerFormat) {
			return nil, err
		} else if err != nil {
			c.n.badRecords.Add(1)
			c.log.Warn("kafka: entry of "+offsetsTopic+" is left out", "partition", t.partition, "err", err)
		}
	}
	return stored, nil
}

// install makes the groups of a term and begins to serve them. Members get a full
// session: they could not heartbeat while nobody served them. Only run calls it.
func (c *coordinator) install(l loadedTerm) {
	t := l.term
	if c.terms[t.partition].Load() != t || t.state.Load() == termEnded {
		return
	}
	now := time.Now()
	groups := make(map[string]*groupEntry, len(l.stored))
	all := make([]*groupEntry, 0, len(l.stored))
	for id, st := range l.stored {
		g := st.restore(id, &c.cfg.Config, now)
		for at, o := range st.offsets {
			g.RestoreOffset(at, o)
		}
		c.putLeftovers(t, id, st)
		e := newEntry(id, t, g)
		for x, offsets := range st.pending {
			for at, o := range offsets {
				c.addPending(e, &pendingWrite{transactionOf: x, at: at, offset: o})
			}
		}
		groups[id] = e
		all = append(all, e)
	}
	t.mu.Lock()
	t.groups = groups
	t.mu.Unlock()
	c.count.Add(int64(len(groups)))
	if !t.state.CompareAndSwap(termLoading, termServing) {
		t.state.CompareAndSwap(termAbsent, termServing) // not if it has ended: then moveTerms drops it
	}
	for _, e := range all {
		c.step(e, func() group.Effects { return group.Effects{} }) // its timer, and its bytes
		c.forgetTopics(e, c.isGone)
	}
	level := slog.LevelInfo
	if len(all) == 0 {
		level = slog.LevelDebug
	}
	c.log.Log(context.Background(), level, "kafka: consumer groups loaded",
		"partition", t.partition, "epoch", t.epoch, "groups", len(all), "took", time.Since(l.since))
}

// isGone: the coordinator before may not have lived to forget the offsets of a
// topic that was deleted.
func (c *coordinator) isGone(topic string) bool {
	_, exists := c.cfg.partitionsOf(topic)
	return !exists
}
