package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// The mqtt room declares what it needs of the log as small interfaces and knows nothing of cluster; these adapters join
// the two.

// sink is mqtt.Sink over the broker's topics.
type sink struct {
	broker *cluster.Broker
	spec   func(topic string) cluster.TopicSpec // how a topic that a route names is made
}

// createTimeout bounds the creation of a topic that a publish needs; the publish is held meanwhile (M8).
const createTimeout = 10 * time.Second

// Topic returns the partitions of a log topic, creating it when there is none. It may be called concurrently.
func (s sink) Topic(name string) ([]mqtt.Partition, error) {
	topic := s.broker.Image().Topic(name)
	if topic == nil {
		ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
		defer cancel()
		var err error
		if topic, err = s.broker.CreateTopic(ctx, s.spec(name), false); errors.Is(err, cluster.ErrTopicExists) {
			topic, err = s.broker.Image().Topic(name), nil // somebody else's publish made it
		}
		if err != nil || topic == nil {
			return nil, fmt.Errorf("create topic %s: %w", name, cmp.Or(err, cluster.ErrUnknownTopic))
		}
	}
	parts := make([]mqtt.Partition, len(topic.Partitions))
	for i := range parts {
		p, err := s.broker.Partition(name, int32(i))
		switch {
		case errors.Is(err, cluster.ErrUnknownTopic):
			return nil, err
		case err != nil:
			parts[i] = offlinePartition{log.PartitionID{Topic: topic.ID, Index: int32(i)}, err} // the others go on
		default:
			parts[i] = sinkPartition{p}
		}
	}
	return parts, nil
}

// offlinePartition is one that cannot be written: a publish to it is refused or held, those to its neighbours are not.
type offlinePartition struct {
	id  log.PartitionID
	why error
}

func (p offlinePartition) ID() log.PartitionID                           { return p.id }
func (p offlinePartition) Append(*log.Record, mqtt.Waiter, uint64) error { return p.why }
func (p offlinePartition) LogEnd() log.Offset                            { return 0 }
func (p offlinePartition) Read(log.Offset, int, []byte) ([]byte, error)  { return nil, p.why }

// Transient tells the refusals that pass by themselves from those that never will (M8).
func (s sink) Transient(err error) bool { return cluster.Transient(err) }

// sinkPartition narrows a partition to what a publish needs.
type sinkPartition struct{ *cluster.Partition }

func (p sinkPartition) Append(r *log.Record, w mqtt.Waiter, seq uint64) error {
	if w == nil { // a nil interface must stay nil when its type changes
		return p.Partition.Append(r, nil, 0)
	}
	return p.Partition.Append(r, w, seq)
}

// source is deliver.Source: every partition that MQTT subscribers can see, which is every topic that is not internal.
type source struct{ broker *cluster.Broker }

// Watch reports the partitions of each metadata image that were not in the one before, and those that are gone. Calls
// come one at a time.
func (s source) Watch(added func(deliver.Log), removed func(log.PartitionID)) (stop func()) {
	known := map[log.PartitionID]bool{}
	return s.broker.WatchTopics(func(image *meta.Image) {
		now := map[log.PartitionID]bool{}
		for _, topic := range image.Topics() {
			if topic.Internal {
				continue
			}
			for i := range topic.Partitions {
				id := log.PartitionID{Topic: topic.ID, Index: int32(i)}
				if known[id] {
					now[id] = true
					continue
				}
				p, err := s.broker.PartitionByID(topic.ID, int32(i))
				if err != nil {
					continue // not open here yet: the image that opens it comes later
				}
				now[id] = true
				added(deliverLog{p})
			}
		}
		for id := range known {
			if !now[id] {
				removed(id)
			}
		}
		known = now
	})
}

// deliverLog is deliver.Log over a partition.
type deliverLog struct{ *cluster.Partition }

func (l deliverLog) Watch(fn func()) (stop func()) {
	w := &commitWatcher{fn}
	l.Partition.Watch(w)
	return func() { l.Partition.Unwatch(w) }
}

type commitWatcher struct{ fn func() }

func (w *commitWatcher) Advanced(*cluster.Partition) { w.fn() }

// stateTable adapts a compacted topic to the key → value state that mqtt keeps in it (M11).
type stateTable struct {
	t        *cluster.Table
	starting context.Context // of the start, which loads the table; nil once that is over
}

// Tables are small on purpose: each partition costs a directory and its files, and only closed segments are compacted,
// so that their size is what a start reads at the least.
const (
	tablePartitions   = 4
	tableSegmentBytes = "4194304"
)

func openTable(ctx context.Context, b *cluster.Broker, name string) (*stateTable, error) {
	t, err := b.OpenTable(ctx, cluster.TopicSpec{
		Name: name, Partitions: tablePartitions, Internal: true,
		Configs: map[string]string{"cleanup.policy": "compact", "segment.bytes": tableSegmentBytes},
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return &stateTable{t, ctx}, nil
}

// Partitions, Load and Put are mqtt.Table: mqtt knows where the records of a session stand.
func (t *stateTable) Partitions() int { return t.t.Partitions() }

// Load is stopped with the start: it does not read a partition to the end then.
func (t *stateTable) Load(partition int, fn func(key, value []byte) error) error {
	each := fn
	if ctx := t.starting; ctx != nil {
		each = func(key, value []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(key, value)
		}
	}
	return t.t.Load(int32(partition), each)
}

func (t *stateTable) Put(partition int, key, value []byte, done func(error)) {
	t.t.Put(int32(partition), key, value, done)
}

// wholeTable is deliver.Table: a table without regard to its partitions.
type wholeTable struct{ *stateTable }

// Load reads all partitions; order holds per key, since a key lives in one partition.
func (t wholeTable) Load(fn func(key, value []byte) error) error {
	for p := range t.Partitions() {
		if err := t.stateTable.Load(p, fn); err != nil {
			return err
		}
	}
	return nil
}

// Put spreads the keys.
func (t wholeTable) Put(key, value []byte, done func(error)) {
	t.stateTable.Put(mqtt.PartitionFor(key, t.Partitions()), key, value, done)
}

var (
	_ mqtt.Sink      = sink{}
	_ mqtt.Table     = (*stateTable)(nil)
	_ deliver.Table  = wholeTable{}
	_ deliver.Source = source{}
)
