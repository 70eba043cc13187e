package cluster

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// lead has a broker lead partition 0 of a topic whose replicas all brokers have.
func (g *group) lead(name string, b *Broker) log.Epoch {
	g.t.Helper()
	for ctx := within(g.t); ; {
		topic := g.brokers[0].Image().Topic(name)
		if p := &topic.Partitions[0]; p.Leader == b.NodeID() {
			return p.LeaderEpoch
		} else if len(p.ISR) == len(g.brokers) {
			_, err := g.brokers[0].Propose(ctx, &meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{
				{Topic: topic.ID, PartitionEpoch: p.PartitionEpoch, Leader: b.NodeID()},
			}})
			if err != nil && !errors.Is(err, meta.ErrConflict) {
				g.t.Fatal(err)
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			g.t.Fatalf("broker %d does not come to lead %s", b.NodeID(), name)
		}
	}
}

// M4: an owner that was cut off has a record on its way while the next one looks for it, finds nothing and goes on. It comes too late wherever it comes.
func TestRecordsOfAnEarlierOwnerComeTooLate(t *testing.T) {
	g := openGroup(t, 3)
	old, next, leads := g.brokers[0], g.brokers[1], g.brokers[2]
	ids := map[string]log.PartitionID{}
	for _, name := range []string{"records", "sessions"} {
		topic, err := old.CreateTopic(within(t), TopicSpec{Name: name, Partitions: 1, Replicas: 3}, false)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = log.PartitionID{Topic: topic.ID}
	}
	g.lead("records", leads)
	term := Term{ids["sessions"], g.lead("sessions", old)}
	g.await("the records' leader everywhere", func() bool {
		return old.table.Load().leader(ids["records"]) == leads.NodeID() && next.table.Load().leader(ids["records"]) == leads.NodeID()
	})

	writer, err := old.Writer(within(t), ids["records"])
	if err != nil {
		t.Fatal(err)
	}
	put := func(in Term, value string) *acks {
		a := newAcks()
		if err := writer.AppendIn(in, &log.Record{Timestamp: 1, Value: []byte(value)}, a, 0); err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := put(term, "in its term")
	if a.await(t, 1); a.errs[0] != nil {
		t.Fatal(a.errs[0])
	}
	w := writer.(*forwarder)
	w.mu.Lock()
	w.pause = time.Now().Add(time.Hour)
	w.mu.Unlock()
	a = put(term, "late")

	g.lead("sessions", next)
	g.await("the next owner knows that it is", func() bool { return next.table.Load().leader(ids["sessions"]) == next.NodeID() })
	if end, err := next.Settle(within(t), ids["records"]); err != nil || end != 1 {
		t.Fatalf("the log ends at %d, %v", end, err)
	}
	w.mu.Lock()
	w.pause = time.Time{}
	w.mu.Unlock()
	w.f.poke()
	if a.await(t, 1); !errors.Is(a.errs[0], ErrTermOver) {
		t.Errorf("the late record: %v", a.errs[0])
	}
	appendUntil(t, old, ids["records"], "of no term") // it has given up, and goes on
	_, p := g.leaderOf("records", 0)
	if got := readAll(t, p); !slices.Equal(got, []string{"in its term", "of no term"}) {
		t.Errorf("the log has %q", got)
	}
}

// M4: a leader that knows of the next owner takes nothing for the one before, from others or from itself.
func TestTermsThatAreOver(t *testing.T) {
	b, p := onePartition(t, nil)
	other := mustCreate(t, b, TopicSpec{Name: "sessions", Partitions: 1})[0]
	now := Term{other.ID(), other.LeaderEpoch()}
	over, later := Term{now.Partition, now.Epoch - 1}, Term{now.Partition, now.Epoch + 1}
	forward := func(seq int32, in ...Term) error {
		batch := oneBatch(7, seq, "x")
		a := b.answerAppend(within(t), &appendCall{[]appendPart{{toWire(p.id), len(batch), toWireTerms(in)}}}, batch)
		return a.Parts[0].err()
	}
	for i, in := range [][]Term{nil, {now}, {later}, {now, later}, {{Partition: log.PartitionID{Index: 9}}}} {
		if err := forward(int32(i), in...); err != nil {
			t.Errorf("%v: %v", in, err)
		}
	}
	end := p.LogEnd()
	for _, in := range [][]Term{{over}, {now, over}} {
		if err := forward(int32(end), in...); !errors.Is(err, ErrTermOver) || !final(err) {
			t.Errorf("%v: %v", in, err)
		}
	}
	r := &log.Record{Timestamp: 1, Value: []byte("x")}
	if err := p.AppendIn(over, r, nil, 0); !errors.Is(err, ErrTermOver) || !Transient(err) {
		t.Errorf("append: %v", err)
	}
	if p.LogEnd() != end {
		t.Error("something was appended")
	}
	if err := p.AppendIn(now, r, nil, 0); err != nil {
		t.Error(err)
	}
	if a := b.answerEnds(&endsCall{[]wirePartition{toWire(p.id)}, true, b.Image().Version + 1}); a.Ends[0] != -1 {
		t.Errorf("with metadata older than the asker's it answers %d", a.Ends[0])
	}
	if got := forwardTerm(t, b, wireTerm{wirePartition{Topic: []byte{1}}, 0}); got == nil || p.LogEnd() != end+1 {
		t.Errorf("a term of no partition: %v", got)
	}
}

func forwardTerm(t *testing.T, b *Broker, w wireTerm) error {
	t.Helper()
	batch := oneBatch(8, 0, "x")
	p, err := b.Partition("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	a := b.answerAppend(within(t), &appendCall{[]appendPart{{toWire(p.id), len(batch), []wireTerm{w}}}}, batch)
	return a.Parts[0].err()
}

// M4: who is told where the log ends is told of everything that was let through before: an append that has looked at the terms is waited for.
func TestEndIsBehindWhatWasLetThrough(t *testing.T) {
	b, p := onePartition(t, nil)
	for range 50 {
		asked := make(chan struct{})
		answer := make(chan int64)
		p.mu.Lock() // as an append that has just looked
		go func() {
			close(asked)
			answer <- b.answerEnds(&endsCall{[]wirePartition{toWire(p.id)}, true, 0}).Ends[0]
		}()
		<-asked
		for range 20 {
			runtime.Gosched()
		}
		at, err := p.log.Append(&log.Record{Timestamp: 1, Value: []byte("x")}, p.epoch)
		p.mu.Unlock()
		if end := <-answer; err != nil || end != int64(at)+1 {
			t.Fatalf("end %d with a record at %d, %v", end, at, err)
		}
	}
}
