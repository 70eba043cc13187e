package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// quorum is what the metadata quorum promises, without how raft does it: one order of commands, which every member applies with meta.Image.Apply,
// sooner or later; one leader at a time that can commit, though another may believe for a while that it leads; and an answer may be lost, of a
// command that takes effect or not. What is committed survives every power cut.
type quorum struct {
	s      *Sim
	images []*meta.Image // after each entry; guarded by s.mu, like all below
	leader *member       // may be dead
	lost   time.Duration // since when the leader has no majority; 0: it has one
	limbo  []meta.Command
	tardy  map[int]time.Duration // nodes that apply nothing before
}

func newQuorum(s *Sim) *quorum {
	return &quorum{s: s, images: []*meta.Image{meta.NewImage()}, tardy: map[int]time.Duration{}}
}

// join begins a process's part. It has applied what its node had in a snapshot: any earlier state.
func (q *quorum) join(p *process, id meta.UUID, onApply func(*meta.Image)) *member {
	m := &member{q: q, p: p, id: id, onApply: onApply, news: make(chan struct{}, 1), moved: make(chan struct{}), applied: make(chan struct{})}
	q.s.mu.Lock()
	p.n.uuid = id
	m.index = q.s.draws.of(fmt.Sprintf("snapshot %d", p.n.i)).IntN(p.n.applied + 1)
	m.image.Store(q.images[m.index])
	m.gone = p.dead
	p.member = m
	q.s.mu.Unlock()
	m.poke()
	go m.follow()
	return m
}

// reaches says whether a member hears the leader.
func (q *quorum) reaches(m *member) bool {
	q.s.mu.Lock()
	leader := q.leader
	q.s.mu.Unlock()
	return leader != nil && q.alive(leader) && q.s.net.linked(leader.p.n.i, m.p.n.i)
}

func (q *quorum) alive(m *member) bool {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	return !m.gone
}

// majority says whether a member reaches enough others to commit.
func (q *quorum) majority(m *member) bool {
	n := 0
	for _, o := range q.s.nodes {
		if p := o.now(); p != nil && p.part() != nil && q.alive(p.part()) && q.s.net.linked(m.p.n.i, o.i) {
			n++
		}
	}
	return q.alive(m) && n > len(q.s.nodes)/2
}

// run holds elections.
func (q *quorum) run(ctx context.Context) {
	r := q.s.draws.of("elections")
	for sleep(ctx, between(r, 20*time.Millisecond, 60*time.Millisecond)) {
		q.tick(r.Uint64())
	}
}

func (q *quorum) tick(draw uint64) {
	s := q.s
	s.mu.Lock()
	leader := q.leader
	s.mu.Unlock()
	holds := leader != nil && q.majority(leader)
	var fit []*member
	for _, n := range s.nodes {
		if p := n.now(); p != nil && p.part() != nil && q.majority(p.part()) {
			fit = append(fit, p.part())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if holds {
		q.lost, leader.until = 0, 0
	} else if q.lost == 0 {
		q.lost = now + time.Duration(150+draw%350)*time.Millisecond
		if leader != nil {
			leader.until = now + time.Duration(100+draw>>32%300)*time.Millisecond
		}
	}
	if !holds && now >= q.lost && len(fit) > 0 {
		q.elect(fit[int(draw>>16%uint64(len(fit)))], draw)
	}
	for _, n := range s.nodes {
		if n.run != nil && n.run.member != nil {
			n.run.member.look(now)
		}
	}
}

// elect makes somebody lead. What its predecessor had not committed may be committed now. s.mu is held.
func (q *quorum) elect(m *member, draw uint64) {
	q.s.trace.add("quorum: n%d leads", m.p.n.i)
	if old := q.leader; old != nil && old != m && old.until == 0 {
		old.until = q.s.now() + time.Duration(draw>>40%100)*time.Millisecond
	}
	q.leader, q.lost, m.until = m, 0, 0
	limbo := q.limbo
	q.limbo = nil
	for i, cmd := range limbo {
		if draw>>(i%60)&1 == 1 {
			_, _ = q.commit(cmd)
		}
	}
	for _, n := range q.s.nodes {
		if n.run != nil && n.run.member != nil {
			n.run.member.poke()
		}
	}
}

// commit puts a command behind all others. s.mu is held.
func (q *quorum) commit(cmd meta.Command) (any, error) {
	next, answer, err := q.images[len(q.images)-1].Apply(cmd)
	q.s.trace.add("quorum: %d %s: %v", len(q.images), describe(cmd), err)
	if err != nil {
		return nil, err
	}
	if fault := next.Check(); fault != nil {
		q.s.check.violated("Image.Check", "after %s: %v", describe(cmd), fault)
	}
	q.s.check.elected(q.images[len(q.images)-1], next)
	q.images = append(q.images, next)
	for _, n := range q.s.nodes {
		if n.run != nil && n.run.member != nil {
			n.run.member.poke()
		}
	}
	return answer, nil
}

func describe(cmd meta.Command) string {
	switch c := cmd.(type) {
	case *meta.AlterPartitions:
		s := fmt.Sprintf("broker %d proposes", c.BrokerID)
		for _, ch := range c.Changes {
			s += fmt.Sprintf(" /%d@%d,%d", ch.Index, ch.LeaderEpoch, ch.PartitionEpoch)
			for _, m := range ch.ISR {
				s += fmt.Sprintf(" %d", m.ID)
				if m.Proven {
					s += "!"
				}
			}
		}
		return s
	case *meta.RegisterBroker:
		return fmt.Sprintf("register %.4s clean=%d replaces=%d", c.UUID, c.Clean, c.Replaces)
	}
	return fmt.Sprintf("%T %+v", cmd, cmd)
}
