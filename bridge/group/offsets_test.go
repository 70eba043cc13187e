package group

import (
	"testing"
	"time"
)

// Offsets stamped by a clock that had not been set are kept when it is set, and
// so are those that were committed in this process before the step.
func TestOffsetsOfAnUnsetClock(t *testing.T) {
	cfg := Config{}.Defaults()
	real := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	at := TopicPartition{"t", 0}
	for name, commit := range map[string]time.Time{"1970": time.Unix(3600, 0), "last year": real.AddDate(-1, 0, 0)} {
		g := New("g", &cfg, commit)
		g.RestoreOffset(at, Offset{Offset: 5, CommitTime: commit.UnixMilli(), ExpireTime: -1})
		expired := len(g.Expire(real).Writes) == 1
		if expired != (name == "last year") {
			t.Errorf("offset of %s: expired %v", name, expired)
		}
	}
	g := New("g", &cfg, time.Now())
	now := time.Now()
	w, _ := g.Put(at, Offset{Offset: 5, ExpireTime: -1}, now)
	g.Committed(w, true)
	if fx := g.Expire(now.Add(8 * 24 * time.Hour)); len(fx.Writes) != 1 {
		t.Error("an offset of last week does not expire")
	}
}

func TestSubscription(t *testing.T) {
	whole := subscribe("t", "größer")
	topics, ok := subscription(whole)
	if !ok || len(topics) != 2 || topics[1] != "größer" {
		t.Fatalf("%q %v", topics, ok)
	}
	for n := range len(whole) - 4 { // the last 4 are the assignor's own
		if topics, ok := subscription(whole[:n]); ok {
			t.Errorf("the first %d bytes read as %q", n, topics)
		}
	}
	if !sameTopics(subscribe("a", "b"), subscribe("b", "a", "a")) || sameTopics(subscribe("a"), subscribe("b")) || sameTopics([]byte{1}, []byte{2}) {
		t.Error("topics compare wrong")
	}
}

func FuzzSubscription(f *testing.F) {
	f.Add(subscribe("t", "u"))
	f.Add([]byte{0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		topics, _ := subscription(b)
		n := 0
		for _, topic := range topics {
			n += 2 + len(topic)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of topics in %d", n, len(b))
		}
	})
}

// A heartbeat is the request that there is most of.
func BenchmarkHeartbeat(b *testing.B) {
	cfg := Config{InitialRebalanceDelay: -1}.Defaults()
	now := time.Now()
	g := New("g", &cfg, now)
	g.Join(&JoinRequest{Ticket: 1, NewMemberID: "m", Session: 10 * time.Second, Rebalance: time.Minute, ProtocolType: "consumer", Protocols: []Protocol{{"range", nil}}}, now)
	fx := g.Sync(&SyncRequest{Ticket: 2, MemberID: "m", Generation: 1}, now)
	g.Stored(fx.Stores[0].Seq, true, now)
	b.ReportAllocs()
	for b.Loop() {
		if f := g.Heartbeat("m", "", 1, now); f != OK {
			b.Fatal(f)
		}
	}
}
