package uplink

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

func TestOrderOfLanes(t *testing.T) {
	views := []view{
		{lane: lane{priority: 5}, end: 10},                                                               // 0: all of it is old
		{lane: lane{priority: 0}, cursor: Cursor{Next: 3}, end: 4},                                       // 1: urgent
		{lane: lane{priority: 5, liveFirst: true}, cursor: Cursor{Next: 2}, live: 8, end: 9},             // 2: a backlog, and something new
		{lane: lane{priority: 5}, cursor: Cursor{Next: 7}, end: 7},                                       // 3: nothing
		{lane: lane{priority: 5, liveFirst: true}, cursor: Cursor{2, []Span{{8, 12}}}, live: 8, end: 12}, // 4: only the backlog is left
		{lane: lane{priority: 9}, cursor: Cursor{Next: 1}, end: 2},                                       // 5: last
	}
	for turn := range len(views) {
		picks := order(views, turn)
		var got []string
		for _, p := range picks {
			got = append(got, fmt.Sprintf("%d:%d-%d:%v", p.index, p.span.From, p.span.To, p.live))
		}
		if len(got) != 6 || got[0] != "1:3-4:false" || got[1] != "2:8-9:true" || got[5] != "5:1-2:false" {
			t.Fatalf("turn %d: %v", turn, got)
		}
		rest := slices.Sorted(slices.Values(got[2:5]))
		if !slices.Equal(rest, []string{"0:0-10:false", "2:2-8:false", "4:2-8:false"}) {
			t.Fatalf("turn %d: %v", turn, got)
		}
	}
}

// A lane with live_first skips a backlog, and nothing that is smaller than one.
func TestWhereLiveBegins(t *testing.T) {
	for _, c := range []struct {
		cursor Cursor
		end    log.Offset
		want   log.Offset
	}{
		{Cursor{Next: 5}, 10, 5},
		{Cursor{Next: 5}, 5 + liveBacklog, 5},
		{Cursor{Next: 5}, 6 + liveBacklog, 6 + liveBacklog},
		{Cursor{5, []Span{{2000, 3000}}}, 3100, 3000}, // goes on behind what it has carried live
		{Cursor{5, []Span{{2000, 3000}}}, 9000, 9000},
	} {
		v := view{lane: lane{liveFirst: true}, cursor: c.cursor, end: c.end}
		if got := v.goLive(); got != c.want {
			t.Errorf("%+v with end %d: %d, want %d", c.cursor, c.end, got, c.want)
		}
	}
	v := view{lane: lane{liveFirst: true}, end: 1e6}
	for i := range log.Offset(maxAhead) {
		v.cursor.Ahead = append(v.cursor.Ahead, Span{10 * i, 10*i + 1})
	}
	if got := v.goLive(); got != 0 {
		t.Errorf("a cursor with %d spans begins another at %d", maxAhead, got)
	}
}

func TestRateIsKept(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	b, sent := budget{limits: Limits{Rate: 10_000}}, int64(0)
	for end := now.Add(10 * time.Second); now.Before(end); {
		if d, why := b.wait(now); d > 0 {
			if why != "" {
				t.Fatal("a rate is no reason that an operator is told")
			}
			now = now.Add(d)
			continue
		}
		b.charge(now, 3000)
		sent += 3000
	}
	if sent < 97_000 || sent > 110_000 {
		t.Errorf("%d bytes in 10 s at 10,000 a second", sent)
	}
}

func TestDailyBudgetAndWindows(t *testing.T) {
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 3, day, hour, minute, 0, 0, time.Local) }
	b := budget{limits: Limits{Daily: 1000}}
	b.charge(at(1, 10, 0), 1000)
	if d, why := b.wait(at(1, 22, 0)); d != 2*time.Hour || why == "" || b.left(at(1, 22, 0)) != 0 {
		t.Errorf("waits %v (%s), %d left", d, why, b.left(at(1, 22, 0)))
	}
	if d, _ := b.wait(at(2, 0, 0)); d != 0 || b.left(at(2, 0, 0)) != 1000 {
		t.Errorf("waits %v on the next day", d)
	}
	var night, noon Window
	if night.UnmarshalText([]byte("22:00-06:00")) != nil || noon.UnmarshalText([]byte("12:00-12:30")) != nil {
		t.Fatal("windows are refused")
	}
	b = budget{limits: Limits{Windows: []Window{night, noon}}}
	for when, want := range map[time.Time]time.Duration{
		at(1, 5, 59): 0, at(1, 6, 0): 6 * time.Hour, at(1, 12, 0): 0, at(1, 12, 29): 0, at(1, 12, 30): 570 * time.Minute, at(1, 22, 0): 0, at(1, 23, 59): 0,
	} {
		if d, _ := b.wait(when); d != want {
			t.Errorf("at %v it waits %v, want %v", when.Format("15:04"), d, want)
		}
	}
}

