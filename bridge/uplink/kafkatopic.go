package uplink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ensure makes a topic at the target when it is not there, once for each connection; with `partition: same` again when it has grown here.
func (t *kafkaTarget) ensure(ctx context.Context, topic string, from *part) error {
	known, is := t.topics[topic]
	if !is || known.err == nil && t.cfg.Partition == partitionSame && int(from.log.Index()) >= known.wide {
		known.wide = from.partitions()
		known.err = t.makeTopic(ctx, topic, known.wide)
		t.topics[topic] = known
	}
	return known.err
}

// ofTopic says who is at fault for what was asked about a topic: the topic for what the target has answered, else the connection, which says nothing about the topic.
func ofTopic(ctx context.Context, topic, what string, err error) error {
	if errors.As(err, new(*kerr.Error)) {
		return &topicError{topic, fmt.Errorf("%s: %w", what, err)}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("topic %s at the target: %s: %w", topic, what, err)
}

// remoteTopic is a topic that was looked for at the target.
type remoteTopic struct {
	wide int // partitions that it has at the least, with `partition: same`
	err  error
}

func (t *kafkaTarget) makeTopic(ctx context.Context, topic string, wide int) error {
	there, err := t.admin().ListTopics(ctx, topic)
	if err != nil {
		return ofTopic(ctx, topic, "look for it", err)
	}
	d := there[topic]
	t.learn(ctx, topic)
	switch {
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition) && *t.cfg.Create:
		_, err := t.admin().CreateTopic(ctx, int32(wide), -1, nil, topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return ofTopic(ctx, topic, "create it", err)
		}
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		return &topicError{topic, fmt.Errorf("%w: make it there, or allow create_topics", d.Err)}
	case d.Err != nil:
		return &topicError{topic, d.Err}
	case t.cfg.Partition == partitionSame && len(d.Partitions) < wide:
		return t.widen(ctx, topic, len(d.Partitions), wide)
	}
	return nil
}

// widen adds partitions that a topic lacks; the next connection knows of them.
func (t *kafkaTarget) widen(ctx context.Context, topic string, has, wants int) error {
	if !*t.cfg.Create {
		return &topicError{topic, fmt.Errorf("it has %d partitions, and `partition: same` needs %d: add some, or allow create_topics", has, wants)}
	}
	done, err := t.admin().UpdatePartitions(ctx, wants, topic)
	if err = cmp.Or(err, done[topic].Err); err != nil {
		return ofTopic(ctx, topic, fmt.Sprintf("it has %d partitions, and `partition: same` needs %d: add them", has, wants), err)
	}
	return fmt.Errorf("topic %s at the target: %w", topic, errWidened) // and the next connection goes on
}

// errWidened: what clients know of the topic is out of date.
var errWidened = errors.New("it has got the partitions that it lacked")

const (
	usualBatch = 1000012 // what kgo fills a batch to before compression, below what Kafka takes unless told otherwise
	aloneBatch = 64 << 20
)

// learn asks how large a batch the topic takes. Who may not ask fills batches as usual.
func (t *kafkaTarget) learn(ctx context.Context, topic string) {
	found, err := t.admin().DescribeTopicConfigs(ctx, topic)
	if err != nil || len(found) != 1 || found[0].Err != nil {
		return
	}
	for _, c := range found[0].Configs {
		if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == "max.message.bytes" && err == nil && n >= minBatch {
			t.mu.Lock()
			t.largest[topic] = int32(min(n, aloneBatch))
			t.mu.Unlock()
		}
	}
}

// minBatch is the least that kgo can be told.
const minBatch = 512

// largestBatch is for kgo: once for each partition of a topic, after ensure.
func (t *kafkaTarget) largestBatch(topic string) int32 {
	if t.alone {
		return aloneBatch
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.largest[topic]; ok {
		return n
	}
	return usualBatch
}
