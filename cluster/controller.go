package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// TopicSpec describes a topic to be made.
type TopicSpec struct {
	Name       string
	Partitions int // 0 or less: the cluster's default
	Replicas   int // 0 or less: follows the number of brokers (C7)
	// Assignment are the replicas of each partition, preferred leader first, in place of the two numbers; nil: the cluster places them.
	Assignment [][]int32
	Configs    map[string]string
	// Internal topics are the broker's own: their names begin with "__", and clients neither make nor delete them.
	Internal bool
}

// followsBrokers: C7.
func (s *TopicSpec) followsBrokers() bool { return s.Replicas <= 0 && s.Assignment == nil }

// controller decides changes of metadata and proposes them. It talks to the quorum only; brokers talk to it by calls, so
// that it may stand on another node.
type controller struct {
	node              *proposer
	rand              io.Reader
	defaultPartitions int
	defaultConfigs    map[string]string // of new topics that are not internal
	maxBatch          int               // bytes; no topic may promise more
}

// decide looks at what the quorum has and decides, and does so again while somebody else was faster (C1).
func decide[T any](ctx context.Context, p *proposer, decision func(*meta.Image) (T, error)) (T, error) {
	for {
		var zero T
		im, err := p.current(ctx)
		if err != nil {
			return zero, err
		}
		v, err := decision(im)
		if !errors.Is(err, meta.ErrConflict) || ctx.Err() != nil {
			return v, err
		}
	}
}

func propose[T any](ctx context.Context, c *controller, cmd meta.Command) (T, error) {
	var zero T
	answer, err := c.node.Propose(ctx, cmd)
	if err != nil {
		return zero, err
	}
	v, ok := answer.(T)
	if !ok {
		return zero, fmt.Errorf("done, and undone by somebody else at once: %w", meta.ErrConflict)
	}
	return v, nil
}

// register announces a broker's process (A7, C2, E5).
func (c *controller) register(ctx context.Context, cmd *meta.RegisterBroker) (meta.Registration, error) {
	return propose[meta.Registration](ctx, c, cmd)
}

// createTopic answers the topic; with validateOnly as it would be, without id.
func (c *controller) createTopic(ctx context.Context, spec TopicSpec, validateOnly bool) (*meta.Topic, error) {
	if err := ValidateTopicName(spec.Name, spec.Internal); err != nil {
		return nil, err
	}
	if err := ValidateConfigs(spec.Configs, c.maxBatch); err != nil {
		return nil, err
	}
	im := c.node.Image()
	if im.Topic(spec.Name) != nil { // unless it was deleted through another broker
		var err error
		if im, err = c.node.current(ctx); err != nil {
			return nil, err
		}
	}
	if im.Topic(spec.Name) != nil {
		return nil, ErrTopicExists
	}
	configs := map[string]string{}
	if !spec.Internal {
		maps.Copy(configs, c.defaultConfigs)
	}
	maps.Copy(configs, spec.Configs)
	n := spec.Partitions
	if n <= 0 {
		n = c.defaultPartitions
	}
	assignment, err := spec.Assignment, control.CheckAssignment(im, spec.Assignment)
	if assignment == nil {
		assignment, err = place(im, nil, n, spec.Replicas)
	}
	if err != nil {
		return nil, err
	}
	cmd := &meta.CreateTopic{
		Name: spec.Name, Internal: spec.Internal, AutoReplicas: spec.followsBrokers(),
		Configs: configs, Assignment: assignment, MinInsync: minInsyncOf(configs, len(assignment[0])),
	}
	if validateOnly {
		next, _, err := im.Apply(cmd)
		if err != nil {
			return nil, err
		}
		return next.Topic(spec.Name), nil
	}
	if cmd.ID, err = log.NewTopicID(c.rand); err != nil {
		return nil, err
	}
	return propose[*meta.Topic](ctx, c, cmd)
}

func (c *controller) deleteTopic(ctx context.Context, name string) (*meta.Topic, error) {
	return decide(ctx, c.node, func(im *meta.Image) (*meta.Topic, error) {
		t, err := open(im, name)
		if err != nil {
			return nil, err
		}
		if _, err := c.node.Propose(ctx, &meta.DeleteTopic{ID: t.ID, Expect: t.Version}); err != nil {
			return nil, err
		}
		return t, nil
	})
}

// createPartitions answers the topic; with validateOnly as it is. assignment has the new partitions' replicas; nil: the cluster places them.
func (c *controller) createPartitions(ctx context.Context, name string, total int, assignment [][]int32, validateOnly bool) (*meta.Topic, error) {
	return decide(ctx, c.node, func(im *meta.Image) (*meta.Topic, error) {
		t, err := open(im, name)
		if err != nil {
			return nil, err
		}
		have := len(t.Partitions)
		if total <= have {
			return nil, fmt.Errorf("%w: it has %d, and %d are not more", ErrInvalidPartitions, have, total)
		}
		replicas := len(t.Partitions[0].Replicas)
		if t.AutoReplicas {
			replicas = 0
		}
		placed, err := assignment, control.CheckAssignment(im, assignment)
		switch {
		case assignment == nil:
			placed, err = place(im, t, total-have, replicas)
		case err != nil:
		case len(assignment) != total-have:
			err = fmt.Errorf("%w: replicas of %d partitions, where %d are new", ErrInvalidAssignment, len(assignment), total-have)
		case len(assignment[0]) != len(t.Partitions[0].Target()):
			err = fmt.Errorf("%w: %d replicas, where the topic's other partitions have %d", ErrInvalidAssignment, len(assignment[0]), len(t.Partitions[0].Target()))
		}
		if err != nil || validateOnly {
			return t, err
		}
		return propose[*meta.Topic](ctx, c, &meta.CreatePartitions{ID: t.ID, Expect: t.Version, Assignment: placed})
	})
}

