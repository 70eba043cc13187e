package kafka

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/log"
)

// Transactions of version 2 (KIP-890), in single requests: produceV2, endV2 and commitOffsetV2 are what its clients send.

func (x *transactor) sendV2(topic string, batch log.Batch) int16 {
	req := produceRequest(12, topic, -1, batch)
	req.TransactionID = &x.id
	return untilDecided(x.t, func() int16 {
		code := roundTrip[*kmsg.ProduceResponse](x.c, req).Topics[0].Partitions[0].ErrorCode
		if code == errNotEnoughReplicas {
			return errConcurrentTransactions
		}
		return code
	})
}

// produceV2 writes records within the transaction, which begins with them.
func (x *transactor) produceV2(topic string, values ...string) {
	x.t.Helper()
	if code := x.sendV2(topic, x.batch(topic, values...)); code != 0 {
		x.t.Fatalf("Produce: code %d", code)
	}
	x.seq[topic] += int32(len(values))
}

// endV2 asks for an end, with what the producer had in it, and has the producer go on with what it is told.
func (x *transactor) endV2(p txn.Producer, commit bool) int16 {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 5, x.id, p.ID, p.Epoch, commit
	return untilDecided(x.t, func() int16 {
		resp := roundTrip[*kmsg.EndTxnResponse](x.c, req)
		if resp.ErrorCode == 0 {
			x.pid, x.epoch, x.seq = resp.ProducerID, resp.ProducerEpoch, map[string]int32{}
		} else if resp.ProducerID != -1 || resp.ProducerEpoch != -1 {
			x.t.Errorf("code %d, and a producer: %+v", resp.ErrorCode, resp)
		}
		return resp.ErrorCode
	})
}

func (x *transactor) has() txn.Producer { return txn.Producer{ID: x.pid, Epoch: x.epoch} }

func (x *transactor) commitOffsetV2(p txn.Producer, group, topic string, offset int64) int16 {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = 5, x.id, group, p.ID, p.Epoch, -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: offset, LeaderEpoch: -1}}}}
	return untilDecided(x.t, func() int16 {
		return roundTrip[*kmsg.TxnOffsetCommitResponse](x.c, req).Topics[0].Partitions[0].ErrorCode
	})
}

// awaitCommitted waits for the markers, which may come a moment after the answer.
func awaitCommitted(t *testing.T, c *rawConn, topic string, want ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, _ := committedValues(t, c, topic)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("committed %v, want %v", got, want)
		}
	}
}

func TestTransactionsOfVersion2(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		weir := strings.HasSuffix(t.Name(), "/weir")
		createTopic(t, addr, "t", 1, nil)
		createTopic(t, addr, "u", 1, nil)
		reader := dialRaw(t, addr)
		x := newTransactor(t, addr, "x")
		first := x.has()
		x.produceV2("t", "a", "b")
		x.produceV2("t", "c")
		x.produceV2("u", "u1")
		awaitCommitted(t, reader, "t")
		late := x.batch("t", "late")
		if code := x.endV2(first, true); code != 0 || x.has() != (txn.Producer{ID: first.ID, Epoch: first.Epoch + 1}) {
			t.Fatalf("commit: code %d, and the producer goes on as %v after %v", code, x.has(), first)
		}
		awaitCommitted(t, reader, "t", "a", "b", "c")
		if code := x.endV2(first, true); code != 0 || x.epoch != first.Epoch+1 {
			t.Errorf("commit again: code %d, %v", code, x.has())
		}
		if code := x.endV2(first, false); code != errInvalidTxnState {
			t.Errorf("abort of what was committed: code %d", code)
		}
		if code := x.sendV2("t", late); code != errInvalidProducerEpoch {
			t.Errorf("a late batch: code %d", code)
		}
		createTopic(t, addr, "other", 1, nil)
		if code := x.sendV2("other", late); weir && code != errInvalidProducerEpoch { // kfake adds the partition
			t.Errorf("a late batch, to a partition that the transaction never had: code %d", code)
		}
		x.produceV2("t", "d")
		second := x.has()
		if code := x.endV2(second, false); code != 0 || x.epoch != second.Epoch+1 {
			t.Fatalf("abort: code %d, %v", code, x.has())
		}
		awaitCommitted(t, reader, "t", "a", "b", "c")
		// Nothing was written, for all that the producer knows: it cannot commit that, and can abort it.
		third := x.has()
		if code := x.endV2(third, true); code != errInvalidTxnState {
			t.Errorf("commit of nothing: code %d", code)
		}
		if code := x.endV2(third, false); code != 0 || x.epoch != third.Epoch+1 {
			t.Errorf("abort of nothing: code %d, %v", code, x.has())
		}
		// A new instance ends what the old one had open, and fences it.
		x.produceV2("t", "e")
		z := newTransactor(t, addr, "x")
		awaitCommitted(t, reader, "t", "a", "b", "c")
		if code := x.endV2(x.has(), true); code != errProducerFenced && weir {
			t.Errorf("commit by the old instance: code %d", code)
		}
		if code := x.sendV2("t", x.batch("t", "zombie")); code != errInvalidProducerEpoch && weir {
			t.Errorf("records of the old instance: code %d", code)
		}
		z.produceV2("t", "f")
		z.endV2(z.has(), true)
		awaitCommitted(t, reader, "t", "a", "b", "c", "f")
	})
}

