package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// transactor is a transactional producer in single requests, one at a time.
type transactor struct {
	t     testing.TB
	c     *rawConn
	id    string
	pid   int64
	epoch int16
	seq   map[string]int32
}

// newTransactor takes the transactional id over.
func newTransactor(t testing.TB, addr, id string) *transactor {
	x := &transactor{t: t, c: dialRaw(t, addr), id: id, pid: -1, epoch: -1}
	x.init()
	return x
}

// untilDecided asks until the answer is not one that clients ask again after.
func untilDecided(t testing.TB, ask func() int16) int16 {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		code := ask()
		switch code {
		case errConcurrentTransactions, errCoordinatorLoadInProgress, errCoordinatorNotAvailable, errNotCoordinator:
		default:
			return code
		}
		if time.Now().After(deadline) {
			t.Fatalf("still code %d", code)
		}
		time.Sleep(5 * time.Millisecond) // as clients do
	}
}

func (x *transactor) init() {
	x.t.Helper()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorType, find.CoordinatorKeys = 4, 1, []string{x.id}
	if code := untilDecided(x.t, func() int16 {
		return roundTrip[*kmsg.FindCoordinatorResponse](x.c, find).Coordinators[0].ErrorCode
	}); code != 0 {
		x.t.Fatalf("FindCoordinator: code %d", code)
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, &x.id, 60_000, -1, -1
	if code := untilDecided(x.t, func() int16 {
		resp := roundTrip[*kmsg.InitProducerIDResponse](x.c, req)
		x.pid, x.epoch = resp.ProducerID, resp.ProducerEpoch
		return resp.ErrorCode
	}); code != 0 {
		x.t.Fatalf("InitProducerId: code %d", code)
	}
	x.seq = map[string]int32{}
}

func (x *transactor) add(topic string) int16 {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, x.id, x.pid, x.epoch
	rt := kmsg.NewAddPartitionsToTxnRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{0}
	req.Topics = append(req.Topics, rt)
	return untilDecided(x.t, func() int16 {
		return roundTrip[*kmsg.AddPartitionsToTxnResponse](x.c, req).Topics[0].Partitions[0].ErrorCode
	})
}

func (x *transactor) batch(topic string, values ...string) log.Batch {
	var b log.BatchBuilder
	b.SetProducer(x.pid, x.epoch, x.seq[topic])
	b.SetFlags(log.AttrTransactional)
	for _, v := range values {
		b.Append(&log.Record{Timestamp: 1000, Key: []byte("k"), Value: []byte(v)})
	}
	return append(log.Batch(nil), b.Seal(0, -1)...)
}

func (x *transactor) send(topic string, batch log.Batch) kmsg.ProduceResponseTopicPartition {
	req := produceRequest(9, topic, -1, batch)
	req.TransactionID = &x.id
	return roundTrip[*kmsg.ProduceResponse](x.c, req).Topics[0].Partitions[0]
}

// produce writes records within the transaction.
func (x *transactor) produce(topic string, values ...string) {
	x.t.Helper()
	if code := x.add(topic); code != 0 {
		x.t.Fatalf("AddPartitionsToTxn: code %d", code)
	}
	if got := x.send(topic, x.batch(topic, values...)); got.ErrorCode != 0 {
		x.t.Fatalf("Produce: %+v", got)
	}
	x.seq[topic] += int32(len(values))
}

func (x *transactor) end(commit bool) int16 {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 3, x.id, x.pid, x.epoch, commit
	return untilDecided(x.t, func() int16 { return roundTrip[*kmsg.EndTxnResponse](x.c, req).ErrorCode })
}

func (x *transactor) addOffsets(group string) int16 {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = 3, x.id, x.pid, x.epoch, group
	return untilDecided(x.t, func() int16 { return roundTrip[*kmsg.AddOffsetsToTxnResponse](x.c, req).ErrorCode })
}

func (x *transactor) commitOffset(group, topic string, offset int64) int16 {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = 3, x.id, group, x.pid, x.epoch, -1
	rt := kmsg.NewTxnOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rp.Offset, rp.LeaderEpoch = offset, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return untilDecided(x.t, func() int16 {
		return roundTrip[*kmsg.TxnOffsetCommitResponse](x.c, req).Topics[0].Partitions[0].ErrorCode
	})
}

// offset of a group in partition 0, and the code.
func offsetOf(c *rawConn, group, topic string, stable bool) (int64, int16) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = 8, stable
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{0}}}
	req.Groups = append(req.Groups, g)
	var rg kmsg.OffsetFetchResponseGroup
	if code := untilDecided(c.t, func() int16 {
		rg = roundTrip[*kmsg.OffsetFetchResponse](c, req).Groups[0]
		return rg.ErrorCode
	}); code != 0 {
		return -1, code
	}
	p := rg.Topics[0].Partitions[0]
	return p.Offset, p.ErrorCode
}

