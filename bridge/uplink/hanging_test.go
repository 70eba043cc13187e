package uplink

import (
	"testing"

	"github.com/weir-io/weir/log"
)

// U11: cursors that hang end as the transaction was decided, by whatever tells of it; where nothing does they are aborted, since nobody has seen anything of it.
func TestHowATransactionThatHangsEnds(t *testing.T) {
	id := func(i int32) log.PartitionID { return log.PartitionID{Topic: log.TopicID{1}, Index: i} }
	cursors := func(next ...log.Offset) map[log.PartitionID]progress {
		m := map[log.PartitionID]progress{}
		for i, n := range next {
			if n > 0 {
				m[id(int32(i))] = progress{Topic: "t", Partition: int32(i), Cursor: Cursor{Next: n}}
			}
		}
		return m
	}
	parts := func(confirmed ...log.Offset) (all []carriedPart) {
		for i, n := range confirmed {
			all = append(all, carriedPart{id: id(int32(i)), topic: "t", remote: "t", confirmed: Cursor{Next: n}})
		}
		return all
	}
	at := func(i int32, o log.Offset) origin { return origin{"t", i, o} }
	for _, c := range []struct {
		what              string
		committed, within map[log.PartitionID]progress
		parts             []carriedPart
		elsewhere         []endedTransaction
		commit            bool
	}{
		{"nothing tells", cursors(10, 20), cursors(15, 25), parts(10, 20), nil, false},
		{"nothing tells of the first there is", cursors(), cursors(15, 25), parts(0, 0), nil, false},
		{"this node knows of a confirmation", cursors(10, 20), cursors(15, 25), parts(15, 25), nil, true},
		{"it knows of a part of it, saved before the rest", cursors(10, 20), cursors(15, 25), parts(10, 25), nil, true},
		{"it knows of the first there is", cursors(), cursors(15), parts(15), nil, true},
		{"it knows of more than even this would confirm: the target has gone back (U5)", cursors(10), cursors(15), parts(40), nil, false},
		{"what it knows of has nothing to do with this", cursors(10, 20), cursors(0, 25), parts(15, 20), nil, false},
		{"a partition has a commit marker of its own epoch", cursors(10), cursors(15), parts(10), []endedTransaction{{commit: true, later: true}}, true},
		{"a partition has an abort marker of its own epoch", cursors(10), cursors(15), parts(10), []endedTransaction{{later: true}}, false},
		{"aborted there, though this node calls it confirmed: rather stop than lose", cursors(10), cursors(15), parts(15), []endedTransaction{{later: true}}, false},
		{"one epoch for several: committed there is what this would confirm", cursors(10), cursors(15), parts(10), []endedTransaction{{commit: true, last: at(0, 14)}}, true},
		{"one epoch for several: committed there is what was confirmed before", cursors(10), cursors(15), parts(10), []endedTransaction{{commit: true, last: at(0, 9)}}, false},
		{"one epoch for several: aborted there is what this would confirm", cursors(10), cursors(15), parts(15), []endedTransaction{{last: at(0, 12)}}, false},
		{"one epoch for several: an abort before does not count", cursors(10), cursors(15), parts(15), []endedTransaction{{last: at(0, 9)}}, true},
		{"committed there is what this says nothing of", cursors(10), cursors(15), parts(10), []endedTransaction{{commit: true, last: at(0, 15)}}, false},
		{"a marker whose records are gone", cursors(10), cursors(15), parts(10), []endedTransaction{{commit: true}}, false},
		{"a partition that is carried no more", cursors(0, 20), cursors(0, 25), parts(0)[:1], []endedTransaction{{commit: true, last: at(1, 22)}}, true},
		{"several partitions, one of them in it", cursors(10, 20), cursors(10, 25), parts(10, 20), []endedTransaction{{commit: true, last: at(0, 9)}, {commit: true, last: at(1, 24)}}, true},
	} {
		h := hungCursors{c.committed, c.within, c.parts, c.elsewhere}
		if commit, why := h.commit(); commit != c.commit {
			t.Errorf("%s: commit is %t, %s", c.what, commit, why)
		}
	}
}

// A topic that was deleted and made again has the cursor of both; the record is of the one there is.
func TestRecordsGoByTheCursorOfTheirTopic(t *testing.T) {
	old, now := log.PartitionID{Topic: log.TopicID{1}}, log.PartitionID{Topic: log.TopicID{2}}
	cursors := map[log.PartitionID]progress{old: {Topic: "t", Cursor: Cursor{Next: 1000}}, now: {Topic: "t", Cursor: Cursor{Next: 5, Ahead: []Span{{8, 10}}}}}
	for o, want := range map[log.Offset]bool{4: true, 5: false, 7: false, 8: true, 9: true, 10: false} {
		if covered(cursors, []carriedPart{{id: now, topic: "t"}}, origin{"t", 0, o}) != want {
			t.Errorf("offset %d: want %t", o, want)
		}
	}
	if !covered(cursors, nil, origin{"t", 0, 999}) || covered(cursors, nil, origin{"t", 1, 1}) {
		t.Error("by the topic's name alone")
	}
}

func TestOrigins(t *testing.T) {
	for header, want := range map[string]bool{
		"c/t/3/17": true, "d/t/3/17": false, "c/t/3": false, "c/t/3/17/1": false, "c/t/x/17": false, "c/t/3/x": false, "c/t/2147483648/1": false, "": false, "c": false, "c/": false,
	} {
		if o, ok := parseOrigin(header, "c"); ok != want || ok && o != (origin{"t", 3, 17}) {
			t.Errorf("%q: %+v, %t", header, o, ok)
		}
	}
}
