package kafka

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/sim"
	"github.com/weir-io/weir/internal/dice"
)

// steady takes away what makes Go run goroutines in another order: other threads, and the collector's work between ours.
func steady() (undo func()) {
	threads, percent := runtime.GOMAXPROCS(1), debug.SetGCPercent(-1)
	limit := debug.SetMemoryLimit(1 << 30)
	return func() {
		runtime.GOMAXPROCS(threads)
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// emptyPools: channels of one bubble are of no use in another.
func emptyPools() {
	replyPool, fetchPool = sync.Pool{New: replyPool.New}, sync.Pool{New: fetchPool.New}
}

func simulate(t *testing.T, seed uint64) (r *sim.Report) {
	emptyPools()
	defer emptyPools()
	defer runtime.GC()
	synctest.Test(t, func(*testing.T) { r = sim.RunUpper(seed, newSimRoom()) })
	return r
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, v)
	}
	return n
}

// simSeeds runs some, and says what fails, and how to see it again.
func simSeeds(t *testing.T, first, many uint64) map[string]int {
	t.Helper()
	defer steady()()
	counts := map[string]int{}
	for seed := first; seed < first+many; seed++ {
		began := time.Now()
		r := simulate(t, seed)
		for k, v := range r.Counts {
			counts[k] += v
		}
		if r.Violation != "" {
			t.Errorf("WEIR_SIM_SEED=%d: %s\n%s", seed, r.Violation, r.Plan)
		} else if testing.Verbose() {
			t.Logf("seed %d: %d events, %v simulated in %v, hash %x %v", seed, r.Events, r.Took, time.Since(began), r.Hash, r.Counts)
		}
		if os.Getenv("WEIR_SIM_TRACE") != "" || r.Violation != "" && testing.Verbose() {
			t.Log("\n" + r.Trace)
		}
		if r.Violation != "" && os.Getenv("WEIR_SIM_FIRST") != "" {
			break
		}
	}
	t.Log(counts)
	return counts
}

// P2: no promise about transactions is broken in any of so many clusters, each with other trouble.
func TestSimulatedTransactions(t *testing.T) {
	first, many := number(t, "WEIR_SIM_SEED", 0), uint64(200)
	if raceEnabled { // the detector sees each access once; the schedules are searched without it
		many = 10
	}
	if first > 0 {
		many = 1
	}
	many = number(t, "WEIR_SIM_SEEDS", many)
	counts := simSeeds(t, max(first, 1), many)
	for _, what := range []string{"transactions committed", "transactions aborted", "transactions given up", "transactions left open", "batches given up"} {
		if many >= 200 && counts[what] < 100 {
			t.Errorf("%s: %d in %d seeds; the simulation has lost what it is for", what, counts[what], many)
		}
	}
	for _, what := range []string{"changes of a producer's version", "ends answered again", "ends finished by a later coordinator", "epochs exhausted"} {
		if many >= 200 && counts[what] < 20 {
			t.Errorf("%s: %d in %d seeds; the simulation has lost what it has of version 2", what, counts[what], many)
		}
	}
}

func TestSimulatedTransactionsSoak(t *testing.T) {
	if os.Getenv("WEIR_SOAK") == "" {
		t.Skip("WEIR_SOAK=1 runs 10,000 seeds")
	}
	many := number(t, "WEIR_SIM_SEEDS", 10_000)
	for first := uint64(1); first <= many && !t.Failed(); first += 500 {
		began := time.Now()
		counts := simSeeds(t, first, min(500, many-first+1))
		t.Logf("seeds from %d on in %v: %v", first, time.Since(began).Round(time.Second), counts)
	}
}

// A seed decides what happens, where Go draws nothing by itself (package dice).
func TestSimulatedTransactionsReplay(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector runs goroutines in another order on purpose")
	}
	dice.Replays(t, dice.Build(t), "TestSimulatedTransactions", 12)
}
