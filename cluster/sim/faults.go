package sim

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// kind is a kind of trouble.
type kind string

const (
	powerCut      kind = "power cut"
	siteCut       kind = "site power cut"
	kill          kind = "kill"
	bounce        kind = "kill and start at once"
	stop          kind = "controlled stop"
	partition     kind = "partition"
	oneWay        kind = "one-way partition"
	slowDisk      kind = "slow disk"
	badSync       kind = "failing sync"
	lie           kind = "lying disk"
	moveQuorum    kind = "another leads the quorum"
	tardyMetadata kind = "metadata comes late"
	oldDisk       kind = "old copy of a disk"
	clockJump     kind = "clock jump"
	alterMin      kind = "min.insync change"
	newTopic      kind = "new topic"
	reassign      kind = "reassignment"
	rot           kind = "rot"
	trim          kind = "deletion of records"
)

// trouble makes trouble for so long.
func (s *Sim) trouble(length time.Duration) {
	r := s.draws.of("trouble")
	s.mu.Lock()
	s.harsh, s.net.harsh = s.plan.harsh > 0, s.plan.harsh
	s.mu.Unlock()
	for end := s.now() + length; s.now() < end && s.check.fault() == ""; {
		time.Sleep(time.Duration(r.ExpFloat64()*float64(s.plan.pace)) + time.Millisecond + time.Duration(r.IntN(1000)))
		k := s.plan.kinds[r.IntN(len(s.plan.kinds))]
		s.check.count(string(k))
		s.make(k, rand.New(rand.NewPCG(r.Uint64(), 1)))
	}
}

// later does something unless the trouble has ended.
func (s *Sim) later(after time.Duration, do func()) {
	s.processes.Go(func() {
		time.Sleep(after)
		if s.check.fault() == "" {
			do()
		}
	})
}

func (s *Sim) any(r *rand.Rand) *node { return s.nodes[r.IntN(len(s.nodes))] }

// pick is a node, mostly one that leads something: little depends on the others.
func (s *Sim) pick(r *rand.Rand) *node {
	n, topic, index, leads := s.any(r), r.IntN(1<<16), r.IntN(1<<16), !chance(r, 3)
	im := s.image()
	if topics := im.Topics(); leads && len(topics) > 0 {
		t := topics[topic%len(topics)]
		if l := s.nodeFor(im, t.Partitions[index%len(t.Partitions)].Leader); l != nil {
			return l
		}
	}
	return n
}

func (s *Sim) make(k kind, r *rand.Rand) {
	n := s.pick(r)
	down := time.Duration(r.ExpFloat64() * float64(1200*time.Millisecond))
	switch k {
	case powerCut, kill:
		if n.now() != nil {
			n.die(k == powerCut, r)
			s.later(down, n.start)
		}
	case bounce:
		n.die(chance(r, 2), r)
		n.start()
	case siteCut:
		s.trace.add("the site loses power")
		for _, n := range s.nodes {
			n.die(true, r)
			s.later(down+time.Duration(r.Int64N(int64(2*time.Second))), n.start)
		}
	case stop:
		s.later(0, func() { n.stop(); time.Sleep(down); n.start() })
	case partition, oneWay:
		s.split(n, k == oneWay, time.Duration(r.ExpFloat64()*float64(3*time.Second)), r)
	case slowDisk:
		s.disturb(n, func(d *disk) { d.slow.Store(int64(between(r, 50*time.Millisecond, time.Second))) }, func(d *disk) { d.slow.Store(0) }, 2*down)
	case badSync:
		if p := n.now(); p != nil {
			p.disk.fail.Store(1)
			s.later(time.Second+down, func() { // A6: only a restart helps
				if n.now() == p && p.hurt.Load() {
					n.die(chance(r, 2), r)
				}
				n.start()
			})
		}
	case lie:
		n := s.nodes[s.plan.liar-1]
		s.mu.Lock()
		n.lied = true
		s.mu.Unlock()
		length := 2 * down
		if chance(r, 2) {
			length = s.plan.length // until its next power cut
		}
		s.disturb(n, func(d *disk) { d.lie.Store(true) }, func(d *disk) { d.lie.Store(false) }, length)
	case moveQuorum:
		if p := n.now(); p != nil && p.part() != nil && s.quorum.majority(p.part()) {
			s.mu.Lock()
			s.quorum.elect(p.member, r.Uint64())
			s.mu.Unlock()
		}
	case tardyMetadata:
		s.trace.add("n%d: hears of metadata late", n.i)
		s.mu.Lock()
		s.quorum.tardy[n.i] = s.now() + 2*down
		s.mu.Unlock()
	case oldDisk:
		n.die(true, r)
		if !n.restore(r) {
			s.later(down, n.start)
			return
		}
		s.later(down, n.start)
	case rot:
		n.die(true, r)
		n.rot(r)
		s.later(down, n.start)
	case clockJump:
		s.mu.Lock()
		n.wall += time.Duration(r.Int64N(int64(4*time.Hour))) - 2*time.Hour
		s.mu.Unlock()
	default:
		s.later(0, func() { s.administer(k, n, r) })
	}
}

