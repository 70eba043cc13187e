package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// answers counts what a Waiter hears.
type answers struct{ committed, unknown atomic.Int64 }

// Committed implements Waiter.
func (c *answers) Committed(_ uint64, n int, err error) {
	if err != nil {
		c.unknown.Add(int64(n))
		return
	}
	c.committed.Add(int64(n))
}

// press appends at each broker to whatever that leads of the topic, many records at a time, until stop.
func (g *group) press(topic *meta.Topic, stop <-chan struct{}) (c *answers, done *sync.WaitGroup) {
	c, done = new(answers), new(sync.WaitGroup)
	for _, b := range g.brokers {
		for i := range topic.Partitions {
			done.Go(func() {
				id := log.PartitionID{Topic: topic.ID, Index: int32(i)}
				for n := uint64(0); ; {
					select {
					case <-stop:
						return
					default:
					}
					p, err := b.table.Load().led(id)
					if err == nil {
						err = p.Append(&log.Record{Timestamp: 1, Value: fmt.Append(nil, n)}, c, n)
					}
					if n++; err != nil {
						time.Sleep(time.Millisecond) // another broker leads, or is about to
					} else if n%16 == 0 {
						time.Sleep(100 * time.Microsecond)
					}
				}
			})
		}
	}
	return c, done
}

// Leaders that are replaced in good order leave nobody behind who cannot be told what has become of his records.
func TestPlannedMovesLeaveNobodyInDoubt(t *testing.T) { // A1
	g := openGroupIn(t, 3, unhurried())
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2, Replicas: 3}, false)
	if err != nil {
		t.Fatal(err)
	}
	synced := func() bool {
		im := g.brokers[1].node.Image().TopicByID(topic.ID)
		return im != nil && !slices.ContainsFunc(im.Partitions, func(p meta.Partition) bool { return len(p.ISR) < 3 })
	}
	g.await("all in sync", synced)
	stop := make(chan struct{})
	c, done := g.press(topic, stop)
	led := func() (leaders []int32) {
		for _, p := range g.brokers[1].Image().TopicByID(topic.ID).Partitions {
			leaders = append(leaders, p.Leader)
		}
		return leaders
	}
	for round := range 8 {
		before := c.committed.Load()
		g.await("records", func() bool { return c.committed.Load() > before+50 })
		first := []int32{1, 2, 3}[round%3]
		to := []int32{first, first%3 + 1, (first+1)%3 + 1}
		by := g.brokers[round%len(g.brokers)]
		if round%2 == 0 {
			if _, err := by.Reassign(within(t), []Wish{{"a", 0, to}, {"a", 1, to}}, false); err != nil {
				t.Fatal(err)
			}
			if _, err := by.ElectPreferred(within(t), []PartitionRef{{"a", 0}, {"a", 1}}); err != nil {
				t.Fatal(err)
			}
		} else { // the replicas of a leader go
			if _, err := by.Reassign(within(t), []Wish{{"a", 0, to[1:]}, {"a", 1, to[1:]}}, false); err != nil {
				t.Fatal(err)
			}
			g.await("it is gone", func() bool { return !slices.Contains(led(), first) })
			if _, err := by.Reassign(within(t), []Wish{{"a", 0, to}, {"a", 1, to}}, false); err != nil {
				t.Fatal(err)
			}
		}
		g.await("all in sync", synced)
	}
	close(stop)
	done.Wait()
	if n := c.unknown.Load(); n > 0 {
		t.Errorf("of %d records it is not known whether they are committed; of %d it is", n, c.committed.Load())
	}
}

