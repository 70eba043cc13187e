package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// ListPartitionReassignments (key 46): v0
//
// Partitions that are on the way to other replicas, of those asked for (null: all). Others, also those that do not exist, are left out,
// as in Apache Kafka.
func (s *Server) listReassignments(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListPartitionReassignmentsRequest)
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	im, selected := s.broker.Image(), selection{}
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			if t.Partitions[i].Moves() {
				selected[cluster.PartitionRef{Topic: t.Name, Index: int32(i)}] = req.Topics == nil
			}
		}
	}
	for _, t := range req.Topics {
		selected.ask(t.Topic, t.Partitions)
	}
	for _, t := range im.Topics() {
		rt := kmsg.NewListPartitionReassignmentsResponseTopic()
		rt.Topic = t.Name
		for i := range t.Partitions {
			if !selected[cluster.PartitionRef{Topic: t.Name, Index: int32(i)}] {
				continue
			}
			p := &t.Partitions[i]
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
