package cluster

import (
	"context"
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
)

// feedOf is a follower's session with one partition.
func feedOf(p *Partition, seq uint64) *feedCall {
	return &feedCall{Broker: p.b.id, Epoch: 1, Session: 1, Seq: seq, WaitMS: 1, Parts: []feedPart{{wirePartition: toWire(p.id), LeaderEpoch: int32(p.epoch), LastEpoch: -1, Entry: -1}}}
}

// T2: whoever was told only that a broker does not lead yet, or where to cut, is told how the term stands when it asks again, though nothing else is new: until
// then it votes for nothing, and the high watermark stands still.
func TestFollowerThatHasHeardNothingOfTheTermIsToldOfIt(t *testing.T) {
	b, p := onePartition(t, nil)
	refuse := func(why error) {
		p.mu.Lock()
		p.refusal = why
		p.mu.Unlock()
	}
	s := b.feeds.session(b, feedOf(p, 1))
	ask := func(seq uint64) []feedNews {
		if err := s.tell(feedOf(p, seq)); err != nil {
			t.Fatal(err)
		}
		news, _, done, _ := s.collect(false)
		if done != nil {
			done()
		}
		return news
	}
	refuse(ErrNotLeader)
	if news := ask(1); len(news) != 1 || news[0].Code != feedNotLeader {
		t.Fatalf("one that does not lead says %+v", news)
	}
	refuse(nil)
	if news := ask(2); len(news) != 1 || news[0].Code != feedOK {
		t.Fatalf("one that has begun to lead says %+v", news)
	}
	if news := ask(3); len(news) != 0 {
		t.Errorf("it says again: %+v", news)
	}
}

// A call that has come a second time must not take news away: its answer reaches nobody.
func TestCopyOfACallTakesNoNews(t *testing.T) {
	b, p := onePartition(t, nil)
	first, err := b.answerFeed(context.Background(), feedOf(p, 1))
	if err != nil || len(first.Control.(feedAnswer).Parts) != 1 {
		t.Fatalf("%+v, %v", first.Control, err)
	}
	appendAll(t, p, "new")
	if again, err := b.answerFeed(context.Background(), feedOf(p, 1)); err != nil || len(again.Control.(feedAnswer).Parts) != 0 {
		t.Errorf("the copy got %+v, %v", again.Control, err)
	}
	if next, err := b.answerFeed(context.Background(), feedOf(p, 2)); err != nil || len(next.Control.(feedAnswer).Parts) != 1 {
		t.Errorf("the next call got %+v, %v", next.Control, err)
	}
}

// Sessions are not for whoever asks: each is kept.
func TestFeedOfAStranger(t *testing.T) {
	b, _ := onePartition(t, nil)
	for id := range int32(100) {
		if _, err := b.answerFeed(within(t), &feedCall{Broker: 1000 + id, Session: 1, Seq: 1}); !errors.Is(err, meta.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := len(b.feeds.sessions); n > 0 {
		t.Errorf("%d sessions", n)
	}
}