// A leader that rests in vain takes records again, and one in another term does not rest.
func TestWhoRestsInVainGoesOn(t *testing.T) {
	g := openGroupIn(t, 1, unhurried())
	b := g.brokers[0]
	topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1, Replicas: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	p := partitionsOf(t, b, topic)[0]
	record := &log.Record{Timestamp: 1, Value: []byte("x")}
	call := func(epoch log.Epoch) error {
		return b.answerRest(context.Background(), &restCall{[]restPart{{toWire(p.id), int32(epoch)}}})
	}
	if err := call(p.LeaderEpoch() - 1); err != nil {
		t.Fatal(err)
	}
	if err := p.Append(record, nil, 0); err != nil {
		t.Errorf("it rests in a term that is over: %v", err)
	}
	if err := call(p.LeaderEpoch()); err != nil {
		t.Fatal(err)
	}
	if err := p.Append(record, nil, 0); !errors.Is(err, ErrNotLeader) || !Transient(err) {
		t.Errorf("it does not rest: %v", err)
	}
	g.await("it takes records again", func() bool { return p.Append(record, nil, 0) == nil })
}

// A room hears that a topic's leader is about to be replaced while it still leads, and only for its own topic.
func TestRoomsHearBeforeTheLeaderIsReplaced(t *testing.T) {
	g := openGroupIn(t, 2, unhurried())
	topics := map[string]*meta.Topic{}
	for _, name := range []string{"__a", "b"} {
		topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: name, Partitions: 1, Replicas: 2, Internal: name == "__a"}, false)
		if err != nil {
			t.Fatal(err)
		}
		topics[name] = topic
	}
	g.await("topics everywhere, in sync", func() bool {
		for _, b := range g.brokers {
			for _, topic := range topics {
				if im := b.Image().TopicByID(topic.ID); im == nil || len(im.Partitions[0].ISR) < 2 {
					return false
				}
			}
		}
		return true
	})
	var heard atomic.Int64
	for _, b := range g.brokers {
		b.OnRest(topics["__a"].ID, func(_ context.Context, partition int32) {
			p, err := b.table.Load().led(log.PartitionID{Topic: topics["__a"].ID, Index: partition})
			if err != nil || !p.Leads() {
				t.Errorf("it leads no more: %v", err)
			} else if err := p.Append(&log.Record{Timestamp: 1, Value: []byte("x")}, nil, 0); err != nil {
				t.Errorf("it takes nothing more: %v", err)
			}
			heard.Add(1)
		})
	}
	for _, name := range []string{"b", "__a"} {
		lead := g.brokers[0].Image().TopicByID(topics[name].ID).Partitions[0].Leader
		if _, err := g.brokers[0].Reassign(within(t), []Wish{{name, 0, []int32{3 - lead}}}, false); err != nil {
			t.Fatal(err)
		}
		g.await("another leads", func() bool { return g.brokers[1].Image().TopicByID(topics[name].ID).Partitions[0].Leader == 3-lead })
	}
	if n := heard.Load(); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

// A room that does not return in its time keeps nobody from being replaced.
func TestRoomsThatDoNotReturnAreNotWaitedFor(t *testing.T) {
	g := openGroupIn(t, 2, unhurried())
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "__a", Partitions: 1, Replicas: 2, Internal: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	g.await("it is in sync everywhere", func() bool {
		for _, b := range g.brokers {
			if im := b.Image().TopicByID(topic.ID); im == nil || len(im.Partitions[0].ISR) < 2 {
				return false
			}
		}
		return true
	})
	stuck, told := make(chan struct{}), make(chan struct{}, 1)
	defer close(stuck)
	for _, b := range g.brokers {
		b.OnRest(topic.ID, func(context.Context, int32) {
			told <- struct{}{}
			<-stuck
		})
	}
	lead := g.brokers[0].Image().TopicByID(topic.ID).Partitions[0].Leader
	part := restPart{toWire(log.PartitionID{Topic: topic.ID}), int32(g.brokers[0].Image().TopicByID(topic.ID).Partitions[0].LeaderEpoch)}
	for _, b := range g.brokers {
		if b.id != lead {
			continue
		}
		answered := make(chan error, 1)
		go func() { answered <- b.answerRest(within(t), &restCall{[]restPart{part}}) }()
		<-told
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
		case <-within(t).Done():
			t.Error("it is waited for")
		}
	}
}
