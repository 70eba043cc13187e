package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// OffsetDelete (key 47): v0
//
// Forgets single offsets of a group; never those of topics that its members
// read (KIP-496). Answered when that is committed (D11). A partition without an
// offset is no error.
func (s *Server) offsetDelete(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetDeleteRequest)
	resp := kmsg.NewPtrOffsetDeleteResponse()
	call := &commitCall{done: make(chan struct{})}
	resp.ErrorCode = s.groups.forget(req, call)
	if resp.ErrorCode == errNone && !s.await(ctx, call.done) {
		resp.ErrorCode = errCoordinatorNotAvailable
	}
	if resp.ErrorCode != errNone {
		return resp, nil
	}
	i := 0
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, call.codes[i]
			i++
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (c *coordinator) forget(req *kmsg.OffsetDeleteRequest, call *commitCall) int16 {
	e, code := c.lock(req.Group, false)
	if code != errNone {
		return code
	}
	before := e.g.State()
	defer func() { c.unlock(e, before, group.Effects{}) }()
	for _, t := range req.Topics {
		f := e.g.MayForget(t.Topic)
		if f == group.NotEmpty || f == group.NotAvailable {
			return groupCode[f]
		}
		for range t.Partitions {
			call.codes = append(call.codes, groupCode[f])
		}
	}
	var writes []group.Write
	var indexes []int
	i := 0
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if call.codes[i] == errNone {
				if w, f := e.g.Forget(group.TopicPartition{Topic: t.Topic, Partition: p.Partition}); f == group.OK {
					writes, indexes = append(writes, w), append(indexes, i)
				}
			}
			i++
		}
	}
	call.begin(len(writes))
	for j, w := range writes {
		c.putWrite(e, w, call, indexes[j])
	}
	return errNone
}
