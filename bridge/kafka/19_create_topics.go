package kafka

import (
	"context"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// CreateTopics (key 19): v2–7
//
// A topic is there, durable, and known to this broker, when the answer says so. Partitions and replicas of -1
// mean the cluster's defaults. A manual assignment counts as so many partitions with so
// many replicas: the cluster places them.
//
//	v5  partitions, replicas and configs in the answer; flexible
//	v7  topic ids
func (s *Server) createTopics(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	times := make(map[string]int)
	for _, t := range req.Topics {
		times[t.Topic]++
	}
	for _, t := range req.Topics {
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
		switch times[t.Topic] {
		case 0: // answered at its first place
			continue
		case 1:
			s.createTopic(ctx, t, req.ValidateOnly, &rt)
		default:
			rt.ErrorCode = errInvalidRequest
			rt.ErrorMessage = new(fmt.Sprintf("topic %q is in the request more than once", t.Topic))
		}
		times[t.Topic] = 0
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) createTopic(ctx context.Context, req kmsg.CreateTopicsRequestTopic, validateOnly bool, resp *kmsg.CreateTopicsResponseTopic) {
	refuse := func(code int16, why string) { resp.ErrorCode, resp.ErrorMessage = code, &why }
	spec := cluster.TopicSpec{Name: req.Topic, Partitions: int(req.NumPartitions), Replicas: int(req.ReplicationFactor)}
	switch {
	case len(req.ReplicaAssignment) > 0 && (req.NumPartitions != -1 || req.ReplicationFactor != -1):
		refuse(errInvalidRequest, "with an assignment, partitions and replication factor must be -1")
		return
	case len(req.ReplicaAssignment) > 0:
		var why string
		if spec.Replicas, why = checkAssignment(req.ReplicaAssignment); why != "" {
			refuse(errInvalidReplicaAssignment, why)
			return
		}
		spec.Partitions = len(req.ReplicaAssignment)
	case req.NumPartitions == 0 || req.NumPartitions < -1:
		refuse(errInvalidPartitions, fmt.Sprintf("partitions=%d: want 1 or more, or -1 for the default", req.NumPartitions))
		return
	case req.ReplicationFactor == 0 || req.ReplicationFactor < -1:
		refuse(errInvalidReplicationFactor, fmt.Sprintf("replication factor %d: want 1 or more, or -1 for the default", req.ReplicationFactor))
		return
	}
	spec.Configs = make(map[string]string, len(req.Configs))
	for _, c := range req.Configs {
		if c.Value == nil {
			refuse(errInvalidConfig, fmt.Sprintf("config %q has no value", c.Name))
			return
		}
		if _, twice := spec.Configs[c.Name]; twice {
			refuse(errInvalidConfig, fmt.Sprintf("config %q is given twice", c.Name))
			return
		}
		spec.Configs[c.Name] = *c.Value
	}
	t, err := s.broker.CreateTopic(ctx, spec, validateOnly)
	if err != nil {
		refuse(codeOf(err), err.Error())
		return
	}
	resp.TopicID = t.ID
	resp.NumPartitions = int32(len(t.Partitions))
	resp.ReplicationFactor = int16(len(t.Partitions[0].Replicas))
	for _, d := range cluster.TopicConfigs() {
		value, own := cluster.ConfigValue(t, d.Name)
		rc := kmsg.NewCreateTopicsResponseTopicConfig()
		rc.Name, rc.Value = d.Name, &value
		rc.Source = int8(configSource(own))
		resp.Configs = append(resp.Configs, rc)
	}
}

// checkAssignment wants partitions 0, 1, 2 … with as many replicas each.
func checkAssignment(as []kmsg.CreateTopicsRequestTopicReplicaAssignment) (replicas int, why string) {
	seen := make(map[int32]bool, len(as))
	for _, a := range as {
		if a.Partition < 0 || int(a.Partition) >= len(as) || seen[a.Partition] {
			return 0, fmt.Sprintf("partition %d: want each of 0 to %d once", a.Partition, len(as)-1)
		}
		seen[a.Partition] = true
		if replicas == 0 {
			replicas = len(a.Replicas)
		}
		if len(a.Replicas) == 0 || len(a.Replicas) != replicas || len(a.Replicas) > math.MaxInt16 {
			return 0, fmt.Sprintf("partition %d has %d replicas: want as many for each, and one at least", a.Partition, len(a.Replicas))
		}
	}
	return replicas, ""
}
