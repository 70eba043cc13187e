package control

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/weir-io/weir/cluster/meta"
)

var (
	// ErrReplicas: a number of replicas that this cluster cannot give.
	ErrReplicas = errors.New("invalid replication factor")
	// ErrAssignment: replicas that somebody names and that this cluster cannot give.
	ErrAssignment = errors.New("invalid replica assignment")
)

// Place gives n new partitions their replicas, each with its first leader in front. t is the topic that they belong to, nil if it is new.
// Leaders and replicas are spread evenly, over the topic before the cluster, and the replicas of a partition over zones. Brokers that are fenced or stop
// are taken only where there are not enough others, and never lead; witnesses are never taken. Errors are ErrReplicas.
func Place(im *meta.Image, t *meta.Topic, n, replicas int) ([][]int32, error) {
	pool := serving(im)
	if len(pool) == 0 {
		return nil, fmt.Errorf("%w %d: no broker that takes replicas is running", ErrReplicas, replicas)
	}
	if all := data(im); replicas < 1 || replicas > min(len(all), meta.MaxReplicas) {
		return nil, fmt.Errorf("%w %d: want 1 to %d, as many as there are brokers for data", ErrReplicas, replicas, min(len(all), meta.MaxReplicas))
	}
	l := count(im)
	l.of(t)
	out := make([][]int32, max(n, 0))
	for i := range out {
		to := []int32{l.leader(pool, i)}
		for len(to) < replicas {
			id, ok := l.pick(im, pool, to)
			if !ok {
				id, _ = l.pick(im, data(im), to)
			}
			to = append(to, id)
		}
		l.replace(nil, to)
		out[i] = to
	}
	return out, nil
}

// data are the brokers that may hold replicas.
func data(im *meta.Image) (ids []int32) {
	for _, b := range im.Brokers() {
		if !b.Witness && !b.Draining {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// serving are those of them that may be given new ones.
func serving(im *meta.Image) (ids []int32) {
	return slices.DeleteFunc(data(im), func(id int32) bool { b := im.Broker(id); return b.Fenced || b.Stopping })
}

// load is what each broker has: of the cluster, and of the one topic that is looked at. Partitions count for where they move to.
type load struct {
	replicas, leaders           map[int32]int
	topicReplicas, topicLeaders map[int32]int
}

func count(im *meta.Image) *load {
	l := &load{replicas: map[int32]int{}, leaders: map[int32]int{}, topicReplicas: map[int32]int{}, topicLeaders: map[int32]int{}}
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			l.replace(nil, t.Partitions[i].Target())
		}
	}
	return l
}

// of makes t the topic that is looked at.
func (l *load) of(t *meta.Topic) {
	clear(l.topicReplicas)
	clear(l.topicLeaders)
	if t == nil {
		return
	}
	for i := range t.Partitions {
		to := t.Partitions[i].Target()
		l.topicLeaders[to[0]]++
		for _, id := range to {
			l.topicReplicas[id]++
		}
	}
}

// replace counts a partition of the topic that is looked at for other replicas than before.
func (l *load) replace(before, after []int32) {
	for n, set := range map[int][]int32{-1: before, 1: after} {
		for i, id := range set {
			l.replicas[id] += n
			l.topicReplicas[id] += n
			if i == 0 {
				l.leaders[id] += n
				l.topicLeaders[id] += n
			}
		}
	}
}

// least is the first of ids for which the row of numbers is lowest.
func least(ids []int32, row func(id int32) [4]int) int32 {
	return slices.MinFunc(ids, func(a, b int32) int { x, y := row(a), row(b); return slices.Compare(x[:], y[:]) })
}

// leader is who of ids should lead one more partition of the topic. turn breaks ties, so that partition after partition begins elsewhere.
func (l *load) leader(ids []int32, turn int) int32 {
	return least(ids, func(id int32) [4]int {
		return [4]int{l.topicLeaders[id], l.leaders[id], l.topicReplicas[id], (slices.Index(ids, id) - turn%len(ids) + len(ids)) % len(ids)}
	})
}

// pick is who of pool should join the replicas in have: a zone that is not among theirs first, then who has least.
func (l *load) pick(im *meta.Image, pool, have []int32) (int32, bool) {
	free := slices.DeleteFunc(slices.Clone(pool), func(id int32) bool { return slices.Contains(have, id) })
	if len(free) == 0 {
		return 0, false
	}
	return least(free, func(id int32) [4]int {
		// Ties go round, or the lowest number would be everybody's second.
		return [4]int{sharing(im, id, have), l.topicReplicas[id], l.replicas[id], btoi(id < have[0])}
	}), true
}

// sharing is how many of the others are in the zone of id.
func sharing(im *meta.Image, id int32, others []int32) (n int) {
	zone := im.Broker(id).Zone
	for _, o := range others {
		if o != id && im.Broker(o).Zone == zone {
			n++
		}
	}
	return n
}

// resize gives a partition n replicas with as little copying as can be: those in keep that it has stay, as far as there are not too many, and new ones come
// from pool. There may be fewer than n in the end. When the set changes, the preferred leader is the one who leads least.
func (l *load) resize(im *meta.Image, p *meta.Partition, keep, pool []int32, n int) []int32 {
	to := slices.DeleteFunc(p.Target(), func(id int32) bool { return !slices.Contains(keep, id) })
	for len(to) > n {
		out := slices.MaxFunc(to, func(a, b int32) int { return l.spare(im, p, to, a, b) })
		to = slices.DeleteFunc(to, func(id int32) bool { return id == out })
	}
	for len(to) < n {
		id, ok := l.pickBeside(im, pool, to)
		if !ok {
			break
		}
		to = append(to, id)
	}
	if slices.Equal(to, p.Target()) || len(to) == 0 {
		return to
	}
	first := least(to, func(id int32) [4]int {
		b := im.Broker(id)
		return [4]int{btoi(b.Fenced || b.Stopping), l.topicLeaders[id] - btoi(id == p.Replicas[0]), l.leaders[id] - btoi(id == p.Replicas[0]), slices.Index(to, id)}
	})
	return append([]int32{first}, slices.DeleteFunc(to, func(id int32) bool { return id == first })...)
}

func (l *load) pickBeside(im *meta.Image, pool, have []int32) (int32, bool) {
	if len(have) > 0 {
		return l.pick(im, pool, have)
	}
	if len(pool) == 0 {
		return 0, false
	}
	return l.leader(pool, 0), true
}

// spare orders replicas of a partition by how well it can do without them: one that is not in sync best, its leader least.
func (l *load) spare(im *meta.Image, p *meta.Partition, set []int32, a, b int32) int {
	return cmp.Or(
		cmp.Compare(btoi(!slices.Contains(p.ISR, a)), btoi(!slices.Contains(p.ISR, b))),
		cmp.Compare(btoi(a != p.Leader), btoi(b != p.Leader)),
		cmp.Compare(sharing(im, a, set), sharing(im, b, set)),
		cmp.Compare(l.replicas[a], l.replicas[b]),
		cmp.Compare(a, b),
	)
}
