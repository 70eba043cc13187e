package kafka

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

func TestProduceEachVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 2, nil)
		c := dialRaw(t, addr)
		next, id := int64(0), topicID(c, "t")
		for v := int16(3); v <= 13; v++ {
			req := produceRequest(v, "t", -1, batchOf(1000, "a", "b"), batchOf(1000, "c"))
			req.Topics[0].TopicID = id
			resp := roundTrip[*kmsg.ProduceResponse](c, req)
			if len(resp.Topics) != 1 || v < 13 && resp.Topics[0].Topic != "t" || v >= 13 && resp.Topics[0].TopicID != id || len(resp.Topics[0].Partitions) != 2 {
				t.Fatalf("v%d: %+v", v, resp)
			}
			for i, want := range []int64{next, int64(v - 3)} {
				p := resp.Topics[0].Partitions[i]
				if p.Partition != int32(i) || p.ErrorCode != 0 || p.BaseOffset != want || p.LogAppendTime != -1 || v >= 5 && p.LogStartOffset != 0 {
					t.Fatalf("v%d: partition %d: %+v, want base offset %d", v, i, p, want)
				}
			}
			next += 2
		}
		got := values(t, fetchOne(c, fetchRequest(12, "t", 0, 0)).RecordBatches)
		if want := "0:a 1:b 2:a 3:b"; !strings.HasPrefix(strings.Join(got, " "), want) || len(got) != 22 {
			t.Fatalf("stored %v", got)
		}
	})
}

// An id means one topic only, and none that comes after it under its name.
func TestProduceTopicIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		old := topicID(c, "t")
		produce := func(id [16]byte) kmsg.ProduceResponseTopicPartition {
			req := produceRequest(13, "t", -1, batchOf(1, "a"))
			req.Topics[0].TopicID = id
			return roundTrip[*kmsg.ProduceResponse](c, req).Topics[0].Partitions[0]
		}
		if got := produce(old); got.ErrorCode != errNone {
			t.Fatalf("%+v", got)
		}
		if _, err := kadm.NewClient(newClient(t, addr)).DeleteTopic(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		createTopic(t, addr, "t", 1, nil)
		for _, id := range [][16]byte{old, {}, {9}} {
			if got := produce(id); got.ErrorCode != errUnknownTopicID {
				t.Errorf("id %x: %+v", id, got)
			}
		}
		if got := produce(topicID(c, "t")); got.ErrorCode != errNone || got.BaseOffset != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestProduceBelowVersion3IsListedAndRefused(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	for v := int16(0); v <= 2; v++ {
		resp := roundTrip[*kmsg.ProduceResponse](c, produceRequest(v, "t", 1, batchOf(0, "x")))
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != errUnsupportedVersion || p.BaseOffset != -1 {
			t.Fatalf("v%d: %+v", v, p)
		}
	}
}

func TestProduceRefusals(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		weir := strings.Contains(t.Name(), "/weir")
		createTopic(t, addr, "t", 1, map[string]string{"max.message.bytes": "2000"})
		createTopic(t, addr, "compacted", 1, map[string]string{"cleanup.policy": "compact"})
		good := batchOf(1000, "a", "b")
		broken := func(change func(log.Batch)) []byte {
			b := append(log.Batch(nil), good...)
			change(b)
			return b
		}
		var keyless log.BatchBuilder
		keyless.Append(&log.Record{Timestamp: 1, Value: []byte("v")})
		for _, test := range []struct {
			name      string
			topic     string
			batch     []byte
			want      int16
			weirsOnly bool // kfake does not look, or has another opinion
		}{
			{"nothing wrong", "t", good, errNone, false},
			{"unknown topic", "nope", good, errUnknownTopicOrPartition, false},
			{"null records", "t", nil, errInvalidRecord, true},
			{"no batch", "t", make([]byte, 20), errInvalidRecord, true},
			{"flipped bit", "t", broken(func(b log.Batch) { b[len(b)-1] ^= 1 }), errCorruptMessage, false},
			{"magic 1", "t", broken(func(b log.Batch) { b[16] = 1 }), errInvalidRecord, true},
			{"two batches", "t", append(append([]byte{}, good...), good...), errInvalidRecord, true},
			{"cut", "t", good[:len(good)-3], errCorruptMessage, true},
			{"longer than max.message.bytes", "t", batchOf(1, strings.Repeat("x", 3000)), errMessageTooLarge, false},
			{"no key in a compacted topic", "compacted", keyless.Seal(0, -1), errInvalidRecord, true},
			{"key in a compacted topic", "compacted", good, errNone, false},
			{"internal topic", "__consumer_offsets", good, errInvalidTopic, true},
		} {
			if test.weirsOnly && !weir {
				continue
			}
			c := dialRaw(t, addr)
			p := produceOne(c, test.topic, test.batch)
			if p.ErrorCode != test.want {
				t.Errorf("%s: error %d %v, want %d", test.name, p.ErrorCode, p.ErrorMessage, test.want)
			}
			if weir && p.ErrorCode != 0 && p.BaseOffset != -1 {
				t.Errorf("%s: base offset %d with an error", test.name, p.BaseOffset)
			}
		}
		c := dialRaw(t, addr)
		if got := values(t, fetchOne(c, fetchRequest(12, "t", 0, 0)).RecordBatches); len(got) != 2 {
			t.Errorf("a refused batch left records: %v", got)
		}
	})
}

