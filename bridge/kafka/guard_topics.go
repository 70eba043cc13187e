package kafka

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// topicGuards are those of requests about topics, their partitions and their records.
func topicGuards() map[int16]guard {
	return map[int16]guard{
		2:  guarding((*Server).guardListOffsets),
		3:  guarding((*Server).guardMetadata),
		19: guarding((*Server).guardCreateTopics),
		20: guarding((*Server).guardDeleteTopics),
		21: guarding((*Server).guardDeleteRecords),
		23: guarding((*Server).guardLeaderEpoch),
		37: guarding((*Server).guardCreatePartitions),
		61: guarding((*Server).guardDescribeProducers),
		75: guarding((*Server).guardDescribeTopicPartitions),
	}
}

func (s *Server) guardListOffsets(c *conn, req *kmsg.ListOffsetsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.ListOffsetsRequestTopic) bool { return !s.mayTopic(c, access.Describe, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.ListOffsetsResponse)
		for _, t := range out {
			rt := kmsg.NewListOffsetsResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, errTopicAuthorizationFailed
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardMetadata(c *conn, req *kmsg.MetadataRequest) (kmsg.Response, func(kmsg.Response)) {
	everything := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	out := forbid(c, &req.Topics, func(t *kmsg.MetadataRequestTopic) bool {
		if t.Topic == nil {
			return !s.mayTopicID(c, access.Describe, t.TopicID)
		}
		makes := (req.Version < 4 || req.AllowAutoTopicCreation) && s.cfg.AutoCreateTopics && s.broker.Image().Topic(*t.Topic) == nil
		return !s.mayTopic(c, access.Describe, *t.Topic) || makes && !s.mayCreate(c, *t.Topic)
	})
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.MetadataResponse)
		switch {
		case everything:
			r.Topics = slices.DeleteFunc(r.Topics, func(t kmsg.MetadataResponseTopic) bool { return !s.mayTopic(c, access.Describe, *t.Topic) })
		case len(req.Topics) == 0: // in version 0 that meant all to the handler
			r.Topics = nil
		}
		for _, t := range out {
			r.Topics = append(r.Topics, missingTopic(t, errTopicAuthorizationFailed))
		}
		if req.IncludeClusterAuthorizedOperations {
			r.AuthorizedOperations = s.operations(c, clusterOperations, access.Cluster, access.ClusterName)
		}
		for i := range r.Topics {
			if t := &r.Topics[i]; req.IncludeTopicAuthorizedOperations && t.ErrorCode == errNone {
				t.AuthorizedOperations = s.operations(c, topicOperations, access.Topic, *t.Topic)
			}
		}
	}
}

// mayCreate: whoever may create all topics, or this one.
func (s *Server) mayCreate(c *conn, name string) bool {
	return s.mayCluster(c, access.Create) || s.mayTopic(c, access.Create, name)
}

