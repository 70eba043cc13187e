package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// markers are what partitions have been told, in order.
type markers struct {
	mu    sync.Mutex
	rng   *rand.Rand
	calm  bool // nothing fails any more
	told  map[txn.Partition][]log.Marker
	fence map[txn.Partition]int32 // coordinator epoch
}

// end is transactionsConfig.end: some fail before they are written, some after.
func (m *markers) end(_ context.Context, parts []txn.Partition, mk log.Marker) []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := make([]error, len(parts))
	for i, p := range parts {
		if mk.CoordinatorEpoch < m.fence[p] {
			errs[i] = log.ErrCoordinatorFenced
			continue
		}
		lost := !m.calm && m.rng.IntN(4) == 0
		if lost && m.rng.IntN(2) == 0 {
			errs[i] = cluster.ErrNotLeader
			continue
		}
		m.fence[p] = mk.CoordinatorEpoch
		m.told[p] = append(m.told[p], mk)
		if lost {
			errs[i] = cluster.ErrUnavailable
		}
	}
	return errs
}

// P2: whatever happens to coordinators and markers in between, all partitions of a transaction hear of one end, that which its producer was told, and each
// transaction comes to its end. Coordinators lose their partition at any step, with what they were writing lost, kept or told late. The producer changes
// between the versions of transactions; those of version 2 have their id and epoch for themselves, also where the id's epochs run out.
func TestTransactionsWhileCoordinatorsMove(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { moveCoordinators(t, rand.New(rand.NewPCG(seed, 4))) })
		})
	}
}

