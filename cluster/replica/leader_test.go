package replica

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Against the definition: the lowest vote of everybody who counts, while the in-sync set is large enough, and never falling.
// Votes of another term or process do not count (H3, H4, H5, H8).
func TestHighWatermark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		inSync := rapid.IntRange(1, replicas).Draw(t, "in sync")
		st := State{MinInsync: rapid.IntRange(1, replicas).Draw(t, "min")}
		for id := int32(1); int(id) <= replicas; id++ {
			st.Replicas = append(st.Replicas, Replica{ID: id, Epoch: 1}) // not eligible: nobody else is waited for
			if int(id) <= inSync {
				st.ISR = append(st.ISR, id)
			}
		}
		term := Term{Self: 1, Epoch: 3, Start: rapid.Int64Range(0, 10).Draw(t, "start"), HighWatermark: rapid.Int64Range(0, 12).Draw(t, "hw"), State: st}
		l := Lead(term, 0)
		votes := make([]int64, replicas)
		want := min(term.HighWatermark, term.Start)
		now := time.Duration(0)
		settle := func() {
			if inSync >= st.MinInsync {
				want = max(want, slices.Min(votes[:inSync]))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"synced": func(t *rapid.T) {
				next := rapid.Int64Range(0, 30).Draw(t, "next")
				l.Appended(next, next, 3)
				votes[0] = max(votes[0], next)
				settle()
			},
			"fetch": func(t *rapid.T) {
				f := Fetch{Node: rapid.Int32Range(2, 5).Draw(t, "node"), Durable: rapid.Int64Range(0, 30).Draw(t, "durable")}
				f.Entry = rapid.Int32Range(2, 3).Draw(t, "entry")
				f.BrokerEpoch, f.LeaderEpoch = rapid.Int64Range(1, 3).Draw(t, "process"), rapid.Int32Range(2, 4).Draw(t, "epoch")
				now += time.Second
				before := l.HighWatermark()
				moved := l.Fetched(f, now)
				if int(f.Node) <= replicas && f.BrokerEpoch == st.Replicas[f.Node-1].Epoch && f.LeaderEpoch == 3 && f.Entry == 3 {
					votes[f.Node-1] = max(votes[f.Node-1], f.Durable)
				}
				settle()
				if moved != (before != want) {
					t.Fatalf("moved %t from %d, want %d", moved, before, want)
				}
			},
			"min": func(t *rapid.T) {
				st.MinInsync = rapid.IntRange(1, replicas).Draw(t, "min")
				st.PartitionEpoch++
				l.Changed(st, now)
				settle()
			},
			"new process": func(t *rapid.T) { // its predecessor's vote is void
				id := rapid.IntRange(2, 5).Draw(t, "node")
				if id <= replicas {
					st.Replicas = slices.Clone(st.Replicas)
					st.Replicas[id-1].Epoch++
					st.PartitionEpoch++
					l.Changed(st, now)
					votes[id-1] = 0
					settle()
				}
			},
			"": func(t *rapid.T) {
				if err := l.Check(); err != nil {
					t.Fatal(err)
				}
				if l.HighWatermark() != want {
					t.Fatalf("high watermark %d, want %d: %s", l.HighWatermark(), want, l)
				}
				if refused := l.Writable() != nil; refused != (inSync < st.MinInsync) {
					t.Fatalf("refused %t: %s", refused, l)
				}
			},
		})
	})
}

