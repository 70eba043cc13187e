package control

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/cluster/meta"
)

// zoned registers brokers, one for each zone in the list; "-" stands for a witness.
func zoned(t interface{ Fatal(...any) }, zones ...string) *sim {
	s := newSim(LANTiming)
	for i, z := range zones {
		if err := s.start(int32(i+1), z, z == "-"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *sim) fenceNow(ids ...int32) error {
	cmd := &meta.FenceBrokers{}
	for _, id := range ids {
		s.up[id] = false
		cmd.Brokers = append(cmd.Brokers, meta.Incarnation{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch})
	}
	return s.apply(cmd)
}

func spread(counts map[int32]int, ids []int32) int {
	var ns []int
	for _, id := range ids {
		ns = append(ns, counts[id])
	}
	return slices.Max(ns) - slices.Min(ns)
}

// zonesOf is in how many zones the replicas are.
func zonesOf(im *meta.Image, ids []int32) int {
	zones := map[string]bool{}
	for _, id := range ids {
		zones[im.Broker(id).Zone] = true
	}
	return len(zones)
}

func TestPlaceIsEvenAndSpread(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := zoned(rt, rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "-"}), 1, 7).Draw(rt, "zones")...)
		for _, b := range s.im.Brokers() {
			if rapid.IntRange(0, 4).Draw(rt, "fenced") == 0 {
				if err := s.fenceNow(b.ID); err != nil {
					rt.Fatal(err)
				}
			}
		}
		n, replicas := rapid.IntRange(1, 20).Draw(rt, "partitions"), rapid.IntRange(0, 5).Draw(rt, "replicas")
		pool, all := serving(s.im), data(s.im)
		got, err := Place(s.im, nil, n, replicas)
		if len(pool) == 0 || replicas < 1 || replicas > len(all) {
			if !errors.Is(err, ErrReplicas) {
				rt.Fatalf("%d of %v: %v", replicas, all, err)
			}
			return
		}
		if again, _ := Place(s.im, nil, n, replicas); err != nil || !reflect.DeepEqual(got, again) {
			rt.Fatalf("%v, then %v: %v", got, again, err)
		}
		if err := s.create("t", n, replicas, false, false, 0, nil); err != nil {
			rt.Fatal(err)
		}
		l := count(s.im)
		for _, to := range got {
			outside := len(slices.DeleteFunc(slices.Clone(to), func(id int32) bool { return slices.Contains(pool, id) }))
			switch {
			case len(to) != replicas || !slices.Contains(pool, to[0]):
				rt.Fatalf("%v: %d replicas of %v", to, replicas, pool)
			case holders(s.im, to) != nil:
				rt.Fatal(holders(s.im, to))
			case outside != max(0, replicas-len(pool)):
				rt.Fatalf("%v: %d are not there, though %v are", to, outside, pool)
			case replicas <= len(pool) && zonesOf(s.im, to) != min(replicas, zonesOf(s.im, pool)):
				rt.Fatalf("%v: in %d zones", to, zonesOf(s.im, to))
			}
		}
		if d := spread(l.leaders, pool); d > 1 {
			rt.Fatalf("leaders %v of %v", l.leaders, got)
		}
		if zonesOf(s.im, pool) == 1 && replicas <= len(pool) {
			if d := spread(l.replicas, pool); d > 1 {
				rt.Fatalf("replicas %v of %v", l.replicas, got)
			}
		}
	})
}

