package model

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// perSearch is more states than any search of large has; WEIR_MODEL_STATES sets another number. 12 million take about 2 GiB.
const perSearch = 3_000_000

// The model has one goroutine; the race detector finds nothing there and makes it twenty times slower. make test runs it without.
func withoutRace(t *testing.T) {
	t.Helper()
	if underRace {
		t.Skip("run it without the race detector")
	}
}

// soaking: what takes long runs with WEIR_SOAK=1.
func soaking(t *testing.T) {
	t.Helper()
	if os.Getenv("WEIR_SOAK") == "" {
		t.Skip("takes long: set WEIR_SOAK=1")
	}
}

// holds searches s to its end, or to limit states, and wants no invariant broken.
func holds(t *testing.T, s scenario, limit int, whole bool) {
	t.Helper()
	p := *s.p
	p.without = s.without
	f := explore[state](&p, limit)
	t.Log(f)
	if f.broken != "" || whole && !f.whole {
		t.Errorf("%s", s.name)
	}
}

func TestDesignHolds(t *testing.T) {
	withoutRace(t)
	for _, s := range small() {
		t.Run(s.name, func(t *testing.T) { holds(t, s, 200_000, true) })
	}
}

func TestSoakDesignHolds(t *testing.T) {
	soaking(t)
	limit, whole := perSearch, true
	if n, err := strconv.Atoi(os.Getenv("WEIR_MODEL_STATES")); err == nil {
		limit, whole = n, false
	}
	for _, s := range large() {
		t.Run(s.name, func(t *testing.T) { holds(t, s, limit, whole) })
	}
}

