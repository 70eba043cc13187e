package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// DescribeTopicPartitions (key 75): v0
//
// What Metadata says of topics, page by page, with the replicas outside of the in-sync set that hold everything committed (KIP-966).
// Topics come in the order of their names; a cursor says where the next page begins. No topics asked for means all.
func (s *Server) describeTopicPartitions(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeTopicPartitionsRequest)
	im := s.broker.Image()
	from := kmsg.DescribeTopicPartitionsRequestCursor{}
	if req.Cursor != nil {
		from = *req.Cursor
	}
	names, all := namesAsked(im, req), len(req.Topics) == 0
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	if req.Cursor != nil && (from.Partition < 0 || !all && !slices.Contains(names, from.Topic)) {
		for _, name := range names[:min(len(names), maxDescribedPartitions)] { // the answer has no code of its own
			resp.Topics = append(resp.Topics, describedMissing(name, errInvalidRequest))
		}
		return resp, nil
	}
	room := int(min(max(req.ResponsePartitionLimit, 1), maxDescribedPartitions))
	for _, name := range names {
		if name < from.Topic {
			continue
		}
		if room == 0 {
			resp.NextCursor = nextPage(name, 0)
			break
		}
		t := im.Topic(name)
		if t == nil {
			code := errUnknownTopicOrPartition
			if cluster.ValidateTopicName(name, strings.HasPrefix(name, "__")) != nil {
				code = errInvalidTopic
			}
			resp.Topics = append(resp.Topics, describedMissing(name, code))
			room-- // it takes room as well
			continue
		}
		first := 0
		if name == from.Topic {
			first = min(int(from.Partition), len(t.Partitions))
		}
		end := min(first+room, len(t.Partitions))
		resp.Topics = append(resp.Topics, s.describePartitions(c, im, t, first, end))
		if room -= end - first; end < len(t.Partitions) {
			resp.NextCursor = nextPage(name, int32(end))
			break
		}
	}
	return resp, nil
}

// maxDescribedPartitions is Kafka's max.request.partition.size.limit.
const maxDescribedPartitions = 2000

// namesAsked are those asked for, in order, each once.
func namesAsked(im *meta.Image, req *kmsg.DescribeTopicPartitionsRequest) (names []string) {
	for _, t := range req.Topics {
		names = append(names, t.Topic)
	}
	if len(req.Topics) == 0 {
		for _, t := range im.Topics() {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func nextPage(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	next := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	next.Topic, next.Partition = topic, partition
	return &next
}

func describedMissing(name string, code int16) kmsg.DescribeTopicPartitionsResponseTopic {
	rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	rt.Topic, rt.ErrorCode = &name, code
	return rt
}

// describePartitions tells of the partitions from first to before end as Metadata does.
func (s *Server) describePartitions(c *conn, im *meta.Image, t *meta.Topic, first, end int) kmsg.DescribeTopicPartitionsResponseTopic {
	rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	rt.Topic, rt.TopicID, rt.IsInternal, rt.AuthorizedOperations = &t.Name, t.ID, t.Internal, topicOperations
	for i := first; i < end; i++ {
		p := &t.Partitions[i]
		rp := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		leader, code := s.endpoint(c, im, p.Leader)
		rp.Partition, rp.ErrorCode, rp.LeaderID, rp.LeaderEpoch = int32(i), code, leader.id, int32(p.LeaderEpoch)
		rp.Replicas, rp.ISR = p.Replicas, p.ISR
		rp.EligibleLeaderReplicas, rp.LastKnownELR = append([]int32{}, p.ELR...), []int32{} // null would mean that nothing is known of them
		rp.OfflineReplicas = s.offline(c, im, log.PartitionID{Topic: t.ID, Index: int32(i)}, p.Replicas)
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}
