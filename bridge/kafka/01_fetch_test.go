package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill produces one batch per value to partition 0.
func fill(t testing.TB, c *rawConn, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		if p := produceOne(c, topic, batchOf(1000, v)); p.ErrorCode != 0 {
			t.Fatalf("produce: error %d", p.ErrorCode)
		}
	}
}

func TestFetchEachVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b", "c")
		id := topicID(c, "t")
		for v := int16(4); v <= 18; v++ {
			for _, isolation := range []int8{0, 1} {
				req := fetchRequest(v, "t", 0, 1)
				req.Topics[0].TopicID = id
				req.IsolationLevel = isolation
				p := fetchOne(c, req)
				if p.ErrorCode != 0 || p.HighWatermark != 3 || p.LastStableOffset != 3 || len(p.AbortedTransactions) != 0 || p.PreferredReadReplica != -1 {
					t.Fatalf("v%d: %+v", v, p)
				}
				if got := strings.Join(values(t, p.RecordBatches), " "); got != "1:b 2:c" {
					t.Fatalf("v%d: read %q", v, got)
				}
			}
		}
	})
}

func TestFetchErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b")
		epoch := roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(7, "t", timeLatest)).Topics[0].Partitions[0].LeaderEpoch
		for _, test := range []struct {
			name      string
			topic     string
			partition int32
			offset    int64
			epoch     int32
			want      int16
		}{
			{"at the end", "t", 0, 2, -1, errNone},
			{"behind the end", "t", 0, 3, -1, errOffsetOutOfRange},
			{"negative", "t", 0, -5, -1, errOffsetOutOfRange},
			{"no such topic", "nope", 0, 0, -1, errUnknownTopicOrPartition},
			{"no such partition", "t", 7, 0, -1, errUnknownTopicOrPartition},
			{"right epoch", "t", 0, 0, epoch, errNone},
			{"newer epoch", "t", 0, 0, epoch + 1, errUnknownLeaderEpoch},
		} {
			// An error is answered at once, whatever the wait.
			for _, wait := range []struct{ ms, bytes int32 }{{60_000, 1}, {0, 1}, {0, 0}} {
				req := fetchRequest(12, test.topic, test.partition, test.offset)
				req.Topics[0].Partitions[0].CurrentLeaderEpoch = test.epoch
				if req.MaxWaitMillis, req.MinBytes = wait.ms, wait.bytes; test.want == errNone {
					req.MaxWaitMillis = 0
				}
				if got := fetchOne(c, req).ErrorCode; got != test.want {
					t.Errorf("%s, wait %+v: error %d, want %d", test.name, wait, got, test.want)
				}
			}
		}
	})
}

func TestFetchLimits(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 2, nil)
		c := dialRaw(t, addr)
		big := strings.Repeat("x", 10_000)
		for range 3 {
			resp := roundTrip[*kmsg.ProduceResponse](c, produceRequest(9, "t", -1, batchOf(1, big), batchOf(1, big)))
			for _, p := range resp.Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Fatalf("produce: %+v", p)
				}
			}
		}
		two := func(max, partitionMax int32) (records [2]int) {
			req := fetchRequest(12, "t", 0, 0)
			req.MaxBytes = max
			second := req.Topics[0].Partitions[0]
			second.Partition = 1
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, second)
			for i := range req.Topics[0].Partitions {
				req.Topics[0].Partitions[i].PartitionMaxBytes = partitionMax
			}
			for _, p := range roundTrip[*kmsg.FetchResponse](c, req).Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Fatalf("fetch: %+v", p)
				}
				records[p.Partition] = len(values(t, p.RecordBatches))
			}
			return records
		}
		for _, test := range []struct {
			max, partitionMax int32
			want              [2]int
		}{
			{50 << 20, 1 << 20, [2]int{3, 3}},
			{50 << 20, 25_000, [2]int{2, 2}},
			{50 << 20, 1, [2]int{1, 0}}, // the first batch of an answer comes whatever the limits
			{1, 1 << 20, [2]int{1, 0}},
			{45_000, 1 << 20, [2]int{3, 1}},
		} {
			if got := two(test.max, test.partitionMax); got != test.want {
				t.Errorf("limits %d and %d: %v batches, want %v", test.max, test.partitionMax, got, test.want)
			}
		}
	})
}

// An answer of the largest size once took a buffer of twice that, for the few bytes around its batches.
func TestLargestFetchFillsItsBuffer(t *testing.T) {
	s, addr := startServer(t, Config{})
	const partitions = 256
	createTopic(t, addr, "t", partitions, nil)
	client := dialRaw(t, addr)
	batches := make([][]byte, partitions)
	for i := range batches {
		batches[i] = batchOf(1, strings.Repeat("x", 16<<10-100)) // all of them are just below 4 MiB
	}
	resp := roundTrip[*kmsg.ProduceResponse](client, produceRequest(9, "t", -1, batches...))
	for _, p := range resp.Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Fatalf("produce: %+v", p)
		}
	}
	f := &fetch{s: s, c: &conn{s: s}, version: 12, maxBytes: 50 << 20}
	f.topics = []fetchTopic{{name: []byte("t"), parts: partitions}}
	for i := range int32(partitions) {
		f.parts = append(f.parts, fetchPart{index: i, preferred: noReplica, partAsk: partAsk{epoch: -1, maxBytes: 50 << 20}})
	}
	f.resolve()
	out, n := f.encode(1, f.grant())
	if n < 3<<20 || out.size() != 4<<20 {
		t.Errorf("%d bytes of batches in a buffer of %d", n, out.size())
	}
}

