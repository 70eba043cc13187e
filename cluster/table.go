package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// Table is a compacted topic used as a map from key to value (M11, D11). It keeps nothing in memory: its user loads the
// contents once, then keeps them itself and puts what changes. Other brokers may lead some of its partitions: a partition is looked up
// when it is used, and ErrNotLeader says that this broker does not lead it. All methods may be called concurrently.
//
// Whoever answers others for what a partition holds does so in one term, the leader epoch that the metadata gives: it settles and loads
// the partition, and puts in that term only (PutIn). Then nothing is missing that was answered in an earlier term, and nothing is written
// that was decided on the contents of one.
type Table struct {
	broker     *Broker
	name       string
	id         log.TopicID
	partitions int
}

// tableSegmentBytes is small: only closed segments are compacted, and a start reads all that is not.
const tableSegmentBytes = "4194304"

// OpenTable opens the compacted topic of that name, making it first if need be; a topic that exists keeps its
// number of partitions. Keys are spread over partitions by the user. A partition that is offline costs only itself.
func (b *Broker) OpenTable(ctx context.Context, spec TopicSpec) (*Table, error) {
	configs := map[string]string{cleanupPolicy: "compact", segmentBytes: tableSegmentBytes}
	for k, v := range spec.Configs {
		configs[k] = v
	}
	spec.Configs = configs
	t := b.Image().Topic(spec.Name)
	if t == nil {
		if _, err := b.CreateTopic(ctx, spec, false); err != nil && !errors.Is(err, ErrTopicExists) && !errors.Is(err, ErrOffline) {
			return nil, fmt.Errorf("open table: %w", err)
		}
		// Another broker may have been faster, and its change not yet be in force here.
		if err := b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.Topic(spec.Name) != nil }); err != nil {
			return nil, fmt.Errorf("open table %s: %w", spec.Name, err)
		}
		t = b.Image().Topic(spec.Name)
	}
	return &Table{b, spec.Name, t.ID, len(t.Partitions)}, nil
}

// ID is the id of the topic.
func (t *Table) ID() log.TopicID { return t.id }

// Partitions is how many partitions the table has.
func (t *Table) Partitions() int { return t.partitions }

