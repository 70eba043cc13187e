package deliver

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ackingTarget has a window; its client goroutine acks, which makes room, and calls Ready after a
// refusal, as a connection does.
type ackingTarget struct {
	h      *Hub
	id     string
	window int

	mu      sync.Mutex
	next    []log.Offset // by partition
	total   int
	unacked int
	refused bool
	errs    []string
	acks    chan struct{}
}

func (a *ackingTarget) Deliver(m *Message, qos byte, _ bool, _ []uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unacked == a.window {
		a.refused = true
		return false
	}
	p := m.ID.Index
	if m.Offset != a.next[p] {
		a.errs = append(a.errs, fmt.Sprintf("%s got offset %d of %d, want %d", a.id, m.Offset, p, a.next[p]))
	}
	a.next[p] = m.Offset + 1
	a.total++
	a.unacked++
	select {
	case a.acks <- struct{}{}:
	default:
	}
	return true
}

// client acks all that is outstanding whenever something is.
func (a *ackingTarget) client(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.acks:
		}
		a.mu.Lock()
		a.unacked = 0
		refused := a.refused
		a.refused = false
		a.mu.Unlock()
		if refused {
			a.h.Ready(a.id)
		}
	}
}

// Publishers, workers, clients that ack and sessions that come and go run freely against each other:
// every session gets every record of every partition, in order, however Ready and refusals cross.
func TestDeliveryUnderConcurrency(t *testing.T) {
	const partitions, batches, perBatch, clients = 4, 200, 5, 4
	src := &fakeSource{}
	for i := range partitions {
		src.logs = append(src.logs, newFakeLog("t", int32(i)))
	}
	h, err := NewHub(Config{Source: src, Limits: Limits{Workers: 3, ReadBytes: 500, PostingsEach: 8}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var background, publishers sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { h.Run(ctx) })
	targets := make([]*ackingTarget, clients)
	for i := range targets {
		a := &ackingTarget{h: h, id: fmt.Sprintf("c%d", i), window: 1 + 3*i, next: make([]log.Offset, partitions), acks: make(chan struct{}, 1)}
		targets[i] = a
		h.Attach(a.id, a, true, Cursor{}, nil)
		if _, err := h.Subscribe(a.id, Sub{Filter: "#", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		background.Go(func() { a.client(ctx) })
	}
	for _, l := range src.logs {
		publishers.Go(func() {
			for b := range batches {
				var records []log.Record
				for r := range perBatch {
					records = append(records, published("x", fmt.Sprint(b*perBatch+r), 1))
				}
				l.commit(records...)
			}
		})
	}
	for range 50 { // the last client reconnects all the time
		a := targets[clients-1]
		h.Detach(a.id)
		h.Attach(a.id, a, true, Cursor{}, nil)
		// And others subscribe and leave, which must not move anybody's place.
		h.Attach("passer-by", &nullTarget{room: 1}, false, Cursor{}, nil)
		if _, err := h.Subscribe("passer-by", Sub{Filter: "y", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		h.Detach("passer-by")
	}
	publishers.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for _, a := range targets {
		for {
			a.mu.Lock()
			total, errs := a.total, a.errs
			a.mu.Unlock()
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			if total == partitions*batches*perBatch {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s has %d of %d: %+v", a.id, total, partitions*batches*perBatch, h.Stats())
			}
			time.Sleep(time.Millisecond) // polls a count that other goroutines move; nothing is ordered by it
		}
	}
}
