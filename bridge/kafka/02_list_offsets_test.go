package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func listRequest(version int16, topic string, ts int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = version, -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp, p.CurrentLeaderEpoch = ts, -1
	rt.Partitions = append(rt.Partitions, p)
	req.Topics = append(req.Topics, rt)
	return req
}

func TestListOffsets(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		list := func(v int16, ts int64) kmsg.ListOffsetsResponseTopicPartition {
			return roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(v, "t", ts)).Topics[0].Partitions[0]
		}
		if got := list(7, timeMax); got.ErrorCode != 0 || got.Offset != -1 {
			t.Errorf("greatest time of nothing: %+v", got)
		}
		for _, at := range []int64{1000, 3000, 2000} {
			if p := produceOne(c, "t", batchOf(at, "a", "b")); p.ErrorCode != 0 {
				t.Fatal(p)
			}
		}
		for _, test := range []struct{ ts, offset, at int64 }{
			{timeLatest, 6, -1},
			{timeEarliest, 0, -1},
			{0, 0, 1000},
			{1000, 0, 1000},
			{1001, 1, 1001},
			{1002, 2, 3000},
			{3001, 3, 3001},
			{3002, -1, -1},
		} {
			for v := int16(1); v <= 10; v++ {
				if got := list(v, test.ts); got.ErrorCode != 0 || got.Offset != test.offset || got.Timestamp != test.at {
					t.Errorf("v%d time %d: error %d, offset %d at %d, want %d at %d", v, test.ts, got.ErrorCode, got.Offset, got.Timestamp, test.offset, test.at)
				}
			}
		}
		if got := list(7, timeMax); got.Offset != 3 || got.Timestamp != 3001 {
			t.Errorf("greatest time: offset %d at %d, want 3 at 3001", got.Offset, got.Timestamp)
		}
		// Without tiered storage all of the log is local, and nothing is anywhere else or on its way there.
		for _, test := range []struct {
			ts, offset int64
			since      int16
		}{{timeMax, 3, 7}, {timeEarliestLocal, 0, 8}, {timeLatestTiered, -1, 9}, {timeEarliestPendingUpload, -1, 11}, {-7, 0, 12}} {
			for v := int16(1); v <= 10; v++ {
				want := errUnsupportedVersion
				if v >= test.since {
					want = errNone
				}
				if got := list(v, test.ts); got.ErrorCode != want || want == errNone && got.Offset != test.offset {
					t.Errorf("v%d time %d: error %d, offset %d, want error %d, offset %d", v, test.ts, got.ErrorCode, got.Offset, want, test.offset)
				}
			}
		}
		req := listRequest(7, "nope", timeLatest)
		if got := roundTrip[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0].ErrorCode; got != errUnknownTopicOrPartition {
			t.Errorf("no such topic: error %d", got)
		}
		req = listRequest(7, "t", timeLatest)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = 1 << 30
		if got := roundTrip[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0].ErrorCode; got != errUnknownLeaderEpoch {
			t.Errorf("epoch from the future: error %d", got)
		}
	})
}

// Version 11, which the oracle does not have.
func TestListOffsetsPendingUpload(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a", "b")
	for ts, want := range map[int64]int64{timeEarliestPendingUpload: -1, timeLatestTiered: -1, timeEarliestLocal: 0, timeLatest: 2, timeMax: 0} {
		got := roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(11, "t", ts)).Topics[0].Partitions[0]
		if got.ErrorCode != errNone || got.Offset != want || (got.LeaderEpoch >= 0) != (want >= 0) {
			t.Errorf("time %d: %+v, want offset %d", ts, got, want)
		}
	}
}