func TestProduceAcks(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	resp := roundTrip[*kmsg.ProduceResponse](c, produceRequest(9, "t", 2, batchOf(1, "x")))
	if got := resp.Topics[0].Partitions[0].ErrorCode; got != errInvalidRequiredAcks {
		t.Errorf("acks=2: error %d", got)
	}
	resp = roundTrip[*kmsg.ProduceResponse](c, produceRequest(9, "t", 1, batchOf(1, "one")))
	if got := resp.Topics[0].Partitions[0]; got.ErrorCode != 0 || got.BaseOffset != 0 {
		t.Errorf("acks=1: %+v", got)
	}
	// acks=0 has no answer: the next answer belongs to the next request.
	c.sendFrame(frameOf(produceRequest(9, "t", 0, batchOf(1, "zero")), 77))
	if got := produceOne(c, "t", batchOf(1, "all")); got.ErrorCode != 0 || got.BaseOffset != 2 {
		t.Errorf("after acks=0: %+v", got)
	}
	c.sendFrame(frameOf(produceRequest(9, "nope", 0, batchOf(1, "zero")), 78))
	c.wantClosed()
}

// TestProduceAcks0ThenHangUp: what was sent before a hang-up is stored.
func TestProduceAcks0ThenHangUp(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	const n = 50
	c := dialRaw(t, addr)
	for i := range n {
		c.sendFrame(frameOf(produceRequest(9, "t", 0, batchOf(1, fmt.Sprint(i))), int32(i)))
	}
	c.Close()
	p, err := s.broker.Partition("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	waitCommitted(t, p, n)
}

func TestPipelinedAnswersComeInOrder(t *testing.T) {
	_, addr := startServer(t, Config{MaxPipelined: 8})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	const n = 200
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range int32(n) {
			var req kmsg.Request = produceRequest(9, "t", -1, batchOf(1, "v"))
			if i%3 == 1 {
				req = kmsg.NewPtrApiVersionsRequest()
			}
			frame := binary.BigEndian.AppendUint32(nil, 0)
			frame = append(frame, frameOf(req, i)...)
			binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
			c.Write(frame)
		}
	}()
	for i := range int32(n) {
		if corr, _ := c.readFrame(); corr != i {
			t.Fatalf("answer %d has correlation id %d", i, corr)
		}
	}
	<-sent
}

