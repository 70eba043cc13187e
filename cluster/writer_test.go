package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// M10: a broker that has just started knows no topic. Whoever forwards to it must not take that for the end of the topic: it would begin anew with
// sequence 0 and the same producer id, and records would be taken for repeats of others and be lost.
func TestWhoKnowsNoTopicYetSaysThatItDoesNotLead(t *testing.T) {
	b, _ := onePartition(t, nil)
	unknown := wirePartition{Topic: make([]byte, 16)}
	batch := oneBatch(1, 0, "v")
	a := b.answerAppend(context.Background(), &appendCall{Parts: []appendPart{{wirePartition: unknown, Bytes: len(batch)}}}, batch)
	if err := a.Parts[0].err(); !errors.Is(err, ErrNotLeader) || final(err) || final(ErrUnknownTopic) {
		t.Errorf("it says %v", err)
	}
}

// Whoever gathers is woken for the first record of a batch, not for each: those that join it go with it.
func TestRecordsThatJoinABatchWakeNobody(t *testing.T) {
	w := &forwarder{f: &forwarding{wake: make(chan struct{}, 1)}}
	w.limit.Store(forwardBatchBytes)
	woken := func(size int) bool {
		t.Helper()
		if err := w.Append(&log.Record{Timestamp: 1, Value: make([]byte, size)}, nil, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.f.wake:
			return true
		default:
			return false
		}
	}
	for i, c := range []struct {
		size  int
		first bool
	}{{10, true}, {10, false}, {forwardBatchBytes * 2 / 3, false}, {forwardBatchBytes * 2 / 3, true}, {10, false}} {
		if got := woken(c.size); got != c.first {
			t.Errorf("record %d: woken %v", i, got)
		}
	}
	w.into(map[lane]*load{}, lane{leader: 2}, time.Now()) // takes what is open
	if !woken(10) {
		t.Error("nobody is woken for the batch after")
	}
}
