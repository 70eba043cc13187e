package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// wires are the lines between brokers of a test. A call that goes through is answered by its target's port.
type wires struct {
	mu  sync.Mutex
	all map[meta.UUID]*Broker
	cut map[[2]meta.UUID]bool // nothing comes, and nothing says so
	old map[meta.UUID]bool    // of a version that passes nothing on
	log []string
}

// at is the network of one of them.
func (w *wires) at(id meta.UUID) network { return wire{w, id} }

type wire struct {
	*wires
	from meta.UUID
}

func (w wire) call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	w.mu.Lock()
	cut, old, callee := w.cut[[2]meta.UUID{w.from, to}], w.old[to], w.all[to]
	w.log = append(w.log, fmt.Sprintf("%d>%d method %d cut %t", w.from[0], to[0], m, cut))
	w.mu.Unlock()
	if cut {
		<-ctx.Done()
		return rpc.Reply{}, fmt.Errorf("%w: %w", rpc.ErrUnreachable, context.Cause(ctx))
	}
	control, err := rpc.Encode(request)
	if err != nil {
		return rpc.Reply{}, err
	}
	if old && m == methodRelay {
		return rpc.Reply{}, rpc.ErrFrame
	}
	a, err := (&port{b: callee, rooms: map[rpc.Method]rpc.Handler{}}).handle(ctx, &rpc.Request{Method: m, Control: control, Raw: raw})
	if err != nil {
		return rpc.Reply{}, err
	}
	if control, err = rpc.Encode(a.Control); err == nil && answer != nil {
		err = rpc.Decode(control, answer)
	}
	return rpc.Reply{Raw: slices.Clone(a.Raw)}, err
}

func (w *wires) set(a, b meta.UUID, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]meta.UUID{a, b}] = cut
}

// calls are those since it was asked last.
func (w *wires) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.log = nil }()
	return w.log
}

// among runs a test on simulated time with a broker that leads a partition with two records, and others of its cluster that are little more than their ports.
func among(t *testing.T, others int, test func(t *testing.T, w *wires, p *Partition, others []*Broker)) {
	one, p := onePartition(t, nil)
	appendAll(t, p, "a", "b")
	synctest.Test(t, func(t *testing.T) {
		w, brokers := wiresTo(t, one, others)
		test(t, w, p, brokers)
		for _, b := range brokers {
			close(b.closing)
		}
		synctest.Wait() // whoever looks after a line gives up
	})
}

func wiresTo(t *testing.T, one *Broker, others int) (w *wires, brokers []*Broker) {
	im := one.Image()
	w = &wires{all: map[meta.UUID]*Broker{im.Broker(1).UUID: one}, cut: map[[2]meta.UUID]bool{}, old: map[meta.UUID]bool{}}
	for i := range others {
		uuid := meta.UUID{byte(i + 2)}
		var err error
		if im, _, err = im.Apply(&meta.RegisterBroker{ClusterID: im.ClusterID, UUID: uuid, Nonce: uuid, Host: "h", Peer: "h:1"}); err != nil {
			t.Fatal(err)
		}
		b := &Broker{cfg: testConfig(t.TempDir()).withDefaults(), id: int32(i + 2), registered: make(chan struct{}), closing: make(chan struct{})}
		close(b.registered)
		b.net = w.at(uuid)
		w.all[uuid], brokers = b, append(brokers, b)
	}
	for _, b := range brokers {
		b.table.Store(newPartitionTable(b.id, im))
	}
	return w, brokers
}

func readThrough(b *Broker, p *Partition) error {
	got, err := b.ReadLeader(p.ID(), 0, 1<<20, nil)
	if err == nil && len(got) == 0 {
		err = errors.New("nothing was read")
	}
	return err
}

