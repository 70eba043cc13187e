package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments (key 46): v0
//
// Partitions that are on the way to other replicas, of those asked for (null: all). Others, also those that do not exist, are left out,
// as in Apache Kafka.
func (s *Server) listReassignments(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListPartitionReassignmentsRequest)
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	var asked named
	if req.Topics != nil {
		asked = named{}
		for _, t := range req.Topics {
			asked.add(t.Topic, t.Partitions)
		}
	}
	for _, t := range s.broker.Image().Topics() {
		rt := kmsg.NewListPartitionReassignmentsResponseTopic()
		rt.Topic = t.Name
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if !p.Moves() || !asked.has(t.Name, int32(i)) {
				continue
			}
			rp := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			rp.Partition, rp.Replicas = int32(i), p.Replicas
			rp.AddingReplicas, rp.RemovingReplicas = p.Adding, p.Removing
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(rt.Partitions) > 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	return resp, nil
}
