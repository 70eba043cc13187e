package cluster

import (
	"context"
	"errors"
	"testing"
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
