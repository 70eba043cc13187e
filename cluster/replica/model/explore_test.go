package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// counter goes up by one or doubles; want is forbidden.
type counter struct{ limit, want uint8 }

func (counter) start() uint8         { return 1 }
func (counter) same(s *uint8) uint64 { return uint64(*s) }
func (counter) show(s *uint8) string { return fmt.Sprint(*s) }
func (c counter) broken(s *uint8) string {
	if *s == c.want {
		return "forbidden"
	}
	return ""
}

func (c counter) next(s *uint8, emit func(step, *uint8)) {
	for i, n := range []uint8{*s + 1, *s * 2} {
		if n <= c.limit {
			emit(step{kind: kSync, a: uint8(i)}, &n)
		}
	}
}

func TestExploreFindsAShortestTrace(t *testing.T) {
	f := explore[uint8](counter{100, 37}, 1000)
	if f.broken != "forbidden" || len(f.trace) != 7 || !strings.HasSuffix(f.trace[6], " 37") { // 2 4 8 9 18 36 37
		t.Error(f)
	}
	if f = explore[uint8](counter{100, 0}, 1000); !f.whole || f.states != 100 || f.broken != "" {
		t.Error(f)
	}
	if f = explore[uint8](counter{100, 0}, 50); f.whole || f.states != 50 {
		t.Error(f)
	}
}

func TestSeenGrows(t *testing.T) {
	s := newSeen()
	r := rand.New(rand.NewPCG(1, 2))
	var hs []uint64
	for range 200_000 {
		hs = append(hs, r.Uint64())
	}
	for _, h := range hs {
		if !s.add(h) {
			t.Fatal("new, and said to be seen")
		}
	}
	for _, h := range hs {
		if s.add(h) {
			t.Fatal("seen, and said to be new")
		}
	}
}

// Renamed brokers are the same state, and the same steps lead on from it: else states would be left out.
func TestRenamingChangesNothing(t *testing.T) {
	withoutRace(t)
	for _, c := range small() {
		t.Run(c.name, func(t *testing.T) {
			p := *c.p
			p.without = c.without
			perms := perms3
			if p.n < 3 {
				perms = perms2[:p.n]
			}
			r := rand.New(rand.NewPCG(3, 4))
			for range 30 {
				s := p.start()
				for range 40 {
					var after []state
					p.next(&s, func(_ step, n *state) { after = append(after, *n) })
					for _, perm := range perms[1:] {
						other := s
						other.rename(&perm, 0)
						if p.same(&s) != p.same(&other) {
							t.Fatalf("another state:\n%s\n%s", p.show(&s), p.show(&other))
						}
						if a, b := p.reaches(&s), p.reaches(&other); !slices.Equal(a, b) {
							t.Fatalf("other steps from\n%s: %d\n%s: %d", p.show(&s), len(a), p.show(&other), len(b))
						}
					}
					if len(after) == 0 {
						break
					}
					s = after[r.IntN(len(after))]
				}
			}
		})
	}
}

func (p *partition) reaches(s *state) (hashes []uint64) {
	p.next(s, func(_ step, n *state) { hashes = append(hashes, p.same(n)) })
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// reach forbids what a scenario is made for, so that the search must find it.
type reach struct {
	*partition
	goal func(*state) bool
}

func (r reach) broken(s *state) string {
	if r.goal(s) {
		return "reached"
	}
	return r.partition.broken(s)
}

// A search that never gets to its point proves nothing.
func TestScenariosReachTheirPoint(t *testing.T) {
	withoutRace(t)
	readable := func(s *state) bool { // by the leader of the newest epoch
		l := s.hist[0].leader
		return l != none && s.brokers[l].up == 1 && s.brokers[l].lag == 0 && s.brokers[l].hw > 0 && s.promised[0] != 0
	}
	goals := map[string]func(*state) bool{
		"a restart": func(s *state) bool {
			return readable(s) && s.left[crashes] == 0 && inSync(s.hist[0].isr) == 2 && s.hist[0].restarted != 0 && s.hist[0].le > 1
		},
		"restarts, min.insync 1":   func(s *state) bool { return readable(s) && s.left[crashes] == 0 },
		"one replica":              func(s *state) bool { return readable(s) && s.gone > 0 && s.left[crashes]+s.left[stops] == 0 },
		"late fetches and answers": func(s *state) bool { return readable(s) && s.left[late] == 0 && s.hist[0].le > 1 },
		"copies of proposals": func(s *state) bool {
			return readable(s) && s.left[copies] == 0 && s.hist[0].isr == 3 && s.left[fences] == 0
		},
		"figure 8, a disk lies": func(s *state) bool {
			return readable(s) && s.left[siteCuts] == 0 && s.liar != 0 && s.promised[0] == 1<<4|1 && s.hist[0].le > 3
		},
		"a disk lies": func(s *state) bool { return readable(s) && s.left[lies]+s.left[crashes] == 0 && s.real.who == 0 },
		"an old disk": func(s *state) bool {
			return readable(s) && s.left[backups] == 0 && s.left[crashes] == 0 && s.backup.who == 0
		},
		"min.insync changes": func(s *state) bool { return readable(s) && s.left[configs] == 0 && s.hist[0].elr == 0 },
		"a move": func(s *state) bool {
			return readable(s) && s.left[reassigns] == 0 && s.hist[0].adding == 0 && s.hist[0].leader == 2
		},
		"retention": func(s *state) bool {
			return readable(s) && s.left[retention] == 0 && s.brokers[1].start > 0 && s.hist[0].isr == 3
		},
		"reads and leases": func(s *state) bool { return s.reader > 0 && s.left[fences]+s.left[lapses]+s.left[handovers] == 0 },
		"a clean shutdown": func(s *state) bool {
			return readable(s) && s.left[stops]+s.left[changes] == 0 && inSync(s.hist[0].isr) == 2
		},
		"a stalled broker": func(s *state) bool { return readable(s) && s.left[stalls] == 0 && inSync(s.hist[0].isr) == 2 },
	}
	for _, c := range small() {
		t.Run(c.name, func(t *testing.T) {
			p := *c.p
			p.without = c.without
			goal := goals[c.name]
			if goal == nil {
				t.Fatal("name what it is for")
			}
			if f := explore[state](reach{&p, goal}, 200_000); f.broken != "reached" {
				t.Error(f)
			}
		})
	}
}
