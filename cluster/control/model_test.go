package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// judge looks at each command of the controller: whom it makes a leader it must hear, and by a recovery only the greatest log leads.
func (s *sim) judge(before *meta.Image, cmd meta.Command) error {
	for _, t := range s.im.Topics() {
		old := before.TopicByID(t.ID)
		for i := range t.Partitions {
			p, was := &t.Partitions[i], &old.Partitions[i]
			if p.Leader == meta.NoLeader || p.LeaderEpoch == was.LeaderEpoch {
				continue
			}
			// Two renewals of silence are no sign, and fences are put off only for so long.
			if !s.up[p.Leader] && s.now-s.died[p.Leader] > s.timing.inDoubt() {
				return fmt.Errorf("%s/%d: broker %d leads, dead for %v", t.Name, i, p.Leader, s.now-s.died[p.Leader])
			}
			if len(p.ISR) >= p.MinInsync(t.MinInsync) && len(p.ELR) > 0 {
				return fmt.Errorf("%s/%d: %s (E3)", t.Name, i, line(p))
			}
		}
	}
	switch c := cmd.(type) {
	case *meta.FenceBrokers:
		for _, b := range c.Brokers {
			if s.up[b.BrokerID] && s.now-s.back[b.BrokerID] > s.timing.Renew {
				return fmt.Errorf("broker %d is in touch", b.BrokerID)
			}
		}
	case *meta.ElectLeaders:
		for _, e := range c.Elect {
			if err := s.judgeChoice(before, c.Kind, e); err != nil {
				return err
			}
		}
	case *meta.Reassign:
		t := before.TopicByID(c.ID)
		for _, m := range c.Moves {
			p := &t.Partitions[m.Index]
			lost := slices.ContainsFunc(p.Adding, func(id int32) bool { return before.Broker(id).Fenced })
			if len(m.Replicas) > 3 || !lost && (len(m.Replicas) <= len(p.Target()) || p.Moves()) {
				return fmt.Errorf("growth of %s", line(p))
			}
		}
		for i := range t.Partitions { // H4: growing stops no appends
			p, now := &t.Partitions[i], &s.im.TopicByID(c.ID).Partitions[i]
			if p.Leader != meta.NoLeader && len(p.ISR) >= p.MinInsync(t.MinInsync) && len(now.ISR) < now.MinInsync(s.im.TopicByID(c.ID).MinInsync) {
				return fmt.Errorf("appends to %s stop: %s", line(p), line(now))
			}
		}
	}
	return nil
}

func (s *sim) judgeChoice(before *meta.Image, kind meta.Election, e meta.Choice) error {
	if kind != meta.ElectRecovered {
		return nil
	}
	name := meta.PartitionName{Topic: e.Topic, Index: e.Index}
	p := &before.TopicByID(e.Topic).Partitions[e.Index]
	chosen := s.logs[e.Leader][name]
	for _, id := range members(p) {
		other := s.logs[id][name]
		longer := (answer{0, other.EpochEntry, other.End}).compare(answer{0, chosen.EpochEntry, chosen.End}) > 0
		switch there := !before.Broker(id).Fenced; {
		case !there && !e.Missing:
			return fmt.Errorf("%s: broker %d was not asked", line(p), id)
		case there && s.up[id] && longer:
			return fmt.Errorf("%s: broker %d has more than %d", line(p), id, e.Leader)
		}
	}
	return nil
}

// write has leaders append to what they lead; those in sync have it at once.
func (s *sim) write() {
	for _, t := range s.im.Topics() {
		for i := range t.Partitions {
			p, name := &t.Partitions[i], meta.PartitionName{Topic: t.ID, Index: int32(i)}
			if p.Leader == meta.NoLeader || !s.up[p.Leader] {
				continue
			}
			st := LogState{EpochEntry: p.LeaderEpoch, End: s.logs[p.Leader][name].End + 1}
			for _, id := range p.ISR {
				if s.up[id] {
					s.logs[id][name] = st
				}
			}
		}
	}
}