// Every rule that is left out must be missed: the trace is in the log. slow ones are searched in soak runs.
func TestBrokenRulesAreFound(t *testing.T) {
	withoutRace(t)
	for _, c := range []struct {
		name    string
		without deviation
		p       *partition
		slow    bool
		want    string
	}{
		{"A7", noA7, begin(2, 2, limits{appends: 2, crashes: 1}), false, "two records of one epoch"},
		{"H2 leader votes with what it wrote", leaderVotesWritten, begin(2, 2, limits{appends: 1, crashes: 1}), false, "has not synced"},
		{"H3 committed ISR only", committedISROnly, begin(2, 2, limits{appends: 1, fences: 1, changes: 1}).withMin(1), false, "has not synced"},
		{"H1 written counts", writtenCounts, begin(2, 2, limits{appends: 1}), false, "has not synced"},
		{"E5 no look at the nonce", noOldDiskCheck, begin(2, 2, limits{appends: 1, crashes: 2, backups: 1}), false, "has not synced"},
		{"E6 whoever answers", electAnyone, begin(2, 2, limits{appends: 1, lies: 1, siteCuts: 1}), false, "is lost"},
		{"T1 cut to the HW", cutToHW, begin(2, 2, limits{appends: 1, handovers: 2}), false, "has not synced"},
		{"J7 readable is durable", readableIsDurable, begin(2, 2, limits{appends: 1, crashes: 2}), false, "has not synced"},
		{"H4", noH4, begin(2, 2, limits{appends: 1, fences: 1}), false, "has not synced"},
		// I4's LESO and H3's sentence on diverging fetches follow from the epoch entry; without all of it each is needed.
		{"I4 join below LESO", joinBelowLESO | voteWithoutEpoch, begin(3, 3, limits{appends: 1, handovers: 1, changes: 1}).withMin(1).outside(2), false, "has not synced"},
		{"H3 diverging fetch counts", divergingCounts | voteWithoutEpoch, begin(2, 2, limits{appends: 2, handovers: 2}), false, "has not synced"},
		{"H1 divergence at DLEO", divergenceAtDurable, begin(2, 2, limits{appends: 3, handovers: 2}), false, "has not synced"},

		{"I7 ELR stays", noI7, begin(2, 2, limits{appends: 1, configs: 1, fences: 1}), false, "has not synced"},
		{"I7 ISR from the answer", isrFromAnswer, begin(2, 2, limits{appends: 1, configs: 1, changes: 1}).withMin(1), false, "has not synced"},
		{"R4 out of range above the HW", rangeAtHW, begin(2, 2, limits{appends: 1, handovers: 1}).reading(), false, "(R4)"},
		{"R2 no lease", noR2, begin(2, 2, limits{fences: 1, lapses: 1}).withMin(1).reading(), false, "(R2)"},
		{"T5 goes on where it was", noT5, begin(2, 2, limits{appends: 2, retention: 1}).withMin(1).outside(1), false, "another record below its HW"},
		{"a move ends without the ISR", moveWithoutISR, begin(3, 2, limits{appends: 1, reassigns: 1}), false, "has not synced"},
		// Each half of E8 is enough, while disks lie only about what they tell to have removed.
		{"E8 marker stays and is of any BE", markerStays | markerOfAnyBE, begin(2, 2, limits{appends: 1, lies: 1, crashes: 1, fences: 1, changes: 1}).withMin(1).stoppedB(), false, "is lost"},
		{"E8 marker of any BE", markerOfAnyBE, begin(2, 2, limits{appends: 1, lies: 2, crashes: 1, fences: 1, changes: 1}).withMin(1).stoppedB(), false, "is lost"},
		{"I2 lost is refused", lostIsRefused, begin(2, 2, limits{appends: 1, late: 1, changes: 2}).withMin(1), false, "has not synced"},
		{"I2 refusal leaves PE", refusalLeavesPE, begin(2, 2, limits{appends: 1, copies: 1, changes: 1, fences: 1}).withMin(1), false, "has not synced"},
		{"H7 older epoch", noH7, begin(2, 2, limits{appends: 1, handovers: 4, late: 2}), true, "(T4)"},
		{"T2 same leader is trusted", noT2, begin(2, 2, limits{appends: 2, crashes: 1}).withMin(1).outside(1), false, "another record below its HW"},
		{"H3 votes outlive the epoch", votesOutliveEpoch, begin(3, 3, limits{appends: 1, handovers: 1}).less(votesOutliveEpoch).voted(), false, "has not synced"},
		{"E3 last sentence", noE3, begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, fences: 1}).withMin(1), false, "is lost"},
		{"E5 restart forgiven", restartForgiven, begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, fences: 1}), false, "is lost"},
		{"E5 cleared in any life", clearedInAnyLife, begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, fences: 1, late: 1, changes: 1}).restartedB(), false, "is lost"},

		// The design as it was first written: doc.go, Holes.
		{"hole 1: epochs of records decide", recordEpochsOnly, begin(2, 2, limits{lies: 2, siteCuts: 1}).aside(true), false, "is lost"},
		{"hole 1: votes without the epoch entry", voteWithoutEpoch, begin(2, 2, limits{lies: 1, siteCuts: 1}).aside(false), false, "is lost"},
		{"hole 1: HW below LESO", voteWithoutEpoch, begin(3, 3, limits{fences: 1, lies: 2, siteCuts: 1}).figure8(), true, "is lost"},
		{"hole 2: answer of an earlier fetch", answerOfAnyFetch, begin(2, 2, limits{appends: 2, handovers: 1, late: 1}), false, "has not synced"},
		{"hole 3: no epoch left", noEpochLeft, begin(2, 2, limits{appends: 2, retention: 1, crashes: 1}).withMin(1).outside(1), false, "(T4)"},
		{"hole 4: empty log diverges", emptyLogDiverges, begin(3, 3, limits{appends: 1, retention: 1, handovers: 1}).outside(2), false, "(T4)"},
		{"hole 5: ELR emptied without a leader", emptyELRLeaderless, begin(2, 2, limits{appends: 1, crashes: 1, lies: 1, fences: 1, configs: 1}), false, "is lost"},
		{"hole 6: elected unheard", electUnasked, begin(2, 2, limits{appends: 1, fences: 1, lies: 1, siteCuts: 1}).withMin(1), false, "is lost"},
		{"hole 7: lease without the log", leaseWithoutLog, begin(2, 2, limits{handovers: 1}).reading(), false, "(R2)"},
		{"hole 8: early fence", earlyFence, begin(2, 2, limits{appends: 1, fences: 1, earlies: 1}).withMin(1).reading(), false, "(R4)"},
		{"hole 9: follower out of range", followerRange, begin(2, 2, limits{appends: 1}).withMin(1).outside(1).reading(), false, "(R4)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slow {
				soaking(t)
			}
			p := *c.p
			p.without = c.without
			f := explore[state](&p, 2_000_000)
			t.Log(f)
			if !strings.Contains(f.broken, c.want) || f.broken == "" {
				t.Errorf("broken %q, want %q", f.broken, c.want)
			}
		})
	}
}