// More partitions of a topic, and other topics, go where there is least.
func TestPlaceGoesOn(t *testing.T) {
	s := zoned(t, "", "", "")
	for _, name := range []string{"t", "u", "v"} {
		if err := s.create(name, 1, 2, false, false, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if l := count(s.im); spread(l.leaders, data(s.im)) != 0 || spread(l.replicas, data(s.im)) != 0 {
		t.Errorf("three topics of one partition: %v %v\n%s", l.leaders, l.replicas, s.state())
	}
	for range 5 {
		tp := s.im.Topic("t")
		more, err := Place(s.im, tp, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.apply(&meta.CreatePartitions{ID: tp.ID, Expect: tp.Version, Assignment: more}); err != nil {
			t.Fatal(err)
		}
	}
	l := count(s.im)
	l.of(s.im.Topic("t"))
	if spread(l.topicLeaders, data(s.im)) != 0 || spread(l.topicReplicas, data(s.im)) != 0 {
		t.Errorf("six partitions one by one: %v %v\n%s", l.topicLeaders, l.topicReplicas, s.state())
	}
}

// A rebalance evens out, copies as little as that takes, and has nothing to say afterwards. A drain takes all from one broker and moves nothing else.
func TestPlansAreEvenAndMinimal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		zones := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 2, 6).Draw(rt, "zones")
		if rapid.Bool().Draw(rt, "one zone") {
			for i := range zones {
				zones[i] = ""
			}
		}
		s := zoned(rt, zones...)
		ids := data(s.im)
		replicas := rapid.IntRange(1, min(3, len(ids))).Draw(rt, "replicas")
		for _, name := range []string{"t", "u"} {
			assignment := make([][]int32, rapid.IntRange(1, 8).Draw(rt, "partitions"))
			for i := range assignment {
				assignment[i] = rapid.Permutation(ids).Draw(rt, "ids")[:replicas]
			}
			if err := s.create(name, 0, 0, false, false, 0, assignment); err != nil {
				rt.Fatal(err)
			}
		}
		before := count(s.im)
		carry := func(cmds []*meta.Reassign) (copied int) {
			for _, cmd := range cmds {
				t := s.im.TopicByID(cmd.ID)
				for _, m := range cmd.Moves {
					copied += len(slices.DeleteFunc(slices.Clone(m.Replicas), func(id int32) bool { return slices.Contains(t.Partitions[m.Index].Replicas, id) }))
				}
				if err := s.apply(cmd); err != nil {
					rt.Fatal(err)
				}
			}
			if err := s.sync(); err != nil {
				rt.Fatal(err)
			}
			return copied
		}
		copied := carry(PlanRebalance(s.im))
		l := count(s.im)
		if again := PlanRebalance(s.im); len(again) > 0 {
			rt.Fatalf("again: %s\n%s", told(s.im, again[0]), s.state())
		}
		least := 0
		if zonesOf(s.im, ids) == 1 {
			high, over, under := (sum(before.replicas)+len(ids)-1)/len(ids), 0, 0
			for _, id := range ids {
				over += max(0, before.replicas[id]-high)
				under += max(0, sum(before.replicas)/len(ids)-before.replicas[id])
			}
			least = max(over, under)
			if copied != least || spread(l.replicas, ids) > 1 {
				rt.Fatalf("copied %d, and %d would do; %v became %v", copied, least, before.replicas, l.replicas)
			}
		}
		for _, t := range s.im.Topics() {
			for i := range t.Partitions {
				to := t.Partitions[i].Replicas
				for _, id := range to {
					if l.leaders[to[0]]-l.leaders[id] > 1 {
						rt.Fatalf("%s/%d: broker %d leads %d and %d could have one of them\n%s", t.Name, i, to[0], l.leaders[to[0]], id, s.state())
					}
				}
				if t.Partitions[i].Moves() || zonesOf(s.im, to) != min(len(to), zonesOf(s.im, ids)) {
					rt.Fatalf("%s/%d: %s", t.Name, i, line(&t.Partitions[i]))
				}
			}
		}
		if len(ids) > replicas {
			id := rapid.SampledFrom(ids).Draw(rt, "drained")
			has := l.replicas[id]
			cmds, err := PlanDrain(s.im, id)
			if copied := carry(cmds); err != nil || copied != has || count(s.im).replicas[id] != 0 {
				rt.Fatalf("drain of broker %d: copied %d of %d: %v\n%s", id, copied, has, err, s.state())
			}
			if cmds, err := PlanDrain(s.im, id); err != nil || len(cmds) > 0 {
				rt.Fatalf("drained twice: %v %v", cmds, err)
			}
		}
	})
}

func sum(counts map[int32]int) (n int) {
	for v := range maps.Values(counts) {
		n += v
	}
	return n
}