// Random histories of a cluster, at any hour of which: whoever the controller makes a leader is heard, and has what is known to be the most.
// And once all is quiet: what has a living member is led, by one that lives, nothing is changed any more, and all that follows the number of brokers
// has grown.
func TestControllerKeepsPartitionsLed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSim(rapid.SampledFrom([]Timing{FastTiming, LANTiming, EdgeTiming}).Draw(rt, "timing"))
		s.check = s.judge
		must := func(err error) {
			if err != nil {
				rt.Fatalf("at %v: %v\n%v\n%s", s.now, err, s.did, s.state())
			}
		}
		brokers := int32(rapid.IntRange(2, 4).Draw(rt, "brokers"))
		for id := int32(1); id <= brokers; id++ {
			must(s.start(id, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "zone"), false))
		}
		must(s.start(brokers+1, "", true)) // a witness that stays: somebody must lead the quorum
		must(s.begin())
		must(s.create("auto", 2, 0, true, false, 0, nil))
		must(s.create("fixed", 2, rapid.IntRange(1, min(3, int(brokers))).Draw(rt, "rf"), false, false, rapid.IntRange(1, 3).Draw(rt, "min"), nil))
		must(s.run(s.timing.Fence))
		broker := rapid.Custom(func(rt *rapid.T) int32 { return rapid.Int32Range(1, brokers).Draw(rt, "id") })
		some := rapid.SliceOfNDistinct(broker, 1, int(brokers), rapid.ID[int32])
		// What the shell does of its own holds back until all are heard.
		settled := func() bool {
			for n := 0; !s.c.Settled(s.now, s.im) && n < 200; n++ {
				must(s.run(s.timing.Renew))
			}
			return s.c.Settled(s.now, s.im)
		}
		begin := func(id int32) {
			if b := s.im.Broker(id); b == nil || !s.up[id] {
				must(s.start(id, "", false))
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"wait": func(rt *rapid.T) {
				must(s.run(time.Duration(rapid.IntRange(1, 30).Draw(rt, "renewals")) * s.timing.Renew / 2))
			},
			"wait long": func(rt *rapid.T) { must(s.run(40 * time.Second)) },
			"write":     func(*rapid.T) { s.write() },
			"sync":      func(*rapid.T) { must(s.sync()) },
			"die": func(rt *rapid.T) {
				for _, id := range some.Draw(rt, "brokers") {
					if s.up[id] {
						s.stop(id, false)
					}
					if rapid.IntRange(0, 4).Draw(rt, "lost") == 0 { // a disk that lies
						for name, st := range s.logs[id] {
							s.logs[id][name] = LogState{EpochEntry: min(st.EpochEntry, log.Epoch(rapid.IntRange(0, 5).Draw(rt, "entry"))), End: st.End / 2}
						}
					}
				}
			},
			"start": func(rt *rapid.T) {
				for _, id := range some.Draw(rt, "brokers") {
					begin(id)
				}
			},
			"cut": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				if s.up[id] {
					s.stop(id, false)
					must(s.run(time.Duration(rapid.IntRange(1, 20).Draw(rt, "renewals")) * s.timing.Renew / 2))
					s.up[id], s.back[id] = true, s.now
				}
			},
			"gone": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				if s.up[id] && settled() {
					s.stop(id, false)
					s.c.Gone(s.now, id, s.im.Broker(id).Epoch)
					must(s.tick())
				}
			},
			"shutdown": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				if b := s.im.Broker(id); s.up[id] && settled() && !b.Fenced && !b.Stopping {
					must(s.apply(&meta.StopBroker{BrokerID: id, BrokerEpoch: b.Epoch}))
					must(s.tick())
					s.stop(id, true)
				}
			},
			"mute":           func(*rapid.T) { s.mute = !s.mute },
			"another leader": func(*rapid.T) { must(s.begin()) },
			"another broker": func(*rapid.T) {
				if brokers < 5 && s.im.Broker(brokers+2) == nil {
					must(s.start(brokers+2, "c", false))
				}
			},
			"plan": func(rt *rapid.T) {
				if !settled() {
					return
				}
				cmds := PlanRebalance(s.im)
				if id := broker.Draw(rt, "drain"); rapid.Bool().Draw(rt, "drained") {
					cmds, _ = PlanDrain(s.im, id)
				}
				for _, cmd := range cmds {
					must(s.apply(cmd))
				}
				must(s.tick())
			},
			"": func(rt *rapid.T) { must(s.im.Check()) },
		})
		if rapid.Bool().Draw(rt, "all come back") {
			for id := int32(1); id <= brokers; id++ {
				begin(id)
			}
		}
		s.mute = false
		for range 10 { // moves and growth go in steps
			must(s.run(30 * time.Second))
			must(s.sync())
		}
		s.did = nil
		at := s.now
		must(s.run(3 * time.Minute))
		if len(s.did) > 0 {
			rt.Fatalf("idle since %v, and ordered %v (C6)\n%s", at, s.did, s.state())
		}
		must(s.im.Check())
		s.quiet(rt)
	})
}

// quiet is what must hold after a long time without events.
func (s *sim) quiet(rt *rapid.T) {
	living := 0
	for _, b := range s.im.Brokers() {
		if b.Fenced == s.up[b.ID] {
			rt.Fatalf("broker %d: fenced %v, up %v", b.ID, b.Fenced, s.up[b.ID])
		}
		if !b.Fenced && !b.Stopping && !b.Witness {
			living++
		}
	}
	for _, t := range s.im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			alive := slices.ContainsFunc(members(p), func(id int32) bool { return s.up[id] && !s.im.Broker(id).Stopping })
			switch want, _ := auto(living); {
			case alive && p.Leader == meta.NoLeader:
				rt.Fatalf("%s/%d: %s: nobody leads\n%s", t.Name, i, line(p), s.state())
			case p.Leader != meta.NoLeader && !s.up[p.Leader]:
				rt.Fatalf("%s/%d: %s: the leader is dead", t.Name, i, line(p))
			case t.AutoReplicas && p.Leader != meta.NoLeader && len(p.Replicas) < want:
				rt.Fatalf("%s/%d: %s: has not grown to %d\n%s", t.Name, i, line(p), want, s.state())
			}
			if id, wanted := prefers(s.im, p); wanted {
				rt.Fatalf("%s/%d: %s: broker %d should lead", t.Name, i, line(p), id)
			}
		}
	}
}
