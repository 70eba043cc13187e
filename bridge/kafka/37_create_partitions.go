package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions (key 37): v0–3
//
// Raises the number of partitions; keyed records may go elsewhere from then on. A manual
// assignment must have an entry for each new partition, and the cluster places them all
// the same.
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
	more := int(req.Count) - len(t.Partitions)
	switch {
	case more <= 0:
		return errInvalidPartitions, fmt.Sprintf("topic %s has %d partitions, which %d does not exceed", t.Name, len(t.Partitions), req.Count)
	case len(req.Assignment) > 0 && len(req.Assignment) != more:
		return errInvalidReplicaAssignment, fmt.Sprintf("%d assignments for %d new partitions", len(req.Assignment), more)
	case validateOnly:
		return errNone, ""
	}
	if err := s.broker.CreatePartitions(ctx, t.Name, int(req.Count)); err != nil {
		return codeOf(err), err.Error()
	}
	return errNone, ""
}