// M10: two brokers that do not reach each other, and a third that reaches both: what one asks the other goes through it once the line is found to be down, until it
// is there again.
func TestCallsGoThroughAThirdBroker(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two, first := others[0], others[0].Image().Broker(1).UUID
		mine := meta.UUID{2}
		w.set(mine, first, true)
		began := time.Now()
		if err := readThrough(two, p); !errors.Is(err, rpc.ErrUnreachable) || time.Since(began) >= readTimeout {
			t.Fatalf("over a line that is down: %v after %v", err, time.Since(began))
		}
		synctest.Wait() // a third is found
		if err := readThrough(two, p); err != nil {
			t.Fatalf("round about: %v, calls %q", err, w.calls())
		}
		w.set(mine, first, false)
		w.calls()
		for began := time.Now(); two.detours.gone(first); synctest.Wait() {
			if time.Sleep(100 * time.Millisecond); time.Since(began) > 2*detourHold+lookTimeout {
				t.Fatal("the line is not tried again")
			}
			if err := readThrough(two, p); err != nil {
				t.Fatal(err)
			}
		}
		w.calls()
		if err := readThrough(two, p); err != nil {
			t.Error(err)
		}
		if calls := w.calls(); len(calls) != 1 {
			t.Errorf("the line is there again: calls %q", calls)
		}
	})
}

// A leader that takes its time is no line that is down: the call stays where it is.
func TestSlowAnswerIsNoCut(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two, first := others[0], others[0].Image().Broker(1).UUID
		slow := slowly{w.at(meta.UUID{2}), methodRead, silence + 2*lookTimeout}
		two.net = slow
		if err := readThrough(two, p); err != nil || two.detours.gone(first) {
			t.Errorf("away %t, %v", two.detours.gone(first), err)
		}
	})
}

// A connection that is lost once is no line that is down: those who use it are not sent round.
func TestLostConnectionIsNoCut(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two := others[0]
		two.net = &once{network: w.at(meta.UUID{2})}
		if err := readThrough(two, p); !errors.Is(err, rpc.ErrUnreachable) {
			t.Fatal(err)
		}
		synctest.Wait()
		if two.detours.count() != 0 {
			t.Error("it goes round")
		}
	})
}

// once loses the first call.
type once struct {
	network
	done bool
}

func (o *once) call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	if !o.done {
		o.done = true
		return rpc.Reply{}, fmt.Errorf("%w: reset", rpc.ErrUnreachable)
	}
	return o.network.call(ctx, to, m, request, raw, answer)
}

// Where there is no other way a slow line is given the time that it takes.
func TestSlowLineIsTheOnlyOne(t *testing.T) {
	among(t, 1, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two := others[0]
		two.net = slowly{w.at(meta.UUID{2}), 0, readTimeout - time.Second}
		for range 2 {
			two.suspect(two.Image().Broker(1)) // as who follows it does
			if err := readThrough(two, p); err != nil {
				t.Error(err)
			}
		}
	})
}

// slowly has the answers to one method, or all, take so long.
type slowly struct {
	network
	m    rpc.Method
	late time.Duration
}

func (s slowly) call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	if m == s.m || s.m == 0 {
		select {
		case <-time.After(s.late):
		case <-ctx.Done():
			return rpc.Reply{}, fmt.Errorf("%w: %w", rpc.ErrUnreachable, context.Cause(ctx))
		}
	}
	return s.network.call(ctx, to, m, request, raw, answer)
}

// A third that does not reach the node either, or is of a version that passes nothing on, is passed over, and the next one tried; calls go where one has answered.
func TestNextThirdIsTried(t *testing.T) {
	among(t, 4, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two, first := others[0], others[0].Image().Broker(1)
		w.set(meta.UUID{2}, first.UUID, true)
		w.set(meta.UUID{3}, first.UUID, true)
		w.old[meta.UUID{4}] = true
		parted := make(chan int32, 9)
		two.OnParted(func(broker int32) { parted <- broker })
		two.suspect(first)
		if id := <-parted; id != first.ID {
			t.Errorf("broker %d is parted", id)
		}
		synctest.Wait()
		w.calls()
		if err := readThrough(two, p); err != nil {
			t.Error(err)
		}
		// Beside it the node looks whether the line is up again.
		if calls := w.calls(); !slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "2>5 ") }) {
			t.Errorf("calls %q", calls)
		}
		w.set(meta.UUID{3}, first.UUID, false)
		w.set(meta.UUID{5}, first.UUID, true)
		if err := readThrough(two, p); !errors.Is(err, rpc.ErrUnreachable) {
			t.Errorf("through one that does not reach it any more: %v", err)
		}
		for began := time.Now(); readThrough(two, p) != nil; {
			if time.Since(began) > 2*poorFor {
				t.Fatalf("no other is found: calls %q", w.calls())
			}
			time.Sleep(forwardRetry)
		}
	})
}

