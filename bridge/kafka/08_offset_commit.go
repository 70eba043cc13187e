package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
)

// OffsetCommit (key 8): v2–10
//
// Answered when every offset is committed in __consumer_offsets (D11). Who may
// commit is the group's decision; generation -1 and no member id is a consumer
// that assigns partitions to itself, whose group is made by its first commit.
//
//	v2–4  retention time, kept with the offset
//	v6    leader epoch
//	v7    group.instance.id (KIP-345)
//	v9    STALE_MEMBER_EPOCH, and so members of the consumer protocol (KIP-848)
//	v10   topic ids instead of names
func (s *Server) offsetCommit(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetCommitRequest)
	var unknown []kmsg.OffsetCommitRequestTopic
	if req.Version >= commitTopicIDs {
		unknown = take(&req.Topics, func(t *kmsg.OffsetCommitRequestTopic) bool {
			t.Topic = s.nameOf(t.TopicID)
			return t.Topic == ""
		})
	}
	call := &commitCall{done: make(chan struct{})}
	code := s.committed(ctx, call, s.groups.commit(req, call))
	resp := kmsg.NewPtrOffsetCommitResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code()
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	for i := range unknown {
		resp.Topics = append(resp.Topics, refuseCommit(&unknown[i], errUnknownTopicID))
	}
	return resp, nil
}

// committed waits for a commit that has begun, if code does not say otherwise, and has the codes of its partitions one after the other, in the request's order.
func (s *Server) committed(ctx context.Context, call *commitCall, code int16) (next func() int16) {
	if code == errNone && !s.await(ctx, call.done) {
		code = errCoordinatorNotAvailable
	}
	i := -1
	return func() int16 {
		if i++; code != errNone {
			return code
		}
		return call.codes[i]
	}
}

// commitTopicIDs is the version of OffsetCommit and OffsetFetch from which on topics are called by their ids.
const commitTopicIDs = 10

// nameOf is the name of the topic with that id, "" where there is none.
func (s *Server) nameOf(id [16]byte) string {
	if t := s.topicByID(id); t != nil {
		return t.Name
	}
	return ""
}

// refuseCommit answers for a topic that the group does not hear of.
func refuseCommit(t *kmsg.OffsetCommitRequestTopic, code int16) kmsg.OffsetCommitResponseTopic {
	rt := kmsg.NewOffsetCommitResponseTopic()
	rt.Topic, rt.TopicID = t.Topic, t.TopicID
	for _, p := range t.Partitions {
		rp := kmsg.NewOffsetCommitResponseTopicPartition()
		rp.Partition, rp.ErrorCode = p.Partition, code
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}

// await waits for done; false if the peer is gone, the server stops first, or it
// takes too long: replicas may have to come back before something is committed.
func (s *Server) await(ctx context.Context, done <-chan struct{}) bool {
	timeout := time.NewTimer(s.groups.cfg.CommitTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-timeout.C:
	case <-s.draining:
		// What is committed within the drain is answered as usual.
		select {
		case <-done:
			return true
		case <-ctx.Done():
		case <-timeout.C:
		}
	}
	return false
}

// commit begins the commit of all offsets of the request. With errNone, call
// has a code for each of them once call.done is closed.
func (c *coordinator) commit(req *kmsg.OffsetCommitRequest, call *commitCall) int16 {
	e, code := c.lock(req.Group, req.Generation < 0)
	switch code {
	case errNone:
	case errGroupIDNotFound:
		if req.Version >= 9 {
			return code
		}
		return errIllegalGeneration
	default:
		return code
	}
	before := e.g.State()
	now := time.Now()
	by := group.CommitRequest{
		MemberID: req.MemberID, Instance: text(req.InstanceID), Generation: req.Generation, KnowsEpochs: req.Version >= 9,
	}
	f := e.g.MayCommit(by, now)
	if f != group.OK {
		c.unlock(e, before, group.Effects{})
		return groupCode[f]
	}
	expires := int64(-1)
	if req.RetentionTimeMillis >= 0 && req.Version <= 4 {
		expires = now.UnixMilli() + req.RetentionTimeMillis
	}
	type indexed struct {
		w group.Write
		i int
	}
	var writes []indexed
	for _, t := range req.Topics {
		partitions, exists := c.cfg.partitionsOf(t.Topic)
		id := c.topics.Load().ID(t.Topic)
		for i := range t.Partitions {
			p := &t.Partitions[i]
			index := len(call.codes)
			call.codes = append(call.codes, errNone)
			if !exists || p.Partition < 0 || p.Partition >= partitions {
				call.codes[index] = errUnknownTopicOrPartition
				continue
			}
			if f := e.g.MayCommitAt(by, assign.Partition{Topic: id, Index: p.Partition}); f != group.OK {
				call.codes[index] = groupCode[f]
				continue
			}
			w, code := c.putOffset(e, group.TopicPartition{Topic: t.Topic, Partition: p.Partition}, group.Offset{
				Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: text(p.Metadata),
				ExpireTime: expires,
			}, now)
			if call.codes[index] = code; code == errNone {
				writes = append(writes, indexed{w, index})
			}
		}
	}
	call.begin(len(writes))
	for _, w := range writes {
		c.putWrite(e, w.w, call, w.i)
	}
	c.n.commits.Add(1)
	c.unlock(e, before, group.Effects{})
	return errNone
}

func (c *coordinator) putOffset(e *groupEntry, at group.TopicPartition, o group.Offset, now time.Time) (group.Write, int16) {
	if _, known := e.g.Offset(at); !known && c.full(len(at.Topic)+len(o.Metadata)) {
		return group.Write{}, errInvalidCommitOffsetSize
	}
	w, f := e.g.Put(at, o, now)
	return w, groupCode[f]
}

// begin says how many writes the call waits for, before the first is put.
func (call *commitCall) begin(writes int) {
	if call.left = writes; writes == 0 {
		close(call.done)
	}
}
