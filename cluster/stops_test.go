package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// A6, E9: a broker whose disk has failed, or hangs, gives away what it leads, the quorum included, without being stopped.
func TestBrokerThatFailsHandsOver(t *testing.T) {
	g := openGroup(t, 3)
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 6}, false)
	if err != nil {
		t.Fatal(err)
	}
	var bad, other *Broker
	g.await("somebody governs", func() bool {
		for _, b := range g.brokers {
			if leads, _ := b.node.Leads(); leads {
				bad = b
			} else {
				other = b
			}
		}
		return bad != nil
	})
	bad.fail(errors.New("a test says so"))
	g.await("the quorum, and all partitions, led elsewhere", func() bool {
		if leads, _ := bad.node.Leads(); leads {
			return false
		}
		made := other.Image().TopicByID(topic.ID) // it may come there later
		if made == nil {
			return false
		}
		for _, p := range made.Partitions {
			if p.Leader == bad.id || p.Leader < 0 {
				return false
			}
		}
		return true
	})
	appendUntil(t, other, log.PartitionID{Topic: topic.ID}, "on")
}

// E9: whoever serves clients hears that the disk hangs, if others can take over, and that it answers again.
func TestHangIsTold(t *testing.T) {
	g := openGroup(t, 3)
	alone, _ := onePartition(t, nil)
	told := make(chan bool, 9)
	for _, b := range []*Broker{alone, g.brokers[0]} {
		b.OnHang(func(hangs bool) {
			if !hangs && !b.HoldsLease() {
				t.Error("told to serve without a lease")
			}
			told <- hangs
		})
		b.commits(stallAfter)
		b.commits(stallAfter + 1)
	}
	for _, want := range []bool{true, false} {
		if got := <-told; got != want {
			t.Errorf("told %t, want %t", got, want)
		}
	}
	if len(told) > 0 {
		t.Error("a broker alone is told, or one twice")
	}
}

// E8: whoever stops says so, and nobody waits for its lease to end, also when it governed until then.
func TestStoppedGovernorIsFencedAtOnce(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	var stops, other *Broker
	g.await("somebody governs", func() bool {
		for _, b := range g.brokers {
			if leads, _ := b.node.Leads(); leads {
				stops = b
			} else {
				other = b
			}
		}
		return stops != nil
	})
	if stops.HandOver(); !stops.governed {
		t.Error("it does not know that whoever governs next may not have begun")
	}
	closeBroker(t, stops)
	limit := time.After(10 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); !other.Image().Broker(stops.id).Fenced; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the others wait for its lease to end")
		}
	}
}
