package kafka

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzGroupRequests sends a sequence of requests of a peer that is already
// gone, so that none waits: key and version, length, body, and so on. Nothing
// panics, every group keeps its invariants, and the memory that is counted is
// what there is.
func FuzzGroupRequests(f *testing.F) {
	add := func(reqs ...kmsg.Request) {
		var in []byte
		for _, req := range reqs {
			body := req.AppendTo(nil)
			in = append(in, byte(req.Key()), byte(req.GetVersion()))
			in = append(binary.BigEndian.AppendUint16(in, uint16(len(body))), body...)
		}
		f.Add(in)
	}
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.ProtocolType = 0, "g", "consumer"
	join.SessionTimeoutMillis = 10_000
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte{0, 1, 0, 0, 0, 0}}}
	static := kmsg.NewPtrJoinGroupRequest()
	*static = *join
	static.Version, static.InstanceID = 9, kmsg.StringPtr("i")
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 8, "h", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: make([]kmsg.OffsetCommitRequestTopicPartition, 2)}}
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version, fetch.Groups = 8, []kmsg.OffsetFetchRequestGroup{{Group: "h"}}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.Generation = 5, "g", 1
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group, leave.Members = 5, "g", []kmsg.LeaveGroupRequestMember{{InstanceID: kmsg.StringPtr("i")}}
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Version, beat.Group = 4, "g"
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Version, describe.Groups = 5, []string{"g", "h"}
	list := kmsg.NewPtrListGroupsRequest()
	list.Version = 4
	del := kmsg.NewPtrDeleteGroupsRequest()
	del.Version, del.Groups = 2, []string{"h", "g"}
	forget := kmsg.NewPtrOffsetDeleteRequest()
	forget.Group, forget.Topics = "h", []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: make([]kmsg.OffsetDeleteRequestTopicPartition, 1)}}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKeys = 4, []string{"g"}
	consume := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	consume.Version, consume.Group, consume.MemberID, consume.RebalanceTimeoutMillis = 1, "g", "m", 30_000
	consume.SubscribedTopicNames, consume.SubscribedTopicRegex, consume.Topics = []string{"t"}, kmsg.StringPtr("u.*"), []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	again := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	again.Version, again.Group, again.MemberID, again.MemberEpoch = 1, "g", "m", 1
	again.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: [16]byte{1}, Partitions: []int32{0, 1}}}
	consumers := kmsg.NewPtrConsumerGroupDescribeRequest()
	consumers.Version, consumers.Groups = 1, []string{"g", "h"}
	add(consume, again, consumers, leave, join)
	add(join, join, sync, leave, describe)
	add(static, static, beat, leave, list)
	add(commit, fetch, forget, del, find)

	gone, cancel := context.WithCancel(context.Background())
	cancel()
	apis, _ := table()
	groupKeys := map[int16]bool{}
	for _, a := range groupAPIs() {
		groupKeys[a.key] = true
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		n := startGroupsLog(t, newFakeTable(t, 2), GroupConfig{MaxGroups: 8}, discardLogs).loaded()
		for len(in) >= 4 {
			key, version, size := int16(in[0]), int16(in[1]), int(binary.BigEndian.Uint16(in[2:]))
			in = in[4:]
			body := in[:min(size, len(in))]
			in = in[len(body):]
			a := apis[key]
			if !groupKeys[key] || !a.serves(version) || version >= a.flexible && a.shape.check(body, version) != nil {
				continue
			}
			req := kmsg.RequestForKey(key)
			req.SetVersion(version)
			if req.ReadFrom(body) != nil {
				continue
			}
			resp, err := a.handle(n.s, gone, n.conn, req)
			if err != nil || resp == nil {
				t.Fatalf("key %d version %d: %v", key, version, err)
			}
			resp.SetVersion(version)
			if err := req.ResponseKind().ReadFrom(resp.AppendTo(nil)); err != nil {
				t.Fatalf("key %d version %d: answer: %v", key, version, err)
			}
		}
		groups := 0
		n.c.each(func(e *groupEntry) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.gone {
				return
			}
			if err := e.g.Check(); err != nil {
				t.Fatal(err)
			}
			groups++
			if e.bytes != int64(e.g.Bytes()) {
				t.Fatalf("group %q counts as %d bytes and has %d", e.id, e.bytes, e.g.Bytes())
			}
		})
		if groups > 8 {
			t.Fatalf("%d groups", groups)
		}
	})
}
