package kafka

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/log"
)

// coordinators has the server's coordinator of an id say that it is loading, and go on later.
func coordinators(t *testing.T, s *Server, id string) (loading, serving func()) {
	c := s.transactions
	c.mu.Lock()
	defer c.mu.Unlock()
	tm := c.terms[hashPartition(id, int32(len(c.terms)))]
	if tm == nil || !tm.serving() {
		t.Fatal("nobody coordinates the id")
	}
	return func() { tm.state.Store(termLoading) }, func() { tm.state.Store(termServing) }
}

// P1, P2: while the coordinator cannot be asked, a client hears the one word that all of them send a batch again after; and what it had sent behind the first batch waits for
// that one: a partition that has nothing of a producer would take any of its batches first, and shut out those before.
func TestFirstBatchKeepsItsPlace(t *testing.T) {
	for _, version := range []int16{9, 13} {
		t.Run(fmt.Sprint("Produce v", version), func(t *testing.T) {
			s, addr := startServer(t, Config{})
			createTopic(t, addr, "t", 2, nil)
			x := newTransactor(t, addr, "x")
			y := newTransactor(t, addr, "y")
			if version < produceAdds {
				for _, x := range []*transactor{x, y} {
					if code := x.add("t"); code != 0 {
						t.Fatal(code)
					}
				}
			}
			id := s.broker.Image().Topic("t").ID
			send := func(of *transactor, partition int32, sequence int32) int16 {
				t.Helper()
				of.seq["t"] = sequence
				req := produceRequest(version, "t", -1, of.batch("t", fmt.Sprint(of.id, sequence)))
				req.TransactionID, req.Topics[0].Partitions[0].Partition, req.Topics[0].TopicID = &of.id, partition, id
				return roundTrip[*kmsg.ProduceResponse](x.c, req).Topics[0].Partitions[0].ErrorCode // all over one connection
			}
			loading, serving := coordinators(t, s, "x")
			loading()
			if code := send(x, 0, 0); code != errNotEnoughReplicas {
				t.Errorf("the first, while the coordinator loads: code %d", code)
			}
			if code := send(x, 0, 1); code != errNotEnoughReplicas {
				t.Errorf("the second, while the coordinator loads: code %d", code)
			}
			serving()
			if code := send(x, 0, 1); code != errNotEnoughReplicas {
				t.Errorf("the second, before the first: code %d", code)
			}
			if hashPartition("y", 8) == hashPartition("x", 8) {
				t.Fatal("the other id has the same coordinator")
			}
			if code := send(y, 0, 0); code != 0 {
				t.Errorf("the first of another producer: code %d", code)
			}
			for sequence := range int32(3) {
				if code := send(x, 0, sequence); code != 0 {
					t.Errorf("batch %d, in order: code %d", sequence, code)
				}
			}
		})
	}
}

// fakeBegin is a part that begins a transaction.
func fakeBegin(partition, sequence int32, epoch int16) *producePart {
	var b log.BatchBuilder
	b.SetProducer(7, epoch, sequence)
	b.SetFlags(log.AttrTransactional)
	b.Append(&log.Record{Value: []byte("v")})
	return &producePart{partition: &begun{id: log.PartitionID{Index: partition}}, batch: b.Seal(0, -1), topic: "t", index: partition}
}

type begun struct {
	laggards
	id log.PartitionID
}

func (b *begun) ID() log.PartitionID { return b.id }

// What Produce says for each answer of the coordinator: clients give up after some words, and not all of them know all.
func TestWordsOfProduceForTheCoordinators(t *testing.T) {
	for code, want := range map[int16][3]int16{ // in versions 10, 11 and 12
		errNone:                      {errNone, errNone, errNone},
		errConcurrentTransactions:    {errNotEnoughReplicas, errNotEnoughReplicas, errNotEnoughReplicas},
		errNotCoordinator:            {errNotEnoughReplicas, errNotEnoughReplicas, errNotEnoughReplicas},
		errCoordinatorLoadInProgress: {errNotEnoughReplicas, errNotEnoughReplicas, errNotEnoughReplicas},
		errCoordinatorNotAvailable:   {errNotEnoughReplicas, errNotEnoughReplicas, errNotEnoughReplicas},
		errProducerFenced:            {errInvalidProducerEpoch, errInvalidProducerEpoch, errInvalidProducerEpoch},
		errInvalidTxnState:           {errInvalidTxnState, errTransactionAbortable, errTransactionAbortable},
		errInvalidProducerIDMapping:  {errInvalidProducerIDMapping, errInvalidProducerIDMapping, errInvalidProducerIDMapping},
		errPolicyViolation:           {errPolicyViolation, errPolicyViolation, errPolicyViolation},
	} {
		for i, want := range want {
			p := &producing{c: &conn{}, version: int16(10 + i), txn: []byte("x")}
			pp := fakeBegin(0, 0, 0)
			again := p.verdict(pp, code)
			if pp.code != want || (pp.message == "") != (want == errNone || want == errInvalidProducerEpoch) {
				t.Errorf("v%d, coordinator says %d: code %d %q, want %d", p.version, code, pp.code, pp.message, want)
			}
			if retry := want == errNotEnoughReplicas; again != retry || p.c.unverified.behind(fakeBegin(0, 1, 0)) != retry {
				t.Errorf("v%d, coordinator says %d: asked again %t, those behind wait %t", p.version, code, again, !again)
			}
		}
	}
	p := &producing{c: &conn{}, version: 12, txn: []byte("x")}
	p.verdict(fakeBegin(0, 0, 0), errConcurrentTransactions)
	if p.verdict(fakeBegin(0, 0, 0), errNone); len(p.c.unverified) != 0 {
		t.Error("what has begun is still waited for")
	}
	for f := txn.OK; f < txn.NumFaults; f++ {
		if code := faultCode(f, true); f != txn.OK && code == errNone {
			t.Errorf("fault %d has no code", f)
		}
	}
}