// A transactional id moves between clients that know version 2 and such that do not, on the same coordinator.
func TestVersionsOfTransactionsInTurn(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		reader := dialRaw(t, addr)
		var want []string
		x := newTransactor(t, addr, "x")
		for round := range 8 {
			if round%3 == 2 {
				x = newTransactor(t, addr, "x") // a new instance; else the client has found out that it may, or may not any more
			}
			value := fmt.Sprint(round)
			before := x.has()
			if round%2 == 0 {
				x.produceV2("t", value)
				if code := x.endV2(before, true); code != 0 || x.epoch != before.Epoch+1 {
					t.Fatalf("round %d: code %d, %v after %v", round, code, x.has(), before)
				}
				if code := x.endV2(before, true); code != 0 {
					t.Fatalf("round %d, again: code %d", round, code)
				}
			} else {
				x.produce("t", value)
				for again := range 2 {
					if code := x.end(true); code != 0 || x.has() != before {
						t.Fatalf("round %d, time %d: code %d", round, again, code)
					}
				}
			}
			want = append(want, value)
			awaitCommitted(t, reader, "t", want...)
		}
	})
}

// The first batches of a transaction, to many partitions in one request, make all of them part of it. One whose transaction has a version that does not add is refused.
func TestFirstBatchesAddTheirPartitions(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 3, nil)
	x := newTransactor(t, addr, "x")
	req := produceRequest(12, "t", -1, x.batch("t", "a"), x.batch("t", "b"), x.batch("t", "c"))
	req.TransactionID = &x.id
	for _, p := range roundTrip[*kmsg.ProduceResponse](x.c, req).Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Errorf("partition %d: code %d", p.Partition, p.ErrorCode)
		}
	}
	e, _ := s.transactions.find("x", false)
	r := e.x.Record()
	e.mu.Unlock()
	if len(r.Partitions) != 3 || r.Version != txn.V2 {
		t.Errorf("%+v", r)
	}
	x.endV2(x.has(), true)
	for version, want := range map[int16]int16{9: errInvalidTxnState, 10: errInvalidTxnState, 11: errTransactionAbortable} {
		req := produceRequest(version, "t", -1, x.batch("t", "not added"))
		req.TransactionID = &x.id
		if p := roundTrip[*kmsg.ProduceResponse](x.c, req).Topics[0].Partitions[0]; p.ErrorCode != want {
			t.Errorf("Produce v%d: code %d, want %d", version, p.ErrorCode, want)
		}
	}
	x.id = "nobody"
	if code := x.sendV2("t", x.batch("t", "x")); code != errInvalidProducerIDMapping {
		t.Errorf("of a transactional id that nobody has: code %d", code)
	}
}

