package cluster

import (
	"context"
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// R3, D11: a partition is loaded up to its high watermark as readers see it, so it is not settled before they see it where the term began.
func TestSettledIsWhatReadersSee(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	p, err := table.partition(0)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, p, "v")
	idle := make(chan struct{}) // the completer
	p.done.call(func() { close(idle) })
	<-idle
	p.mu.Lock()
	term := p.epoch
	// A vote has just come: the leader knows, and the completer has not got to telling anybody.
	p.leader = replica.Lead(replica.Term{Self: b.id, Epoch: int32(term), Start: 2, HighWatermark: 2, State: replica.State{ISR: []int32{b.id}}}, 0)
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if err := table.Settle(ctx, 0, term); !errors.Is(err, context.Canceled) || p.Settled() {
		t.Fatalf("settled %t with a high watermark of %d for readers: %v", p.Settled(), p.HighWatermark(), err)
	}
	// Whoever loads it wherever it is led gets nothing either: he would take what is not known to be committed yet for not there.
	if err := table.LoadAnywhere(ctx, 0, func(_, _ []byte) error { return nil }); !errors.Is(err, ErrNotLeader) || !errors.Is(err, context.Canceled) {
		t.Errorf("loaded before it was settled: %v", err)
	}
	if _, err := b.ReadLeader(p.id, 0, 1<<10, nil); err == nil || !loadsAgain(err) { // as when the leader has changed since it said how far to read
		t.Errorf("read before it was settled: %v", err)
	}
	p.done.add(p)
	if err := table.Settle(within(t), 0, term); err != nil || p.HighWatermark() != 2 {
		t.Errorf("high watermark %d: %v", p.HighWatermark(), err)
	}
}

// H5, M5: a leader begins with all that it knew as a follower, and whoever watches hears of it.
func TestLeaderBeginsWithWhatItKnew(t *testing.T) {
	_, p := onePartition(t, nil)
	appendAll(t, p, "a", "b", "c")
	moved := make(watcher, 100)
	p.mu.Lock()
	p.hw.Store(1)
	p.log.SetHighWatermark(1)
	p.follower, p.leader, p.refusal = replica.Follow(1, 1, int32(p.epoch), 1, false), nil, ErrNotLeader
	p.follower.Appended(3, 3) // its leader has just said so, and the completer has not got to telling anybody
	epoch := p.epoch + 1
	p.mu.Unlock()
	p.Watch(moved)
	// Others are in sync, and have told nothing yet.
	if err := p.lead(replica.Term{Self: p.b.id, Epoch: int32(epoch), State: replica.State{ISR: []int32{p.b.id, p.b.id + 1}}}); err != nil {
		t.Fatal(err)
	}
	if hw := p.HighWatermark(); hw != 3 {
		t.Errorf("high watermark %d, known was 3", hw)
	}
	p.done.add(p) // as publish does
	select {
	case got := <-moved:
		if got != 3 {
			t.Errorf("told of %d", got)
		}
	case <-within(t).Done():
		t.Error("nobody is told")
	}
	if p.log.HighWatermark() != log.Offset(3) {
		t.Errorf("the log was told %d", p.log.HighWatermark())
	}
}
