package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// spot is a partition at the target.
type spot struct {
	topic string
	index int32
}

func (s spot) String() string { return fmt.Sprintf("%s, partition %d", s.topic, s.index) }

// hung is a transaction of this uplink that its coordinator has ended and a partition holds open.
type hung struct {
	spot
	producer
	commit bool   // how it ends
	why    string // so
}

// producer is what a partition knows of one.
type producer = kmsg.DescribeProducersResponseTopicPartitionActiveProducer

// settle ends what hangs, so that the cursors are the truth again (U11). Cursors first: then what hangs elsewhere goes by them, also when this is cut off in between.
func (t *kafkaTarget) settle(ctx context.Context, conn []kgo.Opt) error {
	cursors := spot{ProgressTopic, t.keeper.partition}
	all, err := t.spots(ctx)
	if err != nil {
		return err
	}
	open, err := t.undecided(ctx, all)
	if err != nil || len(open) == 0 {
		return err
	}
	there, failed := t.producers(ctx, open)
	var at *hung
	var rest []hung
	for _, s := range open {
		if err := failed[s]; err != nil && passing(ctx, err) {
			return fmt.Errorf("ask who has a transaction open in %s: %w", s, err)
		}
		for _, p := range there[s] {
			if p.CurrentTxnStartOffset < 0 {
				continue
			}
			mine, err := t.mine(ctx, conn, s, p)
			if err != nil {
				return fmt.Errorf("a transaction hangs in %s, since offset %d; to know whose it is: %w", s, p.CurrentTxnStartOffset, err)
			}
			if !mine {
				continue
			}
			if h := (hung{spot: s, producer: p}); s == cursors {
				at = &h
			} else {
				rest = append(rest, h)
			}
		}
	}
	if at == nil && len(rest) == 0 {
		return nil
	}
	if at != nil {
		if err := t.judgeCursors(ctx, conn, at, all); err != nil {
			return fmt.Errorf("a transaction hangs in %s, since offset %d; to know how it ends: %w", at.spot, at.CurrentTxnStartOffset, err)
		}
		if err := t.end(ctx, append([]hung{*at}, rest...), 1); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	known, err := t.keeper.read(ctx, conn, t.admin())
	if err != nil {
		return err
	}
	for i := range rest {
		if err := t.follow(ctx, conn, &rest[i], known); err != nil {
			return fmt.Errorf("a transaction hangs in %s, since offset %d; to know how it ends: %w", rest[i].spot, rest[i].CurrentTxnStartOffset, err)
		}
	}
	return t.end(ctx, rest, len(rest))
}

// spots lists the partitions that a transaction of this shard can have written to.
func (t *kafkaTarget) spots(ctx context.Context) ([]spot, error) {
	all := []spot{{ProgressTopic, t.keeper.partition}}
	if t.site != "" && t.keeper.claims != t.keeper.partition {
		all = append(all, spot{ProgressTopic, t.keeper.claims})
	}
	var names []string
	for _, c := range t.carried() {
		if c.remote != "" && !slices.Contains(names, c.remote) {
			names = append(names, c.remote)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	topics, err := t.admin().ListTopics(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, d := range topics.Sorted() {
		for _, p := range d.Partitions.Sorted() {
			all = append(all, spot{d.Topic, p.Partition})
		}
	}
	return all, nil
}

// undecided lists the partitions in which some transaction is open. A few bytes tell, where a list of producers has an entry for each gateway that writes there. A topic that
// cannot be asked about is left out; a partition without a leader is waited for.
func (t *kafkaTarget) undecided(ctx context.Context, all []spot) (open []spot, err error) {
	const latest, readUncommitted, readCommitted = -1, 0, 1
	for end := time.Now().Add(leaderWait); len(all) > 0; {
		high, failed := t.offsets(ctx, all, latest, readUncommitted)
		stable, failedToo := t.offsets(ctx, all, latest, readCommitted) // later: what was open when high was asked for lies below it
		var again []spot
		for _, s := range all {
			err := failed[s]
			if err == nil {
				err = failedToo[s]
			}
			switch {
			case err == nil && stable[s] < high[s]:
				open = append(open, s)
			case err != nil && ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil && s.topic == ProgressTopic && !passing(ctx, err):
				return nil, fmt.Errorf("read %s: %w", s, err)
			case err != nil && passing(ctx, err):
				again = append(again, s)
			}
		}
		if all = again; len(all) == 0 || time.Now().After(end) {
			break // what has no leader is a matter of its own topic (U7)
		}
		select {
		case <-time.After(leaderPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return open, nil
}

// leaderWait is how long a partition may take to get a leader when the target has just started: it may hold a transaction open.
const (
	leaderWait  = 10 * time.Second
	leaderPause = 250 * time.Millisecond
)

// judgeCursors finds out how the transaction ends that hangs where the cursors are.
func (t *kafkaTarget) judgeCursors(ctx context.Context, conn []kgo.Opt, at *hung, all []spot) (err error) {
	facts := hungCursors{parts: t.carried(), within: map[log.PartitionID]progress{}}
	if facts.committed, err = t.keeper.readTo(ctx, conn, t.admin(), at.CurrentTxnStartOffset); err != nil {
		return err
	}
	_, end, err := t.keeper.extent(ctx, t.admin(), at.index)
	if err != nil {
		return err
	}
	if err := readExtent(ctx, conn, extent{at.topic, at.index, at.CurrentTxnStartOffset, end}, nil, func(r *kgo.Record) error {
		if r.ProducerID != at.ProducerID || r.Attrs.IsControl() {
			return nil
		}
		return t.keeper.take(facts.within, r)
	}); err != nil {
		return err
	}
	there, failed := t.producers(ctx, all)
	for _, s := range all {
		if err := failed[s]; err != nil {
			return fmt.Errorf("ask who has written to %s (it takes READ and DESCRIBE of the topic): %w", s, err)
		}
		for _, p := range there[s] {
			if s.topic == ProgressTopic || p.ProducerID != at.ProducerID || p.CurrentTxnStartOffset >= 0 || p.ProducerEpoch < at.ProducerEpoch {
				continue
			}
			e, err := t.lastEnded(ctx, conn, s, p)
			if err != nil {
				return err
			}
			if e != nil {
				e.later = p.ProducerEpoch > at.ProducerEpoch
				facts.elsewhere = append(facts.elsewhere, *e)
			}
		}
	}
	at.commit, at.why = facts.commit()
	return nil
}

// lookBack is how far before its marker the last record of a transaction is looked for: others may have written between them.
const lookBack = 4096

// errFound ends a scan.
var errFound = errors.New("found")

// lastEnded finds the last transaction of a producer in a partition where none of it is open; nil when it is not there any more.
func (t *kafkaTarget) lastEnded(ctx context.Context, conn []kgo.Opt, s spot, p producer) (*endedTransaction, error) {
	near, failed := t.offsets(ctx, []spot{s}, p.LastTimestamp, 0)
	if failed[s] != nil {
		return nil, fmt.Errorf("read %s: %w", s, failed[s])
	}
	high, failed := t.offsets(ctx, []spot{s}, -1, 0)
	if failed[s] != nil {
		return nil, fmt.Errorf("read %s: %w", s, failed[s])
	}
	if near[s] < 0 {
		near[s] = high[s]
	}
	var e endedTransaction
	err := readExtent(ctx, conn, extent{s.topic, s.index, max(0, near[s]-lookBack), high[s]}, nil, func(r *kgo.Record) error {
		switch {
		case r.ProducerID != p.ProducerID:
		case !r.Attrs.IsControl():
			e.last, _ = t.origin(r)
		case int32(r.ProducerEpoch) == p.ProducerEpoch && r.Timestamp.UnixMilli() == p.LastTimestamp && len(r.Key) >= 4:
			e.commit = binary.BigEndian.Uint16(r.Key[2:]) == 1 // version, type
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return &e, nil
	}
	return nil, err
}

func (t *kafkaTarget) origin(r *kgo.Record) (origin, bool) {
	for _, h := range slices.Backward(r.Headers) { // ours is the last
		if h.Key == OriginHeader {
			return parseOrigin(string(h.Value), t.cluster)
		}
	}
	return origin{}, false
}

// follow finds out how a transaction ends that hangs where the cursors are not: as they say of its first record. A claim of the site is made again.
func (t *kafkaTarget) follow(ctx context.Context, conn []kgo.Opt, h *hung, known map[log.PartitionID]progress) error {
	if h.why = "the cursors have not passed it"; h.topic == ProgressTopic {
		t.seen.claimed = false
		return nil
	}
	return readExtent(ctx, conn, extent{h.topic, h.index, h.CurrentTxnStartOffset, h.CurrentTxnStartOffset + 1}, nil, func(r *kgo.Record) error {
		if o, ok := t.origin(r); ok && covered(known, t.carried(), o) {
			h.commit, h.why = true, "the cursors have passed it"
		}
		return nil
	})
}

// stalled tells what a reader of committed records in the topic of cursors waits for.
func (t *kafkaTarget) stalled(ctx context.Context, partition int32) (why string) {
	s := spot{ProgressTopic, partition}
	there, _ := t.producers(ctx, []spot{s})
	var first *producer
	for _, p := range there[s] {
		if p.CurrentTxnStartOffset >= 0 && (first == nil || p.CurrentTxnStartOffset < first.CurrentTxnStartOffset) {
			first = &p
		}
	}
	if first == nil {
		return ""
	}
	why = fmt.Sprintf("waits for a transaction of another producer (%d) that is open in %s, since offset %d", first.ProducerID, s, first.CurrentTxnStartOffset)
	if t.waits != nil {
		t.waits(why)
	}
	return why
}