// A third that was not reached, and that nobody has called since, is found to be there again when it is needed.
func TestThirdIsThereAgain(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two, first := others[0], others[0].Image().Broker(1)
		w.set(meta.UUID{2}, meta.UUID{3}, true)
		two.suspect(two.Image().Broker(3))
		time.Sleep(time.Minute)
		w.set(meta.UUID{2}, meta.UUID{3}, false)
		w.set(meta.UUID{2}, first.UUID, true)
		two.suspect(first)
		for began := time.Now(); readThrough(two, p) != nil; time.Sleep(forwardRetry) {
			if time.Since(began) > readTimeout+silence+lookTimeout+detourHold {
				t.Fatalf("calls %q", w.calls())
			}
		}
	})
}

// Of a node that nobody reaches a third need not be asked by those who wait for it.
func TestDeadNodeIsNotSoughtByCalls(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, p *Partition, others []*Broker) {
		two, first := others[0], others[0].Image().Broker(1)
		w.set(meta.UUID{2}, first.UUID, true)
		w.set(meta.UUID{3}, first.UUID, true)
		for range 2 {
			began := time.Now()
			if err := readThrough(two, p); !errors.Is(err, rpc.ErrUnreachable) || time.Since(began) > silence+lookTimeout {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
	})
}

// What a third passes on: calls that may come twice, to a node that is meant, and never to another that passes them on again.
func TestRelayEndsAtTheNextNode(t *testing.T) {
	among(t, 2, func(t *testing.T, w *wires, _ *Partition, others []*Broker) {
		three, first := others[1], others[1].Image().Broker(1).UUID
		for _, bad := range []relayCall{
			{first[:], methodPropose, []byte{0xa0}, 0}, {first[:], methodRelay, []byte{0xa0}, 0}, {first[:], methodFeed, []byte{0xa0}, 0}, {first[:], methodRenew, []byte{0xa0}, 0},
			{[]byte{1}, methodRead, []byte{0xa0}, 0}, {make([]byte, 16), methodRead, []byte{0xa0}, 0}, {slices.Repeat([]byte{3}, 1), methodEnds, nil, 0},
		} {
			if _, err := three.answerRelay(t.Context(), &bad, nil); err == nil {
				t.Errorf("passed on: %+v", bad)
			}
		}
		if calls := w.calls(); len(calls) != 0 {
			t.Errorf("calls %q", calls)
		}
		// Nothing is done for who does not wait any more.
		w.set(meta.UUID{3}, first, true)
		began := time.Now()
		if a, err := three.answerRelay(t.Context(), &relayCall{first[:], methodEnds, []byte{0xa0}, 200}, nil); err != nil || time.Since(began) > 200*time.Millisecond {
			t.Errorf("%+v, %v after %v", a.Control, err, time.Since(began))
		}
		time.Sleep(time.Minute) // what was suspected is looked at
		three.detours.mu.Lock()
		three.detours.nodes = nil
		three.detours.mu.Unlock()
		w.calls()
		// It does not reach the node itself: it says so, and asks nobody else, and how many wait is bounded.
		var asking sync.WaitGroup
		for range 4 * relayAtOnce {
			asking.Go(func() {
				a, err := three.answerRelay(t.Context(), &relayCall{first[:], methodEnds, []byte{0xa0}, 0}, nil)
				if err != nil || a.Control.(relayAnswer).Unreached == "" {
					t.Errorf("%+v, %v", a.Control, err)
				}
			})
		}
		synctest.Wait()
		if calls := w.calls(); len(calls) != relayAtOnce {
			t.Errorf("%d calls at once: %q", len(calls), calls[0])
		}
		asking.Wait()
		// Once it knows it says so at once.
		synctest.Wait()
		began = time.Now()
		a, err := three.answerRelay(t.Context(), &relayCall{first[:], methodEnds, []byte{0xa0}, 0}, nil)
		if took := time.Since(began); err != nil || a.Control.(relayAnswer).Unreached == "" || took > 0 {
			t.Errorf("%+v, %v after %v", a.Control, err, took)
		}
	})
}
