package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// AlterPartitionReassignments (key 45): v0–1
//
// Gives partitions other replicas, preferred leader first; the old ones stay until the new ones are in sync. A partition with null for
// its replicas has the move that is under way undone. Answered when the order is committed: key 46 shows how far it is.
//
//	v1  whether the number of replicas may change; it may before
func (s *Server) alterReassignments(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	var wishes []cluster.Wish
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			wishes = append(wishes, cluster.Wish{Topic: t.Topic, Partition: p.Partition, Replicas: p.Replicas})
		}
	}
	if err := tooMany(len(wishes)); err != nil {
		resp.ErrorCode, resp.ErrorMessage = errInvalidRequest, new(err.Error())
		return resp, nil
	}
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	outcomes, err := s.broker.Move(ctx, wishes, req.Version < 1 || req.AllowReplicationFactorChange)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), new(err.Error())
		return resp, nil
	}
	for _, t := range req.Topics {
		rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		rt.Topic = t.Topic
		for i, p := range t.Partitions {
			rp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			rp.Partition = p.Partition
			if err := outcomes[i]; err != nil {
				rp.ErrorCode, rp.ErrorMessage = codeOf(err), new(err.Error())
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		outcomes = outcomes[len(t.Partitions):]
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}
