package deliver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/log"
)

// place is a cursor that stands at next in every log.
func (th *testHub) place(next ...log.Offset) Cursor {
	var c Cursor
	for i, l := range th.logs {
		c.Set(l.ID(), next[i])
	}
	return c
}

// Sessions that come while the hub runs share a pass: each has what lies behind its own cursor, noted as postings and
// not as a scan that would read everything again, and what is published meanwhile comes behind it.
func TestSessionsThatComeLaterShareAPass(t *testing.T) { // M9
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		live := newTarget(-1)
		th.Attach("live", live, true, Cursor{}, nil)
		th.subscribe("live", Sub{Filter: "#", QoS: 1})
		for i := range 100 {
			th.logs[0].commit(published(fmt.Sprint("t", i%10), fmt.Sprint(i), 1))
		}
		synctest.Wait()
		live.take()
		before := th.Stats().Scanned
		th.RestoreAll([]Stored{
			{"a", th.place(50), []Sub{{Filter: "t3", QoS: 1}}},
			{"b", th.place(80), []Sub{{Filter: "t3", QoS: 1}}},
			{"c", th.place(90), []Sub{{Filter: "nothing", QoS: 1}}},
			{"new", Cursor{}, []Sub{{Filter: "t3", QoS: 1}}},
		})
		th.logs[0].commit(published("t3", "more", 1))
		synctest.Wait()
		if n := th.Stats().Scanned - before; n > 55 {
			t.Errorf("%d records read for three sessions of which the first begins 50 before the end", n)
		}
		for _, p := range *th.parts.Load() {
			if p.scans != 0 || p.rebuild != nil {
				t.Errorf("%d scans, pass %v", p.scans, p.rebuild)
			}
		}
		if got := live.payloads(); !slices.Equal(got, []string{"more"}) {
			t.Errorf("who was there got %v", got)
		}
		for id, want := range map[string][]string{
			"a": {"53", "63", "73", "83", "93", "more"}, "b": {"83", "93", "more"}, "c": {}, "new": {"more"},
		} {
			back := newTarget(-1)
			th.Attach(id, back, true, Cursor{}, nil)
			synctest.Wait()
			if got := back.payloads(); !slices.Equal(got, want) {
				t.Errorf("%s got %v, want %v", id, got, want)
			}
		}
	})
}

// A node whose copy of the log is behind that of the owner before it gives nobody again what its cursor has passed.
func TestSessionsBeyondTheTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, running := range []bool{false, true} {
			th := newTestHub(t, 1, nil)
			for i := range 10 {
				th.logs[0].commit(published("t", fmt.Sprint(i), 2))
			}
			stored := []Stored{{"a", th.place(15), []Sub{{Filter: "t", QoS: 2}}}, {"b", th.place(8), []Sub{{Filter: "t", QoS: 2}}}}
			if !running {
				th.RestoreAll(stored)
			}
			th.start()
			if running {
				th.RestoreAll(stored)
			}
			a, b := newTarget(-1), newTarget(-1)
			th.Attach("a", a, true, Cursor{}, nil)
			th.Attach("b", b, true, Cursor{}, nil)
			for i := 10; i < 20; i++ {
				synctest.Wait()
				th.logs[0].commit(published("t", fmt.Sprint(i), 2))
			}
			synctest.Wait()
			if got := a.payloads(); !slices.Equal(got, []string{"15", "16", "17", "18", "19"}) {
				t.Errorf("running %v: got %v", running, got)
			}
			if got := b.payloads(); len(got) != 12 || got[0] != "8" {
				t.Errorf("running %v: got %v", running, got)
			}
			if th.Rebuilding() {
				t.Error("the pass goes on")
			}
			th.stop()
		}
	})
}

// Batches of sessions come at any moment of passes under way, while messages are published and clients come back: each
// gets each of its messages once, in order.
func TestBatchesJoinPasses(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			th := startHub(t, 2, func(c *Config) { c.Limits.ReadBytes = 300 })
			defer th.stop()
			sent := [2][]string{}
			put := func() {
				p := rnd.IntN(2)
				sent[p] = append(sent[p], fmt.Sprintf("%d/%d", p, len(sent[p])))
				th.logs[p].commit(published("t", sent[p][len(sent[p])-1], 1))
			}
			type sess struct {
				target *fakeTarget
				from   [2]int
			}
			var all []sess
			for range 40 {
				for range rnd.IntN(20) {
					put()
				}
				if rnd.IntN(3) == 0 {
					var batch []Stored
					first := len(all)
					for range 1 + rnd.IntN(3) {
						s := sess{from: [2]int{rnd.IntN(len(sent[0]) + 1), rnd.IntN(len(sent[1]) + 1)}}
						batch = append(batch, Stored{fmt.Sprint("s", len(all)), th.place(log.Offset(s.from[0]), log.Offset(s.from[1])), []Sub{{Filter: "t", QoS: 1}}})
						all = append(all, s)
					}
					th.RestoreAll(batch)
					for i := first; i < len(all); i++ {
						if rnd.IntN(2) == 0 {
							all[i].target = newTarget(-1)
							th.Attach(fmt.Sprint("s", i), all[i].target, true, Cursor{}, nil)
						}
					}
				}
				if rnd.IntN(4) == 0 {
					synctest.Wait()
				}
			}
			for i := range all {
				if all[i].target == nil {
					all[i].target = newTarget(-1)
					th.Attach(fmt.Sprint("s", i), all[i].target, true, Cursor{}, nil)
				}
			}
			synctest.Wait()
			for i, s := range all {
				got := [2][]string{}
				for _, g := range s.target.take() {
					got[g.part] = append(got[g.part], g.payload)
				}
				for p := range got {
					if !slices.Equal(got[p], sent[p][s.from[p]:]) {
						t.Fatalf("seed %d: session %d, partition %d from %d of %d: %v", seed, i, p, s.from[p], len(sent[p]), got[p])
					}
				}
			}
		})
	}
}
