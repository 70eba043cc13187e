package uplink

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// scene is one partition, one forwarder and a centre that fails at nothing.
type scene struct {
	log    *fakeLog
	centre *centre
	store  *storeState
	rng    *rand.Rand
}

func newScene() *scene {
	return &scene{
		log:    &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}}, topic: "telemetry", values: map[log.Offset]string{}},
		centre: &centre{rng: rand.New(rand.NewPCG(3, 3)), calm: true, exactly: true, cursors: map[log.PartitionID]progress{}, got: map[log.PartitionID][]log.Offset{}, values: map[log.PartitionID]map[log.Offset]string{}, gaps: map[log.PartitionID][]Span{}, poison: map[string]bool{}},
		store:  &storeState{rng: rand.New(rand.NewPCG(1, 1)), kept: map[string][]byte{}},
		rng:    rand.New(rand.NewPCG(2, 2)),
	}
}

// begin runs a forwarder until stop.
func (s *scene) begin(t *testing.T, paused bool) (f *Forwarder, stop func()) {
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	f = New(Options{
		Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term},
		DeadLetter: func(context.Context, string, *log.Record) error { return errors.New("none is expected") }, Logger: slog.New(slog.DiscardHandler),
		target: func() target { return &fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}} },
	})
	f.Pause(paused)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	return f, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// U5: what the log has deleted before it was carried is told at the target and counted; what it had deleted before there was an uplink is not.
func TestGapIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.log.grow(s.rng)
		s.log.start = s.log.end
		began := s.log.start
		f, stop := s.begin(t, true)
		synctest.Wait() // it knows of the partition
		for range 5 {
			s.log.grow(s.rng)
		}
		s.log.mu.Lock()
		s.log.start = s.log.batches[len(s.log.batches)-1].BaseOffset()
		deleted := Span{began, s.log.start}
		s.log.mu.Unlock()
		f.Pause(false)
		time.Sleep(time.Minute)
		st := f.Status()
		stop()
		if g := s.centre.gaps[s.log.id]; len(g) != 1 || g[0] != deleted || st.GapRecords != int64(deleted.To-deleted.From) {
			t.Errorf("announced %v, counted %d; %v were deleted", g, st.GapRecords, deleted)
		}
		if st.LagRecords != 0 {
			t.Errorf("%d records wait", st.LagRecords)
		}
	})
}

// U3: the target's cursors count for a partition too that is there only later in a connection, or was left out when it was made: nothing of it comes twice.
func TestCursorOfAPartitionThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.store.steady = true
		later := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: 1}, topic: "telemetry", values: map[log.Offset]string{}}
		stuck := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: 2}, topic: "telemetry", values: map[log.Offset]string{}}
		for range 10 {
			s.log.put("here")
			later.put("later")
			stuck.put("stuck")
		}
		f, stop := s.begin(t, false)
		f.added(later)
		f.added(stuck)
		time.Sleep(time.Minute)
		stop()
		clear(s.store.kept) // the target alone knows
		for range 5 {
			s.log.put("here")
			later.put("later")
			stuck.put("stuck")
		}
		f, stop = s.begin(t, true)
		synctest.Wait()
		f.added(stuck)
		f.mu.Lock()
		f.parts[stuck.id].until = time.Now().Add(time.Minute)
		f.paused = false
		f.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(s.centre.got[s.log.id]); n != 15 || len(s.centre.got[stuck.id]) != 10 {
			t.Errorf("%d arrived, and %d of what is left out", n, len(s.centre.got[stuck.id]))
		}
		f.added(later)
		time.Sleep(5 * time.Minute)
		st := f.Status()
		stop()
		for _, l := range []*fakeLog{s.log, later, stuck} {
			if got := s.centre.got[l.id]; len(got) != 15 || !slices.IsSorted(got) || s.centre.cursors[l.id].Next != 15 {
				t.Errorf("partition %d: %v arrived, the target is at %d", l.id.Index, got, s.centre.cursors[l.id].Next)
			}
		}
		if st.Failures > 0 || st.State != "idle" {
			t.Errorf("%+v", st)
		}
	})
}

// U5: where nobody knows yet where a log begins, since it is read from another node, its beginning is no gap.
func TestBeginningThatIsToldLaterIsNoGap(t *testing.T) {
	for _, paused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene()
			for range 5 {
				s.log.put("old")
			}
			start, hw := log.Offset(3), s.log.hw
			s.log.hw = 0
			f, stop := s.begin(t, paused)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if len(s.store.kept) > 0 {
				t.Errorf("a cursor is stored before it is known where it begins: %s", s.store.kept)
			}
			s.log.mu.Lock()
			s.log.start, s.log.hw = start, hw
			s.log.mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
			if lag := f.Status().LagRecords; paused && lag != 2 || len(s.store.kept) != 1 {
				t.Errorf("%d records wait, and stored is %s", lag, s.store.kept)
			}
			f.Pause(false)
			time.Sleep(time.Minute)
			st := f.Status()
			stop()
			if st.GapRecords != 0 || len(s.centre.gaps[s.log.id]) > 0 || st.Records != 2 {
				t.Errorf("%+v; announced %v", st, s.centre.gaps)
			}
		})
	}
}