func (s *Server) guardCreateTopics(c *conn, req *kmsg.CreateTopicsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.CreateTopicsRequestTopic) bool { return !s.mayCreate(c, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.CreateTopicsResponse)
		for i := range r.Topics {
			if t := &r.Topics[i]; t.ErrorCode == errNone && !s.mayTopic(c, access.DescribeConfigs, t.Topic) {
				t.Configs, t.NumPartitions, t.ReplicationFactor, t.ConfigErrorCode = nil, -1, -1, errTopicAuthorizationFailed
			}
		}
		for _, t := range out {
			rt := kmsg.NewCreateTopicsResponseTopic()
			rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
			rt.ErrorCode, rt.ErrorMessage = errTopicAuthorizationFailed, refusal(c, "create topic", t.Topic)
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardDeleteTopics(c *conn, req *kmsg.DeleteTopicsRequest) (kmsg.Response, func(kmsg.Response)) {
	names := forbid(c, &req.TopicNames, func(name *string) bool { return !s.mayTopic(c, access.Delete, *name) })
	out := forbid(c, &req.Topics, func(t *kmsg.DeleteTopicsRequestTopic) bool {
		if t.Topic != nil {
			return !s.mayTopic(c, access.Delete, *t.Topic)
		}
		return !s.mayTopicID(c, access.Delete, t.TopicID)
	})
	for i := range names {
		out = append(out, kmsg.DeleteTopicsRequestTopic{Topic: &names[i]})
	}
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DeleteTopicsResponse)
		for _, t := range out {
			rt := kmsg.NewDeleteTopicsResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			rt.ErrorCode, rt.ErrorMessage = errTopicAuthorizationFailed, refusal(c, "delete", "the topic")
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardDeleteRecords(c *conn, req *kmsg.DeleteRecordsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.DeleteRecordsRequestTopic) bool { return !s.mayTopic(c, access.Delete, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DeleteRecordsResponse)
		for _, t := range out {
			rt := kmsg.NewDeleteRecordsResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewDeleteRecordsResponseTopicPartition()
				rp.Partition, rp.LowWatermark, rp.ErrorCode = p.Partition, -1, errTopicAuthorizationFailed
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardLeaderEpoch(c *conn, req *kmsg.OffsetForLeaderEpochRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.OffsetForLeaderEpochRequestTopic) bool { return !s.mayTopic(c, access.Describe, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range out {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, errTopicAuthorizationFailed
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardCreatePartitions(c *conn, req *kmsg.CreatePartitionsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.CreatePartitionsRequestTopic) bool { return !s.mayTopic(c, access.Alter, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.CreatePartitionsResponse)
		for _, t := range out {
			rt := kmsg.NewCreatePartitionsResponseTopic()
			rt.Topic, rt.ErrorCode, rt.ErrorMessage = t.Topic, errTopicAuthorizationFailed, refusal(c, "alter topic", t.Topic)
			r.Topics = append(r.Topics, rt)
		}
	}
}

func (s *Server) guardDescribeProducers(c *conn, req *kmsg.DescribeProducersRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Topics, func(t *kmsg.DescribeProducersRequestTopic) bool { return !s.mayTopic(c, access.Read, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DescribeProducersResponse)
		for _, t := range out {
			rt := kmsg.NewDescribeProducersResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewDescribeProducersResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p, errTopicAuthorizationFailed
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
}

// guardDescribeTopicPartitions names the topics that may be seen, where all were asked for: a page of others would have none.
func (s *Server) guardDescribeTopicPartitions(c *conn, req *kmsg.DescribeTopicPartitionsRequest) (kmsg.Response, func(kmsg.Response)) {
	if len(req.Topics) == 0 {
		for _, t := range s.broker.Image().Topics() {
			req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: t.Name})
		}
		req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.DescribeTopicPartitionsRequestTopic) bool {
			return !s.mayTopic(c, access.Describe, t.Topic)
		})
		if req.Cursor != nil { // the topic at which the page begins may be gone, or hidden by now
			at, found := slices.BinarySearchFunc(req.Topics, req.Cursor.Topic, func(t kmsg.DescribeTopicPartitionsRequestTopic, name string) int {
				return strings.Compare(t.Topic, name)
			})
			if req.Topics = req.Topics[at:]; !found {
				req.Cursor = nil
			}
		}
		if len(req.Topics) == 0 { // to the handler that means all
			return nil, func(resp kmsg.Response) {
				r := resp.(*kmsg.DescribeTopicPartitionsResponse)
				r.Topics, r.NextCursor = nil, nil
			}
		}
	}
	out := forbid(c, &req.Topics, func(t *kmsg.DescribeTopicPartitionsRequestTopic) bool {
		return !s.mayTopic(c, access.Describe, t.Topic)
	})
	refused := func(resp kmsg.Response) {
		r := resp.(*kmsg.DescribeTopicPartitionsResponse)
		for i := range r.Topics {
			if t := &r.Topics[i]; t.ErrorCode == errNone {
				t.AuthorizedOperations = s.operations(c, topicOperations, access.Topic, *t.Topic)
			}
		}
		for _, t := range out {
			if req.Cursor == nil || t.Topic >= req.Cursor.Topic {
				r.Topics = append(r.Topics, describedMissing(t.Topic, errTopicAuthorizationFailed))
			}
		}
	}
	if len(req.Topics) == 0 { // none would mean all
		resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
		refused(resp)
		return resp, nil
	}
	return nil, refused
}
