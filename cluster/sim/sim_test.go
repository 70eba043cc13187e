package sim

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/internal/dice"
)

// one runs one seed.
func one(t *testing.T, seed uint64) (r *Report) {
	defer runtime.GC()
	synctest.Test(t, func(*testing.T) { r = Run(seed) })
	return r
}

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

// seeds runs some, and says what fails, and how to see it again. It returns what they met.
func seeds(t *testing.T, first, n uint64) map[string]int {
	t.Helper()
	defer steady()()
	counts := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		began := time.Now()
		r := one(t, seed)
		for k, v := range r.Counts {
			counts[k] += v
		}
		counts["acked"] += r.Acked
		if r.Violation != "" {
			if n > 200 {
				report(t, fmt.Sprintf("WEIR_SIM_SEED=%d: %s", seed, r.Violation))
			}
			t.Errorf("WEIR_SIM_SEED=%d: %s\n%s", seed, r.Violation, r.Plan)
		} else if testing.Verbose() {
			t.Logf("seed %d: %d events, %d acked, %v simulated in %v, hash %x %s", seed, r.Events, r.Acked, r.Took, time.Since(began), r.Hash, r.Plan)
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

// No promise is broken in any of so many runs, each with other trouble.
func TestSeeds(t *testing.T) {
	first, many := number(t, "WEIR_SIM_SEED", 0), uint64(200)
	if raceEnabled { // the detector sees each access once; the schedules are searched without it
		many = 10
	}
	if first > 0 {
		many = 1
	}
	seeds(t, max(first, 1), number(t, "WEIR_SIM_SEEDS", many))
}

func TestSeedsSoak(t *testing.T) {
	if os.Getenv("WEIR_SOAK") == "" {
		t.Skip("WEIR_SOAK=1 runs 10,000 seeds")
	}
	many := number(t, "WEIR_SIM_SEEDS", 10_000)
	for first := uint64(1); first <= many; first += 500 {
		n, began := min(500, many-first+1), time.Now()
		counts := seeds(t, first, n)
		outcome := "no promise broken"
		if t.Failed() {
			outcome = "FAILED"
		}
		report(t, fmt.Sprintf("seeds %d to %d: %s, in %v; %v", first, first+n-1, outcome, time.Since(began).Round(time.Second), counts))
	}
}

// report adds a line to bin/sim-report.txt, or where WEIR_SIM_REPORT says: long runs are watched there.
func report(t *testing.T, line string) {
	t.Helper()
	file := cmp.Or(os.Getenv("WEIR_SIM_REPORT"), filepath.Join("..", "..", "bin", "sim-report.txt"))
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			_, err = fmt.Fprintln(f, time.Now().UTC().Format(time.DateTime), line)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A seed decides what happens, where Go draws nothing by itself (package dice).
func TestSeedsReplay(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector runs goroutines in another order on purpose")
	}
	dice.Replays(t, dice.Build(t), "TestSeeds", 12)
}
