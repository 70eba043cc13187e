package uplink

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a target is asked about partitions, answered for each by itself: kadm gives up all that one broker has answered when one topic may not be asked about.

// byTopic groups partitions as requests want them.
func byTopic(all []spot) map[string][]int32 {
	m := map[string][]int32{}
	for _, s := range all {
		m[s.topic] = append(m[s.topic], s.index)
	}
	return m
}

// offsets gives the first offset of a time, or the end (-1), of partitions; each is either found or has failed.
func (t *kafkaTarget) offsets(ctx context.Context, all []spot, at int64, isolation int8) (found map[spot]int64, failed map[spot]error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = isolation
	for topic, indexes := range byTopic(all) {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, i := range indexes {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = i, at
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	found, failed = map[spot]int64{}, map[spot]error{}
	var broken error
	for _, shard := range t.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			for _, topic := range shard.Req.(*kmsg.ListOffsetsRequest).Topics {
				for _, p := range topic.Partitions {
					failed[spot{topic.Topic, p.Partition}] = shard.Err
				}
			}
			broken = shard.Err
			continue
		}
		for _, topic := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range topic.Partitions {
				if s := (spot{topic.Topic, p.Partition}); p.ErrorCode != 0 {
					failed[s] = kerr.ErrorForCode(p.ErrorCode)
				} else {
					found[s] = p.Offset
				}
			}
		}
	}
	unanswered(all, found, failed, broken)
	return found, failed
}

// producers lists those that partitions know of; each is either found or has failed.
func (t *kafkaTarget) producers(ctx context.Context, all []spot) (found map[spot][]producer, failed map[spot]error) {
	req := kmsg.NewPtrDescribeProducersRequest()
	for topic, indexes := range byTopic(all) {
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = topic, indexes
		req.Topics = append(req.Topics, rt)
	}
	found, failed = map[spot][]producer{}, map[spot]error{}
	var broken error
	for _, shard := range t.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			for _, topic := range shard.Req.(*kmsg.DescribeProducersRequest).Topics {
				for _, i := range topic.Partitions {
					failed[spot{topic.Topic, i}] = shard.Err
				}
			}
			broken = shard.Err
			continue
		}
		for _, topic := range shard.Resp.(*kmsg.DescribeProducersResponse).Topics {
			for _, p := range topic.Partitions {
				if s := (spot{topic.Topic, p.Partition}); p.ErrorCode != 0 {
					failed[s] = kerr.ErrorForCode(p.ErrorCode)
				} else {
					found[s] = p.ActiveProducers
				}
			}
		}
	}
	unanswered(all, found, failed, broken)
	return found, failed
}

// unanswered has those fail that nothing was said of.
func unanswered[T any](all []spot, found map[spot]T, failed map[spot]error, broken error) {
	if broken == nil {
		broken = errors.New("the target does not answer for it")
	}
	for _, s := range all {
		if _, ok := found[s]; !ok && failed[s] == nil {
			failed[s] = broken
		}
	}
}

// passing says whether an error may be gone the next time: of the partition or of the connection. A target that does not know a request, or refuses it, does so again.
func passing(ctx context.Context, err error) bool {
	return kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || ctx.Err() != nil
}
