package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// sim runs a Controller as a node would, with brokers that renew, restart and answer.
type sim struct {
	timing Timing
	now    time.Duration
	im     *meta.Image
	c      *Controller
	up     map[int32]bool          // it runs and is in touch
	died   map[int32]time.Duration // since when not
	back   map[int32]time.Duration // since when again
	clean  map[int32]bool          // its process ended cleanly
	nonces map[int32]meta.UUID
	logs   map[int32]map[meta.PartitionName]LogState
	mute   bool // nobody answers questions
	drawn  byte
	did    []string                                         // what the controller ordered since the last look
	check  func(before *meta.Image, cmd meta.Command) error // of each command of the controller
}

func newSim(t Timing) *sim {
	return &sim{
		timing: t, im: meta.NewImage(), up: map[int32]bool{}, died: map[int32]time.Duration{}, back: map[int32]time.Duration{}, clean: map[int32]bool{},
		nonces: map[int32]meta.UUID{}, logs: map[int32]map[meta.PartitionName]LogState{},
	}
}

func (s *sim) apply(cmd meta.Command) error {
	data, err := meta.EncodeCommand(cmd)
	if err != nil {
		return err
	}
	if cmd, err = meta.DecodeCommand(data); err != nil { // what raft does to it
		return err
	}
	next, _, err := s.im.Apply(cmd)
	s.im = next
	return err
}

// start registers a broker's process.
func (s *sim) start(id int32, zone string, witness bool) error {
	s.drawn++
	cmd := &meta.RegisterBroker{ClusterID: "c", UUID: meta.UUID{0: byte(id)}, Nonce: meta.UUID{0: s.drawn, 1: 1}, Zone: zone, Witness: witness}
	if old := s.im.Broker(id); old != nil {
		cmd.Held, cmd.Zone, cmd.Witness = []meta.UUID{s.nonces[id]}, old.Zone, old.Witness
		if s.clean[id] {
			cmd.Clean = old.Epoch
		}
	}
	if err := s.apply(cmd); err != nil {
		return err
	}
	s.nonces[id], s.up[id], s.back[id], s.clean[id] = cmd.Nonce, true, s.now, false
	if s.logs[id] == nil {
		s.logs[id] = map[meta.PartitionName]LogState{}
	}
	return s.tick()
}

func (s *sim) stop(id int32, clean bool) {
	s.up[id], s.clean[id], s.died[id] = false, clean, s.now
}

func (s *sim) begin() error {
	s.c = Begin(s.timing, s.now, s.im)
	return s.tick()
}

// run lets time pass. Each broker renews at times of its own.
func (s *sim) run(d time.Duration) error {
	for end := s.now + d; s.now < end; {
		next := end
		for id := range s.up {
			phase := time.Duration(id) * s.timing.Renew / 10
			at := s.now - (s.now-phase)%s.timing.Renew
			for at <= s.now {
				at += s.timing.Renew
			}
			next = min(next, at)
		}
		if s.c != nil {
			next = min(next, max(s.c.Next(s.now), s.now+time.Millisecond))
		}
		s.now = next
		for id, up := range s.up {
			if b := s.im.Broker(id); up && b != nil && (s.now-time.Duration(id)*s.timing.Renew/10)%s.timing.Renew == 0 && s.c != nil {
				s.c.Heard(s.now, id, b.Epoch)
			}
		}
		if s.c != nil && s.c.Next(s.now) <= s.now {
			if err := s.tick(); err != nil {
				return err
			}
		}
	}
	return nil
}

// tick carries out what the controller orders, as long as it orders something.
func (s *sim) tick() error {
	for n := 0; s.c != nil; n++ {
		orders := s.c.Step(s.now, s.im)
		for _, cmd := range orders.Commands {
			before := s.im
			if err := s.apply(cmd); err != nil {
				return fmt.Errorf("%s: %w", told(before, cmd), err)
			}
			s.did = append(s.did, told(before, cmd))
			if s.check != nil {
				if err := s.check(before, cmd); err != nil {
					return fmt.Errorf("%s: %w", told(before, cmd), err)
				}
			}
		}
		if !s.mute {
			for _, q := range orders.Ask {
				if s.up[q.BrokerID] {
					s.c.Logs(s.now, q.BrokerID, q.BrokerEpoch, s.answer(q))
				}
			}
		}
		switch {
		case len(orders.Commands) == 0 && s.c.Next(s.now) > s.now:
			return nil
		case n == 1000:
			return errors.New("the controller does not come to rest")
		}
	}
	return nil
}

func (s *sim) answer(q Question) (states []LogState) {
	for _, name := range q.Partitions {
		st := s.logs[q.BrokerID][name]
		st.Partition, st.PartitionEpoch = name, s.im.TopicByID(name.Topic).Partitions[name.Index].PartitionEpoch
		states = append(states, st)
	}
	return states
}

