package uplink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// beginRuled runs a forwarder of all topics whose lane has a rule, until stop.
func (s *scene) beginRuled(t *testing.T, lane Lane, to func(*Forwarder) target) (f *Forwarder, stop func()) {
	t.Helper()
	lane.Topics = []string{"*"}
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"*"}, Lanes: []Lane{lane}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	f = New(Options{
		Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
		DeadLetter: func(context.Context, string, *log.Record) error { return nil },
		target:     func() target { return to(f) },
	})
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

func (s *scene) plainTarget(*Forwarder) target {
	return &fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}}
}

// Records whose keys were small before they were large fill a commit as the large ones that are sent: on a thin link it ends in time.
func TestGroupsThatGrowFillACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		stamp := time.Now().Add(-24 * time.Hour).Truncate(time.Hour).UnixMilli()
		large := strings.Repeat("x", 50<<10)
		for _, value := range []string{`{"n":1}`, `{"report":"` + large + `"}`} {
			for i := range 150 {
				s.log.putRecord(log.Record{Timestamp: stamp, Key: fmt.Appendf(nil, "k%d", i), Value: []byte(value)})
			}
		}
		f, stop := s.beginRuled(t, Lane{Thin: &Thin{After: time.Hour, LastOver: time.Hour}}, func(f *Forwarder) target {
			return &thinTarget{fakeTarget: fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}}, f: f, rate: 32 << 10, most: longestTransaction}
		})
		time.Sleep(2 * time.Hour)
		if st := f.Status(); st.LagRecords > 0 || st.Failures > 3 {
			t.Errorf("%+v", st)
		}
		stop()
	})
}

// U8: of what is refused as one record for several none is lost and none is to blame: they are sent one by one.
func TestRefusedMeanIsSentAsItsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		const n = 600
		stamp := time.Now().Add(-24 * time.Hour).Truncate(time.Hour).UnixMilli()
		for i := range n {
			s.log.putRecord(log.Record{Timestamp: stamp + int64(i), Key: []byte("k"), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
		s.centre.refuse = func(r *outgoing) bool { return r.count > 0 || r.Offset == n-1 }
		f, stop := s.beginRuled(t, Lane{Thin: &Thin{After: time.Hour, MeanOver: time.Hour}}, s.plainTarget)
		time.Sleep(10 * time.Minute)
		if st := f.Status(); st.Records != n-1 || st.DeadLetters != 1 || st.LagRecords != 0 {
			t.Errorf("%+v", st)
		}
		stop()
	})
}

// U10: what was deleted before it was carried is a gap, and not left out, though it lies between two records that are.
func TestGapIsNotLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		put := func(n, level int) {
			for range n {
				s.log.put(fmt.Sprintf(`{"level":%d}`, level))
			}
		}
		put(10, 0)
		f, stop := s.beginRuled(t, Lane{Filter: "payload.level > 1"}, s.plainTarget)
		time.Sleep(time.Minute)
		f.Pause(true)
		time.Sleep(2 * time.Second)
		put(1000, 9)
		s.log.mu.Lock()
		s.log.start = s.log.end
		s.log.mu.Unlock()
		put(1, 0)
		f.Pause(false)
		time.Sleep(time.Minute)
		stop()
		if told := string(s.centre.cursors[s.log.id].Left.text()); told != "0-9 filtered=10, 1010-1010 filtered=1" || fmt.Sprint(s.centre.gaps[s.log.id]) != "[{10 1010}]" {
			t.Errorf("left out %s, gaps %v", told, s.centre.gaps[s.log.id])
		}
	})
}

// What rules have looked at and left out fills no commit, and says nothing about how fast the link is.
func TestPaceIsOfWhatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		for range 200 {
			s.log.put(`{"level":0,"pad":"` + strings.Repeat("x", 1<<18) + `"}`)
		}
		f, stop := s.beginRuled(t, Lane{Filter: "payload.level > 1"}, s.plainTarget)
		time.Sleep(time.Minute)
		st := f.Status()
		stop()
		if st.Filtered != 200 || f.pace.bytes != firstChunk {
			t.Errorf("%d left out, and %d bytes are sent at once", st.Filtered, f.pace.bytes)
		}
	})
}

// A record of a partition without a rule is not counted as one that a rule could not read because the one before it was, of another partition.
func TestUnjudgedIsOfOneRecord(t *testing.T) {
	s := newScene()
	cfg := []Config{{Name: "central", To: "kafka://h:1", Topics: []string{"*"}, Lanes: []Lane{{Topics: []string{"telemetry"}, Filter: "payload.level > 1"}}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	plain := &fakeLog{id: log.PartitionID{Topic: log.TopicID{3}}, topic: "plain", values: map[log.Offset]string{}}
	s.log.put("no JSON")
	plain.put("as it is")
	f := New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})
	f.added(s.log)
	f.added(plain)
	p := f.parts[plain.id]
	p.left = account{{Span: Span{0, 1}, Filtered: 1}} // of a rule that it had
	plain.put("and the next")
	c := chunk{f: f, t: s.plainTarget(f), began: time.Now(), room: maxChunk, moved: map[*part][]Span{}}
	if err := c.read(t.Context(), f.parts[s.log.id], Span{0, 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.read(t.Context(), p, Span{1, 2}); err != nil || c.count != 2 || c.vague != 1 {
		t.Errorf("%v: of %d records %d could not be read", err, c.count, c.vague)
	}
}
