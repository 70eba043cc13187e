package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// DeleteRecords (key 21): v0–2
//
// Raises the log start; -1 is the high watermark. Durable when answered.
//
//	v2  flexible
func (s *Server) deleteRecords(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteRecordsRequest)
	resp := kmsg.NewPtrDeleteRecordsResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition, rp.LowWatermark = p.Partition, -1
			rp.ErrorCode = s.deletePartitionRecords(t.Topic, p, &rp.LowWatermark)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) deletePartitionRecords(topic string, req kmsg.DeleteRecordsRequestTopicPartition, low *int64) int16 {
	if t := s.broker.Image().Topic(topic); t != nil && t.Internal {
		return errInvalidTopic
	}
	p, code := s.partition(topic, req.Partition)
	if code != errNone {
		return code
	}
	start, err := p.DeleteRecords(log.Offset(req.Offset))
	if err != nil {
		return codeOf(err)
	}
	*low = int64(start)
	return errNone
}
