package alert

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// t0 is a window boundary of every window used here.
var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func mustParse(t interface{ Fatal(...any) }, text string) *File {
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var part = Partition{"telemetry", 0}

// feeder gives an engine records whose payload is one number.
type feeder struct {
	e      *Engine
	offset int64
	now    time.Time
}

func feed(t *testing.T, rules string) *feeder {
	f := &feeder{e: NewEngine(mustParse(t, rules)), now: t0}
	f.e.Assign(part, 0, 0, false)
	return f
}

// at observes a reading of device at second s (of event time; the clock is never behind it).
func (f *feeder) at(s float64, device string, v float64) []string {
	when := t0.Add(time.Duration(s * float64(time.Second)))
	if when.After(f.now) {
		f.now = when
	}
	f.offset++
	return said(f.e.Observe(f.now, part, reading(f.offset-1, when, device, v), f.offset))
}

// tick lets the clock be at second s.
func (f *feeder) tick(s float64) []string {
	f.now = t0.Add(time.Duration(s * float64(time.Second)))
	return said(f.e.Tick(f.now))
}

func reading(offset int64, at time.Time, device string, v float64) Record {
	return Record{Offset: offset, Time: at.UnixMilli(), Device: device, Value: func([]string) (float64, bool) { return v, true }}
}

// said renders alerts as "rule device state second".
func said(as []Alert) []string {
	var out []string
	for _, a := range as {
		out = append(out, fmt.Sprintf("%s %s %s %d", a.Rule, a.Device, a.State, (a.Time-t0.UnixMilli())/1000))
	}
	return out
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestThresholdFiresOnceAndResolves(t *testing.T) {
	f := feed(t, "{lateness: 0s, rules: [{name: hot, field: v, window: 10s, when: avg > 30}]}")
	f.e.file.Lateness = 0
	expect(t, "first reading", f.at(1, "a", 40))
	expect(t, "same window", f.at(9, "a", 30))
	expect(t, "next window begins", f.at(10, "a", 50), "hot a firing 10")
	expect(t, "still hot", f.at(20, "a", 10))
	expect(t, "cool", f.at(30, "a", 10), "hot a resolved 30")
	expect(t, "still cool", f.at(40, "a", 10))
}

func TestLateReadingsCountUntilTheWindowCloses(t *testing.T) {
	f := feed(t, "{lateness: 5s, rules: [{name: r, field: v, window: 10s, when: count == 3}]}")
	f.at(1, "a", 1)
	f.at(12, "a", 1)
	expect(t, "late, window open", f.at(3, "a", 1))
	expect(t, "late, at the bound", f.at(9.9, "a", 1))
	expect(t, "closes", f.at(15, "a", 1), "r a firing 10")
	expect(t, "too late", f.at(9, "a", 1))
	if f.e.Late != 1 {
		t.Errorf("%d late", f.e.Late)
	}
	expect(t, "the second window has two", f.at(25, "a", 1), "r a resolved 20")
}

func TestAClockFarAheadClosesNothing(t *testing.T) {
	f := feed(t, "{lateness: 5s, rules: [{name: r, field: v, window: 10s, when: 'true'}]}")
	f.at(1, "good", 1)
	f.offset++
	expect(t, "a reading of tomorrow", said(f.e.Observe(f.now, part, reading(1, t0.Add(24*time.Hour), "bad", 1), 2)))
	expect(t, "the window is open", f.at(9, "good", 1))
	if f.e.Future != 1 {
		t.Errorf("%d from the future", f.e.Future)
	}
}

func TestFiguresOfAWindow(t *testing.T) {
	w := &window{}
	for _, r := range []struct {
		at int64
		v  float64
	}{{2000, 5}, {1000, 3}, {5000, 11}, {5000, 12}, {3000, -1}} {
		w.add(r.at, r.v)
	}
	want := map[string]any{"avg": 6.0, "min": -1.0, "max": 12.0, "sum": 30.0, "count": 5, "first": 3.0, "last": 12.0, "rate": 2.25}
	if got := w.figures(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTheLastWindowOfASilentPartitionIsJudged(t *testing.T) {
	f := feed(t, "{lateness: 5s, rules: [{name: r, field: v, window: 10s, when: 'true'}]}")
	f.at(1, "a", 1)
	expect(t, "too early", f.tick(14))
	expect(t, "the clock closes it", f.tick(15.5), "r a firing 10")

	// A partition with records still to read does not: they may belong to the window.
	f = feed(t, "{lateness: 5s, rules: [{name: r, field: v, window: 10s, when: 'true'}]}")
	f.e.Observe(f.now, part, reading(0, t0, "a", 1), 100)
	expect(t, "lagging", f.tick(1000))
}

func TestAbsence(t *testing.T) {
	f := feed(t, "rules: [{name: silent, devices: 'a*', absent: 30s}]")
	f.at(0, "a1", 1)
	f.at(0, "b1", 1)
	f.at(10, "a2", 1)
	expect(t, "not yet", f.tick(29.9))
	expect(t, "a1", f.tick(30), "silent a1 firing 30")
	expect(t, "said once", f.tick(39))
	expect(t, "a2", f.tick(41), "silent a2 firing 41")
	expect(t, "heard again", f.at(50, "a1", 1), "silent a1 resolved 50")
	expect(t, "silent again", f.tick(80), "silent a1 firing 80")

	// While the consumer lags, nobody is called silent.
	f.offset++
	f.e.Observe(f.now, part, reading(f.offset, f.now, "a3", 1), f.offset+100)
	expect(t, "lagging", f.tick(500))
}

func TestDevicesAreBoundedAndForgotten(t *testing.T) {
	f := feed(t, "{max_devices: 2, forget: 1m, rules: [{name: r, absent: 30s}]}")
	f.at(0, "a", 1)
	f.at(0, "b", 1)
	f.at(0, "c", 1)
	if f.e.OverLimit != 1 || len(f.e.parts[part].devices) != 2 {
		t.Errorf("%d over the limit, %d devices", f.e.OverLimit, len(f.e.parts[part].devices))
	}
	f.tick(61)
	if n := len(f.e.parts[part].devices); n != 0 {
		t.Errorf("%d devices after a minute of silence", n)
	}
	expect(t, "a returns", f.at(100, "a", 1), "r a resolved 100")
}

func TestARecordWithoutTheFieldIsNoReading(t *testing.T) {
	f := feed(t, "rules: [{name: r, field: v, window: 10s, when: 'true'}]")
	r := reading(0, t0, "a", 0)
	r.Value = func([]string) (float64, bool) { return 0, false }
	f.e.Observe(t0, part, r, 1)
	expect(t, "nothing to judge", f.tick(1000))
}

// event is one record of a generated history.
type event struct {
	device string
	at     time.Time
	v      float64
}

func history(t *rapid.T) []event {
	var out []event
	clock := t0
	for range rapid.IntRange(1, 60).Draw(t, "records") {
		clock = clock.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "pause")) * time.Second)
		out = append(out, event{
			device: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "device"),
			at:     clock.Add(-time.Duration(rapid.IntRange(0, 25).Draw(t, "lag")) * time.Second),
			v:      float64(rapid.IntRange(-5, 5).Draw(t, "value")),
		})
	}
	return out
}

