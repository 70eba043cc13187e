package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// OffsetFetch (key 9): v1–10
//
// A partition without a committed offset, and every partition of a group that
// does not exist, is answered with offset -1. Only committed offsets are seen. A client that
// asks for stable ones (v7) is told to ask again while a transaction is about to change them.
//
//	v2  no topics means all; an error for the whole group
//	v8  several groups
//	v9  member id and epoch of the consumer protocol (KIP-848): a member of a stale epoch
//	    must not start where another one is still reading
//	v10 topic ids instead of names
func (s *Server) offsetFetch(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetFetchRequest)
	resp := kmsg.NewPtrOffsetFetchResponse()
	if req.Version >= 8 {
		for i := range req.Groups {
			if req.Version >= commitTopicIDs {
				resp.Groups = append(resp.Groups, s.fetchByID(&req.Groups[i], req.RequireStable))
			} else {
				resp.Groups = append(resp.Groups, s.groups.fetch(&req.Groups[i], req.RequireStable))
			}
		}
		return resp, nil
	}
	one := kmsg.OffsetFetchRequestGroup{Group: req.Group, MemberEpoch: -1}
	for _, t := range req.Topics {
		one.Topics = append(one.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	if req.Topics != nil && one.Topics == nil {
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	got := s.groups.fetch(&one, req.RequireStable)
	resp.ErrorCode = got.ErrorCode
	for _, t := range got.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// fetchByID is coordinator.fetch for a request that calls topics by their ids. Where all are asked for, offsets of a topic that is gone meanwhile are left out.
func (s *Server) fetchByID(req *kmsg.OffsetFetchRequestGroup, stable bool) kmsg.OffsetFetchResponseGroup {
	unknown := take(&req.Topics, func(t *kmsg.OffsetFetchRequestGroupTopic) bool {
		t.Topic = s.nameOf(t.TopicID)
		return t.Topic == ""
	})
	resp := s.groups.fetch(req, stable)
	im := s.broker.Image()
	resp.Topics = slices.DeleteFunc(resp.Topics, func(t kmsg.OffsetFetchResponseGroupTopic) bool { return req.Topics == nil && im.Topic(t.Topic) == nil })
	for i := range resp.Topics {
		if rt := &resp.Topics[i]; req.Topics != nil {
			rt.TopicID = req.Topics[i].TopicID // answered in their order
		} else {
			rt.TopicID = im.Topic(rt.Topic).ID
		}
	}
	for i := range unknown {
		resp.Topics = append(resp.Topics, refuseFetched(&unknown[i], errUnknownTopicID))
	}
	return resp
}

// refuseFetched answers for a topic that the group is not asked about.
func refuseFetched(t *kmsg.OffsetFetchRequestGroupTopic, code int16) kmsg.OffsetFetchResponseGroupTopic {
	rt := kmsg.NewOffsetFetchResponseGroupTopic()
	rt.Topic, rt.TopicID = t.Topic, t.TopicID
	for _, p := range t.Partitions {
		rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p, -1, -1, &noMetadata, code
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}

var noMetadata = "" // read only

// fetch answers for one group. Before v2 there is no code for the group, so
// each partition carries it too.
func (c *coordinator) fetch(req *kmsg.OffsetFetchRequestGroup, stable bool) kmsg.OffsetFetchResponseGroup {
	resp := kmsg.NewOffsetFetchResponseGroup()
	resp.Group = req.Group
	var g *group.Group
	var pending pendingOffsets
	switch e, code := c.lock(req.Group, false); code {
	case errNone:
		defer e.mu.Unlock()
		if resp.ErrorCode = groupCode[e.g.MayFetch(text(req.MemberID), req.MemberEpoch)]; resp.ErrorCode != errNone {
			break
		}
		g, pending = e.g, e.pending
	case errGroupIDNotFound:
	default:
		resp.ErrorCode = code
	}
	topics := req.Topics
	if topics == nil && g != nil {
		topics = committedTopics(g)
	}
	for _, t := range topics {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch = p, -1, -1
			rp.Metadata = &noMetadata
			rp.ErrorCode = resp.ErrorCode
			if g != nil {
				at := group.TopicPartition{Topic: t.Topic, Partition: p}
				if stable && pending.has(at) {
					rp.ErrorCode = errUnstableOffsetCommit
				} else if o, ok := g.Offset(at); ok {
					rp.Offset, rp.LeaderEpoch, rp.Metadata = o.Offset, o.LeaderEpoch, &o.Metadata
				}
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// committedTopics lists all partitions with an offset, by topic.
func committedTopics(g *group.Group) (topics []kmsg.OffsetFetchRequestGroupTopic) {
	for _, at := range g.Offsets() {
		if n := len(topics); n == 0 || topics[n-1].Topic != at.Topic {
			topics = append(topics, kmsg.OffsetFetchRequestGroupTopic{Topic: at.Topic})
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, at.Partition)
	}
	return topics
}