func TestTransactionalOffsetsOfVersion2(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b", "c")
		x := newTransactor(t, addr, "x")
		await := func(want int64) {
			t.Helper()
			untilDecided(t, func() int16 {
				got, code := offsetOf(c, "g", "t", true)
				if code == errUnstableOffsetCommit || got != want {
					return errConcurrentTransactions
				}
				return code
			})
		}
		for i, commit := range []bool{true, false, true} {
			p := x.has()
			if code := x.commitOffsetV2(p, "g", "t", int64(i+1)); code != 0 {
				t.Fatalf("TxnOffsetCommit: code %d", code)
			}
			if code := x.endV2(p, commit); code != 0 {
				t.Fatalf("EndTxn: code %d", code)
			}
			if code := x.commitOffsetV2(p, "g", "t", 77); code != errInvalidProducerEpoch && code != errProducerFenced {
				t.Errorf("an offset that comes late: code %d", code)
			}
			await([]int64{1, 1, 3}[i])
		}
		if !strings.HasSuffix(t.Name(), "/weir") {
			return
		}
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = 4, x.id, "g", x.pid, x.epoch, -1
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 1}}}}
		if code := roundTrip[*kmsg.TxnOffsetCommitResponse](x.c, req).Topics[0].Partitions[0].ErrorCode; code != errTransactionAbortable {
			t.Errorf("version 4, of a group that is not part of the transaction: code %d", code)
		}
	})
}

// What was answered is there after a restart: which epoch the producer goes on with, and that it had another.
func TestTransactionsOfVersion2OverRestarts(t *testing.T) {
	dir := t.TempDir()
	b := openBrokerIn(t, dir)
	s, stop := runServer(t, Config{Broker: b})
	restart := func(x *transactor) {
		stop()
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		b = openBrokerIn(t, dir)
		s, stop = runServer(t, Config{Broker: b})
		x.c = dialRaw(t, s.Addrs()[0].String())
	}
	defer func() { stop(); b.Close(t.Context()) }()
	addr := s.Addrs()[0].String()
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	x.produceV2("t", "a")
	restart(x)
	x.produceV2("t", "b") // it is still open
	p := x.has()
	late := x.batch("t", "late")
	if code := x.endV2(p, true); code != 0 {
		t.Fatal(code)
	}
	next := x.has()
	awaitCommitted(t, x.c, "t", "a", "b")
	restart(x)
	if code := x.endV2(p, true); code != 0 || x.has() != next {
		t.Errorf("commit again: code %d, %v, want %v", code, x.has(), next)
	}
	if code := x.sendV2("t", late); code != errInvalidProducerEpoch {
		t.Errorf("a late batch: code %d", code)
	}
	x.produceV2("t", "c")
	if code := x.endV2(x.has(), true); code != 0 {
		t.Fatal(code)
	}
	awaitCommitted(t, x.c, "t", "a", "b", "c")
}

// Clients look for transaction.version 2; those that cannot read a feature that begins at 0 are not told what is supported, but what is in force (KAFKA-17011).
func TestFeatures(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	for version, want := range map[int16]string{
		0: "[] -1 []", 3: "[] 0 [transaction.version 2-2]",
		4: "[transaction.version 0-2] 0 [transaction.version 2-2]", 5: "[transaction.version 0-2] 0 [transaction.version 2-2]",
	} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "raw", "1"
		resp := roundTrip[*kmsg.ApiVersionsResponse](c, req)
		supported, finalized := []string{}, []string{}
		for _, f := range resp.SupportedFeatures {
			supported = append(supported, fmt.Sprintf("%s %d-%d", f.Name, f.MinVersion, f.MaxVersion))
		}
		for _, f := range resp.FinalizedFeatures {
			finalized = append(finalized, fmt.Sprintf("%s %d-%d", f.Name, f.MinVersionLevel, f.MaxVersionLevel))
		}
		if got := fmt.Sprint(supported, resp.FinalizedFeaturesEpoch, finalized); got != want {
			t.Errorf("v%d: %s, want %s", version, got, want)
		}
	}
}

