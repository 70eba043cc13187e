package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// appendUntil appends value through a broker, as often as it takes to be told that it is committed.
func appendUntil(t *testing.T, b *Broker, id log.PartitionID, value string) {
	t.Helper()
	for ctx := within(t); ; {
		w, err := b.Writer(ctx, id)
		if err == nil {
			a := newAcks()
			if err = w.Append(&log.Record{Timestamp: 1, Value: []byte(value)}, a, 0); err == nil {
				a.await(t, 1)
				if err = a.errs[0]; err == nil {
					return
				}
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%q was not taken: %v", value, err)
		}
	}
}

// E8: a broker that stops hands over first; the others go on, and it follows again when it is back. Each in turn, the controller among them.
func TestEachStopsInTurn(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int32][]string{}
	add := func(b *Broker, what string) {
		for i := range topic.Partitions {
			v := fmt.Sprintf("%s/%d", what, i)
			appendUntil(t, b, log.PartitionID{Topic: topic.ID, Index: int32(i)}, v)
			want[int32(i)] = append(want[int32(i)], v)
		}
	}
	for _, b := range g.brokers {
		g.await("topic everywhere", func() bool { return b.Image().TopicByID(topic.ID) != nil })
	}
	add(g.brokers[0], "first")
	for i := range g.brokers {
		other := g.brokers[(i+1)%3]
		if err := g.brokers[i].Close(context.Background()); err != nil {
			t.Fatalf("close broker %d: %v", i, err)
		}
		for p, last := range g.brokers[i].Image().TopicByID(topic.ID).Partitions {
			if last.Leader == g.brokers[i].id {
				t.Errorf("broker %d still led partition %d when it stopped", i, p)
			}
		}
		add(other, fmt.Sprintf("without %d", i))
		g.start(i)
		back := g.brokers[i]
		g.await("everybody in sync again", func() bool {
			for _, p := range other.Image().TopicByID(topic.ID).Partitions {
				if len(p.ISR) != 3 {
					return false
				}
			}
			return true
		})
		add(back, fmt.Sprintf("after %d", i))
	}
	for i := range topic.Partitions {
		for _, b := range g.brokers {
			r, err := b.Replica(log.PartitionID{Topic: topic.ID, Index: int32(i)})
			if err != nil {
				t.Fatal(err)
			}
			g.await("high watermark everywhere", func() bool { return int(r.HighWatermark()) >= len(want[int32(i)]) })
			if got := readAll(t, r.(*Partition)); fmt.Sprint(got) != fmt.Sprint(want[int32(i)]) {
				t.Errorf("broker %d, partition %d: %v, want %v", b.NodeID(), i, got, want[int32(i)])
			}
		}
	}
}

// E7: a replica that has lost something leaves the in-sync set, is filled again from its leader, and comes back.
func TestDamagedReplicaIsFilledAgain(t *testing.T) {
	g := openGroup(t, 3)
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	lead, _ := g.leaderOf("a", 0)
	for i := range 20 {
		appendUntil(t, lead, id, fmt.Sprint(i))
	}
	var other *Broker
	for _, b := range g.brokers {
		if b != lead {
			other = b
		}
	}
	r, err := other.Replica(id)
	if err != nil {
		t.Fatal(err)
	}
	r.(*Partition).damaged("a test says so")

	g.await("a replica that was put aside, and is in sync again", func() bool {
		p := lead.Image().TopicByID(topic.ID).Partitions[0]
		again, err := other.Replica(id)
		return err == nil && again != r && len(p.ISR) == 3 && len(p.Damaged) == 0
	})
	appendUntil(t, lead, id, "after")
	r, err = other.Replica(id)
	if err != nil {
		t.Fatal(err)
	}
	g.await("everything in the new replica", func() bool { return r.HighWatermark() == 21 })
	if got := readAll(t, r.(*Partition)); len(got) != 21 {
		t.Errorf("%d records", len(got))
	}
	g.actedOn(other, id)
	if !other.log.HasAside(id, "a") {
		t.Error("what the replica had, which may be right, was not kept (T4)")
	}
}

