package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// DescribeProducers (key 61): v0
//
// The idempotent producers that a partition's leader remembers, silent for longest first, with their open transactions.
func (s *Server) describeProducers(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeProducersRequest)
	resp := kmsg.NewPtrDescribeProducersResponse()
	n := 0
	for _, t := range req.Topics {
		n += len(t.Partitions)
	}
	if err := tooMany(n); err != nil {
		return nil, err
	}
	told, room := make(map[cluster.PartitionRef]bool), maxDescribed
	for _, t := range req.Topics {
		rt := kmsg.NewDescribeProducersResponseTopic()
		rt.Topic = t.Topic
		for _, index := range t.Partitions {
			ref := cluster.PartitionRef{Topic: t.Topic, Index: index}
			if told[ref] {
				continue // answered at its first place
			}
			told[ref] = true
			rt.Partitions = append(rt.Partitions, s.producersOf(ref, &room))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// maxDescribed bounds the producers of one answer: some 4 MB.
const maxDescribed = 1 << 16

func (s *Server) producersOf(ref cluster.PartitionRef, room *int) kmsg.DescribeProducersResponseTopicPartition {
	rp := kmsg.NewDescribeProducersResponseTopicPartition()
	rp.Partition = ref.Index
	p, code := s.partitionIn(ref.Topic, ref.Index, -1)
	if code != errNone {
		rp.ErrorCode = code
		return rp
	}
	all, more := p.Producers(*room)
	if more {
		rp.ErrorCode = errInvalidRequest
		rp.ErrorMessage = new(fmt.Sprintf("the answer would tell of more than %d producers: ask for fewer partitions at once", maxDescribed))
		return rp
	}
	*room -= len(all)
	for i := range all {
		rp.ActiveProducers = append(rp.ActiveProducers, activeProducer(&all[i]))
	}
	return rp
}

func activeProducer(p *log.ProducerState) kmsg.DescribeProducersResponseTopicPartitionActiveProducer {
	a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
	a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = p.ID, int32(p.Epoch), p.LastSequence, p.Touched
	a.CoordinatorEpoch, a.CurrentTxnStartOffset = p.Coordinator, int64(p.Transaction)
	return a
}
