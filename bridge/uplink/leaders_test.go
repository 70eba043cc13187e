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

// remoteLog is read from a leader elsewhere that answers nothing while it hangs.
type remoteLog struct {
	*fakeLog
	node  int32
	hangs *atomic.Bool
	reads atomic.Int64
}

func (l *remoteLog) Leader() (int32, bool) { return l.node, true }

func (l *remoteLog) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	l.reads.Add(1)
	if l.hangs.Load() {
		time.Sleep(5 * time.Second)
		return buf[:0], errors.New("no answer in time")
	}
	return l.fakeLog.Read(from, maxBytes, buf)
}

type anySource []Log

func (s anySource) Watch(added func(Log), _ func(log.PartitionID)) (stop func()) {
	for _, l := range s {
		added(l)
	}
	return func() {}
}

// U7: a leader that hangs costs one read, however many partitions are read from it; all others go on meanwhile, and those go on when it answers again.
func TestLeaderThatHangsHoldsUpItsPartitionsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		var hangs, no atomic.Bool
		hangs.Store(true)
		var src anySource
		var stuck []*remoteLog
		for i := range int32(40) {
			l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{2}, Index: i}, topic: "telemetry", values: map[log.Offset]string{}}
			l.grow(s.rng)
			r := &remoteLog{fakeLog: l, node: 7, hangs: &hangs}
			stuck = append(stuck, r)
			src = append(src, r)
		}
		other := &remoteLog{fakeLog: s.log, node: 8, hangs: &no}
		src = append(src, other)
		cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: src, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
			target: func() target { return &fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}} },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		time.Sleep(10 * time.Second)
		for range 100 { // each is there within a second
			s.log.put("live")
			time.Sleep(time.Second)
			synctest.Wait()
			if next := s.centre.cursors[s.log.id].Next; next != s.log.end {
				t.Errorf("it is at %d of %d, and %+v", next, s.log.end, f.Status())
			}
		}
		if st := f.Status(); st.State != "failing" || st.Failures > 0 {
			t.Errorf("%+v", st)
		}
		var reads int64
		for _, l := range stuck {
			reads += l.reads.Load()
		}
		if reads > 25 { // in 110 s, one look after the other
			t.Errorf("%d reads of a node that hangs", reads)
		}
		hangs.Store(false)
		time.Sleep(20 * time.Second)
		if st := f.Status(); st.State != "idle" || st.LagRecords != 0 {
			t.Errorf("it answers again: %+v", st)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// sickLog has a fault to tell of one partition, at once, when its leader answers.
type sickLog struct{ *remoteLog }

func (l *sickLog) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	if l.hangs.Load() {
		return l.remoteLog.Read(from, maxBytes, buf)
	}
	return buf[:0], errors.New("partition is offline: its disk")
}

// U7: a leader that says at once that one partition cannot be read answers: the others that are read from it go on.
func TestLeaderThatAnswersWithAFaultAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		var hangs atomic.Bool
		hangs.Store(true)
		sick := &sickLog{&remoteLog{fakeLog: &fakeLog{id: log.PartitionID{Topic: log.TopicID{2}}, topic: "telemetry", values: map[log.Offset]string{}}, node: 7, hangs: &hangs}}
		sick.put("cannot be read")
		cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: anySource{sick, &remoteLog{fakeLog: s.log, node: 7, hangs: &hangs}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
			target: func() target { return &fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}} },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		time.Sleep(30 * time.Second)
		hangs.Store(false)
		s.log.put("live")
		time.Sleep(time.Minute)
		synctest.Wait()
		if next := s.centre.cursors[s.log.id].Next; next != s.log.end {
			t.Errorf("beside the one that cannot be read it is at %d of %d: %+v", next, s.log.end, f.Status())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A read that was on its way when others were left out leaves them out for the same reason: they go on together.
func TestLeaderIsLeftOutForOneReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		var hangs atomic.Bool
		hangs.Store(true)
		l := &remoteLog{fakeLog: s.log, node: 7, hangs: &hangs}
		f := New(Options{Config: Config{Topics: []string{"telemetry"}}, Logger: slog.New(slog.DiscardHandler)})
		f.running = t.Context()
		f.added(l)
		p := f.parts[l.id]
		f.unreadableNow(p, 5*time.Second, errors.New("no answer in time"))
		f.unreadableNow(p, 5*time.Second, errors.New("the connection is closed"))
		hangs.Store(false)
		began := time.Now()
		f.looks.Wait()
		if f.leftOut(p) {
			t.Errorf("%s after it has answered it is left out for another reason: %v", time.Since(began), p.why)
		}
	})
}
