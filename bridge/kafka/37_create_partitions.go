package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions (key 37): v0–3
//
// Raises the number of partitions; keyed records may go elsewhere from then on. An assignment
// names the replicas of each new partition, the preferred leader first.
//
//	v2  flexible
//	v3  THROTTLING_QUOTA_EXCEEDED as in CreateTopics 6
func (s *Server) createPartitions(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	resp := kmsg.NewPtrCreatePartitionsResponse()
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	mutation := c.mutation(req.Version >= 3)
	seen := make(map[string]bool)
	for _, t := range req.Topics {
		if seen[t.Topic] {
			continue // answered at its first place, by which it was decided
		}
		seen[t.Topic] = true
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = t.Topic
		if code, why := s.createTopicPartitions(ctx, t, req.ValidateOnly, mutation); code != errNone {
			rt.ErrorCode, rt.ErrorMessage = code, &why
		}
		resp.Topics = append(resp.Topics, rt)
	}
	resp.ThrottleMillis = mutation.end()
	return resp, nil
}

func (s *Server) createTopicPartitions(ctx context.Context, req kmsg.CreatePartitionsRequestTopic, validateOnly bool, m *mutation) (code int16, why string) {
	t := s.broker.Image().Topic(req.Topic)
	if t == nil {
		return errUnknownTopicOrPartition, "no such topic"
	}
	var assignment [][]int32
	for _, a := range req.Assignment {
		assignment = append(assignment, a.Replicas)
	}
	if !validateOnly && m.refused() {
		return errThrottlingQuotaExceeded, throttledMessage
	}
	if err := s.broker.CreatePartitions(ctx, t.Name, int(req.Count), assignment, validateOnly); err != nil {
		return codeOf(err), err.Error()
	}
	if !validateOnly {
		m.took(int(req.Count) - len(t.Partitions))
	}
	return errNone, ""
}
