package kafka

import (
	"errors"
	"time"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// outcome is how a store or a write ended.
type outcome struct {
	e       *groupEntry
	err     error
	store   uint64 // Seq of a store or batch; 0 for a write
	batch   *batchCall
	write   group.Write
	pending *pendingWrite // an offset of a transaction instead
	call    *commitCall   // who waits for the write; nil for expiry
	index   int           // the write's place in the call
}

// commitCall waits for the writes of one OffsetCommit or OffsetDelete.
type commitCall struct {
	left  int // written by run only once the call waits
	codes []int16
	done  chan struct{}
}

// batchCall waits for the records of one batch; run's.
type batchCall struct {
	left int
	err  error // of the first that could not be stored
}

// putBatch writes what a step has changed of a group of the consumer protocol. The
// table keeps the order; the outcome is that of all records together.
func (c *coordinator) putBatch(e *groupEntry, b *group.Batch) {
	call := &batchCall{left: len(b.Records)}
	for i := range b.Records {
		key, value := encodeConsumerRecord(e.id, &b.Records[i])
		seq := b.Seq
		c.cfg.table.PutIn(e.term.partition, e.term.epoch, key, value, func(err error) {
			c.report(outcome{e: e, err: err, store: seq, batch: call})
		})
	}
}

// putWrite writes an offset, or its removal.
func (c *coordinator) putWrite(e *groupEntry, w group.Write, call *commitCall, index int) {
	key, value := encodeOffset(e.id, &w)
	c.cfg.table.PutIn(e.term.partition, e.term.epoch, key, value, func(err error) {
		c.report(outcome{e: e, err: err, write: w, call: call, index: index})
	})
}

// report queues an outcome for run. It runs on the table's goroutine, or inside
// Put with the group locked: it must not take the group's lock.
func (c *coordinator) report(o outcome) {
	c.outcomeMu.Lock()
	c.outcomes = append(c.outcomes, o)
	c.outcomeMu.Unlock()
	c.wake()
}

func (c *coordinator) wake() {
	select {
	case c.wakeup <- struct{}{}:
	default:
	}
}

// takeOutcomes tells groups how their stores and writes ended. batch is reused.
func (c *coordinator) takeOutcomes(batch []outcome) []outcome {
	c.outcomeMu.Lock()
	batch, c.outcomes = c.outcomes, batch[:0]
	c.outcomeMu.Unlock()
	for i := range batch {
		c.settleOutcome(&batch[i])
		batch[i] = outcome{}
	}
	return batch
}

func (c *coordinator) settleOutcome(o *outcome) {
	if b := o.batch; b != nil {
		if b.err == nil {
			b.err = o.err
		}
		if b.left--; b.left > 0 {
			return
		}
		o.err = b.err
	}
	e, ok := o.e, o.err == nil
	if !ok {
		c.log.Warn("kafka: group state is not stored", "group", e.id, "err", o.err)
	}
	code := errNone
	e.mu.Lock()
	if errors.Is(o.err, cluster.ErrNotLeader) || errors.Is(o.err, log.ErrFenced) {
		c.lost(e.term)
	}
	switch {
	case !e.term.serving(): // late, or the end of it: what this term holds is nobody's business any more
		code = errNotCoordinator
	default:
		if !ok {
			code = errCoordinatorNotAvailable
		}
		before := e.g.State()
		var fx group.Effects
		switch {
		case o.pending != nil:
			c.settlePending(e, o.pending, ok)
		case o.store != 0:
			fx = e.g.Stored(o.store, ok, time.Now())
		default:
			e.g.Committed(o.write, ok)
		}
		if !e.gone {
			c.apply(e, before, fx)
		}
	}
	e.mu.Unlock()
	if o.call != nil {
		if code != errNone {
			o.call.codes[o.index] = code
		}
		if o.call.left--; o.call.left == 0 {
			close(o.call.done)
		}
	}
}