// committedValues are the records that a reader of committed ones sees, and where they end.
func committedValues(t testing.TB, c *rawConn, topic string) (values []string, stable int64) {
	t.Helper()
	aborted := map[int64][]int64{} // first offsets, by producer
	var batches []byte
	for next := int64(0); ; { // an answer may end where what was written before a restart does
		req := fetchRequest(12, topic, 0, next)
		req.IsolationLevel = 1
		p := fetchOne(c, req)
		if p.ErrorCode != 0 {
			t.Fatalf("Fetch: %+v", p)
		}
		for _, a := range p.AbortedTransactions {
			if !slices.Contains(aborted[a.ProducerID], a.FirstOffset) {
				aborted[a.ProducerID] = append(aborted[a.ProducerID], a.FirstOffset)
			}
		}
		batches = append(batches, p.RecordBatches...)
		for rest := p.RecordBatches; len(rest) > 0; {
			b, err := log.NextBatch(rest, 0)
			if err != nil {
				t.Fatal(err)
			}
			rest, next = rest[len(b):], int64(b.NextOffset())
		}
		if stable = p.LastStableOffset; len(p.RecordBatches) == 0 || next >= stable {
			break
		}
	}
	for _, firsts := range aborted {
		slices.Sort(firsts)
	}
	void := map[int64]bool{}
	for rest := batches; len(rest) > 0; {
		b, err := log.NextBatch(rest, 0)
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[len(b):]
		id := b.ProducerID()
		for len(aborted[id]) > 0 && aborted[id][0] <= int64(b.LastOffset()) && !b.IsControl() {
			void[id], aborted[id] = true, aborted[id][1:]
		}
		var rr log.RecordReader
		var r log.Record
		for ok, err := true, rr.Reset(b); ok && err == nil; {
			if ok, err = rr.Next(&r); !ok || err != nil {
				break
			}
			switch {
			case b.IsControl():
				delete(void, id)
			case !b.IsTransactional() || !void[id]:
				values = append(values, string(r.Value))
			}
		}
	}
	return values, stable
}

func TestTransactions(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		createTopic(t, addr, "u", 1, nil)
		reader := dialRaw(t, addr)
		check := func(what string, want string, stable int64) {
			t.Helper()
			deadline := time.Now().Add(10 * time.Second) // markers may come a moment after the answer
			for {
				got, at := committedValues(t, reader, "t")
				if fmt.Sprint(got) == want && at == stable {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %v below %d, want %s below %d", what, got, at, want, stable)
				}
			}
		}
		x := newTransactor(t, addr, "x")
		x.produce("t", "a", "b")
		check("open", "[]", 0)
		x.produce("u", "u1")
		if code := x.end(true); code != 0 {
			t.Fatalf("commit: code %d", code)
		}
		check("committed", "[a b]", 3)
		x.produce("t", "c")
		fill(t, reader, "t", "plain")
		check("behind an open transaction", "[a b]", 3)
		y := newTransactor(t, addr, "y")
		y.produce("t", "d")
		if code := y.end(true); code != 0 {
			t.Fatalf("commit of y: code %d", code)
		}
		check("committed, but behind an open transaction", "[a b]", 3)
		if code := x.end(false); code != 0 {
			t.Fatalf("abort: code %d", code)
		}
		check("aborted", "[a b plain d]", 8)
		if code := x.end(false); code != 0 {
			t.Errorf("abort again: code %d", code)
		}
		if code := x.end(true); code != errInvalidTxnState {
			t.Errorf("commit of what was aborted: code %d", code)
		}
		// All of it is there for who asks for all.
		if got := fmt.Sprint(len(values(t, fetchOne(reader, fetchRequest(12, "t", 0, 0)).RecordBatches))); got != "8" {
			t.Errorf("%s records in all", got)
		}
		// A new instance ends what the old one had open, and fences it.
		x.produce("t", "e")
		z := newTransactor(t, addr, "x")
		check("taken over", "[a b plain d]", 10)
		if code := x.end(true); code != errProducerFenced {
			t.Errorf("commit by the old instance: code %d", code)
		}
		if code := x.add("t"); code != errProducerFenced {
			t.Errorf("more by the old instance: code %d", code)
		}
		if got := x.send("t", x.batch("t", "zombie")).ErrorCode; got != errInvalidProducerEpoch && !strings.HasSuffix(t.Name(), "/kfake") {
			t.Errorf("records of the old instance: code %d", got)
		}
		z.produce("t", "f")
		z.end(true)
		check("the new instance", "[a b plain d f]", 12)
	})
}

