package throttle

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// An idle client takes a window's worth at once; what it takes beyond it waits for, and then it may go on.
func TestMeterWaits(t *testing.T) {
	var m Meter
	const limit = 100
	for _, step := range []struct {
		at   time.Duration
		n    float64
		want time.Duration
	}{
		{0, 1000, 0},
		{0, 50, 500 * time.Millisecond},
		{500 * time.Millisecond, 100, time.Second},
		{time.Second, 0, 500 * time.Millisecond}, // half of it is over
		{time.Hour, 1000, 0},
		{time.Hour - time.Minute, 100, time.Second}, // a late caller does not turn back the time
		{time.Hour, 1e12, MaxWait},                  // T2
		{time.Hour + MaxWait, 100, time.Second},
	} {
		if got := m.Take(step.at, limit, step.n); (got - step.want).Abs() > time.Microsecond {
			t.Fatalf("%v: %v taken, wait %v, want %v", step.at, step.n, got, step.want)
		}
	}
	if got := m.Wait(time.Hour+MaxWait, 2*limit); got != 0 {
		t.Errorf("with twice the limit, wait %v", got)
	}
}

// T1, for requests of all sizes, each sent when the one before has been waited for.
func TestMeterHoldsItsLimit(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		limit := 1 + r.Float64()*1000
		var m Meter
		var now time.Duration
		type taken struct {
			at time.Duration
			n  float64
		}
		var all []taken
		for range 300 {
			n := r.Float64() * limit * []float64{0.1, 1, 30}[r.IntN(3)]
			all = append(all, taken{now, n})
			now += m.Take(now, limit, n)
			if r.IntN(4) == 0 {
				now += time.Duration(r.Float64() * float64(20*time.Second))
			}
		}
		for i := range all {
			sum := 0.0
			for _, last := range all[i:] {
				if bound := limit * (last.at - all[i].at + Window).Seconds(); sum > bound*1.000001 {
					t.Fatalf("seed %d: %.0f taken from %v to %v, bound %.0f", seed, sum, all[i].at, last.at, bound)
				}
				sum += last.n // given whole
			}
		}
	}
}

// T3: meters are forgotten when they are empty, and those for whom there is no room share one.
func TestTableIsBounded(t *testing.T) {
	const limit, size = 10, 100
	table := NewTable[string](size)
	take := func(name string, now time.Duration, n float64) time.Duration {
		return table.Meter(name, "rule", now, limit).Take(now, limit, n)
	}
	for i := range 10 * size {
		take(fmt.Sprint(i), 0, 1)
	}
	if table.Len() > size+1 {
		t.Fatalf("%d meters", table.Len())
	}
	if wait := take("another", 0, 0); wait == 0 {
		t.Error("who finds no room is not held to the meter that he shares")
	}
	if wait := take("0", 0, 1); wait != 0 {
		t.Errorf("who had room waits %v", wait)
	}
	take("0", sweepFull, 200)
	if take("new", 2*sweepFull, 1); table.Len() > 3 { // what the others took, 1, has drained; the shared one has not
		t.Errorf("%d meters when most are empty", table.Len())
	}
	if wait := take("0", 2*sweepFull, 0); wait == 0 {
		t.Error("a client that has to wait was forgotten")
	}
	if take("new", time.Hour, 1); table.Len() != 3 {
		t.Errorf("%d meters", table.Len())
	}
	if take("newer", 2*time.Hour, 1); table.Len() != 1 {
		t.Errorf("%d meters, after an hour", table.Len())
	}
}

func TestMeterAllocatesNothing(t *testing.T) {
	table := NewTable[string](10)
	now := time.Duration(0)
	if n := testing.AllocsPerRun(100, func() {
		now += time.Millisecond
		table.Meter("client", "rule", now, 1).Take(now, 1, 1)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
