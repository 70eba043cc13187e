package kafka

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// pendOffset commits an offset of group g within a transaction.
func pendOffset(t *testing.T, c *coordinator, x transactionOf, offset int64) int16 {
	t.Helper()
	g, code := c.find("g")
	if code != errNone {
		t.Fatal(code)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Group, req.Generation, req.ProducerID = "g", -1, x.producer
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: offset}}}}
	call := &commitCall{done: make(chan struct{})}
	if code := c.commitPending(req, g, g.ends.Load(), x.started, call); code != errNone {
		return code
	}
	<-call.done
	return call.codes[0]
}

// A second TxnOffsetCommit of a transaction that is refused must not have the first forgotten.
func TestRefusedOffsetLeavesTheOneBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 1)
		n := startGroups(t, table, GroupConfig{}).loaded()
		if code := pendOffset(t, n.c, transactionOf{7, 1}, 10); code != errNone {
			t.Fatal(code)
		}
		table.set(func() { table.failing = true })
		if code := pendOffset(t, n.c, transactionOf{7, 1}, 20); code != errCoordinatorNotAvailable {
			t.Fatal(code)
		}
		table.set(func() { table.failing = false })
		// The client gives up and aborts.
		if err := n.c.endTransaction(t.Context(), 0, transactionOf{7, 1}, false); err != nil {
			t.Fatal(err)
		}
		n.stop()
		n = startGroups(t, table, GroupConfig{}).loaded()
		resp := n.c.fetch(&kmsg.OffsetFetchRequestGroup{Group: "g", Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}}, true)
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != errNone {
			t.Errorf("no transaction is open: code %d for ever", code)
		}
		// The next transaction of that producer, which does not touch the partition.
		if err := n.c.endTransaction(t.Context(), 0, transactionOf{7, 2}, true); err != nil {
			t.Fatal(err)
		}
		if off := n.offset("g", "t", 0); off != -1 {
			t.Errorf("offset %d, of a transaction that was aborted", off)
		}
	})
}

// An end that comes late is not that of the next transaction.
func TestLateEndIsNotThatOfTheNextTransaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 1), GroupConfig{}).loaded()
		end := func(x transactionOf, want int64) {
			t.Helper()
			if err := n.c.endTransaction(t.Context(), 0, x, true); err != nil {
				t.Fatal(err)
			}
			if off := n.offset("g", "t", 0); off != want {
				t.Errorf("offset %d is committed, want %d", off, want)
			}
		}
		first, next := transactionOf{7, 1}, transactionOf{7, 2}
		pendOffset(t, n.c, first, 10)
		end(first, 10)
		pendOffset(t, n.c, next, 20)
		end(first, 10) // again, on its way for long
		end(next, 20)  // which has not lost its offset
	})
}

// Transactions that wait for a partition without a leader do not hold up others.
func TestTransactionsThatCannotEndHoldUpNoOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ft := newFakeTable(t, 1)
		view := fakeView{ft, fakeNode}
		ids := int64(0)
		c := newTransactions(transactionsConfig{
			open: func(context.Context, bool) (transactionsTable, int32, error) { return view, 1, nil },
			term: view.term, lapsed: func() bool { return false }, clockTrusted: func() bool { return true },
			producerID: func(context.Context) (int64, error) { ids++; return ids, nil },
			end: func(_ context.Context, parts []txn.Partition, _ log.Marker) []error {
				errs := make([]error, len(parts))
				for i, p := range parts {
					if p.Topic == "dead" {
						errs[i] = cluster.ErrNotLeader
					}
				}
				return errs
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { c.run(ctx) })
		time.Sleep(time.Second)
		run := func(id, topic string) *txnEntry {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 2, &id, 60_000
			p, code := c.initProducer(ctx, req)
			if code != errNone {
				t.Fatal(code)
			}
			if code := c.addPartitions(ctx, id, p, []txn.Partition{{Topic: topic}}, true); code != errNone {
				t.Fatal(code)
			}
			if _, code := c.end(ctx, id, p, true, txn.V1, true); code != errNone {
				t.Fatal(code)
			}
			e, _ := c.find(id, false)
			e.mu.Unlock()
			return e
		}
		for i := range markersAtOnce {
			run(strings.Repeat("d", i+1), "dead")
		}
		e := run("healthy", "t")
		time.Sleep(time.Minute)
		e.mu.Lock()
		defer e.mu.Unlock()
		if st := e.x.Record().State; st != txn.CompleteCommit {
			t.Errorf("after a minute: %v", st)
		}
	})
}