// Those behind a refused batch are told by producer, epoch and partition; of a producer's next transaction the first batch counts, and what is noted is bounded.
func TestBatchesBehindARefusedOne(t *testing.T) {
	u := unverified{}
	u.note(fakeBegin(0, 5, 3))
	u.note(fakeBegin(0, 9, 3))
	for _, tt := range []struct {
		pp     *producePart
		behind bool
	}{
		{fakeBegin(0, 4, 3), false}, {fakeBegin(0, 5, 3), false}, {fakeBegin(0, 6, 3), true}, {fakeBegin(1, 6, 3), false}, {fakeBegin(0, 6, 4), false},
	} {
		if got := u.behind(tt.pp); got != tt.behind {
			t.Errorf("partition %v, sequence %d of epoch %d is behind: %t", tt.pp.index, tt.pp.batch.BaseSequence(), tt.pp.batch.ProducerEpoch(), got)
		}
	}
	if u.note(fakeBegin(0, 2, 3)); u.behind(fakeBegin(0, 2, 3)) || !u.behind(fakeBegin(0, 3, 3)) {
		t.Error("an earlier one that is refused as well is the first")
	}
	if u.note(fakeBegin(0, 0, 4)); len(u) != 1 || !u.behind(fakeBegin(0, 1, 4)) {
		t.Error("the next transaction takes the place of the last")
	}
	for i := range int32(2 * maxUnverified) {
		u.note(fakeBegin(i, 0, 4))
	}
	if len(u) != maxUnverified {
		t.Errorf("%d are noted, limit %d", len(u), maxUnverified)
	}
}

// The first batches of a producer reach leaders at once, and while the markers of its last transaction are still on their way: the coordinator has them wait for a moment,
// all of them for one store of another's, and sends them away after it.
func TestFirstBatchesWaitForTheCoordinator(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ft := newFakeTable(t, 1)
		view := fakeView{ft, fakeNode}
		deaf := make(chan struct{}) // markers are not heard before it is closed
		c := newTransactions(transactionsConfig{
			open: func(context.Context, bool) (transactionsTable, int32, error) { return view, 1, nil },
			term: view.term, lapsed: func() bool { return false }, clockTrusted: func() bool { return true },
			producerID: func(context.Context) (int64, error) { return 7, nil },
			end: func(_ context.Context, parts []txn.Partition, _ log.Marker) []error {
				<-deaf
				return make([]error, len(parts))
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { c.run(ctx) })
		time.Sleep(time.Second)
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID = 5, new("x"), 60_000, -1
		p, code := c.initProducer(ctx, req)
		if code != errNone {
			t.Fatal(code)
		}
		begin := func(p txn.Producer) (started [4]int64) {
			var leaders sync.WaitGroup
			for i := range started {
				leaders.Go(func() {
					at, code := c.enlist(ctx, "x", p, []txn.Partition{{Topic: "t", Index: int32(i)}})
					if code != errNone {
						t.Errorf("partition %d: code %d", i, code)
					}
					started[i] = at
				})
			}
			leaders.Wait()
			return started
		}
		first := begin(p)
		if first[0] == 0 || first != [4]int64{first[0], first[0], first[0], first[0]} {
			t.Errorf("the leaders were told of transactions that began at %v", first)
		}
		next, code := c.end(ctx, "x", p, true, txn.V2, true)
		if code != errNone || next != (txn.Producer{ID: 7, Epoch: 1}) {
			t.Fatal(next, code)
		}
		asked := time.Now()
		if _, code := c.enlist(ctx, "x", next, []txn.Partition{{Topic: "t"}}); code != errConcurrentTransactions || time.Since(asked) != stepAwaited {
			t.Errorf("while markers do not arrive: code %d after %v", code, time.Since(asked))
		}
		time.AfterFunc(stepAwaited/2, func() { close(deaf) })
		if second := begin(next); second[0] <= first[0] {
			t.Errorf("the next transaction began at %v, the one before at %v", second, first)
		}
		if _, code := c.enlist(ctx, "x", p, []txn.Partition{{Topic: "late"}}); code != errProducerFenced {
			t.Errorf("a late batch: code %d", code)
		}
		// The coordinator loses the id while somebody waits.
		ft.set(func() { ft.held = true })
		go c.enlist(ctx, "x", next, []txn.Partition{{Topic: "v"}})
		synctest.Wait()
		waits := make(chan int16, 1)
		go func() {
			_, code := c.enlist(ctx, "x", next, []txn.Partition{{Topic: "w"}})
			waits <- code
		}()
		synctest.Wait()
		c.terms[0].end()
		if code := <-waits; code != errNotCoordinator {
			t.Errorf("whose term ends meanwhile: code %d", code)
		}
		ft.set(func() { ft.held = false })
	})
}
