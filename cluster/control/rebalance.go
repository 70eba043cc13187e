package control

import (
	"slices"

	"github.com/weir-io/weir/cluster/meta"
)

// PlanRebalance evens out what the brokers that serve have: replicas in different zones where that can be had, then numbers of replicas, then of
// preferred leaders; no more is copied than that takes. Partitions that move or that nobody leads stay as they are. It answers nothing if all is even.
func PlanRebalance(im *meta.Image) []*meta.Reassign {
	b := &balance{im: im, l: count(im), pool: serving(im)}
	if len(b.pool) < 2 {
		return nil
	}
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; p.Leader != meta.NoLeader && !p.Moves() {
				b.sets = append(b.sets, &placed{t, int32(i), slices.Clone(p.Replicas)})
			}
		}
	}
	b.zones()
	b.even()
	b.leaders()
	return b.commands()
}

// balance is a rebalance under construction.
type balance struct {
	im   *meta.Image
	l    *load
	pool []int32
	sets []*placed
}

// placed is one partition and the replicas that it is to have.
type placed struct {
	t     *meta.Topic
	index int32
	to    []int32
}

// zones parts replicas that share a zone, where a broker of another is free.
func (b *balance) zones() {
	for _, s := range b.sets {
		for range s.to {
			served := slices.DeleteFunc(slices.Clone(s.to), func(id int32) bool { return !slices.Contains(b.pool, id) })
			if len(served) == 0 {
				break
			}
			from := slices.MaxFunc(served, func(x, y int32) int {
				return slices.Compare([]int{sharing(b.im, x, s.to), b.l.replicas[x]}, []int{sharing(b.im, y, s.to), b.l.replicas[y]})
			})
			rest := slices.DeleteFunc(slices.Clone(s.to), func(id int32) bool { return id == from })
			to, ok := b.l.pickBeside(b.im, b.pool, rest)
			if !ok || sharing(b.im, to, rest) >= sharing(b.im, from, rest) {
				break
			}
			b.move(s, from, to)
		}
	}
}

// even moves replicas from brokers that have more than their share to those that have less. Each move takes one from above the
// share or brings one below it, so that none is in vain.
func (b *balance) even() {
	total := 0
	for _, id := range b.pool {
		total += b.l.replicas[id]
	}
	low := total / len(b.pool)
	high := (total + len(b.pool) - 1) / len(b.pool)
	b.pass(func(from, to int) bool { return from > high && to < high })
	b.pass(func(from, to int) bool { return from > low && to < low })
}

// pass moves replicas between brokers for which may allows it, as long as there are any, from where there is most to where there is least first.
func (b *balance) pass(may func(from, to int) bool) {
	for {
		most := 0
		for _, s := range b.sets {
			_, _, by := b.step(s, may)
			most = max(most, by)
		}
		if most < 2 {
			return
		}
		for _, s := range b.sets { // each move brings the sum of the squares down
			if from, to, by := b.step(s, may); by >= max(2, most-most/8) { // near the end it is exact
				b.move(s, from, to)
			}
		}
	}
}

// step is the move of one replica of s that evens out most, and by how much the brokers differ.
func (b *balance) step(s *placed, may func(from, to int) bool) (from, to int32, by int) {
	for _, f := range s.to {
		if !slices.Contains(b.pool, f) {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(s.to), func(o int32) bool { return o == f })
		for _, id := range b.pool {
			has, gets := b.l.replicas[f], b.l.replicas[id]
			if has-gets > by && may(has, gets) && !slices.Contains(s.to, id) && sharing(b.im, id, rest) <= sharing(b.im, f, rest) {
				from, to, by = f, id, has-gets
			}
		}
	}
	return from, to, by
}

// leaders puts another replica in front where it is the preferred leader of fewer partitions, by two or more.
func (b *balance) leaders() {
	for moved := true; moved; { // as above
		moved = false
		for _, s := range b.sets {
			at := 0
			for i, id := range s.to {
				if slices.Contains(b.pool, id) && b.l.leaders[id] < b.l.leaders[s.to[at]] {
					at = i
				}
			}
			if b.l.leaders[s.to[0]]-b.l.leaders[s.to[at]] < 2 {
				continue
			}
			after := slices.Concat(s.to[at:at+1], s.to[:at], s.to[at+1:])
			b.l.replace(s.to, after)
			s.to, moved = after, true
		}
	}
}

func (b *balance) move(s *placed, from, to int32) {
	after := slices.Clone(s.to)
	after[slices.Index(after, from)] = to
	b.l.replace(s.to, after)
	s.to = after
}

// commands has one entry for each topic that changes.
func (b *balance) commands() (cmds []*meta.Reassign) {
	for _, s := range b.sets {
		if slices.Equal(s.to, s.t.Partitions[s.index].Replicas) {
			continue
		}
		if len(cmds) == 0 || cmds[len(cmds)-1].ID != s.t.ID {
			cmds = append(cmds, &meta.Reassign{ID: s.t.ID, Expect: s.t.Version})
		}
		last := cmds[len(cmds)-1]
		last.Moves = append(last.Moves, meta.Move{Index: s.index, Replicas: s.to})
	}
	return cmds
}
