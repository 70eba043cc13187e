package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// A broker that is stopped while it governs and leads gives both away before, with nobody in doubt about his records, and serves on as one that leads nothing
// until it is closed. Its next process is as any other.
func TestStoppingBrokerLeavesNobodyInDoubt(t *testing.T) { // A1, E8
	g := openGroupIn(t, 3, unhurried())
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 6, Replicas: 3}, false)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	g.await("somebody governs, and all are in sync", func() bool {
		at = slices.IndexFunc(g.brokers, func(b *Broker) bool { leads, _ := b.node.Leads(); return leads })
		im := g.brokers[1].node.Image().TopicByID(topic.ID)
		return at >= 0 && im != nil && !slices.ContainsFunc(im.Partitions, func(p meta.Partition) bool { return len(p.ISR) < 3 })
	})
	stops, other := g.brokers[at], g.brokers[(at+1)%3]
	stop := make(chan struct{})
	c, done := g.press(topic, stop)
	g.await("records", func() bool { return c.committed.Load() > 200 })
	stops.HandOver()
	before := c.committed.Load()
	g.await("the quorum is led elsewhere", func() bool { leads, _ := stops.node.Leads(); return !leads })
	for _, p := range stops.Image().TopicByID(topic.ID).Partitions {
		if p.Leader == stops.id || p.Leader == meta.NoLeader || slices.Contains(p.ISR, stops.id) {
			t.Errorf("a partition is led by %d, in sync are %v", p.Leader, p.ISR)
		}
	}
	if stops.Unready() == "" {
		t.Error("it is said to be ready")
	}
	g.await("records at the others", func() bool { return c.committed.Load() > before+200 })
	close(stop)
	done.Wait()
	if n := c.unknown.Load(); n > 0 {
		t.Errorf("of %d records it is not known whether they are committed; of %d it is", n, c.committed.Load())
	}
	closeBroker(t, stops)
	g.start(at)
	g.await("it is back", func() bool {
		k := other.Image().Broker(stops.id)
		return k.Epoch == g.brokers[at].epoch && !k.Fenced && !k.Stopping
	})
}

// Who has nobody to hand over to does not wait for one.
func TestNobodyToHandOverTo(t *testing.T) {
	alone, _ := onePartition(t, nil)
	g := openGroup(t, 3)
	left := g.brokers[0]
	g.await("it sees the others", left.heirs)
	for _, b := range g.brokers[1:] {
		b.handOverOnce.Do(func() {})
		closeBroker(t, b)
	}
	g.await("it sees that the others are gone", func() bool { return !left.heirs() })
	for _, b := range []*Broker{alone, left} {
		began := time.Now()
		b.HandOver()
		if took := time.Since(began); took > restAnswer {
			t.Errorf("it waited for %s", took)
		}
	}
}
