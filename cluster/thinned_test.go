package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// oneGroup has the last record stand for all others.
type oneGroup struct{}

func (oneGroup) Group(buf []byte, r *log.Record, _ time.Time) ([]byte, bool) {
	return append(buf, 'x'), true
}

// Batches of which nothing is left have become one header, and the log of a follower that was away ends between two of them: it goes on from there (K3).
func TestFollowerThatWasAwayWhileItsLeaderThinned(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Log.DiskQuota = 100 << 10
	cfg.Log.HousekeepTick = 20 * time.Millisecond
	cfg.Log.RecentCacheBytes = 1
	cfg.Log.Hold = func(log.PartitionID) (log.Offset, bool) { return 0, true }
	cfg.Log.Thin = func(log.PartitionID) []log.Thinner { return []log.Thinner{oneGroup{}} }
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1, Configs: map[string]string{"segment.bytes": "20480"}})[0]
	for i := 0; b.log.Stats().ThinnedRecords == 0; i++ {
		if _, err := produce(t, p, oneBatch(-1, -1, strings.Repeat("x", 1000)), -1); err != nil {
			t.Fatal(err)
		}
		if i > 5000 {
			t.Fatal("nothing thinned")
		}
	}
	var n feedNews
	const from = 3 // the log end of a follower that was away, the boundary of a batch as it was appended
	p.news(replica.Fetch{Node: b.id + 1, LeaderEpoch: int32(p.epoch), From: from, LastEpoch: int32(p.epoch)}, false, feedPartBytes, &n, nil)
	fo := replica.Follow(2, 1, int32(p.epoch), from, false)
	o := fo.Answered(replica.Fetch{Node: 2, LeaderEpoch: int32(p.epoch), From: from, LastEpoch: int32(p.epoch)}, n.answer(), replica.Log{Start: 0, End: from, Durable: from, LastEpoch: int32(p.epoch)})
	if o.Act != replica.Append {
		t.Errorf("a sound follower is to do %+v", o)
	}
}
