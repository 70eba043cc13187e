package uplink

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func (t *kafkaTarget) add(ctx context.Context, r *outgoing) error {
	topic := r.from.remote
	if err := t.ensure(ctx, topic, r.from); err != nil {
		return err
	}
	if err := t.begin(); err != nil {
		return err
	}
	t.client.Produce(ctx, t.record(r), t.promise)
	return nil
}

// record is a copy of r for the target, which lasts until recycle.
func (t *kafkaTarget) record(r *outgoing) *kgo.Record {
	headers := t.headers.take(len(r.Headers) + 1 + len(r.own))
	for i, h := range r.Headers {
		headers[i] = kgo.RecordHeader{Key: t.name(h.Key), Value: t.bytes.copy(h.Value)}
	}
	t.scratch = r.origin(t.scratch[:0])
	headers[len(r.Headers)] = kgo.RecordHeader{Key: OriginHeader, Value: t.bytes.copy(t.scratch)}
	for i, h := range r.own {
		headers[len(r.Headers)+1+i] = kgo.RecordHeader{Key: t.name(h.Key), Value: t.bytes.copy(h.Value)}
	}
	rec := &t.records.take(1)[0]
	*rec = kgo.Record{
		Topic: r.from.remote, Partition: r.from.log.Index(), Key: t.bytes.copy(r.Key), Value: t.bytes.copy(r.Value), Headers: headers, Timestamp: time.UnixMilli(r.Timestamp),
	}
	return rec
}

// recycle takes back what records were made of.
func (t *kafkaTarget) recycle() {
	t.bytes.reset()
	t.records.reset()
	t.headers.reset()
}

// maxNames bounds the names of headers that are kept as strings.
const maxNames = 256

// name is a header's name as a string, made once for the names that come again and again.
func (t *kafkaTarget) name(b []byte) string {
	if s, ok := t.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(t.names) < maxNames {
		t.names[s] = s
	}
	return s
}

// partitioner chooses by key as Kafka's Java client does, or keeps the partition; cursors go where the topic of cursors keeps them.
type partitioner struct{ same bool }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.same || topic == ProgressTopic {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}
