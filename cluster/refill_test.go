package cluster

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// replicaOf is a follower of topic a's only partition, after some records.
func replicaOf(t *testing.T, g *group) (lead *Broker, follower int, id log.PartitionID) {
	t.Helper()
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	id = log.PartitionID{Topic: topic.ID}
	lead, _ = g.leaderOf("a", 0)
	for i := range 20 {
		appendUntil(t, lead, id, fmt.Sprint(i))
	}
	for i, b := range g.brokers {
		if b != lead {
			follower = i
		}
	}
	return lead, follower, id
}

// wholeAgain returns when a broker has another replica than before, with everything, in sync.
func (g *group) wholeAgain(lead, b *Broker, id log.PartitionID, before Reader) Reader {
	g.t.Helper()
	g.await("another replica in sync", func() bool {
		p := lead.Image().TopicByID(id.Topic).Partitions[id.Index]
		now, err := b.Replica(id)
		return err == nil && now != before && len(p.ISR) == 3 && len(p.Damaged) == 0
	})
	r, err := b.Replica(id)
	if err != nil {
		g.t.Fatal(err)
	}
	g.await("everything in it", func() bool { return r.HighWatermark() == 20 })
	if got := readAll(g.t, r.(*Partition)); len(got) != 20 {
		g.t.Errorf("%d records", len(got))
	}
	return r
}

// actedOn returns when a broker has done all that it does once its replica is in sync: what it had put aside is gone then, or stays.
func (g *group) actedOn(b *Broker, id log.PartitionID) {
	g.t.Helper()
	g.await("it knows that it is in sync", func() bool {
		return slices.Contains(b.Image().TopicByID(id.Topic).Partitions[id.Index].ISR, b.id)
	})
	// One Image is dealt with after the other: who has the next in force is done with that one.
	next, err := b.CreateTopic(within(g.t), TopicSpec{Name: "next", Partitions: 1}, false)
	if err != nil {
		g.t.Fatal(err)
	}
	g.await("and of what came next", func() bool { return b.Image().TopicByID(next.ID) != nil })
}

// E7: a replica whose log is gone from its disk is filled again, with nothing put aside, and counts again.
func TestLostReplicaIsFilledAgain(t *testing.T) {
	g := openGroup(t, 3)
	lead, i, id := replicaOf(t, g)
	if err := g.brokers[i].Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	l, err := log.Open(g.brokers[i].cfg.logConfig(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Delete(id); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	g.start(i)
	g.wholeAgain(lead, g.brokers[i], id, nil)

	// It counts from its first fetch on, not once some other change of the metadata has it begin anew a second time.
	b, topic := lead, &meta.Topic{ID: log.TopicID{1}, Name: "b"}
	p, err := b.openPartition(wanted{id: log.PartitionID{Topic: topic.ID}, topic: topic, Partition: meta.Partition{Replicas: []int32{b.id, b.id + 1}, Damaged: []int32{b.id}}})
	if err != nil || !p.begunAnew {
		t.Fatalf("begun anew %t: %v", err == nil && p.begunAnew, err)
	}
	if err := b.log.Delete(p.id); err != nil {
		t.Fatal(err)
	}
}

// E7: nor is what a replica had at first, and an operator decides about (T4), in the way when it loses something again. What the damaged log tells
// meanwhile does not count, though another was put aside before it.
func TestReplicaIsFilledTwice(t *testing.T) {
	g := openGroup(t, 3)
	lead, i, id := replicaOf(t, g)
	b := g.brokers[i]
	r, err := b.Replica(id)
	if err != nil {
		t.Fatal(err)
	}
	r.(*Partition).damaged("a test says so")
	r = g.wholeAgain(lead, b, id, r)
	b.duties.damaged(id, "its disk has rotted")
	if part, _ := r.(*Partition).tells(r.(*Partition).fetch.Load()); part.Refilled {
		t.Error("a damaged log counts as one that was begun anew")
	}
	g.wholeAgain(lead, b, id, r)
	g.actedOn(b, id)
	if r.(*Partition).lost("who read its log is late"); b.duties.spoils(id) {
		t.Error("a log that is not the partition's any more was reported")
	}
	if !b.log.HasAside(id, "a") {
		t.Error("what it had at first is gone (T4)")
	}
}

// C6: what nobody wants to know is not told again and again, nor what was lost by a log that is gone.
func TestDamageIsToldOnce(t *testing.T) {
	b, p := onePartition(t, nil)
	for why, gone := range map[string]func(){
		"begun anew": func() { b.duties.anew(p.id, false) },
		"moved away": func() { b.id++ },
	} {
		b.duties.damaged(p.id, "a test says so")
		if names := b.unreported(); len(names) != 1 {
			t.Fatalf("%d to be told", len(names))
		}
		self := b.id
		gone()
		if names := b.unreported(); len(names) != 0 || b.duties.spoils(p.id) {
			t.Errorf("%s: %d to be told again", why, len(names))
		}
		b.id = self
	}
}

// E1: an operator may have a damaged replica lead when there is no other; it does not report itself again.
func TestDamagedReplicaLeadsOnAnOperatorsWord(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	appendAll(t, p, "x")
	state := func() *meta.Partition { return &b.Image().TopicByID(p.id.Topic).Partitions[0] }
	p.damaged("a test says so")
	g.await("no leader", func() bool { return len(state().Damaged) == 1 && state().Leader == meta.NoLeader })
	if _, err := b.quorum.Propose(within(t), &meta.ElectLeaders{Kind: meta.ElectUnclean, Elect: []meta.Choice{
		{Topic: p.id.Topic, PartitionEpoch: state().PartitionEpoch, Leader: b.id},
	}}); err != nil {
		t.Fatal(err)
	}
	g.await("a leader", p.Leads)
	if names := b.unreported(); len(names) > 0 {
		t.Errorf("it reports itself again: %v", names)
	}
	appendAll(t, p, "y")
}
