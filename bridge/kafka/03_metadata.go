package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Metadata (key 3): v0–13
//
// Brokers that are not fenced, with the addresses of listeners like the one that the client
// came by, and the topics asked for. Replicas on other brokers are offline.
//
//	v0   no topics = all topics; from v1 on a null list is all, an empty one none
//	v1   zone of each broker, as its rack
//	v4   whether a missing topic may be created; earlier clients always allow it
//	v6   LISTENER_NOT_FOUND where the leader has no listener of that kind
//	v8   authorised operations, where asked for: all, unless a rule concerns the client (guardMetadata)
//	v9   flexible
//	v10  topic ids
//	v12  topics asked for by id
//	v13  an error of the whole answer, for clients that have to begin anew (KIP-1102): there is no cause for it here
func (s *Server) metadata(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.MetadataRequest)
	resp := kmsg.NewPtrMetadataResponse()
	if req.Topics != nil && (req.Version > 0 || len(req.Topics) > 0) {
		mayCreate := s.cfg.AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation)
		mutation := c.mutation(false)
		for _, t := range req.Topics {
			resp.Topics = append(resp.Topics, s.metadataTopic(ctx, c, t, req.Version, mayCreate, mutation))
		}
		resp.ThrottleMillis = mutation.end()
	} else {
		im := s.broker.Image()
		for _, t := range im.Topics() {
			resp.Topics = append(resp.Topics, s.describeTopic(c, im, t, req.Version))
		}
	}
	brokers := s.endpoints(c, s.broker.Image()) // after creations
	for _, e := range brokers {
		rb := kmsg.NewMetadataResponseBroker()
		rb.NodeID, rb.Host, rb.Port, rb.Rack = e.id, e.host, e.port, e.zone
		resp.Brokers = append(resp.Brokers, rb)
	}
	resp.ClusterID = new(s.broker.ClusterID())
	resp.ControllerID = s.controller(brokers)
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	if req.IncludeTopicAuthorizedOperations {
		for i := range resp.Topics {
			if resp.Topics[i].ErrorCode == errNone {
				resp.Topics[i].AuthorizedOperations = topicOperations
			}
		}
	}
	return resp, nil
}

// Bits of AclOperation, what Apache Kafka answers where everything is allowed: for a topic
// read, write, create, delete, alter, describe and the two for configs; for the cluster
// create, alter, describe, cluster action, configs and idempotent write.
const (
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
)

func (s *Server) metadataTopic(ctx context.Context, c *conn, req kmsg.MetadataRequestTopic, version int16, mayCreate bool, m *mutation) kmsg.MetadataResponseTopic {
	im := s.broker.Image()
	if req.Topic == nil {
		if t := im.TopicByID(log.TopicID(req.TopicID)); t != nil {
			return s.describeTopic(c, im, t, version)
		}
		return missingTopic(req, errUnknownTopicID)
	}
	name := *req.Topic
	if t := im.Topic(name); t != nil {
		return s.describeTopic(c, im, t, version)
	}
	if err := cluster.ValidateTopicName(name, false); err != nil {
		return missingTopic(req, errInvalidTopic)
	}
	if !mayCreate {
		return missingTopic(req, errUnknownTopicOrPartition)
	}
	ctx, done := controllerWait(ctx, 0)
	defer done()
	t, err := s.broker.CreateTopic(ctx, cluster.TopicSpec{Name: name}, false)
	if err == nil {
		m.took(len(t.Partitions))
	}
	if errors.Is(err, cluster.ErrTopicExists) {
		t, err = s.broker.Image().Topic(name), nil
	}
	switch {
	case err != nil:
		return missingTopic(req, codeOf(err))
	case t == nil:
		return missingTopic(req, errLeaderNotAvailable) // created elsewhere, not applied here yet
	}
	s.log.Info("kafka: topic created on demand", "topic", name, "partitions", len(t.Partitions))
	return s.describeTopic(c, s.broker.Image(), t, version)
}

func missingTopic(req kmsg.MetadataRequestTopic, code int16) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.ErrorCode, rt.Topic, rt.TopicID = code, req.Topic, req.TopicID
	return rt
}

func (s *Server) describeTopic(c *conn, im *meta.Image, t *meta.Topic, version int16) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.Topic, rt.TopicID, rt.IsInternal = &t.Name, t.ID, t.Internal
	for i := range t.Partitions {
		p := &t.Partitions[i]
		rp := kmsg.NewMetadataResponseTopicPartition()
		rp.Partition, rp.LeaderEpoch = int32(i), int32(p.LeaderEpoch)
		rp.Replicas, rp.ISR = p.Replicas, p.ISR
		leader, code := s.endpoint(c, im, p.Leader)
		if rp.Leader, rp.ErrorCode = leader.id, code; code == errListenerNotFound && version < 6 {
			rp.ErrorCode = errLeaderNotAvailable
		}
		rp.OfflineReplicas = s.offline(c, im, log.PartitionID{Topic: t.ID, Index: int32(i)}, p.Replicas)
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}

// offline are the replicas of a partition that a client of c's listener does not reach, or that are missing or damaged here: what is sound of those can still be read.
func (s *Server) offline(c *conn, im *meta.Image, of log.PartitionID, replicas []int32) (out []int32) {
	for _, id := range replicas {
		damaged := id == s.broker.NodeID() && s.broker.OfflineReason(of.Topic, of.Index) != nil
		if _, code := s.endpoint(c, im, id); code != errNone || damaged {
			out = append(out, id)
		}
	}
	return out
}
