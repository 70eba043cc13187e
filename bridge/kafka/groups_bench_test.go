package kafka

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// benchGroups is a coordinator over a real table in a log on disk.
func benchGroups(b *testing.B) *groupNode {
	broker := openBroker(b)
	table, err := broker.OpenTable(context.Background(), cluster.TopicSpec{Name: offsetsTopic, Partitions: 8, Internal: true})
	if err != nil {
		b.Fatal(err)
	}
	leads := func(int32) (log.Epoch, bool) { return 0, true } // a new topic on a new broker
	return startGroupsOn(b, broker.NodeID(), table, table.Partitions(), leads, GroupConfig{}, discardLogs).loaded()
}

// A commit of 4 partitions over the log; ns/op is what one of many groups that
// commit at once takes of the node's time, latency/op what it waits.
func BenchmarkOffsetCommit(b *testing.B) {
	for _, groups := range []int{1, 64} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			n := benchGroups(b)
			b.ReportAllocs()
			var ids, waited atomic.Int64
			b.SetParallelism(max(1, groups/2))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				req := kmsg.NewPtrOffsetCommitRequest()
				req.Version, req.Group, req.Generation = 8, fmt.Sprint("g", ids.Add(1)), -1
				req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: make([]kmsg.OffsetCommitRequestTopicPartition, 4)}}
				for i := range req.Topics[0].Partitions {
					req.Topics[0].Partitions[i].Partition = int32(i)
				}
				for pb.Next() {
					start := time.Now()
					resp, err := n.s.offsetCommit(context.Background(), n.conn, req)
					if err != nil || resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[3].ErrorCode != errNone {
						b.Error(resp, err)
						return
					}
					waited.Add(int64(time.Since(start)))
				}
			})
			b.ReportMetric(float64(waited.Load())/float64(b.N)/1e6, "latency-ms/op")
		})
	}
}

func BenchmarkGroupHeartbeat(b *testing.B) {
	n := startGroupsLog(b, newFakeTable(b, 4), GroupConfig{}, discardLogs).loaded()
	m := n.member("g").up()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", m.id, m.generation
	b.ReportAllocs()
	for b.Loop() {
		if code, _ := n.c.heartbeat(req); code != errNone {
			b.Fatal(code)
		}
	}
}

var _ offsetsTable = (*cluster.Table)(nil)

// Loading: 32 groups have committed 4 partitions 1,500 times each since the last compaction.
func BenchmarkLoadGroups(b *testing.B) {
	table := newFakeTable(b, 1)
	for i := range 1500 {
		for g := range 32 {
			for p := range int32(4) {
				k, v := encodeOffset(fmt.Sprint("group-", g), &group.Write{At: group.TopicPartition{Topic: "t", Partition: p}, Offset: group.Offset{Offset: int64(i), ExpireTime: -1}})
				table.parts[0] = append(table.parts[0], entry{k, v})
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		n := startGroupsLog(b, table, GroupConfig{}, discardLogs).loaded()
		n.stop()
	}
}
