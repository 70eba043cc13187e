package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// onBoth runs a test against weir and against kfake, a fake broker that follows Apache
// Kafka: a test that fails on kfake asks for the wrong thing.
func onBoth(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("weir", func(t *testing.T) {
		_, addr := startServer(t, Config{})
		test(t, addr)
	})
	t.Run("kfake", func(t *testing.T) {
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		test(t, c.ListenAddrs()[0])
	})
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newClient(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t testing.TB, addr, topic string, partitions int, configs map[string]string) {
	t.Helper()
	values := make(map[string]*string)
	for k, v := range configs {
		values[k] = &v
	}
	cl := newClient(t, addr)
	defer cl.Close()
	resp, err := kadm.NewClient(cl).CreateTopic(testContext(t), int32(partitions), 1, values, topic)
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	if resp.NumPartitions != int32(partitions) {
		t.Fatalf("topic %s has %d partitions, want %d", topic, resp.NumPartitions, partitions)
	}
}

// batchOf builds a batch of records with the given values, keys "k<n>", and times from at on.
func batchOf(at int64, values ...string) log.Batch {
	return buildBatch(log.CompressionNone, at, values...)
}

func compressedBatch(codec log.Compression, values ...string) log.Batch {
	return buildBatch(codec, 1000, values...)
}

func buildBatch(codec log.Compression, at int64, values ...string) log.Batch {
	var b log.BatchBuilder
	b.SetCompression(codec)
	for i, v := range values {
		b.Append(&log.Record{Timestamp: at + int64(i), Key: fmt.Appendf(nil, "k%d", i), Value: []byte(v)})
	}
	return append(log.Batch(nil), b.Seal(0, -1)...)
}

func produceRequest(version int16, topic string, acks int16, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	for i, b := range batches {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = int32(i), b
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// produceOne sends one batch to partition 0 and returns the answer for it.
func produceOne(c *rawConn, topic string, batch []byte) kmsg.ProduceResponseTopicPartition {
	c.t.Helper()
	return roundTrip[*kmsg.ProduceResponse](c, produceRequest(9, topic, -1, batch)).Topics[0].Partitions[0]
}

func fetchRequest(version int16, topic string, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = version, 0, 1, 50<<20
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, offset, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func fetchOne(c *rawConn, req *kmsg.FetchRequest) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	resp := roundTrip[*kmsg.FetchResponse](c, req)
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		c.t.Fatalf("fetch answered %+v", resp)
	}
	return resp.Topics[0].Partitions[0]
}

// values decodes the records of a fetch answer.
func values(t testing.TB, b []byte) (out []string) {
	t.Helper()
	for len(b) > 0 {
		batch, err := log.NextBatch(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		b = b[len(batch):]
		if err := batch.CheckCRC(); err != nil {
			t.Fatal(err)
		}
		var r log.RecordReader
		if err := r.Reset(batch); err != nil {
			t.Fatal(err)
		}
		for rec := (log.Record{}); ; {
			ok, err := r.Next(&rec)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			out = append(out, fmt.Sprintf("%d:%s", rec.Offset, rec.Value))
		}
	}
	return out
}

func initProducer(c *rawConn) int64 {
	c.t.Helper()
	got := roundTrip[*kmsg.InitProducerIDResponse](c, versioned(kmsg.NewPtrInitProducerIDRequest(), 4))
	if got.ErrorCode != 0 || got.ProducerID < 0 || got.ProducerEpoch != 0 {
		c.t.Fatalf("init producer id: %+v", got)
	}
	return got.ProducerID
}

// sequenced is a batch of an idempotent producer.
func sequenced(producer int64, sequence int32, values ...string) log.Batch {
	var b log.BatchBuilder
	b.SetProducer(producer, 0, sequence)
	for _, v := range values {
		b.Append(&log.Record{Timestamp: 1, Key: []byte("k"), Value: []byte(v)})
	}
	return append(log.Batch(nil), b.Seal(0, -1)...)
}

func listOne(c *rawConn, topic string, ts int64) kmsg.ListOffsetsResponseTopicPartition {
	c.t.Helper()
	return roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(7, topic, ts)).Topics[0].Partitions[0]
}
