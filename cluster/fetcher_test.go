package cluster

import (
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// T3: a leader of an epoch without records follows one whose log has records of an older epoch there, and knows nothing of that epoch.
func TestEpochWithoutRecordsGivesWayToOlderRecords(t *testing.T) {
	_, p := onePartition(t, nil)
	appendAll(t, p, "kept")
	if err := p.log.BeginEpoch(5); err != nil {
		t.Fatal(err)
	}
	p.follow(1, 1, 6, false)
	batch := oneBatch(-1, -1, "of the leader")
	batch.SetBaseOffset(p.log.LogEnd())
	batch.SetLeaderEpoch(3)
	n := &feedNews{EpochStart: 2, HW: 2, LogEnd: 2, LeaderEpoch: 6}
	if err := p.appendFrom(replica.Follow(1, 1, 6, 0, false), n, batch); err != nil {
		t.Fatal(err)
	}
	if _, end, last := p.log.Ends(); end != 2 || last != log.Epoch(3) {
		t.Errorf("the log ends at %d, in epoch %d", end, last)
	}
}
