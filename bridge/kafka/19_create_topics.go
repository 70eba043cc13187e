package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// CreateTopics (key 19): v2–7
//
// A topic is there, durable, and known to this broker, when the answer says so. Partitions and replicas of -1
// mean the cluster's defaults. An assignment names the replicas of partitions 0, 1, 2 …, the
// preferred leader first.
//
//	v5  partitions, replicas and configs in the answer; flexible
//	v6  THROTTLING_QUOTA_EXCEEDED while the client's controller_mutation_rate is exhausted; below, all is done and waited for (KIP-599)
//	v7  topic ids
func (s *Server) createTopics(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	mutation := c.mutation(req.Version >= 6)
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
			s.createTopic(ctx, t, req.ValidateOnly, mutation, &rt)
		default:
			rt.ErrorCode = errInvalidRequest
			rt.ErrorMessage = new(fmt.Sprintf("topic %q is in the request more than once", t.Topic))
		}
		times[t.Topic] = 0
		resp.Topics = append(resp.Topics, rt)
	}
	resp.ThrottleMillis = mutation.end()
	return resp, nil
}

func (s *Server) createTopic(ctx context.Context, req kmsg.CreateTopicsRequestTopic, validateOnly bool, m *mutation, resp *kmsg.CreateTopicsResponseTopic) {
	refuse := func(code int16, why string) { resp.ErrorCode, resp.ErrorMessage = code, &why }
	spec := cluster.TopicSpec{Name: req.Topic, Partitions: int(req.NumPartitions), Replicas: int(req.ReplicationFactor)}
	switch {
	case len(req.ReplicaAssignment) > 0 && (req.NumPartitions != -1 || req.ReplicationFactor != -1):
		refuse(errInvalidRequest, "with an assignment, partitions and replication factor must be -1")
		return
	case len(req.ReplicaAssignment) > 0:
		var why string
		if spec.Assignment, why = readAssignment(req.ReplicaAssignment); why != "" {
			refuse(errInvalidReplicaAssignment, why)
			return
		}
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
	if !validateOnly && m.refused() {
		refuse(errThrottlingQuotaExceeded, throttledMessage)
		return
	}
	t, err := s.broker.CreateTopic(ctx, spec, validateOnly)
	if err != nil {
		refuse(codeOf(err), err.Error())
		return
	}
	if !validateOnly {
		m.took(len(t.Partitions))
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

// readAssignment wants each of partitions 0, 1, 2 … once; which replicas they may have cluster knows.
func readAssignment(as []kmsg.CreateTopicsRequestTopicReplicaAssignment) (replicas [][]int32, why string) {
	replicas = make([][]int32, len(as))
	for _, a := range as {
		if a.Partition < 0 || int(a.Partition) >= len(as) || replicas[a.Partition] != nil || len(a.Replicas) == 0 {
			return nil, fmt.Sprintf("partition %d: want each of 0 to %d once, with one replica at least", a.Partition, len(as)-1)
		}
		replicas[a.Partition] = a.Replicas
	}
	return replicas, ""
}
