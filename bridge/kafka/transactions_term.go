package kafka

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// txnTerm is one spell in which this broker coordinates the ids of one partition.
type txnTerm struct {
	partition int32
	epoch     log.Epoch
	ctx       context.Context // ends with the term
	stop      context.CancelFunc
	state     atomic.Int32 // termLoading, termServing, termEnded

	mu      sync.Mutex
	entries map[string]*txnEntry
}

// txnEntry is one transactional id with its lock.
type txnEntry struct {
	id string
	t  *txnTerm

	mu    sync.Mutex
	x     *txn.Transaction
	bytes int64         // counted in transactions.bytes
	gone  bool          // no longer in its term
	ended chan struct{} // closed when the markers of what was decided are committed; nil if nothing is
	moved chan struct{} // closed at the next change, or when that has failed; nil if nobody waits for it
}

// change is closed when e, which is locked, has changed.
func (e *txnEntry) change() <-chan struct{} {
	if e.moved == nil {
		e.moved = make(chan struct{})
	}
	return e.moved
}

func (e *txnEntry) changed() {
	if e.moved != nil {
		close(e.moved)
		e.moved = nil
	}
}

// awaitDecided waits until how the transaction ends is stored; false when the term has ended before.
func (e *txnEntry) awaitDecided(ctx context.Context) bool {
	for {
		e.mu.Lock()
		serving, decided := e.t.serving(), e.x.Record().State.Prepared()
		moved := e.change()
		e.mu.Unlock()
		if !serving || decided {
			return serving
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

func (t *txnTerm) serving() bool { return t.state.Load() == termServing }

func (t *txnTerm) end() {
	t.state.Store(termEnded)
	t.stop()
}

func (c *transactions) current(t *txnTerm) bool {
	epoch, leads := c.cfg.term(t.partition)
	return leads && epoch == t.epoch
}

// moveTerms drops what has ended, and begins to load what this broker leads. Only run calls it.
func (c *transactions) moveTerms() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, old := range c.terms {
		pause := time.Duration(0)
		if old != nil {
			if old.state.Load() != termEnded && c.current(old) {
				continue
			}
			old.end()
			c.terms[p] = nil
			c.dropAll(old)
		}
		epoch, leads := c.cfg.term(int32(p))
		if !leads {
			continue
		}
		if old != nil && old.epoch == epoch {
			pause = loadAgain
		}
		ctx, stop := context.WithCancel(c.ctx)
		t := &txnTerm{partition: int32(p), epoch: epoch, ctx: ctx, stop: stop}
		c.terms[p] = t
		c.running.Go(func() { c.load(t, c.table, pause) })
	}
}

func (c *transactions) dropAll(t *txnTerm) {
	t.mu.Lock()
	entries := t.entries
	t.entries = nil
	t.mu.Unlock()
	for range entries {
		c.ids.Add(-1)
	}
	for _, e := range entries {
		c.running.Go(func() { // not under transactions.mu
			e.mu.Lock()
			defer e.mu.Unlock()
			e.gone = true
			c.bytes.Add(-e.bytes)
			e.bytes = 0
		})
	}
}

// load reads what a partition holds, once all that earlier coordinators answered for is known to be committed, and serves it. What had been decided goes on.
func (c *transactions) load(t *txnTerm, table offsetsTable, pause time.Duration) {
	for {
		select {
		case <-time.After(pause):
		case <-t.ctx.Done():
			return
		}
		stored, err := c.read(t, table)
		switch {
		case t.ctx.Err() != nil:
			return
		case err == nil:
			c.install(t, stored)
			return
		case errors.Is(err, cluster.ErrClosed), errors.Is(err, log.ErrClosed):
			return
		case errors.Is(err, cluster.ErrNotLeader):
			pause = loadAgain
		default:
			if pause != loadDamaged {
				c.log.Error("kafka: transactions are not coordinated, their partition cannot be read", "topic", transactionsTopic, "partition", t.partition, "err", err)
			}
			pause = loadDamaged
		}
	}
}

func (c *transactions) read(t *txnTerm, table offsetsTable) (map[string]txn.Record, error) {
	if err := table.Settle(t.ctx, t.partition, t.epoch); err != nil {
		return nil, err
	}
	live := liveEntries{}
	err := table.Load(t.partition, func(key, value []byte) error {
		live.put(key, value)
		return t.ctx.Err()
	})
	if over := table.Settle(t.ctx, t.partition, t.epoch); over != nil { // as for groups
		return nil, over
	}
	if err != nil {
		return nil, err
	}
	stored := map[string]txn.Record{}
	for key, value := range live {
		id, r, err := decodeTransaction([]byte(key), *value)
		switch {
		case errors.Is(err, errNewerFormat):
			return nil, err
		case err != nil:
			c.n.bad.Add(1)
			c.log.Warn("kafka: entry of "+transactionsTopic+" is left out", "partition", t.partition, "err", err)
		case id != "":
			stored[id] = r
		}
	}
	return stored, nil
}

// install serves what was loaded.
func (c *transactions) install(t *txnTerm, stored map[string]txn.Record) {
	now := time.Now()
	entries := make(map[string]*txnEntry, len(stored))
	for id, r := range stored {
		e := &txnEntry{id: id, t: t, x: txn.Restore(r, now)}
		entries[id] = e
	}
	t.mu.Lock()
	if !t.state.CompareAndSwap(termLoading, termServing) {
		t.mu.Unlock()
		return // it has ended
	}
	t.entries = entries
	c.ids.Add(int64(len(entries)))
	all := slices.Collect(maps.Values(entries))
	t.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		if !e.gone {
			c.settle(e)
		}
		e.mu.Unlock()
	}
	if len(all) > 0 {
		c.log.Info("kafka: transactional ids loaded", "partition", t.partition, "epoch", t.epoch, "ids", len(all))
	}
}

// each calls fn for every id there is at some moment, unlocked.
func (c *transactions) each(fn func(*txnEntry)) {
	c.mu.Lock()
	terms := slices.Clone(c.terms)
	c.mu.Unlock()
	for _, t := range terms {
		if t == nil || !t.serving() {
			continue
		}
		t.mu.Lock()
		entries := slices.Collect(maps.Values(t.entries))
		t.mu.Unlock()
		for _, e := range entries {
			fn(e)
		}
	}
}
