package cluster

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// R4: what the quorum had committed before the question is in force here when it is answered, on every broker.
func TestConfirm(t *testing.T) {
	g := openGroup(t, 3)
	for i := range 10 {
		name := fmt.Sprint("t", i)
		if _, err := g.brokers[i%3].CreateTopic(within(t), TopicSpec{Name: name, Partitions: 1}, false); err != nil {
			t.Fatal(err)
		}
		for _, b := range g.brokers {
			if err := b.Confirm(within(t)); err != nil {
				t.Fatal(err)
			}
			if b.Image().Topic(name) == nil {
				t.Errorf("broker %d does not know %s", b.NodeID(), name)
			}
		}
	}
}

// A flood of questions is a few for the quorum.
func TestConfirmsShareAQuestion(t *testing.T) {
	b, _ := onePartition(t, nil)
	before := b.node.Applied()
	var asking sync.WaitGroup
	for range 200 {
		asking.Go(func() {
			if err := b.Confirm(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	for b.node.Applied() == before { // raft answers a moment before it counts
		runtime.Gosched()
	}
	if entries := b.node.Applied() - before; entries > 20 {
		t.Errorf("200 questions made %d entries", entries)
	}
}