// Settle waits until everything that was answered for before the term is known to be committed, and Load gives it (R3). ErrNotLeader when this
// broker does not lead the partition in that term; it is asked again when the high watermark moves, so ctx must end with the term.
func (t *Table) Settle(ctx context.Context, partition int32, term log.Epoch) error {
	moved := make(settling, 1)
	for {
		p, err := t.partition(partition)
		if err == nil {
			err = p.leads(term)
		}
		if err != nil || p.Settled() {
			return err
		}
		p.Watch(moved)
		if !p.Settled() {
			select {
			case <-moved:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		p.Unwatch(moved)
		if err != nil {
			return err
		}
	}
}

// settling holds a token when the high watermark has moved.
type settling chan struct{}

// Advanced implements CommitWatcher.
func (s settling) Advanced(*Partition) {
	select {
	case s <- struct{}{}:
	default:
	}
}

// loadBytes is how much Load reads at once.
const loadBytes = 256 << 10

// Load calls fn for every record that was committed in that partition when Load was called, in order: a later value of a key replaces an
// earlier one, and a nil value deletes it. The slices are views that last until fn returns. It stops at the first error.
func (t *Table) Load(partition int32, fn func(key, value []byte) error) error {
	p, err := t.partition(partition)
	if err != nil {
		return err
	}
	return loadFrom(p, p.HighWatermark(), fn)
}

// loadRetry is between two looks for a leader.
const loadRetry = 50 * time.Millisecond

// LoadAnywhere is Load wherever the partition is led, once what was answered for in earlier terms is known to be committed. Until ctx ends it waits for who
// leads it, and begins anew when that changes.
func (t *Table) LoadAnywhere(ctx context.Context, partition int32, fn func(key, value []byte) error) error {
	for {
		p, err := t.partition(partition)
		switch {
		case errors.Is(err, ErrNotLeader):
			err = t.loadFromLeader(ctx, partition, fn)
		case err == nil && (!t.broker.HoldsLease() || !p.Settled()): // who loads takes what he does not find for not written (R2, R3)
			err = p.wrap("load", fmt.Errorf("its leader does not know yet what is committed: %w", ErrNotLeader))
		case err == nil:
			err = loadFrom(p, p.HighWatermark(), fn)
		}
		if !loadsAgain(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-t.broker.closing:
			return err
		case <-time.After(loadRetry):
		}
	}
}

// loadsAgain: another leader, or the same a moment later, can be loaded from.
func loadsAgain(err error) bool {
	return errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnavailable) || errors.Is(err, rpc.ErrUnreachable)
}

func (t *Table) loadFromLeader(ctx context.Context, partition int32, fn func(key, value []byte) error) error {
	id := log.PartitionID{Topic: t.id, Index: partition}
	end, err := t.broker.Ends(ctx, id)
	if err != nil {
		return fmt.Errorf("load %s/%d: %w", t.name, partition, err)
	}
	return loadFrom(leaderReader{t.broker, id, t.name}, end, fn)
}

// source is what a table is loaded from.
type source interface {
	LogStart() log.Offset
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
	wrap(doing string, err error) error
}

func loadFrom(p source, end log.Offset, fn func(key, value []byte) error) (err error) {
	var buf []byte
	var records log.RecordReader
	for next := p.LogStart(); next < end; {
		if buf, err = p.Read(next, loadBytes, buf); err != nil {
			return err
		}
		rest := buf
		if len(rest) == 0 {
			return nil // compaction has removed the last records: tombstones
		}
		for len(rest) > 0 {
			batch, err := log.NextBatch(rest, 0)
			if err != nil {
				return p.wrap("load", err)
			}
			rest = rest[batch.Size():]
			if !batch.IsControl() {
				if err := loadBatch(&records, batch, next, end, fn); err != nil {
					return p.wrap("load", err)
				}
			}
			next = batch.NextOffset()
		}
	}
	return nil
}

func loadBatch(records *log.RecordReader, batch log.Batch, from, end log.Offset, fn func(key, value []byte) error) error {
	if err := records.Reset(batch); err != nil {
		return err
	}
	for {
		var r log.Record
		more, err := records.Next(&r)
		if err != nil || !more {
			return err
		}
		if r.Offset < from || r.Offset >= end {
			continue
		}
		if err := fn(r.Key, r.Value); err != nil {
			return err
		}
	}
}

// Put sets key to value, or deletes it when value is nil. Both are copied before it returns. done is called once, on the completer
// goroutine and never inside Put, when the record is committed or with the reason why it is not known to be: it must not
// block. Records of one partition are answered in the order of the Puts.
func (t *Table) Put(partition int32, key, value []byte, done func(error)) {
	t.PutIn(partition, anyTerm, key, value, done)
}

// PutIn is Put while this broker leads in that term, and ErrNotLeader otherwise. It says whether the record was appended; whether it is committed only done says.
func (t *Table) PutIn(partition int32, term log.Epoch, key, value []byte, done func(error)) (appended bool) {
	p, err := t.partition(partition)
	if err == nil {
		w := puts.Get().(*put)
		w.done = done
		if err = p.append(&log.Record{Timestamp: t.broker.nowMS(), Key: key, Value: value}, w, 0, term); err == nil {
			return true
		}
		w.done = nil
		puts.Put(w)
	}
	t.broker.completer.call(func() { done(err) })
	return false
}

// Ahead is what log.Verified.Behind and log.Marker.Behind want, for partitions of this broker, where they need not wait until what was put into that partition is committed: it is in
// their journal before them (J8). Nil where they have to. They need not while this broker is the only one of its cluster: then each of its logs is the whole of its partition, and committed is what its
// journal has. A broker that registers meanwhile, and follows some partition before this one's journal has what is under way, reads nothing of it before (log.Partition.Sound).
func (t *Table) Ahead(partition int32) *log.Partition {
	if len(t.broker.Image().Brokers()) != 1 {
		return nil
	}
	p, err := t.partition(partition)
	if err != nil {
		return nil
	}
	return p.log
}

func (t *Table) partition(i int32) (*Partition, error) {
	if i < 0 || int(i) >= t.partitions {
		return nil, fmt.Errorf("partition %d of a table of %d: %w", i, t.partitions, ErrUnknownTopic)
	}
	p, err := t.broker.table.Load().led(log.PartitionID{Topic: t.id, Index: i})
	if err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", t.name, i, err)
	}
	return p, nil
}

// put waits for one record of a table.
type put struct{ done func(error) }

var puts = sync.Pool{New: func() any { return new(put) }}

// Committed implements Waiter.
func (w *put) Committed(_ uint64, _ int, err error) {
	done := w.done
	w.done = nil
	puts.Put(w)
	done(err)
}