func (s *Sim) disturb(n *node, on, off func(*disk), length time.Duration) {
	p := n.now()
	if p == nil {
		return
	}
	s.trace.add("%s: its disk is disturbed for %v", p, length)
	on(p.disk)
	s.later(length, func() { off(p.disk) })
}

// split cuts a node off, in one direction or both, from some or all others.
func (s *Sim) split(n *node, one bool, length time.Duration, r *rand.Rand) {
	var cut [][2]int
	all, in := chance(r, 2), chance(r, 2)
	for _, o := range s.nodes {
		if o == n || !all && chance(r, 2) {
			continue
		}
		if !one || in {
			cut = append(cut, [2]int{o.i, n.i})
		}
		if !one || !in {
			cut = append(cut, [2]int{n.i, o.i})
		}
	}
	s.trace.add("network: %v cut for %v", cut, length)
	s.mu.Lock()
	for _, c := range cut {
		s.net.cut[c] = true
	}
	s.mu.Unlock()
	s.later(length, func() {
		s.trace.add("network: %v mended", cut)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range cut {
			delete(s.net.cut, c)
		}
	})
}

// administer is what operators do.
func (s *Sim) administer(k kind, n *node, r *rand.Rand) {
	p, b := n.broker()
	if b == nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	topics := forAll(b.Image())
	if k == newTopic || len(topics) == 0 {
		name := string(rune('b' + r.IntN(3)))
		_, err := b.CreateTopic(ctx, s.plan.topic(name), false)
		s.trace.add("%s: create topic %s: %v", p, name, err)
		return
	}
	t := topics[r.IntN(len(topics))]
	var err error
	switch k {
	case alterMin:
		err = b.AlterConfigs(ctx, t.Name, map[string]string{"min.insync.replicas": []string{"1", "2"}[r.IntN(2)]}, nil, false)
	case trim:
		err = s.trim(p, b, log.PartitionID{Topic: t.ID, Index: int32(r.IntN(len(t.Partitions)))}, r)
	case reassign:
		brokers := b.Image().Brokers()
		var to []int32
		for _, i := range r.Perm(len(brokers))[:1+r.IntN(min(3, len(brokers)))] {
			to = append(to, brokers[i].ID)
		}
		i := int32(r.IntN(len(t.Partitions)))
		_, err = b.Propose(ctx, &meta.Reassign{ID: t.ID, Expect: t.Version, Moves: []meta.Move{{Index: i, Replicas: to}}})
	}
	s.trace.add("%s: %s of %s: %v", p, k, t.Name, err)
}

// trim deletes a partition's oldest records at whoever leads it, as retention does.
func (s *Sim) trim(p *process, b *cluster.Broker, id log.PartitionID, r *rand.Rand) error {
	part, err := b.PartitionByID(id.Topic, id.Index)
	if err != nil {
		return err
	}
	start, hw := part.LogStart(), part.HighWatermark()
	before := start + log.Offset(r.Int64N(int64(max(hw-start, 0))+1))
	at := part.Probe()
	all, err := logged(at.Log, start, before)
	if err != nil || !p.alive() {
		return err
	}
	s.check.deletes(id, p, all, at.Epoch, before)
	_, err = part.DeleteRecords(before)
	return err
}

func (p *plan) topic(name string) cluster.TopicSpec {
	spec := cluster.TopicSpec{Name: name, Partitions: p.partitions, Replicas: p.replicas, Configs: map[string]string{"segment.bytes": "16384"}}
	if p.replicas > 0 || p.liar > 0 {
		spec.Configs["min.insync.replicas"] = string(rune('0' + p.minInsync))
	}
	return spec
}