// What brokers of Kafka ask each other, of several transactions at once.
func TestAddPartitionsOfSeveralTransactions(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 2, nil)
	x, y := newTransactor(t, addr, "x"), newTransactor(t, addr, "y")
	ask := func(version int16, of *transactor, verify bool, topic string, parts ...int32) []int16 {
		t.Helper()
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.Version = version
		for _, x := range []*transactor{of, x} {
			rx := kmsg.NewAddPartitionsToTxnRequestTransaction()
			rx.TransactionalID, rx.ProducerID, rx.ProducerEpoch, rx.VerifyOnly = x.id, x.pid, x.epoch, verify
			rx.Topics = []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: topic, Partitions: parts}}
			req.Transactions = append(req.Transactions, rx)
			if of.id == "x" {
				break
			}
		}
		resp := roundTrip[*kmsg.AddPartitionsToTxnResponse](x.c, req)
		if len(resp.Transactions) != len(req.Transactions) || resp.Transactions[0].TransactionalID != of.id {
			t.Fatalf("%+v", resp)
		}
		var codes []int16
		for _, p := range resp.Transactions[0].Topics[0].Partitions {
			codes = append(codes, p.ErrorCode)
		}
		return codes
	}
	for _, tt := range []struct {
		what string
		got  []int16
		want string
	}{
		{"not added, v4", ask(4, x, true, "t", 0, 1), fmt.Sprint([]int16{errInvalidTxnState, errInvalidTxnState})},
		{"not added, v5", ask(5, x, true, "t", 0, 1), fmt.Sprint([]int16{errTransactionAbortable, errTransactionAbortable})},
		{"added", ask(5, x, false, "t", 0), "[0]"},
		{"one of two", ask(5, x, true, "t", 0, 1), fmt.Sprint([]int16{0, errTransactionAbortable})},
		{"added, of the other", ask(5, y, false, "t", 1), "[0]"},
		{"and to the first as well", ask(5, x, true, "t", 0, 1), "[0 0]"},
		{"no such topic", ask(5, x, false, "nothing", 0), fmt.Sprint([]int16{errUnknownTopicOrPartition})},
		{"one partition too many", ask(5, y, false, "t", 0, 2), fmt.Sprint([]int16{errOperationNotAttempted, errUnknownTopicOrPartition})},
	} {
		if fmt.Sprint(tt.got) != tt.want {
			t.Errorf("%s: codes %v, want %s", tt.what, tt.got, tt.want)
		}
	}
}

// By hand, with a marker of version 2 (KIP-1228): it ends what has its epoch for itself, and nothing that came later.
func TestMarkerByHandOfVersion2(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	x.produceV2("t", "a")
	mark := func(epoch int16, version int8) int16 {
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Version = 2
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch, m.CoordinatorEpoch, m.TransactionVersion = x.pid, epoch, 0, version
		m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0}}}
		req.Markers = append(req.Markers, m)
		return roundTrip[*kmsg.WriteTxnMarkersResponse](x.c, req).Markers[0].Topics[0].Partitions[0].ErrorCode
	}
	if code := mark(x.epoch, 2); code != errInvalidTxnState {
		t.Errorf("with the epoch of the transaction: code %d", code)
	}
	if code := mark(x.epoch+1, 2); code != 0 {
		t.Errorf("with the one after: code %d", code)
	}
	if _, stable := committedValues(t, x.c, "t"); stable != 2 {
		t.Errorf("last stable offset %d", stable)
	}
}