const modelRules = "{lateness: 10s, rules: [{name: hop, field: v, window: 20s, every: 5s, when: avg > 0}, {name: tumble, field: v, window: 15s, when: count >= 2 && max > 2}]}"

// play feeds a history from an offset on, then closes every window, and returns the alerts.
func play(e *Engine, h []event, from int64) []Alert {
	var alerts []Alert
	now := t0.Add(time.Hour)
	for i := from; i < int64(len(h)); i++ {
		alerts = append(alerts, e.Observe(now, part, reading(i, h[i].at, h[i].device, h[i].v), int64(len(h)))...)
	}
	return append(alerts, e.Tick(now.Add(time.Hour))...)
}

// TestWindowsAgainstModel compares every judged window with one computed from the whole history at once.
func TestWindowsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := history(t)
		e := NewEngine(mustParse(t, modelRules))
		got := map[string]map[string]any{}
		name := func(r *Rule, device string, start int64) string {
			return fmt.Sprintf("%s %s %d", r.Name, device, start-t0.UnixMilli())
		}
		e.judged = func(r *Rule, device string, w *window) {
			id := name(r, device, w.start)
			if got[id] != nil {
				t.Fatalf("%s was judged twice", id)
			}
			got[id] = w.figures()
		}
		e.Assign(part, 0, 0, false)
		play(e, h, 0)

		want := map[string]*window{}
		newest := int64(-1 << 62)
		for _, ev := range h {
			at := ev.at.UnixMilli()
			for _, r := range e.file.Rules {
				size, every := r.Window.Milliseconds(), r.Every.Milliseconds()
				for start := (at - size) / every * every; start <= at; start += every {
					if at < start || at >= start+size || start+size <= newest-10_000 {
						continue
					}
					id := name(r, ev.device, start)
					if want[id] == nil {
						want[id] = &window{}
					}
					want[id].add(at, ev.v)
				}
			}
			newest = max(newest, at)
		}
		if len(got) != len(want) {
			t.Fatalf("%d windows judged, want %d", len(got), len(want))
		}
		for id, w := range want {
			if !reflect.DeepEqual(got[id], w.figures()) {
				t.Fatalf("%s: %v, want %v", id, got[id], w.figures())
			}
		}
	})
}

