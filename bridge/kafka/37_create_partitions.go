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
func (s *Server) createPartitions(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	resp := kmsg.NewPtrCreatePartitionsResponse()
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	seen := make(map[string]bool)
	for _, t := range req.Topics {
		if seen[t.Topic] {
			continue // answered at its first place, by which it was decided
		}
		seen[t.Topic] = true
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = t.Topic
		if code, why := s.createTopicPartitions(ctx, t, req.ValidateOnly); code != errNone {
			rt.ErrorCode, rt.ErrorMessage = code, &why
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) createTopicPartitions(ctx context.Context, req kmsg.CreatePartitionsRequestTopic, validateOnly bool) (code int16, why string) {
	t := s.broker.Image().Topic(req.Topic)
	if t == nil {
		return errUnknownTopicOrPartition, "no such topic"
	}
	var assignment [][]int32
	for _, a := range req.Assignment {
		assignment = append(assignment, a.Replicas)
	}
	if err := s.broker.CreatePartitions(ctx, t.Name, int(req.Count), assignment, validateOnly); err != nil {
		return codeOf(err), err.Error()
	}
	return errNone, ""
}
