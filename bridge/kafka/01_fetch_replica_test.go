package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

func rackRequest(version int16, offset int64, rack string) *kmsg.FetchRequest {
	req := fetchRequest(version, "t", 0, offset)
	req.Rack, req.MaxWaitMillis = rack, 60_000
	return req
}

// A consumer in another zone is sent to the replica there, if it may and can go, and is served when it comes back.
func TestFetchSendsToTheReplicaNearby(t *testing.T) {
	b, _, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	fill(t, dialRaw(t, addr), "t", "a")
	alone := threePeers(t, b.Image())
	joined := joinedBy2(t, alone, "t")
	committed := rackRequest(12, 0, "east")
	committed.IsolationLevel = 1
	behind := rackRequest(12, 2, "east")
	for _, test := range []struct {
		name string
		im   *meta.Image
		req  *kmsg.FetchRequest
		want int32
	}{
		{"in its zone", joined, rackRequest(12, 0, "east"), 2},
		{"at the end", joined, rackRequest(12, 1, "east"), 2},
		{"version 11", joined, rackRequest(11, 0, "east"), 2},
		{"no such zone", joined, rackRequest(12, 0, "west"), noReplica},
		{"no rack", joined, rackRequest(12, 0, ""), noReplica},
		{"version 10", joined, rackRequest(10, 0, "east"), noReplica},
		{"read_committed", joined, committed, noReplica},
		{"behind the end", joined, behind, noReplica},
		{"not in sync", alone, rackRequest(12, 0, "east"), noReplica},
		{"fenced", fence(t, joined, 2), rackRequest(12, 0, "east"), noReplica},
	} {
		b.set(test.im)
		c := dialRaw(t, addr)
		p := fetchOne(c, test.req)
		if p.PreferredReadReplica != test.want || (len(p.RecordBatches) > 0) != (test.want == noReplica && test.req != behind) {
			t.Errorf("%s: sent to %d with %d bytes, want %d", test.name, p.PreferredReadReplica, len(p.RecordBatches), test.want)
		}
		if test.want != noReplica {
			again := rackRequest(12, 0, "east")
			if p := fetchOne(c, again); p.PreferredReadReplica != noReplica || len(p.RecordBatches) == 0 {
				t.Errorf("%s: who comes back is sent to %d with %d bytes", test.name, p.PreferredReadReplica, len(p.RecordBatches))
			}
		}
	}

	// In a session as well.
	b.set(alone)
	c := newSessionReader(t, addr, 13, "t")
	c.fetch(map[where]int64{{"t", 0}: 1})
	b.set(joined)
	req := c.request(nil)
	req.Rack = "east"
	if told := c.read(roundTrip[*kmsg.FetchResponse](c.rawConn, req)); told[where{"t", 0}].PreferredReadReplica != 2 {
		t.Errorf("told %+v", told)
	}
}

// Who is sent back and forth is sent no more than once in a while.
func TestConsumersAreSentAwayOnceInAWhile(t *testing.T) {
	var c conn
	now := time.Unix(1000, 0)
	for i := range 2*maxSentAway + 1 {
		if c.noteSentAway(log.PartitionID{Index: int32(i)}, now); len(c.sentAway) > maxSentAway {
			t.Fatalf("%d are noted", len(c.sentAway))
		}
	}
	if len(c.sentAway) != 1 {
		t.Errorf("%d are noted", len(c.sentAway))
	}
}

