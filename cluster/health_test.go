package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// site is metadata of three brokers with one topic of each kind: fixed, with one replica; auto, with three; fixed, with two of which two must be in sync.
type metaSite struct {
	t      *testing.T
	im     *meta.Image
	counts changeCounts // of broker 2
}

func newMetaSite(t *testing.T) *metaSite {
	s := &metaSite{t: t, im: meta.NewImage()}
	for id := range byte(3) {
		s.start(id + 1)
	}
	s.apply(&meta.CreateTopic{Name: "one", ID: log.TopicID{1}, Assignment: [][]int32{{1}}})
	s.apply(&meta.CreateTopic{Name: "auto", ID: log.TopicID{2}, Assignment: [][]int32{{1, 2, 3}}, AutoReplicas: true, MinInsync: 2})
	s.apply(&meta.CreateTopic{Name: "two", ID: log.TopicID{3}, Assignment: [][]int32{{2, 3}}, MinInsync: 2})
	return s
}

// start registers a new process of a broker, after a crash where there was one.
func (s *metaSite) start(id byte) {
	cmd := &meta.RegisterBroker{ClusterID: "c", UUID: meta.UUID{id}, Nonce: meta.UUID{id, byte(s.im.Version + 1)}}
	if old := s.im.BrokerByUUID(cmd.UUID); old != nil {
		cmd.Held = []meta.UUID{old.Nonce}
	}
	s.apply(cmd)
}

func (s *metaSite) fence(ids ...int32) {
	cmd := &meta.FenceBrokers{}
	for _, id := range ids {
		cmd.Brokers = append(cmd.Brokers, meta.Incarnation{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch})
	}
	s.apply(cmd)
}

func (s *metaSite) apply(cmd meta.Command) {
	s.t.Helper()
	next, _, err := s.im.Apply(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.counts.changed(2, s.im, next)
	s.im = next
}

// elected are the elections counted since the last call.
func (s *metaSite) elected() string {
	var all []string
	for r := range s.counts.elections {
		if n := s.counts.elections[r].Swap(0); n > 0 {
			all = append(all, fmt.Sprintf("%s %d", Reason(r), n))
		}
	}
	if n := s.counts.shrinks.Swap(0); n > 0 {
		all = append(all, fmt.Sprintf("shrinks %d", n))
	}
	if n := s.counts.expands.Swap(0); n > 0 {
		all = append(all, fmt.Sprintf("expands %d", n))
	}
	return strings.Join(all, ", ")
}

func (s *metaSite) lacking() string {
	var all []string
	healthOf(s.im, func(p PartitionState) { all = append(all, fmt.Sprintf("%s %s", p.Topic, strings.Join(p.State, "+"))) })
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func TestWhatPartitionsLackAndWhyTheyWereElected(t *testing.T) {
	s := newMetaSite(t)
	check := func(doing, lacking, elected string) {
		t.Helper()
		if got := s.lacking(); got != lacking {
			t.Errorf("%s: %q, want %q", doing, got, lacking)
		}
		if got := s.elected(); got != elected {
			t.Errorf("%s: broker 2 counted %q, want %q", doing, got, elected)
		}
	}
	check("all is well", "", "")
	s.fence(1)
	check("broker 1 is gone", "auto under-replicated, one leaderless+single-replica-offline+under-replicated", "fenced 1, shrinks 1") // C7
	s.fence(3)
	check("broker 3 too", "auto under-replicated+under-min-isr, one leaderless+single-replica-offline+under-replicated, two under-replicated+under-min-isr", "shrinks 2")
	s.start(1)
	b := s.im.Broker(1)
	if c := healthOf(s.im, func(PartitionState) {}); c.Total != 3 || c.UnderMinISR != 2 || c.Leaderless != 0 {
		t.Errorf("broker 1 is back: %+v", c)
	}
	auto := s.im.Topic("auto").Partitions[0]
	s.apply(&meta.AlterPartitions{BrokerID: 2, BrokerEpoch: s.im.Broker(2).Epoch, Changes: []meta.ISRChange{{
		Topic: log.TopicID{2}, LeaderEpoch: auto.LeaderEpoch, PartitionEpoch: auto.PartitionEpoch,
		ISR: []meta.ISRMember{{ID: 2, Epoch: s.im.Broker(2).Epoch}, {ID: 1, Epoch: b.Epoch, Proven: true}},
	}}})
	check("and in sync", "auto under-replicated, two under-replicated+under-min-isr", "expands 1")
	auto = s.im.Topic("auto").Partitions[0]
	s.apply(&meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{{Topic: log.TopicID{2}, PartitionEpoch: auto.PartitionEpoch, Leader: 1}}})
	check("and leads again", "auto under-replicated, two under-replicated+under-min-isr", "") // broker 1 counts it
	s.apply(&meta.StopBroker{BrokerID: 1, BrokerEpoch: b.Epoch})
	check("it stops", "auto under-replicated+under-min-isr, two under-replicated+under-min-isr", "stopped 1, shrinks 1")
	s.fence(2)
	if c := healthOf(s.im, func(PartitionState) {}); c.Leaderless != 1 || c.SingleOffline != 0 { // one that stops leads to its end
		t.Errorf("broker 2 goes as well: %+v", c)
	}
	s.elected()
	s.start(2)
	s.elected()
	if s.im.Topic("two").Partitions[0].Leader != meta.NoLeader {
		t.Fatalf("it leads before a look at the logs: %+v", s.im.Topic("two").Partitions[0])
	}
	two := s.im.Topic("two").Partitions[0]
	s.apply(&meta.ElectLeaders{Kind: meta.ElectUnclean, Elect: []meta.Choice{{Topic: log.TopicID{3}, PartitionEpoch: two.PartitionEpoch, Leader: 2}}})
	if got := s.elected(); !strings.HasPrefix(got, "unclean 1") {
		t.Errorf("an unclean election counts as %q", got)
	}
}

// A word for each reason, and none twice.
func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := Reason(0); r < reasons; r++ {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("reason %d is called %q", r, name)
		}
		seen[r.String()] = true
	}
	if got := reasons.String(); got != "reason 9" {
		t.Errorf("%q", got)
	}
}