// The hot path of a commit: nothing is allocated for it.
func TestAppendedAllocatesNothing(t *testing.T) {
	l := Lead(Term{Self: 1, Epoch: 1, State: State{MinInsync: 1, ISR: []int32{1, 2}, Replicas: []Replica{{ID: 1, Epoch: 1, Eligible: true}, {ID: 2, Epoch: 1, Eligible: true}, {ID: 3, Epoch: 1, Eligible: true}}}}, 0)
	n := int64(0)
	if allocs := testing.AllocsPerRun(100, func() {
		n++
		l.Appended(n, n, 1)
		l.Fetched(Fetch{Node: 2, BrokerEpoch: 1, LeaderEpoch: 1, Entry: 1, Durable: n}, time.Duration(n))
		l.Fetched(Fetch{Node: 3, BrokerEpoch: 1, LeaderEpoch: 1, Entry: 1, Durable: n}, time.Duration(n))
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestCheckFindsBrokenState(t *testing.T) {
	for name, l := range map[string]*Leader{
		"leader out of sync":         Lead(Term{Self: 1, State: State{ISR: []int32{2}}}, 0),
		"leader out of its proposal": {term: Term{Self: 1, State: State{ISR: []int32{1}}}, proposed: []Member{{ID: 2}}},
		"synced what is not there":   {term: Term{Self: 1, State: State{ISR: []int32{1}}}, durable: 5},
	} {
		if l.Check() == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// I8: a replica was taken away and given back. What it told before it had heard of that is of a log that it will drop, also where the leader hears of both at once.
func TestLogThatWillBeDroppedCountsForNothing(t *testing.T) {
	state := func(epoch, left int32, replicas ...int32) State {
		s := State{PartitionEpoch: epoch, Left: left, ISR: []int32{1, 3}, MinInsync: 1}
		for _, id := range replicas {
			s.Replicas = append(s.Replicas, Replica{ID: id, Epoch: 10, Eligible: true})
		}
		return s
	}
	tell := func(l *Leader, node, known int32) {
		l.Fetched(Fetch{Node: node, BrokerEpoch: 10, LeaderEpoch: 5, Durable: 7, From: 7, LastEpoch: 5, Entry: 5, PartitionEpoch: known}, time.Second)
	}
	for _, apart := range []bool{true, false} {
		first := state(1, 0, 1, 2, 3)
		first.ISR = []int32{1, 2, 3}
		l := Lead(Term{Self: 1, Epoch: 5, State: first}, 0)
		l.Appended(7, 7, 5)
		tell(l, 2, 1)
		tell(l, 3, 1)
		if l.HighWatermark() != 7 {
			t.Fatalf("high watermark %d", l.HighWatermark())
		}
		if apart {
			l.Changed(state(2, 2, 1, 3), time.Second)
		}
		l.Changed(state(3, 2, 1, 2, 3), time.Second)
		tell(l, 2, 1)
		tell(l, 3, 1) // it has been there all the time
		if isr, _, ok := l.Propose(2 * time.Second); ok {
			t.Fatalf("proposes %v", isr)
		}
		tell(l, 2, 3)
		if isr, _, ok := l.Propose(2 * time.Second); !ok || len(isr) != 3 {
			t.Fatalf("proposes %v", isr)
		}
		l.Appended(9, 9, 5)
		l.Fetched(Fetch{Node: 3, BrokerEpoch: 10, LeaderEpoch: 5, Durable: 9, From: 9, LastEpoch: 5, Entry: 5, PartitionEpoch: 1}, 2*time.Second)
		l.Fetched(Fetch{Node: 2, BrokerEpoch: 10, LeaderEpoch: 5, Durable: 9, From: 9, LastEpoch: 5, Entry: 5, PartitionEpoch: 3}, 2*time.Second)
		if l.HighWatermark() != 9 {
			t.Errorf("high watermark %d: a member that has not heard of the move counts all the same", l.HighWatermark())
		}
	}
}

// H3: a replica that catches up and has no vote in this term yet holds nothing up: it might never get one.
func TestWhoHasNoVoteIsNotWaitedFor(t *testing.T) {
	s := State{ISR: []int32{1}, MinInsync: 1, Replicas: []Replica{{ID: 1, Epoch: 10, Eligible: true}, {ID: 2, Epoch: 10, Eligible: true}}}
	l := Lead(Term{Self: 1, Epoch: 5, State: s}, 0)
	l.Appended(7, 7, 5)
	l.Fetched(Fetch{Node: 2, BrokerEpoch: 10, LeaderEpoch: 5, Durable: 7, From: 7, LastEpoch: 4, Entry: 4}, time.Second)
	l.Appended(9, 9, 5)
	if l.HighWatermark() != 9 {
		t.Errorf("high watermark %d, all that is in sync has 9", l.HighWatermark())
	}
}
