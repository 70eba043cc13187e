package uplink

import (
	"cmp"
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
	asked := func(req kmsg.Request) (part []spot) {
		for _, topic := range req.(*kmsg.ListOffsetsRequest).Topics {
			for _, p := range topic.Partitions {
				part = append(part, spot{topic.Topic, p.Partition})
			}
		}
		return part
	}
	return ask(ctx, t.client, all, req, asked, func(resp kmsg.Response, say func(spot, int64, int16)) {
		for _, topic := range resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range topic.Partitions {
				say(spot{topic.Topic, p.Partition}, p.Offset, p.ErrorCode)
			}
		}
	})
}

// producers lists those that partitions know of; each is either found or has failed.
func (t *kafkaTarget) producers(ctx context.Context, all []spot) (found map[spot][]producer, failed map[spot]error) {
	req := kmsg.NewPtrDescribeProducersRequest()
	for topic, indexes := range byTopic(all) {
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = topic, indexes
		req.Topics = append(req.Topics, rt)
	}
	asked := func(req kmsg.Request) (part []spot) {
		for _, topic := range req.(*kmsg.DescribeProducersRequest).Topics {
			for _, i := range topic.Partitions {
				part = append(part, spot{topic.Topic, i})
			}
		}
		return part
	}
	return ask(ctx, t.client, all, req, asked, func(resp kmsg.Response, say func(spot, []producer, int16)) {
		for _, topic := range resp.(*kmsg.DescribeProducersResponse).Topics {
			for _, p := range topic.Partitions {
				say(spot{topic.Topic, p.Partition}, p.ActiveProducers, p.ErrorCode)
			}
		}
	})
}

// ask sends a request to the brokers that it is split up for. asked lists what one of them was asked about, answered says what came of each partition.
func ask[T any](ctx context.Context, client *kgo.Client, all []spot, req kmsg.Request, asked func(kmsg.Request) []spot, answered func(kmsg.Response, func(spot, T, int16))) (found map[spot]T, failed map[spot]error) {
	found, failed = map[spot]T{}, map[spot]error{}
	broken := errors.New("the target does not answer for it")
	for _, shard := range client.RequestSharded(ctx, req) {
		if broken = cmp.Or(shard.Err, broken); shard.Err != nil {
			for _, s := range asked(shard.Req) {
				failed[s] = shard.Err
			}
			continue
		}
		answered(shard.Resp, func(s spot, what T, code int16) {
			if err := kerr.ErrorForCode(code); err != nil {
				failed[s] = err
			} else {
				found[s] = what
			}
		})
	}
	for _, s := range all { // of which nothing was said
		if _, is := found[s]; !is && failed[s] == nil {
			failed[s] = broken
		}
	}
	return found, failed
}

// passing says whether an error may be gone the next time: of the partition or of the connection. A target that does not know a request, or refuses it, does so again.
func passing(ctx context.Context, err error) bool {
	return kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || ctx.Err() != nil
}
