package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// begin makes sure that there is a transaction.
func (t *kafkaTarget) begin() error {
	if !t.exactly() {
		return nil
	}
	if err := t.contact.check(); err != nil || t.begun {
		return err
	}
	t.begun = true
	return t.client.BeginTransaction()
}

func (t *kafkaTarget) announce(ctx context.Context, p *part, s Span) error {
	if !t.exactly() {
		return nil // there is no topic for it; the node's log and figures tell
	}
	if err := t.begin(); err != nil {
		return err
	}
	t.client.Produce(ctx, t.keeper.gap(p, s), t.promise)
	return nil
}

func (t *kafkaTarget) commit(ctx context.Context, cursors map[log.PartitionID]progress) error {
	if t.exactly() {
		if err := t.begin(); err != nil {
			return err
		}
		if t.claim != nil {
			t.client.Produce(ctx, t.claim, t.promise)
		}
		for id, p := range cursors {
			t.client.Produce(ctx, t.keeper.record(id, p), t.cursorProduced)
		}
	}
	flush, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.contact.gone, func() { cancel(errLostContact) })()
	err := t.client.Flush(flush)
	if err != nil && flush.Err() != nil {
		err = context.Cause(flush)
	}
	t.mu.Lock()
	if t.failed != nil && (!errors.Is(err, errLate) || blamed(t.failed)) { // what is late fails for all that was on its way
		err = t.failed
	}
	t.failed = nil
	t.mu.Unlock()
	t.begun = false
	if err == nil {
		t.recycle()
	}
	if !t.exactly() {
		return err
	}
	if err != nil {
		return err // closing leaves the transaction to the next owner of the id, which aborts it
	}
	if id, _, err := t.client.ProducerID(ctx); err == nil { // the answer may bring another one
		t.seen.wrote(id)
	}
	t.contact.to(ending)
	began := time.Now()
	if err := t.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("commit at the target: %w", fenced(err))
	}
	t.took = time.Since(began)
	t.contact.to(confirmed)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.confirmed(cursors, t.cursor)
	t.seen.claimed, t.claim = true, nil
	return nil
}

// produced is the promise of every record.
func (t *kafkaTarget) produced(r *kgo.Record, err error) {
	if err == nil {
		t.contact.taken(spot{r.Topic, r.Partition})
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = blame(r.Topic, err)
	}
}

// cursorProduced is the promise of a cursor.
func (t *kafkaTarget) cursorProduced(r *kgo.Record, err error) {
	t.produced(r, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && (t.cursor == nil || r.Offset > t.cursor.Offset) {
		t.cursor = r
	}
}

// blame names who is at fault for a record that was not taken.
func blame(topic string, err error) error {
	for _, e := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp} {
		if errors.Is(err, e) {
			return &refusedError{err}
		}
	}
	for _, e := range []error{kerr.UnknownTopicOrPartition, kerr.TopicAuthorizationFailed, kerr.InvalidTopicException, kerr.PolicyViolation} {
		if errors.Is(err, e) {
			return &topicError{topic, err}
		}
	}
	return fmt.Errorf("produce to %s: %w", topic, fenced(err))
}

// blamed says whether blame has found somebody.
func blamed(err error) bool {
	var refused *refusedError
	var topic *topicError
	return errors.As(err, &refused) || errors.As(err, &topic)
}

// fenced explains what it means that somebody else has the transactional id.
func fenced(err error) error {
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("%w: another node has taken the uplink over; if this stays, a copy of this node's data runs elsewhere", err)
	}
	return err
}
