package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopics (key 20): v1–6
//
//	v4  flexible
//	v5  error message; THROTTLING_QUOTA_EXCEEDED as in CreateTopics 6
//	v6  topics by id
func (s *Server) deleteTopics(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteTopicsRequest)
	resp := kmsg.NewPtrDeleteTopicsResponse()
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	mutation := c.mutation(req.Version >= 5)
	if req.Version < 6 {
		for _, name := range req.TopicNames {
			req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
		}
	}
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteTopicsResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		s.deleteTopic(ctx, mutation, &rt)
		resp.Topics = append(resp.Topics, rt)
	}
	resp.ThrottleMillis = mutation.end()
	return resp, nil
}

func (s *Server) deleteTopic(ctx context.Context, m *mutation, rt *kmsg.DeleteTopicsResponseTopic) {
	refuse := func(code int16, why string) { rt.ErrorCode, rt.ErrorMessage = code, &why }
	var none [16]byte
	switch {
	case rt.Topic != nil && rt.TopicID != none, rt.Topic == nil && rt.TopicID == none:
		refuse(errInvalidRequest, "want a topic name or a topic id")
		return
	case rt.Topic == nil:
		t := s.topicByID(rt.TopicID)
		if t == nil {
			refuse(errUnknownTopicID, "no topic has this id")
			return
		}
		rt.Topic = &t.Name
	default:
		if t := s.broker.Image().Topic(*rt.Topic); t != nil {
			rt.TopicID = t.ID
		}
	}
	if m.refused() {
		rt.TopicID = none
		refuse(errThrottlingQuotaExceeded, throttledMessage)
		return
	}
	partitions := 0
	if t := s.broker.Image().Topic(*rt.Topic); t != nil {
		partitions = len(t.Partitions)
	}
	if err := s.broker.DeleteTopic(ctx, *rt.Topic); err != nil {
		rt.TopicID = none
		refuse(codeOf(err), err.Error())
		return
	}
	m.took(partitions)
}