// TestIdempotentProducer: P1 as a client sees it.
func TestIdempotentProducer(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		weir := strings.Contains(t.Name(), "/weir")
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		id := initProducer(c)
		batch := func(seq int32) []byte {
			return sequenced(id, seq, fmt.Sprint(seq), fmt.Sprint(seq+1))
		}
		for _, step := range []struct {
			seq    int32
			code   int16
			offset int64
		}{
			{0, 0, 0}, {2, 0, 2}, {2, 0, 2}, {0, 0, 0}, // repeats get their first offsets
			{8, errOutOfOrderSequenceNumber, -1}, {4, 0, 4},
		} {
			if got := produceOne(c, "t", batch(step.seq)); got.ErrorCode != step.code || got.BaseOffset != step.offset && (weir || step.code == 0) {
				t.Fatalf("sequence %d: error %d at %d, want %d at %d", step.seq, got.ErrorCode, got.BaseOffset, step.code, step.offset)
			}
		}
		got := values(t, fetchOne(c, fetchRequest(12, "t", 0, 0)).RecordBatches)
		if fmt.Sprint(got) != "[0:0 1:1 2:2 3:3 4:4 5:5]" {
			t.Fatalf("stored %v", got)
		}
	})
}

func TestLogAppendTime(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	c := dialRaw(t, addr)
	got := produceOne(c, "t", batchOf(1000, "x"))
	if got.ErrorCode != 0 || got.LogAppendTime < 1_600_000_000_000 {
		t.Fatalf("got %+v", got)
	}
	batch, err := log.NextBatch(fetchOne(c, fetchRequest(12, "t", 0, 0)).RecordBatches, 1<<20)
	if err != nil || batch.CheckCRC() != nil || batch.MaxTimestamp() != got.LogAppendTime {
		t.Fatalf("stored batch: %v, time %d, want %d", err, batch.MaxTimestamp(), got.LogAppendTime)
	}
}

// TestLogAppendTimeForEveryWayIn: records of MQTT, which share batches, carry the time of the append as those of Kafka
// clients do, and clients are told which time it is.
func TestLogAppendTimeForEveryWayIn(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	before := time.Now().UnixMilli()
	p, err := s.broker.Partition("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // as MQTT does
		if err := p.Append(&log.Record{Timestamp: 1000, Value: []byte("m")}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	cl := newClient(t, addr, kgo.DefaultProduceTopic("t"))
	for _, r := range []*kgo.Record{{Value: []byte("k"), Timestamp: time.UnixMilli(2000)}, {Value: make([]byte, 5000), Timestamp: time.UnixMilli(2000)}} {
		if err := cl.ProduceSync(testContext(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for at, r := range consume(t, addr, "t", 5) {
		if ms := r.Timestamp.UnixMilli(); ms < before || ms > time.Now().UnixMilli() || r.Attrs.TimestampType() != 1 {
			t.Errorf("%v: time %d, type %d, want append time from %d on", at, ms, r.Attrs.TimestampType(), before)
		}
	}
}

// TestCompressedBatchIsStoredAsItCame: no re-encoding (D6).
func TestCompressedBatchIsStoredAsItCame(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	offset := int64(0)
	for codec := log.CompressionNone; codec <= log.CompressionZstd; codec++ {
		sent := compressedBatch(codec, strings.Repeat("a", 1000), strings.Repeat("b", 1000))
		if got := produceOne(c, "t", append([]byte(nil), sent...)); got.ErrorCode != 0 || got.BaseOffset != offset {
			t.Fatalf("%v: %+v", codec, got)
		}
		stored := fetchOne(c, fetchRequest(12, "t", 0, offset)).RecordBatches
		if string(stored[21:]) != string(sent[21:]) {
			t.Errorf("%v: stored bytes differ from those sent", codec)
		}
		offset += 2
	}
	// zstd came with version 7.
	req := produceRequest(6, "t", -1, compressedBatch(log.CompressionZstd, strings.Repeat("x", 1000)))
	if got := roundTrip[*kmsg.ProduceResponse](c, req).Topics[0].Partitions[0].ErrorCode; got != errUnsupportedCompressionType {
		t.Errorf("zstd in version 6: error %d", got)
	}
}
