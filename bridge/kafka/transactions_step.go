package kafka

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// maxTransactionalID bounds what a name can cost.
const maxTransactionalID = 1024

// find is the entry of an id, locked; nil with the code that says why there is none: errNone where it may be made, by create.
func (c *transactions) find(id string, create bool) (*txnEntry, int16) {
	if id == "" || len(id) > maxTransactionalID {
		return nil, errInvalidRequest
	}
	c.mu.Lock()
	if c.table == nil {
		c.mu.Unlock()
		return nil, errNotCoordinator
	}
	p := hashPartition(id, int32(len(c.terms)))
	t := c.terms[p]
	c.mu.Unlock()
	switch {
	case t != nil && t.serving() && c.cfg.lapsed():
		return nil, errCoordinatorNotAvailable // R2: somebody else may coordinate it by now
	case t != nil && t.serving():
	default:
		if _, leads := c.cfg.term(p); leads {
			return nil, errCoordinatorLoadInProgress
		}
		return nil, errNotCoordinator
	}
	for {
		t.mu.Lock()
		e := t.entries[id]
		switch {
		case !t.serving():
			t.mu.Unlock()
			return nil, errNotCoordinator
		case e == nil && !create:
			t.mu.Unlock()
			return nil, errNone
		case e == nil && (c.ids.Load() >= int64(c.cfg.MaxIDs) || c.bytes.Load() > c.cfg.MaxBytes):
			t.mu.Unlock()
			c.log.Warn("kafka: transactional id refused, limit reached", "transactional.id", id, "ids", c.cfg.MaxIDs, "bytes", c.cfg.MaxBytes)
			return nil, errPolicyViolation
		case e == nil:
			e = &txnEntry{id: id, t: t, x: txn.New()}
			t.entries[id] = e
			c.ids.Add(1)
		}
		t.mu.Unlock()
		e.mu.Lock()
		if !t.serving() {
			e.mu.Unlock()
			return nil, errNotCoordinator
		}
		if !e.gone {
			return e, errNone
		}
		e.mu.Unlock()
	}
}

// storing is a record on its way into the table.
type storing struct {
	done   <-chan int16   // its code, when it is committed or cannot be
	behind *log.Partition // what is behind this need not wait until it is committed; nil: it has to
}

// store puts a record of e, which is locked, into the table.
func (c *transactions) store(e *txnEntry, r *txn.Record) storing {
	done := make(chan int16, 1)
	s := storing{done: done}
	if table := c.openedTable(); put(table, e, r, func(err error) { done <- c.stored(e, err) }) {
		s.behind = table.Ahead(e.t.partition)
	}
	return s
}

// put writes a record of e, or removes it.
func (c *transactions) put(e *txnEntry, r *txn.Record, done func(error)) {
	put(c.openedTable(), e, r, done)
}

func (c *transactions) openedTable() transactionsTable {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table
}

func put(table transactionsTable, e *txnEntry, r *txn.Record, done func(error)) (appended bool) {
	key, value := encodeTransaction(e.id, r)
	return table.PutIn(e.t.partition, e.t.epoch, key, value, done)
}

// refused are the errors after which nothing was written. After any other it is not known, and the term ends: what the log holds is then read again.
var refused = []error{cluster.ErrNotEnoughReplicas, log.ErrBusy, log.ErrDiskFull}

// stored tells the transaction how a store ended. It runs on the table's goroutine.
func (c *transactions) stored(e *txnEntry, err error) int16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	if err != nil {
		c.log.Warn("kafka: state of a transaction is not stored", "transactional.id", e.id, "err", err)
		if slices.ContainsFunc(refused, func(r error) bool { return errors.Is(err, r) }) {
			e.x.Stored(false, time.Now())
			return errCoordinatorNotAvailable
		}
		e.t.end()
		c.wake()
		return errNotCoordinator
	}
	if !e.t.serving() { // late: what this term holds is nobody's business any more
		return errNotCoordinator
	}
	before := e.x.Record()
	e.x.Stored(true, time.Now())
	if e.x.Record().State == txn.Ongoing && before.State != txn.Ongoing {
		c.n.begun.Add(1)
	}
	c.settle(e)
	return errNone
}