// A clock that jumps gives no budget away twice and takes none for good, and a window is one of the time that it shows.
func TestBudgetWhenTheClockJumps(t *testing.T) {
	at := func(year, day, hour int) time.Time { return time.Date(year, 3, day, hour, 0, 0, 0, time.Local) }
	b := budget{limits: Limits{Daily: 1000}}
	spend := func(now time.Time) (n int64) {
		for {
			if d, _ := b.wait(now); d > 0 {
				return n
			}
			b.charge(now, 100)
			n += 100
		}
	}
	for i, c := range []struct {
		now  time.Time
		want int64
	}{
		{at(2026, 5, 10), 1000}, {at(2026, 4, 10), 0}, {at(2026, 5, 11), 0}, // back and forth
		{at(1970, 1, 0), 0}, {at(2026, 5, 12), 0}, // its battery is empty, and then it asks others
		{at(2038, 1, 0), 1000}, {at(2026, 5, 13), 0}, {at(2038, 1, 1), 0}, // years ahead: that day's, once
		{at(2026, 5, 14), 0}, {at(2026, 6, 0), 1000}, {at(2026, 6, 23), 0}, {at(2026, 7, 0), 1000}, // each true day has its own
	} {
		if got := spend(c.now); got != c.want {
			t.Errorf("%d: %d bytes on %s, want %d", i, got, c.now.Format(time.DateTime), c.want)
		}
	}
	for year := range 100 { // bounded
		spend(at(1970+year, 1, 0))
	}
	if len(b.past) > pastDays {
		t.Errorf("%d days are kept", len(b.past))
	}
	restored := budget{limits: b.limits, day: dayOf(at(2038, 1, 0)), spent: 1000} // as it was stored while the clock was years ahead
	if d, _ := restored.wait(at(2026, 5, 10)); d == 0 || d > 14*time.Hour {
		t.Errorf("it waits %s, and what was spent counts for one day", d)
	}
	if d, _ := restored.wait(at(2026, 6, 0)); d != 0 {
		t.Errorf("it waits %s on the next day", d)
	}
	var w Window
	if err := w.UnmarshalText([]byte("22:00-06:00")); err != nil {
		t.Fatal(err)
	}
	r := budget{limits: Limits{Windows: []Window{w}, Rate: 1000}}
	for _, c := range []struct {
		now   time.Time
		waits time.Duration
	}{{at(2026, 5, 23), 0}, {at(2026, 5, 12), 10 * time.Hour}, {at(1970, 1, 12), 10 * time.Hour}, {at(1970, 1, 1), 0}, {at(2026, 5, 23), 0}} {
		if d, _ := r.wait(c.now); d != c.waits {
			t.Errorf("at %s it waits %s, want %s", c.now.Format(time.DateTime), d, c.waits)
		}
	}
	r.limits.Windows = nil
	r.charge(at(2026, 5, 23), 1000)
	owed, _ := r.wait(at(2026, 5, 23))
	if d, _ := r.wait(at(2026, 5, 12)); d != owed || owed == 0 || owed > time.Second {
		t.Errorf("it owes %s, and %s after the clock went back", owed, d)
	}
}

func TestPaceFollowsTheLink(t *testing.T) {
	for _, bytesPerSecond := range []float64{10e3, 125e3, 1e6, 50e6} {
		for _, trip := range []time.Duration{0, 10 * time.Millisecond, 80 * time.Millisecond, 600 * time.Millisecond} {
			var p pace
			var took time.Duration
			for range 30 {
				took = 2*trip + time.Duration(float64(p.chunk(Limits{}))/bytesPerSecond*float64(time.Second))
				p.took(took, trip, true)
			}
			n, net := p.chunk(Limits{}), took-min(2*trip, 5*pacedCommit)
			if n < maxChunk && n > minChunk && (net > pacedCommit*5/4 || net < pacedCommit*3/4) {
				t.Errorf("at %.0f bytes/s, %s there and back: chunks of %d bytes that take %v", bytesPerSecond, trip, n, took)
			}
			if bytesPerSecond == 1e6 && trip == 80*time.Millisecond && n < 128<<10 {
				t.Errorf("on a fast link that is long %d bytes are sent at once", n)
			}
		}
	}
	p := pace{bytes: maxChunk}
	if n := p.chunk(Limits{Rate: 125_000}); n != 31_250 {
		t.Errorf("%d bytes at once on a link that carries 125,000 a second", n)
	}
	if p.took(4*pacedCommit, 0, true); p.bytes != maxChunk/4 {
		t.Errorf("%d bytes at once: the last took four times as long as it should", p.bytes)
	}
	p.took(time.Hour, 0, true)
	if p.took(time.Millisecond, 0, false); p.bytes != minChunk {
		t.Errorf("%d bytes: a chunk that was not full says nothing about the link", p.bytes)
	}
}
