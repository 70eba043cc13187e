package log

import (
	"runtime"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// No second sees more syncs than the rate, whenever it begins, also after a long rest.
func TestPacerKeepsEverySecondToTheRate(t *testing.T) {
	for _, rate := range []int{1, 9, 400, 5000} {
		var p pacer
		now := time.Unix(1000, 0)
		p.refill(now, rate)
		now = now.Add(time.Hour)
		var at []time.Time
		for range 3 * rate {
			now = now.Add(p.delay(now, rate))
			p.spend(now, rate)
			at = append(at, now)
		}
		for i, first := 0, 0; i < len(at); i++ {
			for at[i].Sub(at[first]) >= time.Second {
				first++
			}
			// One more may begin exactly when the first is a second old; a rate of 1 still allows a saved-up one.
			if n := i - first + 1; n > max(rate+1, 2) {
				t.Fatalf("rate %d: %d syncs within a second", rate, n)
			}
		}
		if took := at[len(at)-1].Sub(at[0]); took > 4*time.Second {
			t.Errorf("rate %d: three seconds' worth took %v", rate, took)
		}
	}
}

// Commits make up for the background's syncs, but not for ever.
func TestPacerRepaysTheBackground(t *testing.T) {
	const rate = 400
	var p pacer
	now := time.Unix(1000, 0)
	p.refill(now, rate)
	p.charge(60, rate)
	if d := p.delay(now, rate); d < 40*time.Millisecond || d > 60*time.Millisecond {
		t.Errorf("after 60 foreign syncs the next is due in %v", d)
	}
	p.charge(100_000, rate)
	if d := p.delay(now, rate); d > 300*time.Millisecond {
		t.Errorf("after a flood of foreign syncs the next is due in %v", d)
	}
	// A commit that was worth a sync anyway leaves no debt of its own.
	before := p.credit
	p.spend(now, rate)
	if p.credit < before {
		t.Errorf("a commit that did not wait made credit go from %v to %v", before, p.credit)
	}
}

// A checkpoint's syncs are counted with the commits': pacing only knows of what is counted.
func TestStatsCountTheSyncsOfCheckpoints(t *testing.T) {
	l, err := Open(testConfig(vfs.NewMem(), "/d", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := l.Create(testID(0), "t", PartitionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	r := benchRecord()
	if _, err := p.Append(&r, 1); err != nil {
		t.Fatal(err)
	}
	before := l.Stats()
	l.maintenance.Lock()
	err = l.checkpoint()
	l.maintenance.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	after := l.Stats()
	if others := after.Syncs - before.Syncs - (after.Commits - before.Commits); others < 3 {
		t.Errorf("a checkpoint with a new segment made %d syncs besides its commits", others)
	}
}

// A checkpoint that takes breath holds maintenance: it must hurry once a deletion or truncation waits for that.
func TestWaitingForMaintenanceEndsTheBreath(t *testing.T) {
	l, err := Open(testConfig(vfs.NewMem(), "/d", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.maintenance.Lock() // as a checkpoint does
	if l.keeper.hurried() {
		t.Error("hurried while nobody waits")
	}
	got := make(chan struct{})
	go func() {
		l.lockMaintenance()
		l.maintenance.Unlock()
		close(got)
	}()
	for l.wanted.Load() == 0 {
		runtime.Gosched()
	}
	if !l.keeper.hurried() {
		t.Error("takes breath while somebody waits")
	}
	l.maintenance.Unlock()
	<-got
	if l.keeper.hurried() {
		t.Error("still hurried when nobody waits any more")
	}
}

// Only on a slow disk, and only where several records came together, is there something to wait for; the wait is a fraction of the
// sync and bounded by what the operator allows.
func TestGather(t *testing.T) {
	c := &committer{l: &Log{cfg: Config{CommitMaxWait: 2 * time.Millisecond}}}
	for _, test := range []struct {
		took     time.Duration
		together bool
		want     time.Duration
	}{
		{300 * time.Microsecond, true, 0},
		{5 * time.Millisecond, false, 0},
		{5 * time.Millisecond, true, 625 * time.Microsecond},
		{80 * time.Millisecond, true, 2 * time.Millisecond},
	} {
		c.took, c.together = test.took, test.together
		if got := c.gather(); got != test.want {
			t.Errorf("after a sync of %v, several %t: %v, want %v", test.took, test.together, got, test.want)
		}
	}
}
