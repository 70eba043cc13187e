package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// What the transaction coordinator and readers of committed records need of partitions (P2). Which transactions there are and how they end is not
// decided here.

// LastStable is the offset below which everything is committed and every transaction has ended (P2): at most HighWatermark. It may fall when
// another broker comes to lead, as the high watermark may.
func (p *Partition) LastStable() log.Offset {
	return min(max(p.settled(), p.LogStart()), p.HighWatermark())
}

// settled is LastStable of what the log holds, also below its start: batches stand whole, and who copies them begins with the first.
func (p *Partition) settled() log.Offset {
	return min(log.Offset(p.stable.Load()), p.HighWatermark())
}

// ReadCommitted is Read below LastStable, together with the aborted transactions that batches of the answer may belong to.
func (p *Partition) ReadCommitted(from log.Offset, maxBytes int, buf []byte) ([]byte, []log.AbortedTransaction, error) {
	return p.readCommitted(from, maxBytes, false, buf)
}

func (p *Partition) readCommitted(from log.Offset, maxBytes int, within bool, buf []byte) ([]byte, []log.AbortedTransaction, error) {
	stable := p.LastStable()
	if from >= stable {
		b, err := p.Read(max(from, p.HighWatermark()), maxBytes, buf) // says whether there is such an offset
		return b[:0], nil, err
	}
	aborted := p.log.Aborted(from, stable) // before the read, see there
	b, err := p.readLog(from, stable, maxBytes, within, buf)
	if len(b) == 0 {
		err = p.or(err)
	}
	if err != nil {
		return b, nil, p.wrap("read", p.spoilt(err))
	}
	end := from
	for rest := b; len(aborted) > 0 && len(rest) > 0; {
		batch, err := log.NextBatch(rest, 0)
		if err != nil {
			return b[:0], nil, p.wrap("read", err)
		}
		rest, end = rest[batch.Size():], batch.NextOffset()
	}
	return b, slices.DeleteFunc(aborted, func(a log.AbortedTransaction) bool { return a.First >= end }), nil
}

// ReadStable is ReadCommitted for readers that keep no list of what was aborted: such batches come with the control bit, which they pass over. Their
// checksums are not right then.
func (p *Partition) ReadStable(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	b, aborted, err := p.ReadCommitted(from, maxBytes, buf)
	hideAborted(b, aborted)
	return b, err
}

// hideAborted makes control batches of those that were aborted.
func hideAborted(b []byte, aborted []log.AbortedTransaction) {
	for len(aborted) > 0 && len(b) > 0 {
		batch, err := log.NextBatch(b, 0)
		if err != nil {
			return // they come from the log, which has looked at them
		}
		b = b[batch.Size():]
		if batch.IsTransactional() && slices.ContainsFunc(aborted, func(a log.AbortedTransaction) bool {
			return a.ProducerID == batch.ProducerID() && a.First <= batch.BaseOffset() && batch.BaseOffset() < a.Last
		}) {
			batch.MarkControl()
		}
	}
}

// InTransaction says whether the producer has a transaction open here, and otherwise where its last one ended, see there: what ProduceVerified has to be told.
func (p *Partition) InTransaction(producer int64, epoch int16, own bool) (open bool, ended log.Offset) {
	return p.log.InTransaction(producer, epoch, own)
}

// ProduceVerified is Produce of a batch that may begin a transaction here. The caller has asked the coordinator whether the partition is part
// of the producer's transaction, after InTransaction has said where the last one ended; where that has changed, the batch is refused with
// log.ErrTransactionState.
func (p *Partition) ProduceVerified(b log.Batch, acks int16, v log.Verified, done func(first log.Offset, appendTime int64, err error)) {
	p.tell(acks, done)(p.produce(b, acks, v, nil, done))
}

// endTransaction appends a marker, which done hears of as of a batch with acks -1; only in the leader epoch in which it was sent. Together with Marker.Started,
// which a leader knows of what has begun in its epoch, and Own, that keeps one that comes late from ending the producer's next transaction.
func (p *Partition) endTransaction(m log.Marker, epoch log.Epoch, done func(error)) {
	told := func(_ log.Offset, _ int64, err error) { done(err) }
	if _, _, err := p.produce(m.Batch(p.nowMS()), -1, log.Verified{Ended: log.NotVerified, Started: m.Started, Own: m.Own, Behind: m.Behind}, []Term{{p.id, epoch}}, told); err != nil {
		done(p.wrap("end a transaction in", err))
	}
}

// notVerified is for what begins no transaction.
var notVerified = log.Verified{Ended: log.NotVerified}

type endTransactionCall struct {
	Parts       []wireTerm `cbor:"1,keyasint"` // with the epoch that they are led in
	Producer    int64      `cbor:"2,keyasint"`
	Epoch       int16      `cbor:"3,keyasint,omitempty"`
	Commit      bool       `cbor:"4,keyasint,omitempty"`
	Coordinator int32      `cbor:"5,keyasint,omitempty"`
	Started     int64      `cbor:"6,keyasint,omitempty"`
	Own         bool       `cbor:"7,keyasint,omitempty"`
}

