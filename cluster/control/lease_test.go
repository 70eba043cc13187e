package control

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

func TestProfilesHoldTheirRelations(t *testing.T) {
	for name, timing := range map[string]Timing{"fast": FastTiming, "lan": LANTiming, "edge": EdgeTiming} {
		if err := timing.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, change := range map[string]func(*Timing){
		"renewals every":         func(t *Timing) { t.Renew = 0 },
		"must outlast three":     func(t *Timing) { t.Renew = 1500 * time.Millisecond },
		"fence after":            func(t *Timing) { t.Fence = 5 * second },
		"quorum lease":           func(t *Timing) { t.Quorum.Lease = 3 * second },
		"quorum elections":       func(t *Timing) { t.Quorum.Election = 4 * second },
		"replica.lag.time of 4s": func(t *Timing) { t.LagTime = 4 * second },
		"recovery.grace":         func(t *Timing) { t.Grace = 5 * second },
	} {
		timing := LANTiming
		change(&timing)
		if err := timing.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want a fault with %q, got %v", want, err)
		}
	}
}

// A lease counts from when its renewal was sent, and only with the metadata that the answer named (hole 7).
func TestLease(t *testing.T) {
	l := NewLease(LANTiming) // 4 s
	holds := func(now time.Duration, want bool) {
		t.Helper()
		if l.Holds(now) != want {
			t.Errorf("at %v: holds is %v", now, !want)
		}
	}
	holds(0, false)
	l.Answered(0, 0) // never asked
	holds(0, false)
	l.Sent(10 * second)
	if l.Due() != 11*second {
		t.Errorf("due at %v", l.Due())
	}
	l.Answered(10*second, 7)
	holds(10*second, false) // version 7 is not in force
	l.Applied(6)
	holds(10*second, false)
	l.Applied(7)
	holds(10*second, true)
	holds(14*second, false)
	l.Sent(11 * second)
	l.Answered(11*second, 9)
	l.Sent(12 * second)
	l.Answered(12*second, 8) // answers in another order
	l.Applied(8)
	holds(15500*time.Millisecond, true)
	l.Applied(9) // an older renewal takes nothing back
	holds(15500*time.Millisecond, true)
	if at, ok := l.Expires(); at != 16*second || !ok {
		t.Errorf("expires at %v", at)
	}
	l.Answered(13*second, 1) // from the future: another process's
	holds(16*second, false)
}

// Whatever the order of answers and metadata, the lease is that of the newest renewal whose metadata is in force.
func TestLeaseAgainstHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := NewLease(LANTiming)
		var now time.Duration
		var applied uint64
		var sent []time.Duration
		var answered []renewal
		small := rapid.IntRange(0, 8)
		rt.Repeat(map[string]func(*rapid.T){
			"wait": func(rt *rapid.T) { now += time.Duration(small.Draw(rt, "s")) * second / 4 },
			"send": func(*rapid.T) { l.Sent(now); sent = append(sent, now) },
			"answer": func(rt *rapid.T) {
				if len(sent) > 0 {
					r := renewal{rapid.SampledFrom(sent).Draw(rt, "to"), applied + uint64(small.Draw(rt, "ahead"))}
					l.Answered(r.sent, r.version)
					answered = append(answered, r)
				}
			},
			"apply": func(rt *rapid.T) { applied += uint64(small.Draw(rt, "more")); l.Applied(applied) },
			"": func(rt *rapid.T) {
				want := false
				for _, r := range answered {
					want = want || r.version <= applied && now < r.sent+LANTiming.Stop
				}
				if l.Holds(now) != want {
					rt.Fatalf("at %v, version %d: holds is %v; answered %v", now, applied, !want, answered)
				}
			},
		})
	})
}

// A broker that is late in applying, and is answered all the same, does not gather answers without end; it keeps the newest.
func TestLeaseKeepsFewAnswers(t *testing.T) {
	l := NewLease(LANTiming)
	for i := range 3 * time.Duration(maxPending) {
		l.Sent(i)
		l.Answered(i, uint64(i)+1)
		if len(l.pending) > maxPending {
			t.Fatalf("%d answers are kept", len(l.pending))
		}
	}
	l.Applied(3 * maxPending)
	if at, _ := l.Expires(); at != 3*maxPending-1+LANTiming.Stop {
		t.Errorf("expires at %v", at)
	}
}