// R1: a replica in sync serves consumers that say where they are, below its own high watermark; everybody else, and everything else, it sends to
// the leader.
func TestFetchAtAReplica(t *testing.T) {
	b, s, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a", "b")
	leads, err := b.Broker.Partition("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	im := moveTo2(t, threePeers(t, b.Image()), "t")
	epoch := int32(im.Topic("t").Partitions[0].LeaderEpoch)
	b.set(im)
	want := func(name string, req *kmsg.FetchRequest, code int16, records int) {
		t.Helper()
		p := fetchOne(c, req)
		if p.ErrorCode != code || len(values(t, p.RecordBatches)) != records || p.PreferredReadReplica != noReplica {
			t.Errorf("%s: %+v, want code %d and %d records", name, p, code, records)
		}
		if code == errNotLeaderOrFollower && req.Version >= 12 && p.CurrentLeader.LeaderID != 2 {
			t.Errorf("%s: the leader is %d", name, p.CurrentLeader.LeaderID)
		}
	}
	in := func(req *kmsg.FetchRequest, epoch int32) *kmsg.FetchRequest {
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
		return req
	}
	committed := rackRequest(12, 0, "north")
	committed.IsolationLevel = 1
	want("with a rack", rackRequest(12, 0, "north"), errNone, 2)
	want("version 11", rackRequest(11, 1, "north"), errNone, 1)
	want("in its epoch", in(rackRequest(12, 0, "north"), epoch), errNone, 2)
	want("in an old epoch", in(rackRequest(12, 0, "north"), epoch-1), errFencedLeaderEpoch, 0)
	want("in a later epoch", in(rackRequest(12, 0, "north"), epoch+1), errUnknownLeaderEpoch, 0)
	want("without a rack", rackRequest(12, 0, ""), errNotLeaderOrFollower, 0)
	want("read_committed", committed, errNotLeaderOrFollower, 0)
	want("behind its end", rackRequest(12, 3, "north"), errNotLeaderOrFollower, 0)
	want("before its start", rackRequest(12, -1, "north"), errNotLeaderOrFollower, 0)

	// A fetch that waits goes on as the replica does.
	req := rackRequest(12, 2, "north")
	c.sendFrame(frameOf(req, 1))
	eventually(t, "the fetch waits", func() bool { return s.Stats().FetchWaiting == 1 })
	leads.Produce(batchOf(1, "c"), -1, func(log.Offset, int64, error) {})
	_, body := c.readFrame()
	if p := parseResponse[*kmsg.FetchResponse](c, req, body).Topics[0].Partitions[0]; p.ErrorCode != errNone || len(values(t, p.RecordBatches)) != 1 || p.HighWatermark != 3 {
		t.Errorf("after a wait: %+v", p)
	}
	b.lapsed.Store(true)
	want("without a lease", rackRequest(12, 0, "north"), errNotLeaderOrFollower, 0)
	b.lapsed.Store(false)

	// It ends when the replica may serve no longer: with the next thing that wakes it, or soon.
	two := im.Broker(2)
	p := im.Topic("t").Partitions[0]
	parted := apply(t, im, &meta.AlterPartitions{BrokerID: 2, BrokerEpoch: two.Epoch, Changes: []meta.ISRChange{{
		Topic: im.Topic("t").ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []meta.ISRMember{{ID: 2, Epoch: two.Epoch, Proven: true}},
	}}})
	for _, wake := range []func(){func() { leads.Produce(batchOf(1, "d"), -1, func(log.Offset, int64, error) {}) }, func() {}} {
		b.set(im)
		req := rackRequest(12, int64(leads.HighWatermark()), "north")
		c.sendFrame(frameOf(req, 1))
		eventually(t, "the fetch waits", func() bool { return s.Stats().FetchWaiting == 1 })
		b.set(parted)
		wake()
		_, body := c.readFrame()
		if p := parseResponse[*kmsg.FetchResponse](c, req, body).Topics[0].Partitions[0]; p.ErrorCode != errNotLeaderOrFollower || len(p.RecordBatches) > 0 {
			t.Errorf("after a wait, out of sync: %+v", p)
		}
	}
	want("out of sync", rackRequest(12, 0, "north"), errNotLeaderOrFollower, 0)
}

// Nobody is sent on from a leader in the same zone, nor to where a client of this listener cannot go.
func TestReplicaForAConsumer(t *testing.T) {
	for _, test := range []struct {
		zone   string // of broker 1, which leads
		rack   string
		secure bool
		want   []int32 // by partition
	}{
		{"west", "east", true, []int32{2, 4, 2}}, {"west", "east", false, []int32{2, 2, 2}},
		{"west", "west", true, []int32{-1, -1, -1}}, {"east", "east", true, []int32{-1, -1, -1}}, {"", "north", true, []int32{-1, -1, -1}},
	} {
		im := apply(t, meta.NewImage(), &meta.RegisterBroker{ClusterID: "fake", UUID: meta.UUID{1}, Nonce: meta.UUID{1}, Host: "not told", KafkaPort: 1, Zone: test.zone})
		im = fence(t, threePeers(t, im), 3)
		im = apply(t, im, &meta.CreateTopic{Name: "x", ID: log.TopicID{1}, Assignment: [][]int32{{1, 2, 4}, {1, 2, 4}, {1, 2, 4}}})
		f := &fetch{s: &Server{broker: &fakeBroker{id: 1, im: im}}, c: &conn{listener: boundListener{secure: test.secure, port: 1}}, rack: []byte(test.rack)}
		for i, want := range test.want {
			if got := f.replicaFor(im, "x", int32(i)); got != want {
				t.Errorf("%+v, partition %d: %d", test, i, got)
			}
		}
	}
}