// told is a command as scenarios print it.
func told(im *meta.Image, cmd meta.Command) string {
	switch c := cmd.(type) {
	case *meta.FenceBrokers:
		var ids []int32
		for _, b := range c.Brokers {
			ids = append(ids, b.BrokerID)
		}
		return fmt.Sprintf("fence%v", ids)
	case *meta.UnfenceBroker:
		return fmt.Sprintf("unfence[%d]", c.BrokerID)
	case *meta.ElectLeaders:
		out := map[meta.Election]string{meta.ElectPreferred: "prefer", meta.ElectRecovered: "recover", meta.ElectUnclean: "unclean"}[c.Kind]
		for _, e := range c.Elect {
			out += fmt.Sprintf(" %s/%d:%d", im.TopicByID(e.Topic).Name, e.Index, e.Leader)
			if e.Missing {
				out += "(missing)"
			}
		}
		return out
	case *meta.Reassign:
		out := "reassign " + im.TopicByID(c.ID).Name
		for _, m := range c.Moves {
			out += fmt.Sprintf(" %d:%v", m.Index, m.Replicas)
		}
		if c.MinInsync > 0 {
			out += fmt.Sprintf(" min=%d", c.MinInsync)
		}
		return out
	}
	return fmt.Sprintf("%T", cmd)
}

// line is a partition as scenarios print it.
func line(p *meta.Partition) string {
	leader := "none"
	if p.Leader != meta.NoLeader {
		leader = fmt.Sprint(p.Leader)
	}
	out := fmt.Sprintf("leader=%s replicas=%v isr=%v", leader, p.Replicas, p.ISR)
	for _, set := range []struct {
		name string
		ids  []int32
	}{{"elr", p.ELR}, {"restarted", p.Restarted}, {"adding", p.Adding}, {"removing", p.Removing}} {
		if len(set.ids) > 0 {
			out += fmt.Sprintf(" %s=%v", set.name, set.ids)
		}
	}
	if p.LastUnclean > 0 {
		out += " unclean"
	}
	return out
}

// sync has the leaders of all partitions that run propose who is in touch: a fetch of everybody, to the end.
func (s *sim) sync() error {
	changes := map[int32][]meta.ISRChange{}
	for _, t := range s.im.Topics() {
		for i := range t.Partitions {
			p, name := &t.Partitions[i], meta.PartitionName{Topic: t.ID, Index: int32(i)}
			if p.Leader == meta.NoLeader || !s.up[p.Leader] {
				continue
			}
			ch := meta.ISRChange{Topic: t.ID, Index: int32(i), LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
			st := LogState{EpochEntry: p.LeaderEpoch, End: s.logs[p.Leader][name].End}
			for _, id := range p.Replicas {
				b := s.im.Broker(id)
				if in := slices.Contains(p.ISR, id); s.up[id] && !b.Fenced && (in || !b.Stopping) || id == p.Leader {
					ch.ISR = append(ch.ISR, meta.ISRMember{ID: id, Epoch: b.Epoch, Proven: true})
					s.logs[id][name] = st
				}
			}
			if len(ch.ISR) != len(p.ISR) || len(p.Restarted) > 0 {
				changes[p.Leader] = append(changes[p.Leader], ch)
			}
		}
	}
	for _, b := range s.im.Brokers() {
		if ch := changes[b.ID]; len(ch) > 0 {
			if err := s.apply(&meta.AlterPartitions{BrokerID: b.ID, BrokerEpoch: b.Epoch, Changes: ch}); err != nil && !errors.Is(err, meta.ErrConflict) {
				return err
			}
		}
	}
	return s.tick()
}

// create makes a topic as the shell would, or with the replicas that are given.
func (s *sim) create(name string, n, replicas int, follow, internal bool, minInsync int, assignment [][]int32) error {
	if assignment == nil {
		if follow {
			replicas, minInsync = AutoReplicas(s.im)
		}
		var err error
		if assignment, err = Place(s.im, nil, n, replicas); err != nil {
			return err
		}
	}
	id := log.TopicID{}
	copy(id[:], name)
	if err := s.apply(&meta.CreateTopic{Name: name, ID: id, AutoReplicas: follow, Internal: internal, MinInsync: minInsync, Assignment: assignment}); err != nil {
		return err
	}
	return s.tick()
}

func (s *sim) state() string {
	var out []string
	for _, t := range s.im.Topics() {
		for i := range t.Partitions {
			out = append(out, fmt.Sprintf("%s/%d min=%d %s", t.Name, i, max(t.MinInsync, 1), line(&t.Partitions[i])))
		}
	}
	return strings.Join(out, "\n")
}