func (c *controller) alterConfigs(ctx context.Context, name string, set map[string]string, del []string, validateOnly bool) (*meta.Topic, error) {
	if err := ValidateConfigs(set, c.maxBatch); err != nil {
		return nil, err
	}
	for _, k := range del {
		if _, ok := TopicConfig(k); !ok {
			return nil, ValidateConfig(k, "")
		}
	}
	return decide(ctx, c.node, func(im *meta.Image) (*meta.Topic, error) {
		t := im.Topic(name)
		if t == nil {
			return nil, ErrUnknownTopic
		}
		_, setsPolicy := set[cleanupPolicy]
		if t.Internal && (setsPolicy || slices.Contains(del, cleanupPolicy)) {
			return nil, fmt.Errorf("%w: its %s stays", ErrProtected, cleanupPolicy)
		}
		changed := slices.ContainsFunc(del, func(k string) bool { _, own := t.Configs[k]; return own })
		for k, v := range set {
			old, own := t.Configs[k]
			changed = changed || !own || old != v
		}
		all := make(map[string]string, len(t.Configs)+len(set))
		maps.Copy(all, t.Configs)
		maps.DeleteFunc(all, func(k, _ string) bool { return slices.Contains(del, k) })
		maps.Copy(all, set)
		if err := checkLags(all); err != nil {
			return nil, err
		}
		if !changed || validateOnly { // C6: says nothing new
			return t, nil
		}
		cmd := &meta.AlterConfigs{ID: t.ID, Expect: t.Version, Set: maps.Clone(set), Delete: slices.Clone(del)}
		if _, sets := set[minInsync]; sets || slices.Contains(del, minInsync) {
			cmd.MinInsync = minInsyncOf(set, len(t.Partitions[0].Replicas))
		}
		return propose[*meta.Topic](ctx, c, cmd)
	})
}

func (c *controller) allocProducerIDs(ctx context.Context, broker int32, epoch int64) (meta.ProducerIDs, error) {
	return decide(ctx, c.node, func(im *meta.Image) (meta.ProducerIDs, error) {
		return propose[meta.ProducerIDs](ctx, c, &meta.AllocProducerIDs{
			BrokerID: broker, BrokerEpoch: epoch, Expect: im.NextProducerID,
		})
	})
}

// open finds a topic that clients may change.
func open(im *meta.Image, name string) (*meta.Topic, error) {
	t := im.Topic(name)
	switch {
	case t == nil:
		return nil, ErrUnknownTopic
	case t.Internal:
		return nil, ErrProtected
	}
	return t, nil
}

// place gives n partitions of t, nil for a new topic, their replicas; 0 or less replicas are as many as the cluster has by itself (C7).
func place(im *meta.Image, t *meta.Topic, n, replicas int) ([][]int32, error) {
	if n < 1 || n > meta.MaxPartitions {
		return nil, fmt.Errorf("%w %d: want 1 to %d", ErrInvalidPartitions, n, meta.MaxPartitions)
	}
	if replicas <= 0 {
		replicas, _ = control.AutoReplicas(im)
	}
	return control.Place(im, t, n, replicas)
}

// minInsyncOf is what elections go by (E3): what the configs say, else what the number of replicas allows without losing writes
// when one of them is gone.
func minInsyncOf(configs map[string]string, replicas int) int {
	if v, ok := configs[minInsync]; ok {
		n, _ := strconv.Atoi(v)
		return n
	}
	if replicas >= 3 {
		return 2
	}
	return 1
}

// internalPrefix begins the names of the broker's own topics.
const internalPrefix = "__"

// ValidateTopicName says why a topic may not have that name; every error is an ErrInvalidTopic. The rules are Kafka's: 1 to 249
// of a–z, A–Z, 0–9, '.', '_' and '-', and neither "." nor "..".
func ValidateTopicName(name string, internal bool) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	})
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidTopic)
	case name == "." || name == "..":
		return fmt.Errorf("%w: %q means a directory", ErrInvalidTopic, name)
	case len(name) > meta.MaxTopicName:
		return fmt.Errorf("%w: %d characters, limit %d", ErrInvalidTopic, len(name), meta.MaxTopicName)
	case bad >= 0:
		return fmt.Errorf("%w: %q may hold letters, digits, '.', '_' and '-' only", ErrInvalidTopic, name)
	case internal != strings.HasPrefix(name, internalPrefix):
		return fmt.Errorf("%w: names that begin with %q are the broker's own", ErrInvalidTopic, internalPrefix)
	}
	return nil
}
