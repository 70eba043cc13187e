package log

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKgoProducedBatches takes the bytes that a real client puts on the wire, with every codec and as an
// idempotent producer, and reads them: what validates and reads here is what Produce hands us.
func TestKgoProducedBatches(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var mu sync.Mutex
	var captured []Batch
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				captured = append(captured, bytes.Clone(p.Records))
			}
		}
		return nil, nil, false
	})
	codecs := map[Compression]kgo.CompressionCodec{
		CompressionNone: kgo.NoCompression(), CompressionGzip: kgo.GzipCompression(), CompressionSnappy: kgo.SnappyCompression(),
		CompressionLZ4: kgo.Lz4Compression(), CompressionZstd: kgo.ZstdCompression(),
	}
	for c, codec := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			mu.Lock()
			captured = nil
			mu.Unlock()
			client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(20*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			var want []*kgo.Record
			for i := range 300 {
				r := &kgo.Record{Value: bytes.Repeat([]byte{byte(i)}, i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)*7)}
				if i%3 == 0 {
					r.Key = fmt.Append(nil, "key", i)
				}
				if i%5 == 0 {
					r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "null"}}
				}
				want = append(want, r)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := client.ProduceSync(ctx, want...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			next := 0
			for _, raw := range captured {
				b, err := NextBatch(raw, 1<<20)
				if err != nil || len(b) != len(raw) {
					t.Fatalf("%d of %d bytes, %v", len(b), len(raw), err)
				}
				before := bytes.Clone(b)
				if err := b.Validate(0); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(before, b) {
					t.Error("validation changed a sound batch")
				}
				if b.ProducerID() < 0 || b.BaseSequence() != int32(next) {
					t.Errorf("producer %d sequence %d, want %d", b.ProducerID(), b.BaseSequence(), next)
				}
				for _, r := range readBatch(t, b) {
					w := want[next]
					if !bytes.Equal(r.Key, w.Key) || (r.Key == nil) != (w.Key == nil) || !bytes.Equal(r.Value, w.Value) || r.Timestamp != w.Timestamp.UnixMilli() || len(r.Headers) != len(w.Headers) {
						t.Fatalf("record %d reads %+v", next, r)
					}
					next++
				}
				if len(captured) == 1 && b.Compression() != c {
					t.Errorf("codec %v", b.Compression())
				}
			}
			if next != len(want) {
				t.Errorf("%d of %d records in %d batches", next, len(want), len(captured))
			}
		})
	}
}
