package assign

import (
	"bytes"
	"cmp"
	"slices"
	"sort"
)

// Names of the assignors, as clients ask for them.
const (
	UniformName = "uniform"
	RangeName   = "range"
)

// Known reports whether there is an assignor of that name.
func Known(name string) bool { return name == UniformName || name == RangeName }

// Topic is a topic that a member reads.
type Topic struct {
	ID         TopicID
	Partitions int32
}

// Member is what an assignor knows of one member.
type Member struct {
	Name   string  // tells members apart and lasts as long as the member: an instance id, or a member id
	Static bool    // Name is an instance id
	Reads  []Topic // each once
	Had    Set     // what it was given last
}

// By assigns with the assignor of that name, which is Known. The sets are those
// of the members, in their order.
func By(name string, members []Member) []Set {
	if name == RangeName {
		return Range(members)
	}
	return Uniform(members)
}

// compareMembers orders static members before others, then by name.
func compareMembers(a, b *Member) int {
	if a.Static != b.Static {
		if a.Static {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Name, b.Name)
}

// inOrder is the members' positions in an order that does not depend on theirs.
func inOrder(members []Member) []int {
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return compareMembers(&members[order[i]], &members[order[j]]) < 0 })
	return order
}

// topicReaders is a topic with those that read it, in order.
type topicReaders struct {
	Topic
	readers []int
}

// readersOf lists the topics that somebody reads, by id.
func readersOf(members []Member, order []int) []*topicReaders {
	byID := map[TopicID]*topicReaders{}
	var topics []*topicReaders
	for _, m := range order {
		for _, topic := range members[m].Reads {
			t := byID[topic.ID]
			if t == nil {
				t = &topicReaders{Topic: topic}
				byID[topic.ID] = t
				topics = append(topics, t)
			}
			t.readers = append(t.readers, m)
		}
	}
	slices.SortFunc(topics, func(a, b *topicReaders) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return topics
}

// Range gives each reader of a topic one run of its partitions; the first ones
// get one more where it does not come out even.
func Range(members []Member) []Set {
	sets := make([]Set, len(members))
	for _, t := range readersOf(members, inOrder(members)) {
		n := int32(len(t.readers))
		each, more, next := t.Partitions/n, t.Partitions%n, int32(0)
		for i, m := range t.readers {
			end := next + each
			if int32(i) < more {
				end++
			}
			for ; next < end; next++ {
				sets[m] = append(sets[m], Partition{t.ID, next})
			}
		}
	}
	return sets // topics and runs came in order
}
