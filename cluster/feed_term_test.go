package cluster

import (
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// T2: between the comparison of the logs and the look at the records the term ends, and the log is cut and filled as the next leader's is. The
// follower's was not compared with that.
func TestNewsOfATermThatEnds(t *testing.T) {
	b, p := onePartition(t, nil)
	appendAll(t, p, "a", "b", "c", "d")
	old := int32(p.LeaderEpoch())
	f := replica.Fetch{Node: b.id + 1, LeaderEpoch: old, LastEpoch: -1}
	led, diverges, _, err := p.compare(f)
	if err != nil || diverges {
		t.Fatalf("diverges %t: %v", diverges, err)
	}
	n := feedNews{LeaderEpoch: led.Epoch, LogStart: led.Start, LogEnd: led.End}
	same := n
	if raw := p.newsOfTerm(f, false, feedPartBytes, &same, nil); same.Code != feedOK || len(raw) == 0 || same.Bytes != len(raw) {
		t.Fatalf("in the term: %+v, %d bytes", same, len(raw))
	}

	p.follow(b.id, b.epoch, log.Epoch(old+1), true)
	if err := p.log.Truncate(1); err != nil {
		t.Fatal(err)
	}
	var next log.BatchBuilder
	for range 3 {
		next.Append(&log.Record{Value: []byte("of another")})
	}
	if err := p.log.AppendReplica(next.Seal(1, log.Epoch(old+1))); err != nil {
		t.Fatal(err)
	}
	if raw := p.newsOfTerm(f, false, feedPartBytes, &n, make([]byte, 5, 1<<20)); n.Code != feedNotLeader || n.Bytes != 0 || len(raw) != 5 {
		t.Errorf("of a term that ended: code %d, %d bytes in %d", n.Code, n.Bytes, len(raw))
	}
}

// T5: a follower whose log ends inside of a batch of its leader's has another log, though nothing is left to compare it with: it is told so, or it would refuse that batch
// for ever.
func TestNewsForALogThatEndsInsideOfABatch(t *testing.T) {
	const epoch = 9
	b, p := followerWith(t, 4, 4)
	if err := p.log.SetLogStart(3); err != nil {
		t.Fatal(err)
	}
	if err := p.lead(replica.Term{Self: b.id, Epoch: epoch, State: replica.State{ISR: []int32{b.id}, MinInsync: 1}}); err != nil {
		t.Fatal(err)
	}
	for from, whole := range map[int64]bool{0: true, 2: false, 3: false} {
		var n feedNews
		raw := p.news(replica.Fetch{Node: b.id + 1, LeaderEpoch: epoch, From: from, LastEpoch: -1}, false, feedPartBytes, &n, nil)
		if n.Code != feedOK || n.LogStart != 0 || n.Diverges == whole || (len(raw) > 0) != whole || n.Bytes != len(raw) || n.Diverges && n.AtEpoch != -1 {
			t.Errorf("from %d: %+v, %d bytes", from, n, len(raw))
		}
	}
}
