package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

const (
	// markersAtOnce bounds the transactions of which markers are on their way.
	markersAtOnce = 64
	// markerPause, doubled up to markerPauseMax, is between two attempts to end a transaction in a partition.
	markerPause    = 20 * time.Millisecond
	markerPauseMax = time.Second
	// markersOverdue is when a transaction that cannot be ended everywhere is worth a line.
	markersOverdue = 30 * time.Second
)

// settle does what the state of e, which is locked, asks for.
func (c *transactions) settle(e *txnEntry) {
	bytes := int64(e.x.Size() + len(e.id))
	c.bytes.Add(bytes - e.bytes)
	e.bytes = bytes
	switch r := e.x.Record(); {
	case r.State.Prepared() && e.ended == nil:
		e.ended = make(chan struct{})
		c.running.Go(func() { c.finish(e, r, nil) })
	case !r.State.Prepared() && e.ended != nil:
		close(e.ended)
		e.ended = nil
	}
}

// endAhead begins to end what e, which is locked, has decided to end, before that is known to be stored: the markers are behind it. Offsets of groups are applied by their coordinator,
// which has no such place to put them.
func (c *transactions) endAhead(e *txnEntry, r txn.Record, behind *log.Partition) {
	if !r.State.Prepared() || slices.ContainsFunc(r.Partitions, func(p txn.Partition) bool { return p.Topic == offsetsTopic }) {
		return
	}
	e.ended = make(chan struct{})
	c.running.Go(func() { c.finish(e, r, behind) })
}

// finish sends markers until all partitions have theirs. It gives up with the term: the next one begins again.
func (c *transactions) finish(e *txnEntry, r txn.Record, behind *log.Partition) {
	ctx, since, told := e.t.ctx, time.Now(), false
	m := log.Marker{ProducerID: r.ID, ProducerEpoch: r.Epoch, Commit: r.State == txn.PrepareCommit, CoordinatorEpoch: int32(e.t.epoch), Started: r.Started, Own: r.Version == txn.V2, Behind: behind}
	left, pause := r.Partitions, markerPause
	if behind != nil {
		left = c.sendMarkers(ctx, e, left, m)
		if m.Behind = nil; !e.awaitDecided(ctx) {
			return
		}
	}
	for len(left) > 0 {
		if left = c.sendMarkers(ctx, e, left, m); len(left) == 0 {
			break
		}
		if !told && time.Since(since) > markersOverdue {
			told = true
			c.log.Warn("kafka: a transaction cannot be ended everywhere yet, and holds up readers of committed records", "transactional.id", e.id,
				"topic", left[0].Topic, "partition", left[0].Index, "partitions", len(left))
		}
		if pause = c.rest(ctx, pause); ctx.Err() != nil {
			return
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || !e.t.serving() {
		return
	}
	if rec := e.x.Ended(time.Now()); rec != nil {
		defer e.changed()
		if m.Commit {
			c.n.committed.Add(1)
		} else {
			c.n.aborted.Add(1)
		}
		c.put(e, rec, func(err error) {
			if err != nil { // the next coordinator sends the markers once more
				c.log.Debug("kafka: the end of a transaction is not stored", "transactional.id", e.id, "err", err)
			}
		})
		c.settle(e)
	}
}

// rest waits, and returns how long to wait the next time.
func (c *transactions) rest(ctx context.Context, pause time.Duration) time.Duration {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	return min(2*pause, markerPauseMax)
}

// sendMarkers makes one attempt, and returns the partitions that need another.
func (c *transactions) sendMarkers(ctx context.Context, e *txnEntry, parts []txn.Partition, m log.Marker) (left []txn.Partition) {
	select {
	case c.complete <- struct{}{}:
		defer func() { <-c.complete }()
	case <-ctx.Done():
		return parts
	}
	for i, err := range c.cfg.end(ctx, parts, m) {
		switch {
		case err == nil, errors.Is(err, cluster.ErrUnknownTopic): // deleted: there is nothing to end
		case errors.Is(err, log.ErrProducerFenced), errors.Is(err, log.ErrTransactionState):
			c.log.Info("kafka: the transaction has ended in a partition already", "transactional.id", e.id, "topic", parts[i].Topic, "partition", parts[i].Index, "err", err)
		default:
			c.log.Debug("kafka: marker is not committed yet", "transactional.id", e.id, "topic", parts[i].Topic, "partition", parts[i].Index, "err", err)
			left = append(left, parts[i])
		}
	}
	return left
}

// markersAwaited is how long the answer to EndTxn waits for them.
const markersAwaited = time.Second

func (c *transactions) awaitMarkers(ctx context.Context, id string) {
	e, _ := c.find(id, false)
	if e == nil {
		return
	}
	ended := e.ended
	e.mu.Unlock()
	if ended == nil {
		return
	}
	timer := time.NewTimer(markersAwaited)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	case <-e.t.ctx.Done():
	case <-ctx.Done():
	}
}

// endTransactions is transactionsConfig.end.
func (s *Server) endTransactions(ctx context.Context, parts []txn.Partition, m log.Marker) []error {
	errs := make([]error, len(parts))
	var ids []log.PartitionID
	var at []int
	var groups sync.WaitGroup
	defer groups.Wait()
	im := s.broker.Image()
	for i, p := range parts {
		t := im.Topic(p.Topic)
		switch {
		case t == nil || int(p.Index) >= len(t.Partitions):
			errs[i] = fmt.Errorf("%s/%d: %w", p.Topic, p.Index, cluster.ErrUnknownTopic)
		case p.Topic == offsetsTopic:
			groups.Go(func() { errs[i] = s.endOffsets(ctx, p.Index, t.Partitions[p.Index].Leader, m) })
		default:
			ids, at = append(ids, log.PartitionID{Topic: t.ID, Index: p.Index}), append(at, i)
		}
	}
	for i, err := range s.broker.EndTransaction(ctx, ids, m) {
		errs[at[i]] = err
	}
	return errs
}

// endOffsets has the coordinator of a partition of groups apply or drop what the transaction has committed there.
func (s *Server) endOffsets(ctx context.Context, partition, leader int32, m log.Marker) error {
	switch leader {
	case meta.NoLeader:
		return cluster.ErrNotLeader
	case s.broker.NodeID():
		return s.groups.endTransaction(ctx, partition, transactionOf{m.ProducerID, m.Started}, m.Commit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, errors.New("no answer in time"))
	defer cancel()
	reply, err := s.broker.CallNode(ctx, leader, methodEndOffsets, endOffsetsCall{partition, m.ProducerID, m.Commit, m.Started}, nil, nil)
	if err == nil {
		reply.Release()
	}
	return err
}
