package kafka

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/log"
)

// aheadView is the table of a broker that is alone.
type aheadView struct {
	fakeView
	place *log.Partition
}

func (v aheadView) Ahead(int32) *log.Partition { return v.place }

// toldAhead are the markers that partitions were told, and behind what.
type toldAhead struct {
	mu   sync.Mutex
	told []log.Marker
}

func (m *toldAhead) end(_ context.Context, parts []txn.Partition, mk log.Marker) []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = append(m.told, mk)
	return make([]error, len(parts))
}

func (m *toldAhead) markers() []log.Marker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told
}

// lone runs a coordinator of a broker that is alone, with a producer.
func lone(t *testing.T, fn func(t *testing.T, c *transactions, ft *fakeTable, m *toldAhead, place *log.Partition, p txn.Producer)) {
	bubble(t, func(t *testing.T) {
		ft, m, place := newFakeTable(t, 1), &toldAhead{}, new(log.Partition)
		view := aheadView{fakeView{ft, fakeNode}, place}
		c := newTransactions(transactionsConfig{
			open: func(context.Context, bool) (transactionsTable, int32, error) { return view, 1, nil },
			term: view.term, lapsed: func() bool { return false }, clockTrusted: func() bool { return true },
			producerID: func(context.Context) (int64, error) { return 1, nil }, end: m.end,
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { c.run(ctx) })
		time.Sleep(time.Second)
		req, id := kmsg.NewPtrInitProducerIDRequest(), "x"
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 2, &id, 60_000
		p, code := c.initProducer(ctx, req)
		if code != errNone {
			t.Fatal(code)
		}
		fn(t, c, ft, m, place, p)
	})
}

func (c *transactions) stateOf(t *testing.T, id string) txn.State {
	t.Helper()
	e, code := c.find(id, false)
	if e == nil {
		t.Fatal(code)
	}
	defer e.mu.Unlock()
	return e.x.Record().State
}

// A lone broker has the first batches, and the markers, go behind what makes them right without waiting for it; what is answered waits. // J8, P2
func TestLoneBrokerGoesAhead(t *testing.T) {
	lone(t, func(t *testing.T, c *transactions, ft *fakeTable, m *toldAhead, place *log.Partition, p txn.Producer) {
		parts := []txn.Partition{{Topic: "t"}, {Topic: "u"}}
		ft.set(func() { ft.held = true })
		a := c.enlistAhead(t.Context(), "x", p, parts)
		if a.code != errNone || a.storing.behind != place || a.started == 0 {
			t.Errorf("the first batch may not go ahead: %+v", a)
		}
		if s := c.stateOf(t, "x"); s != txn.Empty {
			t.Errorf("%v, and nothing is stored", s)
		}
		var next txn.Producer
		code := int16(-1)
		go func() { next, code = c.end(t.Context(), "x", p, true, txn.V2, true) }() // before the first step is known to be stored
		synctest.Wait()
		if len(m.markers()) > 0 || code != -1 {
			t.Fatalf("ended before it has begun: code %d", code)
		}
		ft.set(func() { ft.held = false })
		synctest.Wait()
		if told := m.markers(); len(told) != 1 || told[0].Behind != place || !told[0].Commit || told[0].ProducerEpoch != p.Epoch+1 {
			t.Errorf("told %+v", told)
		}
		if code != errNone || next != (txn.Producer{ID: p.ID, Epoch: p.Epoch + 1}) || c.stateOf(t, "x") != txn.CompleteCommit {
			t.Errorf("code %d, %+v, %v", code, next, c.stateOf(t, "x"))
		}

		if a := c.enlistAhead(t.Context(), "x", next, parts); a.code != errNone {
			t.Fatal(a.code)
		}
		synctest.Wait()
		ft.set(func() { ft.held = true })
		code = -1
		go func() { _, code = c.end(t.Context(), "x", next, false, txn.V2, true) }()
		synctest.Wait()
		if told := m.markers(); len(told) != 2 || told[1].Behind != place || told[1].Commit {
			t.Errorf("markers wait for the decision to be stored, or are not behind it: %+v", told)
		}
		if s := c.stateOf(t, "x"); code != -1 || s != txn.Ongoing {
			t.Errorf("answered %d, and in state %v, before the decision is stored", code, s)
		}
		ft.set(func() { ft.held = false })
		synctest.Wait()
		if told := m.markers(); code != errNone || c.stateOf(t, "x") != txn.CompleteAbort || len(told) != 2 {
			t.Errorf("code %d, %v, %d markers", code, c.stateOf(t, "x"), len(told))
		}
	})
}

// Nothing goes ahead of what was not appended, and the coordinator of a group waits.
func TestWhatDoesNotGoAhead(t *testing.T) {
	lone(t, func(t *testing.T, c *transactions, ft *fakeTable, m *toldAhead, _ *log.Partition, p txn.Producer) {
		if _, code := c.enlist(t.Context(), "x", p, []txn.Partition{{Topic: "t"}, {Topic: offsetsTopic}}); code != errNone {
			t.Fatal(code)
		}
		ft.set(func() { ft.held = true })
		code := int16(-1)
		go func() { _, code = c.end(t.Context(), "x", p, true, txn.V2, true) }()
		synctest.Wait()
		if told := m.markers(); len(told) > 0 || code != -1 {
			t.Errorf("code %d, told %+v, with offsets of a group", code, told)
		}
		ft.set(func() { ft.held = false })
		synctest.Wait()
		if told := m.markers(); len(told) != 1 || told[0].Behind != nil {
			t.Errorf("told %+v", told)
		}

		p.Epoch++
		ft.set(func() { ft.fenced = true })
		if a := c.enlistAhead(t.Context(), "x", p, []txn.Partition{{Topic: "t"}}); a.code == errNone || a.storing.behind != nil {
			t.Errorf("a batch may go behind what was not appended: %+v", a)
		}
	})
}

// enlist, for those who answer somebody else, waits.
func TestEnlistWaits(t *testing.T) {
	lone(t, func(t *testing.T, c *transactions, ft *fakeTable, _ *toldAhead, _ *log.Partition, p txn.Producer) {
		ft.set(func() { ft.held = true })
		code := int16(-1)
		go func() { _, code = c.enlist(t.Context(), "x", p, []txn.Partition{{Topic: offsetsTopic}}) }()
		synctest.Wait()
		if code != -1 {
			t.Errorf("code %d before it is stored", code)
		}
		ft.set(func() { ft.held = false })
		synctest.Wait()
		if code != errNone {
			t.Errorf("code %d", code)
		}
	})
}

// A term that is over, and whose context has not ended yet, decides nothing: its markers would go without what they are behind. // J8
func TestTermThatIsOverDecidesNothing(t *testing.T) {
	tm := &txnTerm{ctx: t.Context(), stop: func() {}}
	e := &txnEntry{id: "x", t: tm, x: txn.Restore(txn.Record{State: txn.PrepareCommit, Next: -1, Previous: -1}, time.Now())}
	tm.state.Store(termServing)
	if !e.awaitDecided(t.Context()) {
		t.Error("what is decided is waited for")
	}
	tm.state.Store(termEnded)
	if e.awaitDecided(t.Context()) {
		t.Error("a term that is over goes on")
	}
}