// P2: a batch that comes when its transaction has ended begins none that nobody would end.
func TestLateBatchBeginsNoTransaction(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	x.produce("t", "a")
	late := x.batch("t", "late")
	if code := x.end(true); code != 0 {
		t.Fatal(code)
	}
	if got := x.send("t", late); got.ErrorCode != errInvalidTxnState {
		t.Errorf("late batch: %+v", got)
	}
	other := newTransactor(t, addr, "other")
	if got := other.send("t", other.batch("t", "x")); got.ErrorCode != errInvalidTxnState {
		t.Errorf("batch of a partition that is not part of a transaction: %+v", got)
	}
	other.id = "nobody"
	if got := other.send("t", other.batch("t", "x")); got.ErrorCode != errInvalidProducerIDMapping {
		t.Errorf("batch of a transactional id that nobody has: %+v", got)
	}
	if values, stable := committedValues(t, dialRaw(t, addr), "t"); fmt.Sprint(values) != "[a]" || stable != 2 {
		t.Errorf("read %v below %d", values, stable)
	}
}

func TestTransactionalOffsets(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		weir := strings.HasSuffix(t.Name(), "/weir")
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
		if weir {
			if code := x.commitOffset("g", "t", 1); code != errInvalidTxnState {
				t.Errorf("offsets of a group that is not part of the transaction: code %d", code)
			}
		}
		for i, commit := range []bool{true, false, true} {
			before, _ := offsetOf(c, "g", "t", false)
			if code := x.addOffsets("g"); code != 0 {
				t.Fatalf("AddOffsetsToTxn: code %d", code)
			}
			if code := x.commitOffset("g", "t", int64(i+1)); code != 0 {
				t.Fatalf("TxnOffsetCommit: code %d", code)
			}
			if got, code := offsetOf(c, "g", "t", false); got != before || code != 0 && weir {
				t.Errorf("open: offset %d, code %d", got, code)
			}
			if weir { // kfake knows no unstable offsets
				if _, code := offsetOf(c, "g", "t", true); code != errUnstableOffsetCommit {
					t.Errorf("open, stable: code %d", code)
				}
			}
			if code := x.end(commit); code != 0 {
				t.Fatalf("EndTxn: code %d", code)
			}
			if commit {
				before = int64(i + 1)
			}
			await(before)
		}
		// Who has been fenced leaves nothing behind.
		x.addOffsets("g")
		newTransactor(t, addr, "x")
		if code := x.commitOffset("g", "t", 77); code != errInvalidProducerEpoch && code != errProducerFenced {
			t.Errorf("offsets of the old instance: code %d", code)
		}
		await(3)
	})
}

// An offset that was verified before the end of a transaction came to the groups belongs to one that is over, for all that is known.
func TestOffsetsAreVerifiedAgain(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	newTransactor(t, addr, "x")
	g, code := s.groups.find("g")
	if code != errNone {
		t.Fatal(code)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Group, req.Generation, req.Topics = "g", -1, []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 1}}}}
	ends := g.ends.Load()
	if err := s.groups.endTransaction(t.Context(), g.partition, transactionOf{7, 1}, true); err != nil {
		t.Fatal(err)
	}
	for ends, want := range map[uint64]int16{ends: errConcurrentTransactions, g.ends.Load(): errNone} {
		call := &commitCall{done: make(chan struct{})}
		if code := s.groups.commitPending(req, g, ends, 2, call); code != want {
			t.Errorf("verified after %d ends: code %d, want %d", ends, code, want)
		} else if code == errNone {
			<-call.done
		}
	}
}

