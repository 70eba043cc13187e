package replica

import (
	"testing"
	"time"
)

// A calm leader has nothing to propose before half of LagTime is over, and any of these is not calm.
func TestCalmLeaderHasNothingToPropose(t *testing.T) {
	state := func() State {
		return State{PartitionEpoch: 1, ISR: []int32{1, 2}, MinInsync: 1, Replicas: []Replica{{ID: 1, Epoch: 1, Eligible: true}, {ID: 2, Epoch: 2, Eligible: true}}}
	}
	const now = time.Minute
	lead := func(s State) *Leader {
		l := Lead(Term{Self: 1, Epoch: 5, State: s}, now)
		l.Appended(3, 3, 5)
		return l
	}
	fetched := func(l *Leader, at time.Duration, durable int64) {
		l.Fetched(Fetch{Node: 2, BrokerEpoch: 2, LeaderEpoch: 5, Durable: durable, From: durable, LastEpoch: -1, Entry: 5}, at)
	}
	l := lead(state())
	if l.Calm(now) {
		t.Error("calm before the other has been heard")
	}
	fetched(l, now, 1)
	if l.Calm(now) {
		t.Error("calm while the other lags")
	}
	fetched(l, now, 3)
	for at := time.Duration(now); at <= now+LagTime/2; at += time.Second {
		if !l.Calm(at) {
			t.Errorf("not calm %s after the other has caught up", at-now)
		}
	}
	if l.Calm(now + LagTime/2 + 1) {
		t.Error("calm although the other may fall out soon")
	}
	if isr, _, ok := l.Propose(now + LagTime - 1); ok {
		t.Errorf("it proposes %v", isr)
	}
	if isr, _, ok := l.Propose(now + LagTime); !ok || len(isr) != 1 {
		t.Errorf("it does not propose to go on alone: %v", isr)
	}
	if fetched(l, now+LagTime, 3); l.Calm(now + LagTime) {
		t.Error("calm with a proposal under way")
	}

	outside, restarted, anew := state(), state(), state()
	outside.ISR = []int32{1}
	restarted.Replicas[1].Restarted = true
	anew.Replicas[1].Epoch = 3
	for name, s := range map[string]State{"a replica outside": outside, "one that has restarted": restarted, "another process than was heard": anew} {
		l := lead(s)
		if fetched(l, now, 3); l.Calm(now) {
			t.Errorf("calm with %s", name)
		}
	}
	if alone := Lead(Term{Self: 1, Epoch: 5, State: State{ISR: []int32{1}, Replicas: []Replica{{ID: 1}}}}, now); !alone.Calm(now) {
		t.Error("not calm alone")
	}
}
