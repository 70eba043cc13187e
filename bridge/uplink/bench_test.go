package uplink

import (
	"context"
	"log/slog"
	"testing"

	"github.com/weir-io/weir/log"
)

// sinkTarget takes what a kafkaTarget would hand to its client.
type sinkTarget struct{ *kafkaTarget }

func (t *sinkTarget) add(_ context.Context, r *outgoing) error {
	t.record(r)
	return nil
}

func (t *sinkTarget) commit(context.Context, map[log.PartitionID]progress) error {
	t.recycle()
	return nil
}

// What a record of 256 B with three headers costs between the log and the client of the target.
func BenchmarkForward(b *testing.B) {
	l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}}, topic: "telemetry"}
	for range 64 {
		var bb log.BatchBuilder
		for range 512 {
			bb.Append(&log.Record{Timestamp: 1, Key: []byte("device-0001"), Value: make([]byte, 256), Headers: []log.Header{
				{Key: []byte("mqtt.topic"), Value: []byte("devices/device-0001/telemetry")}, {Key: []byte("mqtt.client"), Value: []byte("device-0001")}, {Key: []byte("mqtt.qos"), Value: []byte("1")},
			}})
		}
		l.batches = append(l.batches, log.Batch(append([]byte(nil), bb.Seal(l.end, 1)...)))
		l.end += 512
	}
	l.hw = l.end
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
	if err := Check(cfg, ""); err != nil {
		b.Fatal(err)
	}
	f := New(Options{Config: cfg[0], Cluster: "edge-cluster-id", Logger: slog.New(slog.DiscardHandler)})
	f.pace.bytes = maxChunk
	f.added(l)
	p := f.parts[l.id]
	t := &sinkTarget{newKafkaTarget(&f.Config, f.Cluster, "", 0)}
	b.ReportAllocs()
	carried := 0
	for b.Loop() {
		p.cursor = Cursor{}
		c := chunk{f: f, t: t, room: maxChunk, moved: map[*part][]Span{}}
		if err := c.read(b.Context(), p, Span{0, l.end}); err != nil {
			b.Fatal(err)
		}
		carried += c.count
		_ = t.commit(b.Context(), nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(carried), "ns/record")
	b.ReportMetric(float64(carried)/float64(b.N), "records/chunk")
}