// Records of __transaction_state: version 0 where that can hold them, and the tagged fields of Kafka 4 where not.
func TestTransactionRecordsOfVersion2(t *testing.T) {
	parts := []txn.Partition{{Topic: "t"}, {Topic: "t", Index: 2}, {Topic: "u"}}
	for _, r := range []txn.Record{
		{Producer: txn.Producer{ID: 1, Epoch: 2}, State: txn.Empty, Timeout: time.Minute, Started: -1, Updated: 7, Next: -1, Previous: -1},
		{Producer: txn.Producer{ID: 1, Epoch: 2}, State: txn.Ongoing, Partitions: parts, Timeout: time.Minute, Started: 5, Updated: 7, Next: -1, Previous: -1},
		{Producer: txn.Producer{ID: 1, Epoch: 2}, State: txn.Ongoing, Partitions: parts, Timeout: time.Minute, Started: 5, Version: txn.V2, Next: -1, Previous: -1},
		{Producer: txn.Producer{ID: 1, Epoch: txn.MaxEpoch}, State: txn.PrepareCommit, Partitions: parts, Timeout: time.Minute, Version: txn.V2, Next: 9, Previous: -1},
		{Producer: txn.Producer{ID: 9, Epoch: 0}, State: txn.CompleteCommit, Timeout: time.Minute, Version: txn.V2, Next: -1, Previous: 1},
	} {
		key, value := encodeTransaction("x", &r)
		if newer := value[1] == 1; newer != (r.Version == txn.V2) {
			t.Errorf("%+v is stored with version %d", r, value[1])
		}
		id, got, err := decodeTransaction(key, value)
		if id != "x" || err != nil || fmt.Sprint(got) != fmt.Sprint(r) {
			t.Errorf("%+v is read as %q %+v, %v", r, id, got, err)
		}
		for n := range value { // cut
			if _, _, err := decodeTransaction(key, value[:n]); err == nil {
				t.Errorf("%d of %d bytes are a record", n, len(value))
			}
		}
	}
	v := kmsg.NewTxnMetadataValue()
	v.Version = 1
	key, _ := encodeTransaction("x", nil)
	value := v.AppendTo(nil)
	hostile := append(value[:len(value)-1], 0xff, 0xff, 0xff, 0xff, 0x0f) // tags
	begun := time.Now()
	if _, _, err := decodeTransaction(key, hostile); !errors.Is(err, errShape) || time.Since(begun) > time.Second {
		t.Errorf("four billion tags: %v after %v", err, time.Since(begun))
	}
}

// Whatever stands in __transaction_state is read, or refused, and what was read is stored so that it is read the same.
func FuzzTransactionRecords(f *testing.F) {
	for _, version := range []int16{txn.V1, txn.V2} {
		key, value := encodeTransaction("x", &txn.Record{
			Producer: txn.Producer{ID: 1, Epoch: 2}, State: txn.PrepareAbort, Partitions: []txn.Partition{{Topic: "t"}}, Version: version, Next: 7, Previous: 5,
		})
		f.Add(key, value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		id, r, err := decodeTransaction(key, value)
		if id == "" || err != nil {
			return
		}
		again, same, err := decodeTransaction(encodeTransaction(id, &r))
		if r.Version == txn.V1 { // as the records of version 0 are
			r.Next, r.Previous = -1, -1
		}
		if again != id || err != nil || fmt.Sprint(same) != fmt.Sprint(r) {
			t.Errorf("%q %+v is read again as %q %+v, %v", id, r, again, same, err)
		}
	})
}

// Apache Kafka's Java producer may ask for the commit just before its first batch is on its way: INVALID_TXN_STATE would be its end, with the batch still unsent. It asks again
// after what it is told instead, and then behind the batch.
func TestCommitOfTheJavaProducerOvertakesItsBatches(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	for i := range 2 {
		p := x.has()
		req := kmsg.NewPtrEndTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 5, "x", p.ID, p.Epoch, true
		if code := roundTrip[*kmsg.EndTxnResponse](x.c, req).ErrorCode; code != errConcurrentTransactions {
			t.Fatalf("transaction %d: the commit before its batch: code %d", i, code)
		}
		x.produceV2("t", fmt.Sprint(i))
		if code := x.endV2(p, true); code != 0 || x.epoch != p.Epoch+1 {
			t.Fatalf("transaction %d: the commit behind its batch: code %d, %v", i, code, x.has())
		}
	}
	awaitCommitted(t, dialRaw(t, addr), "t", "0", "1")
}

// A producer that changes to version 2 and keeps its epoch, as franz-go's may, is not taken for part of what is open of that epoch in the partition: that may be the transaction before,
// whose marker is on its way. The coordinator is asked; here of another transactional id, so that its answer tells.
func TestBatchOfVersion2IsVerifiedInATransactionOfVersion1(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x, other := newTransactor(t, addr, "x"), newTransactor(t, addr, "other")
	x.produce("t", "a")
	x.id = other.id
	if code := x.sendV2("t", x.batch("t", "b")); code == errNone {
		t.Error("a batch of version 2 became part of a transaction that its coordinator was not asked about")
	}
	x.id = "x"
	x.produceV2("t", "b")
	x.id = other.id
	if code := x.sendV2("t", x.batch("t", "c")); code != errNone {
		t.Errorf("code %d in a transaction that the coordinator has named: it is asked for each batch", code)
	}
}
