package assign

import "slices"

// Uniform evens out how many partitions each member has.
func Uniform(members []Member) []Set {
	order := inOrder(members)
	u := uniform{topics: map[TopicID]*topicReaders{}, sets: make([][]Partition, len(members))}
	topics := readersOf(members, order)
	for _, t := range topics {
		u.topics[t.ID] = t
	}
	given := map[Partition]bool{}
	for _, m := range order {
		for _, p := range members[m].Had {
			if t := u.topics[p.Topic]; t != nil && p.Index >= 0 && p.Index < t.Partitions && !given[p] && slices.Contains(t.readers, m) {
				given[p] = true
				u.sets[m] = append(u.sets[m], p)
			}
		}
	}
	for _, t := range topics {
		for index := range t.Partitions {
			if p := (Partition{t.ID, index}); !given[p] {
				m := u.leastLoaded(t)
				u.sets[m] = append(u.sets[m], p)
			}
		}
	}
	for u.even(order) {
	}
	sets := make([]Set, len(members))
	for m, ps := range u.sets {
		sets[m] = NewSet(ps)
	}
	return sets
}

type uniform struct {
	topics map[TopicID]*topicReaders
	sets   [][]Partition // by member
}

// leastLoaded is the first of the topic's readers with the fewest partitions.
func (u *uniform) leastLoaded(t *topicReaders) int {
	best := t.readers[0]
	for _, m := range t.readers[1:] {
		if len(u.sets[m]) < len(u.sets[best]) {
			best = m
		}
	}
	return best
}

// even moves partitions, each to a reader that has at least two fewer, and
// reports whether it moved any. Each move lowers the sum of the loads' squares, so it comes to an end.
func (u *uniform) even(order []int) (moved bool) {
	least := len(u.sets[order[0]])
	for _, m := range order {
		least = min(least, len(u.sets[m]))
	}
	for _, m := range order {
		for i := len(u.sets[m]) - 1; i >= 0 && len(u.sets[m]) > least+1; i-- {
			p := u.sets[m][i]
			if to := u.leastLoaded(u.topics[p.Topic]); len(u.sets[to])+2 <= len(u.sets[m]) {
				u.sets[m] = slices.Delete(u.sets[m], i, i+1)
				u.sets[to] = append(u.sets[to], p)
				moved = true
			}
		}
	}
	return moved
}