// A marker by hand with a high coordinator epoch: no later transaction of the producer ends.
func TestMarkerByHandOfALaterCoordinatorIsRefused(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	x := newTransactor(t, addr, "x")
	c := dialRaw(t, addr)
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Version = 1
	m := kmsg.NewWriteTxnMarkersRequestMarker()
	m.ProducerID, m.ProducerEpoch, m.CoordinatorEpoch = x.pid, x.epoch, 1<<31-1
	m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0}}}
	req.Markers = append(req.Markers, m)
	if code := roundTrip[*kmsg.WriteTxnMarkersResponse](c, req).Markers[0].Topics[0].Partitions[0].ErrorCode; code != errInvalidRequest {
		t.Errorf("code %d", code)
	}
	x.produce("t", "a")
	if code := x.end(true); code != 0 {
		t.Fatalf("EndTxn: code %d", code)
	}
	x.produce("t", "b")
	if code := x.end(true); code != 0 {
		t.Fatalf("EndTxn: code %d", code)
	}
	if values, stable := committedValues(t, c, "t"); len(values) != 2 {
		t.Errorf("committed twice, and seen: %v, last stable offset %d", values, stable)
	}
}

// A term that is dropped between the look and the walk: the end of a transaction is not acknowledged.
func TestEndIsNotAnsweredByATermThatIsOver(t *testing.T) {
	table := newFakeTable(t, 1)
	n := startGroups(t, table, GroupConfig{}).loaded()
	if code := pendOffset(t, n.c, transactionOf{7, 1}, 10); code != errNone {
		t.Fatal(code)
	}
	tm := n.c.terms[0].Load()
	tm.mu.Lock() // holds endTransaction between serves and the walk
	ended := make(chan error, 1)
	go func() { ended <- n.c.endTransaction(t.Context(), 0, transactionOf{7, 1}, true) }()
	for tm.ends.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	tm.end()
	tm.groups = nil // what dropAll does
	tm.mu.Unlock()
	if err := <-ended; err == nil {
		t.Error("the coordinator of the transaction is told that the offsets are applied")
	}
}

// What is loaded by a term that has been dropped meanwhile is not counted.
func TestWhatAnEndedTermLoadsIsNotCounted(t *testing.T) {
	ft := newFakeTable(t, 1)
	view := fakeView{ft, fakeNode}
	c := newTransactions(transactionsConfig{term: view.term, lapsed: func() bool { return false }})
	tm := &txnTerm{stop: func() {}, ctx: t.Context()}
	tm.end()
	c.dropAll(tm)
	c.install(tm, map[string]txn.Record{"x": {}})
	if n := c.ids.Load(); n != 0 {
		t.Errorf("%d ids are counted for ever", n)
	}
}

// The bytes of all ids are bounded.
func TestPartitionsOfTransactionsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ft := newFakeTable(t, 1)
		view := fakeView{ft, fakeNode}
		c := newTransactions(transactionsConfig{
			TransactionConfig: TransactionConfig{MaxBytes: 10_000},
			open:              func(context.Context, bool) (transactionsTable, int32, error) { return view, 1, nil },
			term:              view.term, lapsed: func() bool { return false }, clockTrusted: func() bool { return true },
			producerID: func(context.Context) (int64, error) { return 1, nil },
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { c.run(ctx) })
		time.Sleep(time.Second)
		id := "x"
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 2, &id, 60_000
		p, code := c.initProducer(ctx, req)
		if code != errNone {
			t.Fatal(code)
		}
		var parts []txn.Partition
		for i := range 10_000 {
			parts = append(parts, txn.Partition{Topic: "t", Index: int32(i)})
		}
		if code := c.addPartitions(ctx, id, p, parts, true); code != errPolicyViolation {
			t.Errorf("AddPartitionsToTxn: code %d", code)
		}
		if _, code := c.enlist(ctx, id, p, parts); code != errPolicyViolation {
			t.Errorf("first batches: code %d", code)
		}
		for i := range parts { // one by one, as leaders have them
			if _, code = c.enlist(ctx, id, p, parts[i:i+1]); code != errNone {
				break
			}
		}
		if n := c.bytes.Load(); code != errPolicyViolation || n > 20_000 {
			t.Errorf("code %d, %d bytes of 10000", code, n)
		}
		if _, code := c.enlist(ctx, id, p, parts[:1]); code != errNone {
			t.Errorf("one that is there: code %d", code)
		}
	})
}

// Offsets of a transaction are taken from a member while the group completes a rebalance, as Kafka does: REBALANCE_IN_PROGRESS is fatal to the Java producer.
func TestOffsetsInATransactionWhileAGroupCompletesItsRebalance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 1), GroupConfig{}).loaded()
		a := n.member("g")
		a.join()
		g, code := n.c.find("g")
		if code != errNone {
			t.Fatal(code)
		}
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.Group, req.Generation, req.MemberID, req.ProducerID = "g", a.generation, a.id, 7
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 5}}}}
		call := &commitCall{done: make(chan struct{})}
		if code := n.c.commitPending(req, g, g.ends.Load(), 1, call); code != errNone {
			t.Errorf("code %d", code)
		}
	})
}