func TestPlanReassign(t *testing.T) {
	s := zoned(t, "", "", "", "-", "")
	if err := s.apply(&meta.DrainBroker{BrokerID: 5}); err != nil {
		t.Fatal(err)
	}
	if err := s.create("t", 2, 0, false, false, 0, [][]int32{{1, 2}, {2, 1}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		topic string
		moves []meta.Move
		want  error
	}{
		"no such topic":     {"u", nil, meta.ErrNotFound},
		"no such partition": {"t", []meta.Move{{Index: 2, Replicas: []int32{1}}}, meta.ErrNotFound},
		"none":              {"t", []meta.Move{{Index: 0}}, ErrAssignment},
		"unknown":           {"t", []meta.Move{{Index: 0, Replicas: []int32{9}}}, ErrAssignment},
		"witness":           {"t", []meta.Move{{Index: 0, Replicas: []int32{4}}}, ErrAssignment},
		"twice":             {"t", []meta.Move{{Index: 0, Replicas: []int32{1, 1}}}, ErrAssignment},
		"partition twice":   {"t", []meta.Move{{Index: 0, Replicas: []int32{3}}, {Index: 0, Replicas: []int32{1}}}, ErrAssignment},
		"drained":           {"t", []meta.Move{{Index: 0, Replicas: []int32{5}}}, ErrAssignment},
	} {
		if _, err := PlanReassign(s.im, c.topic, c.moves); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cmd, err := PlanReassign(s.im, "t", []meta.Move{{Index: 0, Replicas: []int32{1, 2}}}); cmd != nil || err != nil {
		t.Errorf("nothing new: %v %v", cmd, err)
	}
	cmd, err := PlanReassign(s.im, "t", []meta.Move{{Index: 0, Replicas: []int32{1, 2}}, {Index: 1, Replicas: []int32{3, 1}}})
	if err != nil || len(cmd.Moves) != 1 {
		t.Fatalf("%v %v", cmd, err)
	}
	if err := s.apply(cmd); err != nil {
		t.Fatal(err)
	}
	// A move under way is called off by what it had before.
	if cmd, err = PlanReassign(s.im, "t", []meta.Move{{Index: 1, Replicas: []int32{2, 1}}}); err != nil || len(cmd.Moves) != 1 {
		t.Errorf("%v %v", cmd, err)
	}
	for n, want := range map[int]error{0: ErrReplicas, 4: ErrReplicas, 17: ErrReplicas, 1: nil, 3: nil} {
		if _, err := PlanReplicas(s.im, "t", n); !errors.Is(err, want) {
			t.Errorf("%d replicas: %v", n, err)
		}
	}
}

// Why a preferred leader is not given the lead.
func TestPrefer(t *testing.T) {
	s := zoned(t, "", "", "")
	if err := s.create("t", 1, 0, false, false, 0, [][]int32{{1, 2}}); err != nil {
		t.Fatal(err)
	}
	prefer := func() (meta.Choice, error) { return Prefer(s.im, s.im.Topic("t"), 0) }
	p := func() meta.Partition { return s.im.Topic("t").Partitions[0] }
	want := func(name string, err error, is error, why string) {
		t.Helper()
		if !errors.Is(err, is) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := prefer()
	want("it leads", err, ErrLeads, "")
	if err := s.apply(&meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{{Topic: s.im.Topic("t").ID, PartitionEpoch: p().PartitionEpoch, Leader: 2}}}); err != nil {
		t.Fatal(err)
	}
	if c, err := prefer(); err != nil || c.Leader != 1 || c.PartitionEpoch != p().PartitionEpoch {
		t.Errorf("it may lead: %+v, %v", c, err)
	}
	moved := s.im
	if err := s.apply(&meta.Reassign{ID: s.im.Topic("t").ID, Expect: s.im.Topic("t").Version, Moves: []meta.Move{{Replicas: []int32{1, 2, 3}}}}); err != nil {
		t.Fatal(err)
	}
	_, err = prefer()
	want("on the way", err, ErrPreferred, "on the way")
	s.im = moved
	fence := func(id int32) {
		t.Helper()
		if err := s.apply(&meta.FenceBrokers{Brokers: []meta.Incarnation{{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch}}}); err != nil {
			t.Fatal(err)
		}
	}
	fence(1)
	_, err = prefer()
	want("away", err, ErrPreferred, "broker 1 is not in sync")
	fence(2)
	_, err = prefer()
	want("nobody leads", err, ErrPreferred, "nobody leads")
}