// TestRestartsChangeNothing: an instance stops after any record, with its last commit there or earlier (a crash), and a
// successor goes on. The alert topic must hold what one instance alone would have said.
func TestRestartsChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := history(t)
		whole := NewEngine(mustParse(t, modelRules))
		whole.Assign(part, 0, 0, false)
		want := play(whole, h, 0)

		var topic []Alert
		var offset, mark int64
		committed := false
		now := t0.Add(time.Hour)
		for i := int64(0); i < int64(len(h)); {
			e := NewEngine(mustParse(t, modelRules))
			for _, a := range topic {
				e.Restore(a)
			}
			e.Assign(part, offset, mark, committed)
			stop := i + int64(rapid.IntRange(1, len(h)).Draw(t, "until restart"))
			for j := offset; j < min(stop, int64(len(h))); j++ {
				topic = append(topic, e.Observe(now, part, reading(j, h[j].at, h[j].device, h[j].v), int64(len(h))+1)...)
				if rapid.IntRange(0, 3).Draw(t, "commit") == 0 || j == min(stop, int64(len(h)))-1 && rapid.Bool().Draw(t, "clean stop") {
					if o, m, ok := e.Position(part); ok {
						offset, mark, committed = o, m, true
					}
				}
			}
			i = stop
		}
		last := NewEngine(mustParse(t, modelRules))
		for _, a := range topic {
			last.Restore(a)
		}
		last.Assign(part, offset, mark, committed)
		topic = append(topic, play(last, h, offset)...)

		perDevice := func(as []Alert) map[string][]string {
			m := map[string][]string{}
			for _, a := range as {
				k := a.Rule + " " + a.Device
				m[k] = append(m[k], fmt.Sprint(a.State, a.Time, a.Figures))
			}
			return m
		}
		if got, want := perDevice(topic), perDevice(want); !reflect.DeepEqual(got, want) {
			t.Fatalf("with restarts\n%v\nwithout\n%v", got, want)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	e := NewEngine(mustParse(b, modelRules))
	e.Assign(part, 0, 0, false)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("device-", i)
	}
	b.ReportAllocs()
	for i := range b.N {
		at := t0.Add(time.Duration(i) * time.Millisecond)
		e.Observe(at, part, reading(int64(i), at, names[i%len(names)], 1), int64(i))
	}
}