func TestFetchWaitsForRecords(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		consumer, producer := dialRaw(t, addr), dialRaw(t, addr)
		req := fetchRequest(12, "t", 0, 0)
		req.MaxWaitMillis = 60_000
		consumer.sendFrame(frameOf(req, 1))
		fill(t, producer, "t", "a")
		_, body := consumer.readFrame()
		resp := parseResponse[*kmsg.FetchResponse](consumer, req, body)
		if got := values(t, resp.Topics[0].Partitions[0].RecordBatches); len(got) != 1 {
			t.Fatalf("read %v", got)
		}

		// Too few bytes: the wait ends with the time.
		req = fetchRequest(12, "t", 0, 0)
		req.MaxWaitMillis, req.MinBytes = 50, 1<<20
		started := time.Now()
		got := fetchOne(consumer, req)
		if took := time.Since(started); took < 45*time.Millisecond || len(values(t, got.RecordBatches)) != 1 {
			t.Errorf("answered %v after %v", values(t, got.RecordBatches), took)
		}
	})
}

// TestFetchWaitsForMinBytes: small commits wake the fetch, and it goes on waiting.
func TestFetchWaitsForMinBytes(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	consumer, producer := dialRaw(t, addr), dialRaw(t, addr)
	req := fetchRequest(12, "t", 0, 0)
	req.MaxWaitMillis, req.MinBytes = 60_000, 5_000
	consumer.sendFrame(frameOf(req, 1))
	for range 10 {
		fill(t, producer, "t", strings.Repeat("x", 600))
	}
	_, body := consumer.readFrame()
	resp := parseResponse[*kmsg.FetchResponse](consumer, req, body)
	if got := len(resp.Topics[0].Partitions[0].RecordBatches); got < 5_000 {
		t.Errorf("answered %d bytes", got)
	}
	if n := s.fetching.Load(); n != 0 {
		t.Errorf("%d bytes of the fetch budget are held", n)
	}
}

// TestWaitingFetchEnds when the peer goes, and when the server stops: then with an answer.
func TestWaitingFetchEnds(t *testing.T) {
	s, stop := runServer(t, Config{})
	addr := s.Addrs()[0].String()
	createTopic(t, addr, "t", 1, nil)
	req := fetchRequest(12, "t", 0, 0)
	req.MaxWaitMillis = 1 << 30
	waiting := func(n int64) func() bool { return func() bool { return s.Stats().FetchWaiting == n } }

	c := dialRaw(t, addr)
	c.sendFrame(frameOf(req, 1))
	eventually(t, "fetch waits", waiting(1))
	c.Close()
	eventually(t, "fetch of a peer that is gone ends", waiting(0))

	c = dialRaw(t, addr)
	c.sendFrame(frameOf(req, 1))
	eventually(t, "fetch waits", waiting(1))
	stop()
	if _, body := c.readFrame(); parseResponse[*kmsg.FetchResponse](c, req, body).ErrorCode != 0 {
		t.Error("the answer has an error")
	}
	c.wantClosed()
}

// TestFetchLengthEncodings covers answers around the sizes at which the compact length of
// the records gets longer, and those that were expected to be another size.
func TestFetchLengthEncodings(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, map[string]string{"max.message.bytes": "4000000"})
	c := dialRaw(t, addr)
	id := topicID(c, "t")
	base := len(batchOf(1000, ""))
	offset := int64(0)
	for _, size := range []int{base, 126, 127, 128, 16_381, 16_382, 16_383, 16_384, 100_000, 2_097_149, 2_097_150, 2_097_151, 2_097_152, 3_500_000} {
		value := strings.Repeat("v", max(size-base-4, 0)) // up to some bytes of lengths
		fill(t, c, "t", value)
		for _, want := range []int32{1, 127, 20_000, 3 << 20, 50 << 20} {
			for _, v := range []int16{11, 12, 18} {
				req := fetchRequest(v, "t", 0, offset)
				req.Topics[0].TopicID = id
				req.Topics[0].Partitions[0].PartitionMaxBytes = want
				got := values(t, fetchOne(c, req).RecordBatches)
				if len(got) != 1 || got[0] != fmt.Sprintf("%d:%s", offset, value) {
					t.Fatalf("size %d, limit %d, v%d: got %d records", size, want, v, len(got))
				}
			}
		}
		offset++
	}
}
