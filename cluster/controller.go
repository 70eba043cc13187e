package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// TopicSpec describes a topic to be made.
type TopicSpec struct {
	Name       string
	Partitions int // 0 or less: the cluster's default
	Replicas   int // 0 or less: follows the number of brokers (C7)
	Configs    map[string]string
	// Internal topics are the broker's own: their names begin with "__", and clients neither make nor delete them.
	Internal bool
}

// controller decides changes of metadata and proposes them. It talks to the quorum only; brokers talk to it by calls, so
// that it may stand on another node.
type controller struct {
	node              *meta.Node
	rand              io.Reader
	defaultPartitions int
	defaultConfigs    map[string]string // of new topics that are not internal
	maxBatch          int               // bytes; no topic may promise more
}

// retryConflicts looks and decides again while somebody else was faster (C1).
func retryConflicts[T any](ctx context.Context, decide func() (T, error)) (T, error) {
	for {
		v, err := decide()
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
	return answer.(T), nil
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
	assignment, err := place(im, n, spec.Replicas)
	if err != nil {
		return nil, err
	}
	cmd := &meta.CreateTopic{
		Name: spec.Name, Internal: spec.Internal, AutoReplicas: spec.Replicas <= 0,
		Configs: configs, Assignment: assignment,
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
	return retryConflicts(ctx, func() (*meta.Topic, error) {
		t, err := c.open(name)
		if err != nil {
			return nil, err
		}
		return propose[*meta.Topic](ctx, c, &meta.DeleteTopic{ID: t.ID, Expect: t.Version})
	})
}

func (c *controller) createPartitions(ctx context.Context, name string, total int) (*meta.Topic, error) {
	return retryConflicts(ctx, func() (*meta.Topic, error) {
		t, err := c.open(name)
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
		assignment, err := place(c.node.Image(), total-have, replicas)
		if err != nil {
			return nil, err
		}
		return propose[*meta.Topic](ctx, c, &meta.CreatePartitions{ID: t.ID, Expect: t.Version, Assignment: assignment})
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
	return retryConflicts(ctx, func() (*meta.Topic, error) {
		t := c.node.Image().Topic(name)
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
		if !changed || validateOnly { // C6: says nothing new
			return t, nil
		}
		return propose[*meta.Topic](ctx, c, &meta.AlterConfigs{ID: t.ID, Expect: t.Version, Set: maps.Clone(set), Delete: slices.Clone(del)})
	})
}

func (c *controller) allocProducerIDs(ctx context.Context, broker int32, epoch int64) (meta.ProducerIDs, error) {
	return retryConflicts(ctx, func() (meta.ProducerIDs, error) {
		return propose[meta.ProducerIDs](ctx, c, &meta.AllocProducerIDs{
			BrokerID: broker, BrokerEpoch: epoch, Expect: c.node.Image().NextProducerID,
		})
	})
}

// open finds a topic that clients may change.
func (c *controller) open(name string) (*meta.Topic, error) {
	t := c.node.Image().Topic(name)
	switch {
	case t == nil:
		return nil, ErrUnknownTopic
	case t.Internal:
		return nil, ErrProtected
	}
	return t, nil
}

// place gives n partitions replicas in turn over all brokers.
func place(im *meta.Image, n, replicas int) ([][]int32, error) {
	if n < 1 || n > meta.MaxPartitions {
		return nil, fmt.Errorf("%w %d: want 1 to %d", ErrInvalidPartitions, n, meta.MaxPartitions)
	}
	brokers := im.Brokers()
	if replicas <= 0 {
		replicas = min(3, len(brokers)) // C7
	}
	if replicas < 1 || replicas > len(brokers) {
		return nil, fmt.Errorf("%w %d: brokers in the cluster: %d", ErrInvalidReplicas, replicas, len(brokers))
	}
	assignment := make([][]int32, n)
	for i := range assignment {
		for j := range replicas {
			assignment[i] = append(assignment[i], brokers[(i+j)%len(brokers)].ID)
		}
	}
	return assignment, nil
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
