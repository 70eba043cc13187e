package uplink

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// judgingTarget takes everything, but for good not what is poison: as a broker that answers for each message by itself.
type judgingTarget struct {
	fakeTarget
	judged []verdict
}

func (t *judgingTarget) add(ctx context.Context, r *outgoing) error {
	if t.c.poison[string(r.Value)] {
		t.judged = append(t.judged, verdict{place{r.from, r.Offset}, errors.New("too large"), true})
		return nil
	}
	return t.fakeTarget.add(ctx, r)
}

func (t *judgingTarget) verdicts() []verdict {
	all := t.judged
	t.judged = nil
	return all
}

// U7: a record that cannot be put into the dead-letter topic has its partition wait, and nothing else comes twice or not at all meanwhile.
func TestDeadLetterThatIsRefusedHoldsItsPartitionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.centre.exactly = false
		other := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: 1}, topic: "telemetry", values: map[log.Offset]string{}}
		for range 3 {
			s.log.grow(s.rng)
		}
		for range 20 {
			other.grow(s.rng)
		}
		for _, v := range s.log.values {
			s.centre.poison[v] = true
		}
		cfg := []Config{{Name: "central", To: "mqtt://127.0.0.1:1", Topics: []string{"telemetry"}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		var full atomic.Bool
		full.Store(true)
		buried := 0
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log, other}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
			DeadLetter: func(context.Context, string, *log.Record) error {
				if full.Load() {
					return errors.New("disk full")
				}
				buried++
				return nil
			},
			target: func() target {
				return &judgingTarget{fakeTarget: fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}}}
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(s.centre.got[other.id]); n != len(other.values) || f.Status().Failures > 0 || f.Status().State != "failing" {
			t.Errorf("of the other partition %d records arrived, want %d: %+v", n, len(other.values), f.Status())
		}
		full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := f.Status(); st.State != "idle" || buried != len(s.log.values) {
			t.Errorf("%d of %d are in the dead-letter topic: %+v", buried, len(s.log.values), st)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