// What was answered is there after a restart, and what was open or decided goes on (P2, J6).
func TestTransactionsOverRestarts(t *testing.T) {
	dir := t.TempDir()
	b := openBrokerIn(t, dir)
	s, stop := runServer(t, Config{Broker: b})
	addr := s.Addrs()[0].String()
	restart := func() {
		stop()
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		b = openBrokerIn(t, dir)
		s, stop = runServer(t, Config{Broker: b})
		addr = s.Addrs()[0].String()
	}
	defer func() { stop(); b.Close(context.Background()) }()
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	x.produce("t", "a")
	x.end(false)
	x.produce("t", "b")
	x.addOffsets("g")
	if code := x.commitOffset("g", "t", 5); code != 0 {
		t.Fatal(code)
	}
	restart()
	x.c = dialRaw(t, addr)
	if values, stable := committedValues(t, x.c, "t"); len(values) != 0 || stable != 2 {
		t.Fatalf("read %v below %d", values, stable)
	}
	x.produce("t", "c") // it is still open
	if code := x.end(true); code != 0 {
		t.Fatalf("commit after the restart: code %d", code)
	}
	if got, code := offsetOf(x.c, "g", "t", true); got != 5 || code != 0 {
		t.Errorf("offset %d, code %d", got, code)
	}
	restart()
	x.c = dialRaw(t, addr)
	if values, _ := committedValues(t, x.c, "t"); fmt.Sprint(values) != "[b c]" {
		t.Errorf("read %v", values)
	}
	if code := x.end(true); code != 0 {
		t.Errorf("commit again, two restarts later: code %d", code)
	}
	if got, code := offsetOf(x.c, "g", "t", true); got != 5 || code != 0 {
		t.Errorf("offset %d, code %d", got, code)
	}
}

// A transaction that nobody ends is aborted at its time, and its producer fenced.
func TestTransactionTimesOut(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, &x.id, 1, -1, -1
	for timeout, want := range map[int32]int16{0: errInvalidTransactionTimeout, 16 * 60_000: errInvalidTransactionTimeout, 1: 0} {
		req.TransactionTimeoutMillis = timeout
		resp := roundTrip[*kmsg.InitProducerIDResponse](x.c, req)
		if resp.ErrorCode != want {
			t.Errorf("timeout %d: code %d", timeout, resp.ErrorCode)
		}
		if want == 0 {
			x.epoch = resp.ProducerEpoch
		}
	}
	x.produce("t", "a")
	deadline := time.Now().Add(20 * time.Second)
	for _, stable := committedValues(t, x.c, "t"); stable != 2; _, stable = committedValues(t, x.c, "t") {
		if time.Now().After(deadline) {
			t.Fatal("it is still open")
		}
		time.Sleep(10 * time.Millisecond) // it is a matter of time
	}
	if code := x.end(true); code != errProducerFenced {
		t.Errorf("commit: code %d", code)
	}
}

// A real client's way: consume, produce and commit the offsets in one transaction, over and over, with some aborted on the way.
func TestConsumeTransformProduce(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "in", 1, nil)
		createTopic(t, addr, "out", 1, nil)
		const n = 200
		producer := newClient(t, addr, kgo.DefaultProduceTopic("in"))
		for i := range n {
			producer.Produce(testContext(t), &kgo.Record{Value: fmt.Append(nil, i)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := producer.Flush(testContext(t)); err != nil {
			t.Fatal(err)
		}
		session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(addr), kgo.TransactionalID("ctp"), kgo.ConsumerGroup("ctp"), kgo.ConsumeTopics("in"),
			kgo.DefaultProduceTopic("out"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(300), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		ctx := testContext(t)
		for round, done := 0, 0; done < n; round++ {
			fs := session.PollRecords(ctx, 17)
			if err := fs.Err(); err != nil {
				t.Fatalf("after %d: %v", done, err)
			}
			if err := session.Begin(); err != nil {
				t.Fatal(err)
			}
			fs.EachRecord(func(r *kgo.Record) {
				session.Produce(ctx, &kgo.Record{Value: r.Value}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			})
			if err := session.Client().Flush(ctx); err != nil { // what is aborted has been written as well
				t.Fatal(err)
			}
			committed, err := session.End(ctx, kgo.TransactionEndTry(round%3 != 1))
			if err != nil {
				t.Fatalf("after %d: %v", done, err)
			}
			if committed {
				done += fs.NumRecords()
			}
		}
		reader := newClient(t, addr, kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		var got []string
		for len(got) < n {
			fs := reader.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				t.Fatalf("read %d: %v", len(got), err)
			}
			fs.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		for i, v := range got {
			if v != fmt.Sprint(i) {
				t.Fatalf("record %d is %s: %v", i, v, got)
			}
		}
	})
}
