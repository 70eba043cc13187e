package assign

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func topicID(i int) TopicID { return TopicID{byte(i + 1)} }

// drawMembers makes members of up to four topics; what they had may overlap,
// be of topics that they do not read or that do not exist.
func drawMembers(t *rapid.T) []Member {
	topics := make([]Topic, rapid.IntRange(0, 4).Draw(t, "topics"))
	for i := range topics {
		topics[i] = Topic{topicID(i), int32(rapid.IntRange(0, 7).Draw(t, "partitions"))}
	}
	alike := rapid.Bool().Draw(t, "alike")
	members := make([]Member, rapid.IntRange(1, 5).Draw(t, "members"))
	for i := range members {
		m := &members[i]
		m.Name, m.Static = fmt.Sprint("m", (i*7)%5), rapid.Bool().Draw(t, "static")
		for _, topic := range topics {
			if alike || rapid.Bool().Draw(t, "reads") {
				m.Reads = append(m.Reads, topic)
			}
		}
		var had []Partition
		for range rapid.IntRange(0, 9).Draw(t, "had") {
			had = append(had, Partition{topicID(rapid.IntRange(0, 5).Draw(t, "of")), int32(rapid.IntRange(-1, 8).Draw(t, "index"))})
		}
		m.Had = NewSet(had)
	}
	return members
}

func alike(members []Member) bool {
	return !slices.ContainsFunc(members, func(m Member) bool { return !slices.Equal(m.Reads, members[0].Reads) })
}

func TestAssignors(t *testing.T) {
	for _, name := range []string{UniformName, RangeName} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				members := drawMembers(t)
				sets := By(name, members)
				owner := map[Partition]int{}
				for i, s := range sets {
					if !s.Equal(NewSet(slices.Clone(s))) {
						t.Fatalf("not in order: %v", s)
					}
					for _, p := range s {
						if by, taken := owner[p]; taken {
							t.Fatalf("S1: %v is given to %d and %d", p, by, i)
						}
						owner[p] = i
						if !slices.ContainsFunc(members[i].Reads, func(r Topic) bool { return r.ID == p.Topic && p.Index >= 0 && p.Index < r.Partitions }) {
							t.Fatalf("S1: %d does not read %v", i, p)
						}
					}
				}
				for _, m := range members {
					for _, r := range m.Reads {
						for index := range r.Partitions {
							if _, ok := owner[Partition{r.ID, index}]; !ok {
								t.Fatalf("S1: %d/%d is given to nobody", r.ID[0], index)
							}
						}
					}
				}
				again := slices.Clone(members)
				for i := range again {
					again[i].Had = sets[i]
				}
				for i, s := range By(name, again) {
					if !s.Equal(sets[i]) {
						t.Fatalf("S2: member %d had %v, and gets %v", i, sets[i], s)
					}
				}
				turned := slices.Clone(members)
				slices.Reverse(turned)
				if len(slices.CompactFunc(slices.SortedFunc(slices.Values(members), func(a, b Member) int { return compareMembers(&a, &b) }), func(a, b Member) bool { return compareMembers(&a, &b) == 0 })) == len(members) {
					for i, s := range By(name, turned) {
						if !s.Equal(sets[len(sets)-1-i]) {
							t.Fatalf("S3: member %d", i)
						}
					}
				}
				if name == UniformName {
					checkEven(t, members, sets)
				}
			})
		})
	}
}

func checkEven(t *rapid.T, members []Member, sets []Set) {
	for i, s := range sets {
		for j, other := range sets {
			if len(s) < len(other)+2 {
				continue
			}
			for _, p := range s {
				if slices.ContainsFunc(members[j].Reads, func(r Topic) bool { return r.ID == p.Topic }) {
					t.Fatalf("%d has %d partitions, %d has %d and reads %v too", i, len(s), j, len(other), p)
				}
			}
		}
	}
	if !alike(members) {
		return
	}
	// Nobody gives up more than evenness takes: who had no more than the fair share keeps all of it.
	total, kept := 0, 0
	for _, s := range sets {
		total += len(s)
	}
	fair := total / len(sets)
	seen := map[Partition]bool{}
	for _, i := range inOrder(members) {
		valid := members[i].Had.And(allOf(members[i].Reads))
		var own []Partition
		for _, p := range valid {
			if !seen[p] {
				seen[p] = true
				own = append(own, p)
			}
		}
		kept = len(NewSet(own).And(sets[i]))
		if kept < min(len(own), fair) {
			t.Fatalf("%d keeps %d of %d partitions, %d are fair", i, kept, len(own), fair)
		}
	}
}

func allOf(topics []Topic) Set {
	var ps []Partition
	for _, t := range topics {
		for index := range t.Partitions {
			ps = append(ps, Partition{t.ID, index})
		}
	}
	return NewSet(ps)
}

func TestRangeRunsAreTheSameForAllTopics(t *testing.T) {
	reads := []Topic{{topicID(0), 3}, {topicID(1), 3}}
	sets := Range([]Member{{Name: "b", Reads: reads}, {Name: "z", Static: true, Reads: reads}})
	if want := (Set{{topicID(0), 0}, {topicID(0), 1}, {topicID(1), 0}, {topicID(1), 1}}); !sets[1].Equal(want) {
		t.Errorf("the static member, which comes first, got %v", sets[1])
	}
	if want := (Set{{topicID(0), 2}, {topicID(1), 2}}); !sets[0].Equal(want) {
		t.Errorf("the other got %v", sets[0])
	}
}

func TestSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) Set {
			var ps []Partition
			for range rapid.IntRange(0, 6).Draw(t, label) {
				ps = append(ps, Partition{topicID(rapid.IntRange(0, 1).Draw(t, "topic")), int32(rapid.IntRange(0, 3).Draw(t, "index"))})
			}
			return NewSet(ps)
		}
		a, b := draw("a"), draw("b")
		and, minus, or := a.And(b), a.Minus(b), a.Or(b)
		for _, p := range a.Or(b) {
			if and.Has(p) != (a.Has(p) && b.Has(p)) || minus.Has(p) != (a.Has(p) && !b.Has(p)) || !or.Has(p) {
				t.Fatalf("%v of %v and %v: and %v, minus %v, or %v", p, a, b, and, minus, or)
			}
		}
		if len(or) != len(a)+len(b)-len(and) || len(minus) != len(a)-len(and) || a.Within(b) != (len(minus) == 0) {
			t.Fatalf("%v and %v: and %v, minus %v, or %v", a, b, and, minus, or)
		}
	})
}

func BenchmarkUniformJoin(b *testing.B) {
	reads := []Topic{{topicID(0), 1000}}
	members := make([]Member, 500)
	for i := range members {
		members[i] = Member{Name: fmt.Sprint(i), Reads: reads}
	}
	for i, s := range Uniform(members[:499]) {
		members[i].Had = s
	}
	for b.Loop() {
		Uniform(members)
	}
}