// wait waits for the outcome of a store.
func (c *transactions) wait(ctx context.Context, done <-chan int16) int16 {
	select {
	case code := <-done:
		return code
	case <-ctx.Done():
		return errCoordinatorNotAvailable
	}
}

// errNoProducerID asks for one.
var errNoProducerID = errors.New("a producer id is needed")

// txnStep is a step of an id, which is locked; fresh is a producer id that nobody has.
type txnStep func(e *txnEntry, fresh func() (int64, error)) (*txn.Record, txn.Fault, error)

// step has an id take a step, and waits until it is stored. r is what was stored, or what is in force where nothing had to be. A code says that the step was not taken, or
// that it is not known to be stored.
func (c *transactions) step(ctx context.Context, id string, create bool, take txnStep) (r txn.Record, f txn.Fault, code int16) {
	r, f, s, code := c.begin(ctx, id, create, take)
	if s.done != nil {
		code = c.wait(ctx, s.done)
	}
	return r, f, code
}

// begin is step, and does not wait for what it stores.
func (c *transactions) begin(ctx context.Context, id string, create bool, take txnStep) (r txn.Record, f txn.Fault, s storing, code int16) {
	// Asked for before the id is locked: it may take a while. One that is not needed is lost, as are those of a producer that goes away.
	fresh := int64(-1)
	for {
		e, code := c.find(id, create)
		if e == nil {
			if code == errNone {
				f = txn.UnknownID
			}
			return r, f, s, code
		}
		next, f, err := take(e, func() (int64, error) {
			if fresh < 0 {
				return 0, errNoProducerID
			}
			return fresh, nil
		})
		switch {
		case err != nil:
			e.mu.Unlock()
			if fresh, err = c.cfg.producerID(ctx); err != nil {
				c.log.Warn("kafka: no producer id", "err", err)
				return r, f, s, errCoordinatorLoadInProgress
			}
			continue
		case next == nil:
			r = e.x.Record()
			e.mu.Unlock()
			return r, f, s, errNone
		}
		r, s = *next, c.store(e, next)
		if s.behind != nil {
			c.endAhead(e, r, s.behind)
		}
		e.mu.Unlock()
		return r, f, s, errNone
	}
}

// addPartitions has the transaction of a producer reach partitions.
func (c *transactions) addPartitions(ctx context.Context, id string, p txn.Producer, parts []txn.Partition, fenced bool) int16 {
	if code := c.room(id, parts); code != errNone {
		return code
	}
	_, f, code := c.step(ctx, id, false, func(e *txnEntry, _ func() (int64, error)) (*txn.Record, txn.Fault, error) {
		r, f := e.x.AddPartitions(p, parts, txn.V1, time.Now())
		return r, f, nil
	})
	return cmp.Or(code, faultCode(f, fenced))
}

// room says whether there is any for partitions of a transaction.
func (c *transactions) room(id string, parts []txn.Partition) int16 {
	if c.bytes.Load()+int64(txn.SizeOf(parts)) > c.cfg.MaxBytes {
		c.log.Warn("kafka: partitions of a transaction refused, limit reached", "transactional.id", id, "partitions", len(parts), "bytes", c.cfg.MaxBytes)
		return errPolicyViolation
	}
	return errNone
}

// verify says whether the partition is part of the producer's open transaction, and when that began.
func (c *transactions) verify(id string, p txn.Producer, at txn.Partition) (started int64, code int16) {
	e, code := c.find(id, false)
	if e == nil {
		return 0, cmp.Or(code, faultCode(txn.UnknownID, true))
	}
	defer e.mu.Unlock()
	started, f := e.x.Verify(p, at)
	return started, faultCode(f, true)
}

