package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// U7, U8: a record that the target refuses and that no dead-letter topic takes holds up its own partition, says so, and goes when there is room for it; what is carried
// beside it goes on meanwhile. An operator's resume ends the wait.
func TestRecordThatCannotBeBuriedHoldsUpItsPartitionAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		other := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: 1}, topic: "telemetry", values: map[log.Offset]string{}}
		for range 20 {
			s.log.grow(s.rng)
			other.grow(s.rng)
		}
		var poison log.Offset = -1
		for o := range s.log.values {
			poison = max(poison, o)
		}
		s.centre.poison[s.log.values[poison]] = true
		var room atomic.Bool
		var buried []log.Offset
		cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log, other}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
			DeadLetter: func(_ context.Context, _ string, r *log.Record) error {
				if !room.Load() {
					return errors.New("the disk is full")
				}
				buried = append(buried, r.Offset)
				return nil
			},
			target: func() target { return &fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}} },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		time.Sleep(time.Minute)
		for range 20 {
			other.grow(s.rng)
		}
		time.Sleep(2 * time.Minute)
		s.centre.mu.Lock()
		if got, want := len(s.centre.got[other.id]), len(other.values); got != want {
			t.Errorf("beside it %d of %d records were carried", got, want)
		}
		if got, want := len(s.centre.got[s.log.id]), len(s.log.values)-1; got != want {
			t.Errorf("before it %d of %d records were carried", got, want)
		}
		s.centre.mu.Unlock()
		if st := f.Status(); st.State != "failing" || !strings.Contains(st.Why, "too large; and it cannot be put into the dead-letter topic: the disk is full") || st.Failures > 100 {
			t.Errorf("%+v", st)
		}
		room.Store(true)
		f.Pause(false) // resume
		time.Sleep(2 * time.Second)
		st := f.Status()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if st.State != "idle" || st.LagRecords != 0 || st.DeadLetters != 1 || fmt.Sprint(buried) != fmt.Sprint([]log.Offset{poison}) {
			t.Errorf("%+v, buried %v, want %d", st, buried, poison)
		}
	})
}
