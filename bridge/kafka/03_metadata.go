package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
)

// Metadata (key 3): v0–12
//
// Brokers, and the topics asked for. This node is told with the address of the listener
// that the client came by, so that TLS clients stay on TLS.
//
//	v0   no topics = all topics; from v1 on a null list is all, an empty one none
//	v4   whether a missing topic may be created; earlier clients always allow it
//	v8   authorised operations, where asked for: all, since there is no authorizer
//	v9   flexible
//	v10  topic ids
//	v12  topics asked for by id
func (s *Server) metadata(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.MetadataRequest)
	resp := kmsg.NewPtrMetadataResponse()
	if req.Topics != nil && (req.Version > 0 || len(req.Topics) > 0) {
		mayCreate := s.cfg.AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation)
		for _, t := range req.Topics {
			resp.Topics = append(resp.Topics, s.metadataTopic(ctx, t, mayCreate))
		}
	} else {
		for _, t := range s.broker.Image().Topics() {
			resp.Topics = append(resp.Topics, s.describeTopic(t))
		}
	}
	im := s.broker.Image() // after creations
	resp.Brokers = s.brokers(c, im)
	resp.ClusterID = new(s.broker.ClusterID())
	resp.ControllerID = s.broker.NodeID()
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

func (s *Server) brokers(c *conn, im *meta.Image) []kmsg.MetadataResponseBroker {
	var out []kmsg.MetadataResponseBroker
	for _, b := range im.Brokers() {
		rb := kmsg.NewMetadataResponseBroker()
		rb.NodeID = b.ID
		rb.Host, rb.Port = s.address(c, b)
		out = append(out, rb)
	}
	return out
}

// address is where a client of c reaches a broker.
func (s *Server) address(c *conn, b *meta.Broker) (host string, port int32) {
	if b.ID == s.broker.NodeID() {
		return c.listener.host, c.listener.port
	}
	return b.Host, b.KafkaPort
}

func (s *Server) metadataTopic(ctx context.Context, req kmsg.MetadataRequestTopic, mayCreate bool) kmsg.MetadataResponseTopic {
	if req.Topic == nil {
		if t := s.topicByID(req.TopicID); t != nil {
			return s.describeTopic(t)
		}
		return missingTopic(req, errUnknownTopicID)
	}
	name := *req.Topic
	if t := s.broker.Image().Topic(name); t != nil {
		return s.describeTopic(t)
	}
	if err := cluster.ValidateTopicName(name, false); err != nil {
		return missingTopic(req, errInvalidTopic)
	}
	if !mayCreate {
		return missingTopic(req, errUnknownTopicOrPartition)
	}
	t, err := s.broker.CreateTopic(ctx, cluster.TopicSpec{Name: name}, false)
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
	return s.describeTopic(t)
}

func missingTopic(req kmsg.MetadataRequestTopic, code int16) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.ErrorCode, rt.Topic, rt.TopicID = code, req.Topic, req.TopicID
	return rt
}

func (s *Server) describeTopic(t *meta.Topic) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.Topic, rt.TopicID, rt.IsInternal = &t.Name, t.ID, t.Internal
	for i := range t.Partitions {
		p := &t.Partitions[i]
		rp := kmsg.NewMetadataResponseTopicPartition()
		rp.Partition, rp.Leader, rp.LeaderEpoch = int32(i), p.Leader, int32(p.LeaderEpoch)
		rp.Replicas, rp.ISR = p.Replicas, p.ISR
		if p.Leader == s.broker.NodeID() && s.broker.OfflineReason(t.ID, int32(i)) != nil {
			rp.OfflineReplicas = []int32{p.Leader} // missing, or damaged: what is sound of it can still be read
		}
		if p.Leader == meta.NoLeader {
			rp.ErrorCode = errLeaderNotAvailable
		}
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}