// stepAwaited is how long a producer's step waits for the one before to be stored, or for the transaction before to end. After that the client waits.
const stepAwaited = time.Second

// stepInTurn is step for what follows on another step of the same producer, and may come before that one is known to be stored: while it is told to come again (txn.Pending)
// it waits for what others have the id do. Who is hasty (txn.Hasty) does not wait: it has batches to send first.
func (c *transactions) stepInTurn(ctx context.Context, id string, take txnStep) (r txn.Record, f txn.Fault, s storing, code int16) {
	timer := time.NewTimer(stepAwaited)
	defer timer.Stop()
	for {
		var moved, over <-chan struct{}
		r, f, s, code = c.begin(ctx, id, false, func(e *txnEntry, fresh func() (int64, error)) (*txn.Record, txn.Fault, error) {
			r, f, err := take(e, fresh)
			if f == txn.Pending {
				moved, over = e.change(), e.t.ctx.Done()
			}
			return r, f, err
		})
		if code != errNone || f != txn.Pending {
			return r, f, s, code
		}
		select {
		case <-moved:
		case <-over:
			return r, f, s, errNotCoordinator
		case <-timer.C:
			return r, f, s, errNone
		case <-ctx.Done():
			return r, f, s, errCoordinatorNotAvailable
		}
	}
}

// enlisted is what a leader is told of a producer's transaction.
type enlisted struct {
	started int64 // when it began
	code    int16
	storing storing // where something had to be
}

// enlist has the producer's transaction reach partitions for good, as enlistAhead does.
func (c *transactions) enlist(ctx context.Context, id string, p txn.Producer, parts []txn.Partition) (started int64, code int16) {
	a := c.enlistAhead(ctx, id, p, parts)
	if a.storing.done != nil {
		a.code = c.wait(ctx, a.storing.done)
	}
	return a.started, a.code
}

// enlistAhead has the producer's transaction reach partitions of which a leader has the first batch: verify and AddPartitionsToTxn in one, for producers of version 2. It waits for
// what others have the id do meanwhile: a producer's first batches reach all leaders at once. It does not wait until the step is stored where the batches may go ahead, behind it.
func (c *transactions) enlistAhead(ctx context.Context, id string, p txn.Producer, parts []txn.Partition) enlisted {
	full := errNone
	r, f, s, code := c.stepInTurn(ctx, id, func(e *txnEntry, _ func() (int64, error)) (*txn.Record, txn.Fault, error) {
		if !slices.ContainsFunc(parts, func(at txn.Partition) bool { _, f := e.x.Verify(p, at); return f != txn.OK }) {
			return nil, txn.OK, nil
		}
		if full = c.room(id, parts); full != errNone {
			return nil, txn.OK, nil
		}
		r, f := e.x.AddPartitions(p, parts, txn.V2, time.Now())
		return r, f, nil
	})
	if s.done != nil && s.behind == nil {
		code, s.done = c.wait(ctx, s.done), nil
	}
	return enlisted{r.Started, cmp.Or(code, full, faultCode(f, true)), s}
}

// faultCode is the protocol's code for a refusal. Fenced producers of old clients know only one code.
func faultCode(f txn.Fault, fenced bool) int16 {
	if f == txn.Fenced && !fenced {
		return errInvalidProducerEpoch
	}
	return transactionCode[f]
}

var transactionCode = [txn.NumFaults]int16{
	txn.OK:             errNone,
	txn.Pending:        errConcurrentTransactions,
	txn.UnknownID:      errInvalidProducerIDMapping,
	txn.WrongProducer:  errInvalidProducerIDMapping,
	txn.Fenced:         errProducerFenced,
	txn.InvalidState:   errInvalidTxnState,
	txn.Hasty:          errConcurrentTransactions,
	txn.InvalidTimeout: errInvalidTransactionTimeout,
}
