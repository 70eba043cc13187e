package meta

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/weir-io/weir/log"
)

// Apply gives the Image after cmd and the answer to its proposer, or im itself and the reason why
// cmd changed nothing. It depends on im and cmd alone (C1), and keeps parts of cmd: do not change cmd afterwards.
func (im *Image) Apply(cmd Command) (*Image, any, error) {
	next := *im
	next.Version++
	answer, err := cmd.apply(&next)
	if err != nil {
		return im, nil, err
	}
	return &next, answer, nil
}

// ownTopics gives im lists of topics of its own, so that it can write into them.
func (im *Image) ownTopics() {
	im.topics, im.byID = slices.Clone(im.topics), maps.Clone(im.byID)
}

// changed is a copy of t at the version of im, with partitions of its own.
func (im *Image) changed(t *Topic) *Topic {
	c := *t
	c.Version = im.Version
	c.Partitions = slices.Clone(t.Partitions)
	return &c
}

// put replaces or inserts t.
func (im *Image) put(t *Topic) {
	i, found := im.findTopic(t.Name)
	im.ownTopics()
	if found {
		im.topics[i] = t
	} else {
		im.topics = slices.Insert(im.topics, i, t)
	}
	im.byID[t.ID] = t
}

// expect finds a topic that is still as its proposer saw it (C1).
func (im *Image) expect(id log.TopicID, version uint64) (*Topic, error) {
	t := im.byID[id]
	switch {
	case t == nil:
		return nil, fmt.Errorf("topic id %s: %w", id, ErrNotFound)
	case t.Version != version:
		return nil, fmt.Errorf("topic %q: at version %d, not %d: %w", t.Name, t.Version, version, ErrConflict)
	}
	return t, nil
}

// assign makes new partitions: the first replica that serves leads, and all that serve are in sync with an empty partition.
func (im *Image) assign(assignment [][]int32) ([]Partition, error) {
	ps := make([]Partition, len(assignment))
	for i, replicas := range assignment {
		if len(replicas) > MaxReplicas {
			return nil, fmt.Errorf("partition %d: %d replicas, limit %d: %w", i, len(replicas), MaxReplicas, ErrRefused)
		}
		if err := im.checkReplicas(replicas); err != nil {
			return nil, fmt.Errorf("partition %d: %w: %w", i, err, ErrRefused)
		}
		ps[i] = Partition{
			Leader: NoLeader, Replicas: replicas, Since: im.Version, LeaderEpoch: im.firstEpoch(), PartitionEpoch: int32(im.firstEpoch()),
		}
		m := im.machine(&Topic{}, &ps[i])
		for _, id := range replicas {
			if m.serving(id) {
				ps[i].ISR = append(ps[i].ISR, id)
			}
		}
		if len(ps[i].ISR) == 0 {
			return nil, fmt.Errorf("partition %d: none of the brokers %v serves: %w", i, replicas, ErrRefused)
		}
		ps[i].Leader = ps[i].ISR[0]
	}
	return ps, nil
}

func (c *CreateTopic) apply(next *Image) (any, error) {
	switch {
	case c.Name == "" || len(c.Name) > MaxTopicName:
		return nil, fmt.Errorf("create topic: name of %d bytes: %w", len(c.Name), ErrRefused)
	case next.Topic(c.Name) != nil || next.byID[c.ID] != nil:
		return nil, fmt.Errorf("create topic %q: %w", c.Name, ErrExists)
	case len(c.Assignment) == 0 || len(c.Assignment) > MaxPartitions:
		return nil, fmt.Errorf("create topic %q: %d partitions, want 1 to %d: %w", c.Name, len(c.Assignment), MaxPartitions, ErrRefused)
	}
	if err := cmp.Or(checkConfigs(c.Configs), checkMinInsync(c.MinInsync)); err != nil {
		return nil, fmt.Errorf("create topic %q: %w", c.Name, err)
	}
	ps, err := next.assign(c.Assignment)
	if err != nil {
		return nil, fmt.Errorf("create topic %q: %w", c.Name, err)
	}
	t := &Topic{
		Name: c.Name, ID: c.ID, Internal: c.Internal, AutoReplicas: c.AutoReplicas,
		Configs: c.Configs, Partitions: ps, Version: next.Version, MinInsync: c.MinInsync,
	}
	next.put(t)
	return t, nil
}