// Each reason that a leader changes for is told apart from the others, by the broker that leads next.
func TestReasonsAreToldApart(t *testing.T) {
	reason := func(topic string, do func(*metaSite)) string {
		s := newMetaSite(t)
		s.apply(&meta.CreateTopic{Name: "pair", ID: log.TopicID{4}, Assignment: [][]int32{{1, 2}}, MinInsync: 1})
		before := s.im
		do(s)
		was, is := &before.Topic(topic).Partitions[0], &s.im.Topic(topic).Partitions[0]
		if is.LeaderEpoch == was.LeaderEpoch {
			t.Fatalf("no election: %+v", is)
		}
		var c changeCounts
		c.changed(is.Leader, before, s.im)
		for r := range c.elections {
			if c.elections[r].Load() > 0 {
				return Reason(r).String()
			}
		}
		return "none"
	}
	move := func(s *metaSite, to ...int32) {
		s.apply(&meta.Reassign{ID: log.TopicID{4}, Expect: s.im.Topic("pair").Version, Moves: []meta.Move{{Replicas: to}}})
	}
	for want, is := range map[string]struct {
		topic string
		do    func(*metaSite)
	}{
		"fenced":    {"pair", func(s *metaSite) { s.fence(1) }},
		"restarted": {"one", func(s *metaSite) { s.start(1) }},
		"stopped":   {"pair", func(s *metaSite) { s.apply(&meta.StopBroker{BrokerID: 1, BrokerEpoch: s.im.Broker(1).Epoch}) }},
		"moved":     {"pair", func(s *metaSite) { move(s, 2) }},
		"damaged": {"pair", func(s *metaSite) {
			s.apply(&meta.ReportDamage{BrokerID: 1, BrokerEpoch: s.im.Broker(1).Epoch, Partitions: []meta.PartitionName{{Topic: log.TopicID{4}}}})
		}},
	} {
		if got := reason(is.topic, is.do); got != want {
			t.Errorf("%s, told as %s", want, got)
		}
	}
	s := newMetaSite(t)
	for _, kind := range []struct {
		leader int32
		want   string
	}{{2, "other"}, {1, "preferred"}} { // to another in-sync replica, and back to the first
		before := s.im
		p := before.Topic("auto").Partitions[0]
		s.apply(&meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{{Topic: log.TopicID{2}, PartitionEpoch: p.PartitionEpoch, Leader: kind.leader}}})
		var c changeCounts
		c.changed(kind.leader, before, s.im)
		if n := c.elections[ByOther].Load(); (n == 1) != (kind.want == "other") {
			t.Errorf("%s: %d others", kind.want, n)
		}
		if n := c.elections[ByPreferred].Load(); (n == 1) != (kind.want == "preferred") {
			t.Errorf("%s: %d preferred", kind.want, n)
		}
	}
	// A partition cannot have more in sync than it has replicas, whatever its topic asks for.
	s.apply(&meta.CreateTopic{Name: "single", ID: log.TopicID{5}, Assignment: [][]int32{{1}}, MinInsync: 2})
	if got := s.lacking(); got != "" {
		t.Errorf("lacking: %s", got)
	}
}
