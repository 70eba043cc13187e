package kafka

import (
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

// store puts a record of e, which is locked, into the table, and is told its code when it is committed or cannot be.
func (c *transactions) store(e *txnEntry, r *txn.Record) <-chan int16 {
	done := make(chan int16, 1)
	c.put(e, r, func(err error) { done <- c.stored(e, err) })
	return done
}

// put writes a record of e, or removes it.
func (c *transactions) put(e *txnEntry, r *txn.Record, done func(error)) {
	key, value := encodeTransaction(e.id, r)
	c.mu.Lock()
	table := c.table
	c.mu.Unlock()
	table.PutIn(e.t.partition, e.t.epoch, key, value, done)
}

// refused are the errors after which nothing was written. After any other it is not known, and the term ends: what the log holds is then read again.
var refused = []error{cluster.ErrNotEnoughReplicas, log.ErrBusy, log.ErrDiskFull}

// stored tells the transaction how a store ended. It runs on the table's goroutine.
func (c *transactions) stored(e *txnEntry, err error) int16 {
	e.mu.Lock()
	defer e.mu.Unlock()
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

// verify says whether the partition is part of the producer's open transaction, and when that began.
func (c *transactions) verify(id string, p txn.Producer, at txn.Partition) (started int64, code int16) {
	e, code := c.find(id, false)
	if e == nil {
		if code == errNone {
			code = errInvalidProducerIDMapping
		}
		return 0, code
	}
	defer e.mu.Unlock()
	started, f := e.x.Verify(p, at)
	return started, faultCode(f, true)
}

// step has an id that exists take a step, and waits until it is stored.
func (c *transactions) step(ctx context.Context, id string, fenced bool, take func(*txn.Transaction) (*txn.Record, txn.Fault)) int16 {
	e, code := c.find(id, false)
	if e == nil {
		if code == errNone {
			code = errInvalidProducerIDMapping
		}
		return code
	}
	r, f := take(e.x)
	if r == nil {
		e.mu.Unlock()
		return faultCode(f, fenced)
	}
	stored := c.store(e, r)
	e.mu.Unlock()
	return c.wait(ctx, stored)
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
	txn.InvalidTimeout: errInvalidTransactionTimeout,
}
