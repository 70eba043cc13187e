package uplink

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// thinTarget takes so many bytes a second, and allows no transactions longer than most.
type thinTarget struct {
	fakeTarget
	f       *Forwarder
	rate    int
	most    time.Duration
	waiting int // bytes
}

func (t *thinTarget) open(ctx context.Context) (map[log.PartitionID]progress, error) {
	if t.f.patience.transaction() > t.most {
		t.f.patience.refused(t.most)
		return nil, errors.New("INVALID_TRANSACTION_TIMEOUT")
	}
	return t.fakeTarget.open(ctx)
}

func (t *thinTarget) add(ctx context.Context, r *outgoing) error {
	t.waiting += len(r.Value)
	return t.fakeTarget.add(ctx, r)
}

func (t *thinTarget) commit(ctx context.Context, cursors map[log.PartitionID]progress) error {
	timer := time.NewTimer(time.Duration(t.waiting) * time.Second / time.Duration(t.rate))
	defer timer.Stop()
	select {
	case <-timer.C:
		t.waiting = 0
		return t.fakeTarget.commit(ctx, cursors)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A record that takes minutes on a thin link arrives; one that takes longer than the target allows stops at what it allows, and says so.
func TestLargeRecordOnAThinLink(t *testing.T) {
	for _, c := range []struct {
		rate    int // of which a record of 1 MiB takes 17 minutes with 1 KiB
		most    time.Duration
		arrives bool
	}{{8 << 10, longestTransaction, true}, {2 << 10, longestTransaction, true}, {1 << 10, longestTransaction, false}, {8 << 10, 150 * time.Second, true}, {8 << 10, 100 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene()
			s.log.grow(s.rng)
			s.log.put(string(make([]byte, 1<<20)))
			cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
			if err := Check(cfg, ""); err != nil {
				t.Fatal(err)
			}
			var f *Forwarder
			f = New(Options{
				Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
				target: func() target {
					return &thinTarget{fakeTarget: fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}}, f: f, rate: c.rate, most: c.most}
				},
			})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- f.Run(ctx) }()
			time.Sleep(2 * time.Hour)
			st := f.Status()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			switch n := len(s.centre.got[s.log.id]); {
			case c.arrives && (n != len(s.log.values) || st.State != "idle"):
				t.Errorf("%d bytes a second, %s: %d of %d arrived: %+v", c.rate, c.most, n, len(s.log.values), st)
			case !c.arrives && (st.Records > 0 || st.Failures == 0 || f.patience.transaction() > c.most):
				t.Errorf("%d bytes a second, %s: %+v with %s", c.rate, c.most, st, f.patience.transaction())
			}
		})
	}
}

// Without a large record nobody waits longer, however long one took before; and a better link brings the usual back.
func TestPatienceIsForLargeRecordsOnly(t *testing.T) {
	var p patience
	for range 9 {
		p.late()
	}
	if p.transaction() != longestTransaction || p.chunk(true) != longestTransaction-giveUp || p.chunk(false) != transactionTimeout-giveUp {
		t.Errorf("%s: chunks of %s and %s", p.transaction(), p.chunk(true), p.chunk(false))
	}
	if p.took(2 * time.Minute); p.transaction() != 8*time.Minute {
		t.Errorf("%s after one of 2 minutes", p.transaction())
	}
	if p.refused(0); p.transaction() != 4*time.Minute || p.most != 4*time.Minute {
		t.Errorf("%s after 8 minutes were refused", p.transaction())
	}
	if p.took(time.Second); p.transaction() != transactionTimeout {
		t.Errorf("%s after one of a second", p.transaction())
	}
}

// The time that one large record has taken is given back when none comes for long.
func TestPatienceIsGivenBack(t *testing.T) {
	var p patience
	p.late()
	p.late()
	for range calmCommits - 1 {
		p.ordinary()
	}
	if p.transaction() != 15*time.Minute {
		t.Errorf("%s before a thousand commits", p.transaction())
	}
	if p.ordinary(); p.transaction() != longestTransaction/4 {
		t.Errorf("%s after a thousand", p.transaction())
	}
	for range 2 * calmCommits {
		p.ordinary()
	}
	if p.transaction() != transactionTimeout {
		t.Errorf("%s in the end", p.transaction())
	}
}