func moveCoordinators(t *testing.T, rng *rand.Rand) {
	const id = "x"
	var drawMu sync.Mutex
	draw := func(n int) int {
		drawMu.Lock()
		defer drawMu.Unlock()
		return rng.IntN(n)
	}
	ft := newFakeTable(t, 1)
	if draw(2) == 0 {
		last := txn.Record{Producer: txn.Producer{ID: 0, Epoch: txn.MaxEpoch - 5}, Timeout: time.Minute, Started: -1, Next: -1, Previous: -1}
		key, value := encodeTransaction(id, &last)
		ft.parts[0] = append(ft.parts[0], entry{key, value})
	}
	m := &markers{rng: rand.New(rand.NewPCG(uint64(draw(1<<30)), 1)), told: map[txn.Partition][]log.Marker{}, fence: map[txn.Partition]int32{}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	nodes := map[int32]*transactions{}
	ids := int64(0)
	seen := map[int32]fakeTerm{1: {1, 1, true}, 2: {1, 1, true}} // by node: who leads, by the metadata in force there
	var seenMu sync.Mutex
	for node := int32(1); node <= 2; node++ {
		c := newTransactions(transactionsConfig{
			open: func(context.Context, bool) (transactionsTable, int32, error) { return fakeView{ft, node}, 1, nil },
			term: func(int32) (log.Epoch, bool) {
				seenMu.Lock()
				defer seenMu.Unlock()
				return seen[node].epoch, seen[node].node == node
			},
			lapsed: func() bool { return false }, clockTrusted: func() bool { return true },
			producerID: func(context.Context) (int64, error) { ids++; return ids, nil }, end: m.end,
		})
		nodes[node] = c
		running.Go(func() { c.run(ctx) })
	}
	leader := func() *transactions {
		ft.mu.Lock()
		defer ft.mu.Unlock()
		return nodes[ft.leaders[0].node]
	}
	move := func() {
		ft.move(0, int32(1+draw(2)), false, func() fate { return fate(draw(int(fateCount))) })
		ft.mu.Lock()
		now := ft.leaders[0]
		ft.mu.Unlock()
		time.AfterFunc(time.Duration(draw(20))*time.Millisecond, func() {
			ft.set(func() { ft.leaders[0].settled = ft.leaders[0].settled || ft.leaders[0] == now })
		})
		for node, c := range nodes {
			time.AfterFunc(time.Duration(draw(10))*time.Millisecond, func() {
				seenMu.Lock()
				if seen[node].epoch < now.epoch {
					seen[node] = now
				}
				seenMu.Unlock()
				c.metadataChanged()
			})
		}
	}
	// A producer as the clients are: it asks again until it knows.
	ask := func(what func(c *transactions, ctx context.Context) int16) int16 {
		for range 400 {
			if draw(6) == 0 {
				time.AfterFunc(time.Duration(draw(3))*time.Millisecond, move)
			}
			short, done := context.WithTimeout(ctx, 50*time.Millisecond)
			code := what(leader(), short)
			done()
			switch code {
			case errConcurrentTransactions, errCoordinatorNotAvailable, errCoordinatorLoadInProgress, errNotCoordinator:
				time.Sleep(20 * time.Millisecond)
			default:
				return code
			}
		}
		return errRequestTimedOut
	}
	var p txn.Producer
	begin := func() {
		req := kmsg.NewPtrInitProducerIDRequest()
		name := id
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 2, &name, 60_000
		if code := ask(func(c *transactions, ctx context.Context) (code int16) {
			p, code = c.initProducer(ctx, req)
			return code
		}); code != errNone {
			t.Fatalf("InitProducerId: code %d", code)
		}
	}
	begin()
	type ended struct {
		p     txn.Producer
		parts []txn.Partition
		code  int16
		want  bool
		v2    bool
	}
	var all []ended
	for range 12 {
		if draw(8) == 0 {
			begin()
		}
		e := ended{p: p, want: draw(3) > 0, v2: draw(3) > 0}
		for n := range 1 + draw(3) {
			e.parts = append(e.parts, txn.Partition{Topic: "t", Index: int32(len(all)*10 + n)}) // each transaction has its own
			if code := ask(func(c *transactions, ctx context.Context) int16 {
				if e.v2 {
					_, code := c.enlist(ctx, id, p, e.parts[n:])
					return code
				}
				return c.addPartitions(ctx, id, p, e.parts[n:], true)
			}); code != errNone {
				t.Fatalf("AddPartitionsToTxn: code %d", code)
			}
		}
		e.code = ask(func(c *transactions, ctx context.Context) int16 {
			version := int16(txn.V1)
			if e.v2 {
				version = txn.V2
			}
			next, code := c.end(ctx, id, e.p, e.want, version, true)
			if code == errNone && e.v2 {
				p = next
			}
			return code
		})
		if e.code != errNone {
			t.Fatalf("EndTxn: code %d", e.code)
		}
		all = append(all, e)
	}
	m.mu.Lock()
	m.calm = true
	m.mu.Unlock()
	time.Sleep(30 * time.Second)
	e, code := leader().find(id, false)
	if e == nil {
		t.Fatalf("code %d", code)
	}
	if st := e.x.Record().State; st != txn.CompleteCommit && st != txn.CompleteAbort {
		t.Errorf("in the end the state is %v", st)
	}
	e.mu.Unlock()
	for i, e := range all {
		if at := slices.IndexFunc(all, func(o ended) bool { return o.p == e.p }); at < i && all[at].v2 {
			t.Errorf("transaction %d: %v had one before", i, e.p)
		}
		marked := e.p
		if e.v2 {
			marked.Epoch++
		}
		for _, at := range e.parts {
			if len(m.told[at]) == 0 {
				t.Errorf("transaction %d: partition %v was never told", i, at)
			}
			for _, mk := range m.told[at] {
				if mk.Commit != e.want || mk.ProducerID != marked.ID || mk.ProducerEpoch != marked.Epoch || mk.Own != e.v2 {
					t.Errorf("transaction %d: partition %v was told %+v, its producer %+v that commit is %t", i, at, mk, e.p, e.want)
				}
			}
		}
	}
}

// removals sees whether an id that is removed from the table could have been made anew already.
type removals struct {
	transactionsTable
	t     *txnTerm
	early bool
}

func (r *removals) PutIn(_ int32, _ log.Epoch, _, value []byte, done func(error)) bool {
	r.t.mu.Lock()
	r.early = value == nil && r.t.entries["x"] != nil
	r.t.mu.Unlock()
	done(nil)
	return true
}

// An id is forgotten in the table before somebody else can make it there: the last record is the one that the next coordinator finds.
func TestForgottenInOrder(t *testing.T) {
	c := newTransactions(transactionsConfig{lapsed: func() bool { return false }, clockTrusted: func() bool { return true }})
	term := &txnTerm{ctx: t.Context(), entries: map[string]*txnEntry{}}
	term.state.Store(termServing)
	term.entries["x"] = &txnEntry{id: "x", t: term, x: txn.Restore(txn.Record{Producer: txn.Producer{ID: 1}, Next: -1, Previous: -1}, time.Now())}
	table := &removals{t: term}
	c.table, c.terms = table, []*txnTerm{term}
	c.expire(time.Now())
	if len(term.entries) != 0 || !table.early {
		t.Errorf("%d ids are left; removed from the table before: %v", len(term.entries), table.early)
	}
}
