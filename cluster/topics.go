package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Partition finds a partition that this broker leads. ErrUnknownTopic, ErrNotLeader, or ErrOffline with the reason.
func (b *Broker) Partition(topic string, index int32) (*Partition, error) {
	return b.table.Load().find(topic, index)
}

// PartitionByID is Partition for the id of a topic.
func (b *Broker) PartitionByID(id log.TopicID, index int32) (*Partition, error) {
	table := b.table.Load()
	t := table.image.TopicByID(id)
	if t == nil {
		return nil, fmt.Errorf("topic id %s: %w", id, ErrUnknownTopic)
	}
	return table.find(t.Name, index)
}

// CreateTopic makes a topic; when it returns its partitions can be used on this broker, also with ErrTopicExists. With validateOnly it only says what it would
// do. ErrTopicExists, ErrInvalidTopic, ErrInvalidPartitions, ErrInvalidReplicas, ErrInvalidAssignment, ErrInvalidConfig, ErrUnavailable; ErrOffline when
// the topic was made but a partition could not be opened.
func (b *Broker) CreateTopic(ctx context.Context, spec TopicSpec, validateOnly bool) (*meta.Topic, error) {
	if spec.followsBrokers() && !validateOnly {
		if err := b.awaitExpected(ctx, spec.Name); err != nil {
			return nil, fmt.Errorf("create topic %.300q: %w", spec.Name, err)
		}
	}
	t, err := b.controller.createTopic(ctx, spec, validateOnly)
	switch {
	case err == nil && !validateOnly:
		err = b.await(ctx, t)
	case errors.Is(err, ErrTopicExists) && b.Image().Topic(spec.Name) == nil: // another broker was faster, and that has not come here yet
		if unsure := b.Confirm(ctx); unsure != nil {
			err = unsure
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create topic %.300q: %w", spec.Name, err)
	}
	return t, nil
}

// DeleteTopic removes a topic and, on this broker, its logs. Who waits for its records is told ErrUnknownTopic. ErrProtected for internal topics.
func (b *Broker) DeleteTopic(ctx context.Context, name string) error {
	t, err := b.controller.deleteTopic(ctx, name)
	if err == nil {
		err = b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.TopicByID(t.ID) == nil })
	}
	if err != nil {
		return fmt.Errorf("delete topic %.300q: %w", name, err)
	}
	return nil
}

// CreatePartitions raises the number of partitions to total. Records with keys go to other partitions from then on. ErrProtected
// for internal topics, whose keys must stay where they are. assignment names the new partitions' replicas, preferred leader first; nil: the cluster places them.
func (b *Broker) CreatePartitions(ctx context.Context, name string, total int, assignment [][]int32, validateOnly bool) error {
	t, err := b.controller.createPartitions(ctx, name, total, assignment, validateOnly)
	if err == nil && !validateOnly {
		err = b.await(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("create partitions of topic %.300q: %w", name, err)
	}
	return nil
}

// AlterConfigs sets and removes configs of a topic; they are in force here when it returns. A change that says nothing new
// writes nothing.
func (b *Broker) AlterConfigs(ctx context.Context, name string, set map[string]string, del []string, validateOnly bool) error {
	t, err := b.controller.alterConfigs(ctx, name, set, del, validateOnly)
	if err == nil && !validateOnly {
		err = b.await(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("alter configs of topic %.300q: %w", name, err)
	}
	return nil
}

// await returns when this broker has applied t, with ErrOffline if a partition of it did not open.
func (b *Broker) await(ctx context.Context, t *meta.Topic) error {
	err := b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.Version >= t.Version })
	if err != nil {
		return err
	}
	return b.table.Load().offlineIn(t)
}

func (b *Broker) awaitTable(ctx context.Context, reached func(*partitionTable) bool) error {
	for {
		b.changes.Lock()
		changed := b.applied
		b.changes.Unlock()
		if reached(b.table.Load()) {
			return nil
		}
		select {
		case <-changed:
		case <-b.closing:
			return ErrClosed
		case <-b.failed:
			return b.Err()
		case <-ctx.Done():
			return fmt.Errorf("%w: done, but not yet in force here: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}

// OfflinePartition is one that this broker leads and cannot serve, or serves only for reading.
type OfflinePartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Reason    string `json:"reason"`
}

// Offline lists the partitions that take no records here because their log is missing or damaged, and why.
func (b *Broker) Offline() (all []OfflinePartition) {
	table := b.table.Load()
	for _, t := range table.image.Topics() {
		for i := range t.Partitions {
			if err := table.offlineReason(log.PartitionID{Topic: t.ID, Index: int32(i)}); err != nil {
				all = append(all, OfflinePartition{t.Name, int32(i), err.Error()})
			}
		}
	}
	return all
}

// OfflineReason is why a partition that this broker leads takes no records; nil when it does.
func (b *Broker) OfflineReason(topic log.TopicID, index int32) error {
	return b.table.Load().offlineReason(log.PartitionID{Topic: topic, Index: index})
}

func (t *partitionTable) offlineReason(id log.PartitionID) error {
	if p := t.open[id]; p != nil {
		return p.or(nil)
	}
	return t.offline[id]
}
