package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// AlterReplicaLogDirs (key 34): v1–2
//
// A broker has one log directory, where all of its replicas are already: so says the answer, and that there is no other. Kafka's tool for
// reassignments asks for it where a plan names directories, as those do that it prints for going back.
//
//	v2  flexible
func (s *Server) alterReplicaLogDirs(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterReplicaLogDirsRequest)
	resp := kmsg.NewPtrAlterReplicaLogDirsResponse()
	n := 0
	for _, d := range req.Dirs {
		for _, t := range d.Topics {
			n += len(t.Partitions)
		}
	}
	if err := tooMany(n); err != nil {
		return nil, err
	}
	dir, here := s.logDir(), make(map[cluster.PartitionRef]bool)
	for _, p := range s.broker.Partitions() {
		here[cluster.PartitionRef{Topic: p.Topic(), Index: p.Index()}] = true
	}
	for _, d := range req.Dirs {
		for _, t := range d.Topics {
			rt := kmsg.NewAlterReplicaLogDirsResponseTopic()
			rt.Topic = t.Topic
			for _, index := range t.Partitions {
				rp := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				rp.Partition = index
				switch {
				case d.Dir != dir:
					rp.ErrorCode = errLogDirNotFound
				case !here[cluster.PartitionRef{Topic: t.Topic, Index: index}]:
					rp.ErrorCode = errReplicaNotAvailable // yet: the tool asks again while a move is under way
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
	}
	return resp, nil
}
