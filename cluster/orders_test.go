package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
)

func wantErrors(t *testing.T, name string, got []error, want ...error) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v", name, got)
	}
	for i := range got {
		if !errors.Is(got[i], want[i]) {
			t.Errorf("%s: outcome %d is %v, want %v", name, i, got[i], want[i])
		}
	}
}

// Partitions go back to who is preferred, each for itself, and lead there when that is answered.
func TestElectPreferred(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	b := g.brokers[1]
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Assignment: [][]int32{{1, 2}, {1, 2}, {2, 1}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	g.await("all in sync", func() bool {
		return !slices.ContainsFunc(b.Image().TopicByID(topic.ID).Partitions, func(p meta.Partition) bool { return len(p.ISR) < len(p.Replicas) })
	})
	lead := func(index, leader int32) {
		t.Helper()
		if _, err := decide(within(t), b.quorum, func(im *meta.Image) (any, error) {
			p := &im.TopicByID(topic.ID).Partitions[index]
			return b.quorum.Propose(within(t), &meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{{Topic: topic.ID, Index: index, PartitionEpoch: p.PartitionEpoch, Leader: leader}}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	refs := []PartitionRef{{"a", 0}, {"a", 1}, {"a", 2}, {"a", 3}, {"a", -1}, {"b", 0}}
	for round := range 3 {
		lead(0, 2)
		lead(1, 2)
		got, err := b.ElectPreferred(within(t), refs)
		if err != nil {
			t.Fatal(err)
		}
		wantErrors(t, fmt.Sprint("round ", round), got, nil, nil, ErrLeads, ErrUnknownTopic, ErrUnknownTopic, ErrUnknownTopic)
		for i, want := range []int32{1, 1, 2} {
			if p := b.Image().TopicByID(topic.ID).Partitions[i]; p.Leader != want {
				t.Errorf("round %d: partition %d is led by %d", round, i, p.Leader)
			}
		}
	}
}

// Wishes stand each for itself; nil takes a move back, and a number of replicas may be held to.
func TestMove(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	b := g.brokers[2]
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Assignment: [][]int32{{1}, {2}, {3}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Move(within(t), []Wish{
		{"a", 0, []int32{2, 1}}, {"a", 0, []int32{3}}, {"a", 1, nil}, {"a", 2, []int32{}}, {"a", 2, []int32{3}}, {"a", 9, []int32{1}}, {"b", 0, []int32{1}}, {"a", 1, []int32{9}},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	wantErrors(t, "all kinds", got, nil, ErrInvalidAssignment, ErrNoMove, ErrInvalidAssignment, ErrInvalidAssignment, ErrUnknownTopic, ErrUnknownTopic, ErrInvalidAssignment)
	g.await("partition 0 has moved", func() bool {
		p := b.Image().TopicByID(topic.ID).Partitions[0]
		return slices.Equal(p.Replicas, []int32{2, 1}) && len(p.ISR) == 2
	})
	got, err = b.Move(within(t), []Wish{{"a", 0, []int32{1}}, {"a", 1, []int32{3}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	wantErrors(t, "as many as before", got, ErrInvalidReplicas, nil)

	g.await("partition 1 has moved", func() bool { return !b.Image().TopicByID(topic.ID).Partitions[1].Moves() })

	// To a broker that is not there the move goes on until it is taken back.
	id := g.brokers[0].NodeID()
	other := g.brokers[1].NodeID()
	if err := g.brokers[0].Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	g.brokers[0] = nil
	of := slices.IndexFunc(b.Image().TopicByID(topic.ID).Partitions, func(p meta.Partition) bool { return !slices.Contains(p.Replicas, id) })
	before := slices.Sorted(slices.Values(b.Image().TopicByID(topic.ID).Partitions[of].Replicas))
	if got, err = b.Move(within(t), []Wish{{"a", int32(of), []int32{id, other}}}, true); err != nil || got[0] != nil {
		t.Fatal(got, err)
	}
	if p := b.Image().TopicByID(topic.ID).Partitions[of]; !p.Moves() {
		t.Fatalf("it is over: %+v", p)
	}
	if got, err = b.Move(within(t), []Wish{{"a", int32(of), nil}}, false); err != nil || got[0] != nil {
		t.Fatal(got, err)
	}
	g.await("all is as before", func() bool {
		p := b.Image().TopicByID(topic.ID).Partitions[of]
		return !p.Moves() && slices.Equal(slices.Sorted(slices.Values(p.Replicas)), before)
	})
}

// An assignment is taken as it is, or refused before anything is made.
func TestNamedAssignments(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	b := g.brokers[0]
	for name, assignment := range map[string][][]int32{
		"unknown broker":    {{1}, {9}},
		"twice":             {{1, 1}},
		"none":              {{}},
		"different numbers": {{1}, {1, 2}},
	} {
		if _, err := b.CreateTopic(within(t), TopicSpec{Name: "no", Assignment: assignment}, false); !errors.Is(err, ErrInvalidAssignment) {
			t.Errorf("%s: %v", name, err)
		}
	}
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Assignment: [][]int32{{3, 1}, {2, 3}}}, false)
	if err != nil || topic.AutoReplicas || fmt.Sprint(topic.Partitions[0].Replicas, topic.Partitions[1].Replicas) != "[3 1] [2 3]" {
		t.Fatalf("%+v, %v", topic, err)
	}
	for name, assignment := range map[string][][]int32{"too few": {{1, 2}}, "another number": {{1}, {2}}, "unknown broker": {{1, 2}, {9, 1}}} {
		if err := b.CreatePartitions(within(t), "a", 4, assignment, false); !errors.Is(err, ErrInvalidAssignment) {
			t.Errorf("%s: %v", name, err)
		}
	}
	more := [][]int32{{1, 2}, {3, 2}}
	if err := b.CreatePartitions(within(t), "a", 4, more, true); err != nil || len(b.Image().Topic("a").Partitions) != 2 {
		t.Errorf("validate only: %v", err)
	}
	if err := b.CreatePartitions(within(t), "a", 4, more, false); err != nil {
		t.Fatal(err)
	}
	if ps := b.Image().Topic("a").Partitions; fmt.Sprint(ps[2].Replicas, ps[3].Replicas) != "[1 2] [3 2]" {
		t.Errorf("%+v", ps)
	}
}