// U5: a target that was made anew stops the uplink until somebody says from where it goes on.
func TestTargetThatForgotStopsTheUplink(t *testing.T) {
	for _, from := range []string{acceptTarget, acceptHere} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene()
			for range 10 {
				s.log.grow(s.rng)
			}
			_, stop := s.begin(t, false)
			time.Sleep(time.Minute)
			stop()
			carried := len(s.centre.got[s.log.id])
			clear(s.centre.cursors)
			clear(s.centre.got)
			s.log.grow(s.rng)
			f, stop := s.begin(t, false)
			time.Sleep(time.Minute)
			if st := f.Status(); st.State != "stopped" || !strings.Contains(st.Why, "weir bridge resume central --from target") || len(s.centre.got[s.log.id]) > 0 {
				t.Errorf("%+v, carried %d", st, len(s.centre.got[s.log.id]))
			}
			if f.Accept("nowhere") == nil {
				t.Error("any word is accepted")
			}
			if err := f.Accept(from); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			st := f.Status()
			stop()
			want := len(s.log.values)
			if from == acceptHere {
				want -= carried
			}
			if n := len(s.centre.got[s.log.id]); st.State != "idle" || n != want || want == 0 {
				t.Errorf("from %s: %s; %d records were carried, want %d", from, st.State, n, want)
			}
		})
	}
}

// U5: going on here is said once, also for what has nothing to carry just then; and it is no answer to what the target forgets later.
func TestGoingOnHereHoldsAndIsForNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		for range 10 {
			s.log.grow(s.rng)
		}
		f, stop := s.begin(t, false)
		time.Sleep(time.Minute)
		if f.Accept(acceptHere) == nil {
			t.Error("an answer is taken though nobody has asked")
		}
		stop()
		clear(s.centre.cursors)
		f, stop = s.begin(t, false)
		time.Sleep(time.Minute)
		if err := f.Accept(acceptHere); err != nil || f.Status().State != "stopped" {
			t.Fatalf("%v, %+v", err, f.Status())
		}
		time.Sleep(time.Minute)
		stop()
		f, stop = s.begin(t, false)
		time.Sleep(time.Minute)
		st := f.Status()
		stop()
		if want := s.log.end; st.State != "idle" || s.centre.cursors[s.log.id].Next != want {
			t.Errorf("%+v; the target knows of %d, want %d", st, s.centre.cursors[s.log.id].Next, want)
		}
	})
}

// A topic of which nothing was ever confirmed may well be unknown to the target.
func TestTargetMayKnowNothingOfWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		for range 3 {
			s.log.grow(s.rng)
		}
		s.log.start = s.log.batches[1].BaseOffset()
		_, stop := s.begin(t, true)
		time.Sleep(time.Minute)
		stop() // its beginning is stored by then
		if len(s.store.kept) != 1 {
			t.Fatalf("%d cursors are stored before anything is carried", len(s.store.kept))
		}
		f, stop := s.begin(t, false)
		time.Sleep(time.Minute)
		defer stop()
		if st := f.Status(); st.State != "idle" || st.Records == 0 || st.GapRecords != 0 {
			t.Errorf("%+v; start %d, end %d, stored %s, carried %v", st, s.log.start, s.log.end, s.store.kept, s.centre.got)
		}
	})
}

// slowLog is read from a leader that does not answer.
type slowLog struct{ *fakeLog }

func (l slowLog) Read(log.Offset, int, []byte) ([]byte, error) {
	time.Sleep(5 * time.Second)
	return nil, errors.New("no answer in time")
}

// A leader that does not answer holds up no one who asks how the uplink does for longer than a read or so.
func TestStatusDoesNotWaitForEachPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		f, stop := s.begin(t, true)
		synctest.Wait()
		for i := range 100 {
			f.added(slowLog{&fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: int32(i + 1)}, topic: "telemetry", hw: 10}})
		}
		began := time.Now()
		st := f.Status()
		if took := time.Since(began); took > 10*time.Second || st.LagRecords != 1000 {
			t.Errorf("%v, %d records wait", took, st.LagRecords)
		}
		stop()
	})
}

// put appends one record.
func (l *fakeLog) put(value string) {
	l.putRecord(log.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(value)})
}

func (l *fakeLog) putRecord(r log.Record) {
	l.mu.Lock()
	var bb log.BatchBuilder
	bb.Append(&r)
	l.batches = append(l.batches, slices.Clone(bb.Seal(l.end, 1)))
	l.values[l.end] = string(r.Value)
	l.end++
	l.hw = l.end
	watch := slices.Clone(l.watch)
	l.mu.Unlock()
	for _, fn := range watch {
		fn()
	}
}

// deadTarget takes what is sent and never answers.
type deadTarget struct {
	fakeTarget
	err error
}

func (t *deadTarget) commit(ctx context.Context, _ map[log.PartitionID]progress) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (t *deadTarget) ended() error { return t.err }

// What is on its way to a target that is dead is waited for almost a minute: meanwhile the status says for how long, and why if that is known.
func TestStatusTellsOfSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		dead := &deadTarget{fakeTarget: fakeTarget{c: s.centre}}
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler), target: func() target { return dead },
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = f.Run(ctx) }()
		time.Sleep(time.Hour)
		if st := f.Status(); st.State != "idle" {
			t.Errorf("nothing is to be carried: %+v", st)
		}
		s.log.put("x")
		for _, c := range []struct {
			after time.Duration
			err   error
			state string
			why   string
		}{
			{4 * time.Second, nil, "sending", ""},
			{8 * time.Second, nil, "sending", "nothing of what is on its way was confirmed for 12s"},
			{28 * time.Second, errors.New("the target does not answer any more"), "sending", "nothing of what is on its way was confirmed for 40s: the target does not answer any more"},
			{15*time.Second + 10*time.Millisecond, nil, "failing", errLate.Error()},
		} {
			time.Sleep(c.after)
			synctest.Wait()
			f.mu.Lock()
			dead.err = c.err
			f.mu.Unlock()
			if st := f.Status(); st.State != c.state || st.Why != c.why {
				t.Errorf("%s, %q; want %s, %q", st.State, st.Why, c.state, c.why)
			}
			f.mu.Lock()
			dead.err = nil // or the connection is given up
			f.mu.Unlock()
		}
		cancel()
		synctest.Wait()
	})
}
