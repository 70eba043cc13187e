package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestClientReadsWhatItWrote: keys, values, null and empty ones, headers and times come
// back as they went, for each codec, from an idempotent producer (the client's default).
func TestClientReadsWhatItWrote(t *testing.T) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	onBoth(t, func(t *testing.T, addr string) {
		for name, codec := range codecs {
			createTopic(t, addr, name, 3, nil)
			producer := newClient(t, addr, kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic(name))
			const n = 600
			records := make([]*kgo.Record, n)
			for i := range records {
				r := &kgo.Record{
					Partition: int32(i % 3), Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, "%0100d", i),
					Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)),
					Headers:   []kgo.RecordHeader{{Key: "h", Value: []byte{byte(i)}}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}},
				}
				switch i % 10 {
				case 1:
					r.Key = nil
				case 2:
					r.Value = nil
				case 3:
					r.Key, r.Value = []byte{}, []byte{}
				}
				records[i] = r
			}
			if err := producer.ProduceSync(testContext(t), records...).FirstErr(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := consume(t, addr, name, n)
			for _, want := range records {
				r := got[place{want.Partition, want.Offset}]
				if r == nil || describe(r) != describe(want) {
					t.Fatalf("%s: wrote %s, read %s", name, describe(want), describe(r))
				}
			}
		}
	})
}

type place struct {
	partition int32
	offset    int64
}

func describe(r *kgo.Record) string {
	if r == nil {
		return "nothing"
	}
	return fmt.Sprintf("%#v=%#v at %d %#v", r.Key, r.Value, r.Timestamp.UnixMilli(), r.Headers)
}

// consume reads n records from the start.
func consume(t *testing.T, addr, topic string, n int) map[place]*kgo.Record {
	t.Helper()
	cl := newClient(t, addr, kgo.ConsumeTopics(topic))
	defer cl.Close()
	ctx := testContext(t)
	got := make(map[place]*kgo.Record)
	for len(got) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%s: %v after %d records", topic, err, len(got))
		}
		fs.EachError(func(_ string, p int32, err error) { t.Fatalf("%s/%d: %v", topic, p, err) })
		fs.EachRecord(func(r *kgo.Record) { got[place{r.Partition, r.Offset}] = r })
	}
	return got
}

func TestClientCreatesTopicOnDemand(t *testing.T) {
	_, addr := startServer(t, Config{AutoCreateTopics: true})
	cl := newClient(t, addr, kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("fresh"))
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := consume(t, addr, "fresh", 1); len(got) != 1 {
		t.Errorf("read %v", got)
	}
}

// TestConsumerBelowLogStartResets: retention passed the consumer; it goes on where the log begins.
func TestConsumerBelowLogStartResets(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b", "c")
		adm, ctx := admin(t, addr)
		os := make(kadm.Offsets)
		os.AddOffset("t", 0, 2, -1)
		if _, err := adm.DeleteRecords(ctx, os); err != nil {
			t.Fatal(err)
		}
		cl := newClient(t, addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().At(0)}}))
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for {
			fs := cl.PollFetches(ctx)
			if err := fs.Err0(); err != nil {
				t.Fatal(err)
			}
			if rs := fs.Records(); len(rs) > 0 {
				if rs[0].Offset != 2 || string(rs[0].Value) != "c" {
					t.Errorf("first record is %d %s", rs[0].Offset, rs[0].Value)
				}
				return
			}
		}
	})
}

// TestRestartKeepsEverything: records, log start, producer state and leader epochs, as a
// client sees them before and after (A7, J6).
func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	b := openBrokerIn(t, dir)
	s, stop := runServer(t, Config{Broker: b})
	addr := s.Addrs()[0].String()
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a", "b")
	id := initProducer(c)
	if got := produceOne(c, "t", sequenced(id, 0, "c")); got.ErrorCode != 0 || got.BaseOffset != 2 {
		t.Fatalf("%+v", got)
	}
	epoch := listOne(c, "t", timeLatest).LeaderEpoch
	stop()
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}

	b = openBrokerIn(t, dir)
	defer b.Close(context.Background())
	s, stop = runServer(t, Config{Broker: b})
	defer stop()
	c = dialRaw(t, s.Addrs()[0].String())
	if got := fmt.Sprint(values(t, fetchOne(c, fetchRequest(12, "t", 0, 0)).RecordBatches)); got != "[0:a 1:b 2:c]" {
		t.Errorf("read %s", got)
	}
	if got := listOne(c, "t", timeLatest); got.LeaderEpoch <= epoch || got.Offset != 3 {
		t.Errorf("was epoch %d, now %+v", epoch, got)
	}
	old := fetchRequest(12, "t", 0, 0)
	old.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
	if got := fetchOne(c, old).ErrorCode; got != errFencedLeaderEpoch {
		t.Errorf("fetch in the old epoch: error %d", got)
	}
	if got := produceOne(c, "t", sequenced(id, 0, "c")); got.ErrorCode != 0 || got.BaseOffset != 2 {
		t.Errorf("repeat after the restart: %+v", got)
	}
	if got := produceOne(c, "t", sequenced(id, 1, "d")); got.ErrorCode != 0 || got.BaseOffset != 3 {
		t.Errorf("next after the restart: %+v", got)
	}
	if again := initProducer(c); again <= id {
		t.Errorf("producer id %d after %d", again, id)
	}
}