// checkConfigs bounds the size of configs. What they mean is checked where they are honoured, before the proposal:
// a rule that changes between versions must not make two nodes apply one entry differently.
func checkConfigs(configs map[string]string) error {
	if len(configs) > maxConfigs {
		return fmt.Errorf("%d configs, limit %d: %w", len(configs), maxConfigs, ErrRefused)
	}
	for _, k := range slices.Sorted(maps.Keys(configs)) {
		if v := configs[k]; k == "" || len(k) > MaxTopicName || len(v) > maxConfigBytes {
			return fmt.Errorf("config %.40q with a value of %d bytes, limit %d: %w", k, len(v), maxConfigBytes, ErrRefused)
		}
	}
	return nil
}

func checkMinInsync(n int) error {
	if n < 0 || n > MaxReplicas {
		return fmt.Errorf("min.insync.replicas %d, want 1 to %d: %w", n, MaxReplicas, ErrRefused)
	}
	return nil
}

func (c *DeleteTopic) apply(next *Image) (any, error) {
	t, err := next.expect(c.ID, c.Expect)
	if err != nil {
		return nil, fmt.Errorf("delete: %w", err)
	}
	i, _ := next.findTopic(t.Name)
	next.topics, next.byID = slices.Delete(slices.Clone(next.topics), i, i+1), maps.Clone(next.byID)
	delete(next.byID, t.ID)
	return t, nil
}

func (c *CreatePartitions) apply(next *Image) (any, error) {
	t, err := next.expect(c.ID, c.Expect)
	if err != nil {
		return nil, fmt.Errorf("create partitions: %w", err)
	}
	if n := len(t.Partitions) + len(c.Assignment); len(c.Assignment) == 0 || n > MaxPartitions {
		return nil, fmt.Errorf("create partitions: topic %q would have %d, limit %d: %w", t.Name, n, MaxPartitions, ErrRefused)
	}
	ps, err := next.assign(c.Assignment)
	if err != nil {
		return nil, fmt.Errorf("create partitions of topic %q: %w", t.Name, err)
	}
	t = next.changed(t)
	t.Partitions = append(t.Partitions, ps...)
	next.put(t)
	return t, nil
}

func (c *AlterConfigs) apply(next *Image) (any, error) {
	t, err := next.expect(c.ID, c.Expect)
	if err != nil {
		return nil, fmt.Errorf("alter configs: %w", err)
	}
	configs := make(map[string]string, len(t.Configs)+len(c.Set))
	maps.Copy(configs, t.Configs)
	for _, k := range c.Delete {
		delete(configs, k)
	}
	maps.Copy(configs, c.Set)
	if err := cmp.Or(checkConfigs(configs), checkMinInsync(c.MinInsync)); err != nil {
		return nil, fmt.Errorf("alter configs of topic %q: %w", t.Name, err)
	}
	t = next.changed(t)
	t.Configs = configs
	next.put(t)
	if c.MinInsync != 0 && c.MinInsync != t.MinInsync {
		next.setMinInsync(t, c.MinInsync)
	}
	return next.byID[t.ID], nil
}

func (c *AllocProducerIDs) apply(next *Image) (any, error) {
	b := next.Broker(c.BrokerID)
	switch {
	case b == nil:
		return nil, fmt.Errorf("producer ids for broker %d: %w", c.BrokerID, ErrNotFound)
	case b.Epoch != c.BrokerEpoch:
		return nil, fmt.Errorf("producer ids for broker %d: its epoch is %d, not %d: %w", b.ID, b.Epoch, c.BrokerEpoch, ErrRefused)
	case next.NextProducerID != c.Expect:
		return nil, fmt.Errorf("producer ids: the next is %d, not %d: %w", next.NextProducerID, c.Expect, ErrConflict)
	}
	next.NextProducerID += ProducerIDBlock
	return ProducerIDs{First: c.Expect, Count: ProducerIDBlock}, nil
}
