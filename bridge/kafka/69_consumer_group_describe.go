package kafka

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group/assign"
)

// ConsumerGroupDescribe (key 69): v0–1
//
// Groups of the consumer protocol that this broker coordinates; others are answered
// GROUP_ID_NOT_FOUND, and clients ask DescribeGroups for them. Authorized operations are not told, which the protocol allows.
//
//	v1  whether a member speaks the consumer protocol or the classic one
func (s *Server) consumerGroupDescribe(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ConsumerGroupDescribeRequest)
	resp := kmsg.NewPtrConsumerGroupDescribeResponse()
	for _, id := range req.Groups {
		resp.Groups = append(resp.Groups, s.groups.describeConsumers(id))
	}
	return resp, nil
}

// Protocols that a member speaks.
const (
	memberClassic  int8 = 0
	memberConsumer int8 = 1
)

func (c *coordinator) describeConsumers(id string) kmsg.ConsumerGroupDescribeResponseGroup {
	r := kmsg.NewConsumerGroupDescribeResponseGroup()
	r.Group, r.AuthorizedOperations = id, math.MinInt32
	e, code := c.lock(id, false)
	if e == nil {
		if r.ErrorCode = code; code == errGroupIDNotFound {
			r.ErrorMessage = new("there is no group of that name")
		}
		return r
	}
	defer e.mu.Unlock()
	if !e.g.OfConsumers() {
		r.ErrorCode, r.ErrorMessage = errGroupIDNotFound, new("the group is of the classic protocol: describe it with DescribeGroups")
		return r
	}
	d := e.g.DescribeConsumers()
	r.State, r.Epoch, r.AssignmentEpoch, r.AssignorName = d.State.String(), d.Epoch, d.Epoch, d.Assignor
	for i := range d.Members {
		m := &d.Members[i]
		rm := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.RackID, rm.MemberEpoch = m.ID, optional(m.Instance), optional(m.Rack), m.Epoch
		rm.ClientID, rm.ClientHost = m.ClientID, m.Host
		rm.SubscribedTopics, rm.SubscribedTopicRegex = m.Topics, optional(m.Pattern)
		rm.Assignment, rm.TargetAssignment = c.describeSet(m.Assigned), c.describeSet(m.Target)
		if rm.MemberType = memberConsumer; m.Classic != nil {
			rm.MemberType = memberClassic
		}
		r.Members = append(r.Members, rm)
	}
	return r
}

// named are the topics that a member subscribes to by their names.
func (c *coordinator) named(id, member string) []string {
	e, _ := c.lock(id, false)
	if e == nil {
		return nil
	}
	defer e.mu.Unlock()
	if !e.g.OfConsumers() {
		return nil
	}
	for _, m := range e.g.DescribeConsumers().Members {
		if m.ID == member {
			return m.Topics
		}
	}
	return nil
}

// describeSet names the topics; one that is gone has no name.
func (c *coordinator) describeSet(set assign.Set) (a kmsg.Assignment) {
	topics := c.topics.Load()
	set.ByTopic(func(topic assign.TopicID, indexes []int32) {
		name, _ := topics.Name(topic)
		a.TopicPartitions = append(a.TopicPartitions, kmsg.AssignmentTopicPartition{TopicID: topic, Topic: name, Partitions: indexes})
	})
	return a
}