// A topic that gets more replicas while records come: the new ones catch up and join, and hold everything.
func TestReplicasAreAdded(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1, Replicas: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	lead, _ := g.leaderOf("a", 0)
	empty, err := g.brokers[1].CreateTopic(within(t), TopicSpec{Name: "empty", Partitions: 2, Replicas: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		appendUntil(t, lead, id, fmt.Sprint(i))
	}
	for _, b := range g.brokers { // who has no replica yet observes the partition
		g.await("topics everywhere", func() bool { return b.Image().TopicByID(empty.ID) != nil })
		for _, of := range []log.PartitionID{id, {Topic: empty.ID}, {Topic: empty.ID, Index: 1}} {
			r, err := b.Replica(of)
			if err != nil {
				t.Fatal(err)
			}
			r.Watch(settling(make(chan struct{}, 1)))
		}
	}
	for _, name := range []string{"empty", "a"} {
		if _, err := lead.SetReplicas(within(t), name, 3, false); err != nil {
			t.Fatal(err)
		}
	}
	g.await("three in sync", func() bool {
		for _, id := range []log.TopicID{topic.ID, empty.ID} {
			for _, p := range lead.Image().TopicByID(id).Partitions {
				if len(p.ISR) != 3 || len(p.Adding) > 0 {
					return false
				}
			}
		}
		return true
	})
	for _, b := range g.brokers {
		r, err := b.Replica(id)
		if err != nil {
			t.Fatal(err)
		}
		g.await("everything everywhere", func() bool { return r.HighWatermark() == 10 })
		if got := readAll(t, r.(*Partition)); len(got) != 10 {
			t.Errorf("%d records", len(got))
		}
	}
}

// Flipped bits in what nobody reads are found, and the replica is filled again from the others.
func TestScrubFindsRot(t *testing.T) {
	rotIsFound(t, func(ctx context.Context, b *Broker, _ Reader) {
		b.workers.Go(func() { b.scrub(ctx, time.Millisecond) })
	})
}

// E7: so does one whose reader finds it first. He is sent away, to replicas that are well.
func TestReaderFindsRot(t *testing.T) {
	rotIsFound(t, func(_ context.Context, _ *Broker, r Reader) {
		var buf []byte
		for next := log.Offset(0); ; {
			b, err := r.Read(next, 1, buf)
			if errors.Is(err, ErrOffline) && !errors.Is(err, log.ErrCorrupt) {
				return
			}
			if err != nil || len(b) == 0 {
				t.Fatalf("at %d: %d bytes, %v", next, len(b), err)
			}
			next = log.Batch(b).NextOffset()
		}
	})
}

func rotIsFound(t *testing.T, find func(ctx context.Context, b *Broker, r Reader)) {
	t.Helper()
	g := openGroup(t, 3)
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1, Configs: map[string]string{segmentBytes: "16384"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	lead, _ := g.leaderOf("a", 0)
	value := strings.Repeat("x", 4000)
	for range 40 {
		appendUntil(t, lead, id, value)
	}
	var i int
	for j, b := range g.brokers {
		if b != lead {
			i = j
		}
	}
	if err := g.brokers[i].Close(context.Background()); err != nil { // writes everything into segments
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(g.cfgs[i].DataDir, "topics", "a-*", "0", "*.log"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d segments, %v", len(segments), err)
	}
	rot, err := os.ReadFile(segments[1])
	if err != nil {
		t.Fatal(err)
	}
	rot[len(rot)/2] ^= 1
	if err := os.WriteFile(segments[1], rot, 0o600); err != nil {
		t.Fatal(err)
	}
	g.start(i)
	other := g.brokers[i]
	g.await("in sync again after the restart", func() bool { return len(lead.Image().TopicByID(topic.ID).Partitions[0].ISR) == 3 })
	r, err := other.Replica(id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	find(ctx, other, r)
	g.await("a new replica in sync", func() bool {
		p := lead.Image().TopicByID(topic.ID).Partitions[0]
		again, err := other.Replica(id)
		return err == nil && again != r && len(p.ISR) == 3 && len(p.Damaged) == 0
	})
	stop()
	if r, err = other.Replica(id); err != nil {
		t.Fatal(err)
	}
	g.await("everything in the new replica", func() bool { return r.HighWatermark() == 40 })
	if got := readAll(t, r.(*Partition)); len(got) != 40 {
		t.Errorf("%d records", len(got))
	}
	g.await("what was put aside is removed: it was the disk's fault", func() bool { return !other.log.HasAside(id, "a") })
}