// endTimeout bounds one attempt; who ends a transaction tries again until it is done.
const endTimeout = 10 * time.Second

// EndTransaction ends a transaction in those partitions, wherever they are led, and returns an error for each when its marker is committed or it is not known to be.
// ErrUnknownTopic where there is none (any more); after other errors it has to be tried again: a second marker does nothing. The call ends with ctx, or after a time of its own.
// With m.Behind (Table.Ahead) the partitions of other brokers are left out with ErrNotLeader: behind what is in this broker's journal only this broker's can be.
func (b *Broker) EndTransaction(ctx context.Context, parts []log.PartitionID, m log.Marker) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, errors.New("no answer in time"))
	defer cancel()
	errs := make([]error, len(parts))
	table := b.table.Load()
	byLeader := map[int32][]int{}
	for i, id := range parts {
		t := table.image.TopicByID(id.Topic)
		switch leader := table.leader(id); {
		case t == nil || id.Index < 0 || int(id.Index) >= len(t.Partitions):
			errs[i] = fmt.Errorf("partition %s: %w", id, ErrUnknownTopic)
		case leader == meta.NoLeader:
			errs[i] = fmt.Errorf("partition %s has no leader: %w", id, ErrNotLeader)
		default:
			byLeader[leader] = append(byLeader[leader], i)
		}
	}
	type told struct {
		at   []int
		errs []error
	}
	answers := make(chan told, len(byLeader))
	for leader, at := range byLeader {
		call := endTransactionCall{Producer: m.ProducerID, Epoch: m.ProducerEpoch, Commit: m.Commit, Coordinator: m.CoordinatorEpoch, Started: m.Started, Own: m.Own}
		for _, i := range at {
			at := table.image.TopicByID(parts[i].Topic).Partitions[parts[i].Index]
			call.Parts = append(call.Parts, wireTerm{toWire(parts[i]), int32(at.LeaderEpoch)})
		}
		go func() { answers <- told{at, b.endAt(ctx, leader, &call, m.Behind)} }() // ends with ctx
	}
	for range byLeader {
		a := <-answers
		for j, i := range a.at {
			errs[i] = a.errs[j]
		}
	}
	return errs
}

// endAt ends a transaction at one leader.
func (b *Broker) endAt(ctx context.Context, leader int32, call *endTransactionCall, behind *log.Partition) []error {
	errs := make([]error, len(call.Parts))
	var a appendAnswer
	var err error
	switch {
	case leader == b.id:
		a = b.answerEndTransaction(ctx, call, behind)
	case behind != nil:
		err = ErrNotLeader
	default:
		var reply rpc.Reply
		if reply, err = b.CallNode(ctx, leader, methodEndTransaction, call, nil, &a); err == nil {
			reply.Release()
		}
	}
	if err == nil && len(a.Parts) != len(errs) {
		err = fmt.Errorf("broker %d answers for %d partitions of %d: %w", leader, len(a.Parts), len(errs), rpc.ErrFrame)
	}
	for i := range errs {
		if errs[i] = err; err == nil {
			errs[i] = a.Parts[i].err()
		}
	}
	return errs
}

// answerEndTransaction answers when all markers are committed or refused, or the caller has gone.
func (b *Broker) answerEndTransaction(ctx context.Context, c *endTransactionCall, behind *log.Partition) appendAnswer {
	type outcome struct {
		i   int
		err error
	}
	m := log.Marker{ProducerID: c.Producer, ProducerEpoch: c.Epoch, Commit: c.Commit, CoordinatorEpoch: c.Coordinator, Started: c.Started, Own: c.Own, Behind: behind}
	outcomes := make(chan outcome, len(c.Parts))
	a := appendAnswer{Parts: make([]appendOutcome, len(c.Parts))}
	table := b.table.Load()
	for i, w := range c.Parts {
		a.Parts[i] = outcomeOf(errUndecided)
		err := ErrNotLeader
		// Not ErrUnknownTopic: the metadata may not have come here yet.
		if id, ok := w.id(); ok && table.image.TopicByID(id.Topic) != nil {
			var p *Partition
			if p, err = table.led(id); err == nil {
				p.endTransaction(m, log.Epoch(w.Epoch), func(err error) { outcomes <- outcome{i, err} })
				continue
			}
		}
		outcomes <- outcome{i, err}
	}
	timer := time.NewTimer(endTimeout)
	defer timer.Stop()
	for range c.Parts {
		select {
		case o := <-outcomes:
			a.Parts[o.i] = outcomeOf(o.err)
		case <-ctx.Done():
			return a
		case <-timer.C:
			return a
		case <-b.closing:
			return a
		}
	}
	return a
}
