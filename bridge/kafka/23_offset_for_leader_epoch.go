package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// OffsetForLeaderEpoch (key 23): v2–4
//
// Where an epoch ended, by which a consumer finds out that records it has read are gone
// (KIP-320): the largest epoch not above the one asked for, and the offset after its last
// record; (-1, -1) for an epoch that has not begun.
//
//	v3  replica id, ignored
//	v4  flexible
func (s *Server) offsetForLeaderEpoch(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, -1, -1
			part, code := s.partitionIn(t.Topic, p.Partition, p.CurrentLeaderEpoch)
			rp.ErrorCode = code
			if code == errNone && p.LeaderEpoch >= 0 && p.LeaderEpoch <= int32(part.LeaderEpoch()) {
				epoch, end := part.EpochEnd(log.Epoch(p.LeaderEpoch))
				rp.LeaderEpoch, rp.EndOffset = int32(epoch), int64(end)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}
