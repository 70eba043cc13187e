package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
)

// ConsumerGroupHeartbeat (key 68): v0–1
//
// The one request of the consumer protocol (KIP-848): it joins (epoch 0), leaves (−1; −2 for a static
// member that will be back), says what has changed and is told what to read. Answered when what the
// answer tells is committed in __consumer_offsets (D11).
//
//	v1  a pattern of topic names; the client makes the member id (KIP-1082)
func (s *Server) consumerGroupHeartbeat(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ConsumerGroupHeartbeatRequest)
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	if why := badBeat(req); why != "" {
		resp.ErrorCode, resp.ErrorMessage = errInvalidRequest, &why
		return resp, nil
	}
	a, code := s.ask(ctx, func(ch chan<- group.Answer) int16 { return s.groups.beat(req, c, ch) })
	if resp.ErrorCode = code; code != errNone {
		if why := beatFaults[a.Fault]; why != "" {
			resp.ErrorMessage = &why
		}
		return resp, nil
	}
	resp.MemberID, resp.MemberEpoch = &a.MemberID, a.Generation
	resp.HeartbeatIntervalMillis = int32(a.Interval.Milliseconds())
	if a.Assigns {
		resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{Topics: []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}}
		a.Assigned.ByTopic(func(topic assign.TopicID, indexes []int32) {
			resp.Assignment.Topics = append(resp.Assignment.Topics, kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{TopicID: topic, Partitions: indexes})
		})
	}
	return resp, nil
}

// beatFaults are for people: clients show them where they give up.
var beatFaults = [group.NumFaults]string{
	group.UnsupportedAssignor: "there is no assignor of that name: choose uniform or range, or none",
	group.InvalidPattern:      "the pattern of topic names is no regular expression of RE2, or costs too much: it may have 512 bytes, and its repetitions may unfold into 2000 steps",
	group.UnreleasedInstance:  "the group.instance.id is in use: its member has not left, and its session has not ended",
	group.FencedInstance:      "another member has taken over this group.instance.id",
	group.TooManyMembers:      "the group is full",
	group.TooLarge:            "the members' subscriptions are too long together, in this group or in all",
	group.NotFound:            "the group is in use by members that are no consumers, or whose assignor gives them more than partitions: stop them first",
}

// badBeat is what is wrong with a heartbeat in any group.
func badBeat(req *kmsg.ConsumerGroupHeartbeatRequest) string {
	empty := func(s *string) bool { return s != nil && *s == "" }
	joins := req.MemberEpoch == 0
	switch {
	case req.Group == "":
		return "the group id is empty"
	case req.MemberEpoch < -2:
		return "the member epoch is none"
	case req.MemberID == "" && !(joins && req.Version == 0):
		return "the member id is empty"
	case len(req.MemberID) > maxInstanceIDBytes:
		return "the member id is longer than 249 bytes"
	case empty(req.InstanceID):
		return "the instance id is empty"
	case len(text(req.InstanceID)) > maxInstanceIDBytes:
		return "the instance id is longer than 249 bytes"
	case empty(req.RackID):
		return "the rack id is empty"
	case req.MemberEpoch == -2 && req.InstanceID == nil:
		return "a member without an instance id cannot leave for later"
	case !joins:
		return ""
	case req.RebalanceTimeoutMillis < 0:
		return "a member joins without a rebalance timeout"
	case req.Topics == nil || len(req.Topics) > 0:
		return "a member that joins has to say that it owns no partitions"
	case req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return "a member joins without a subscription"
	}
	return ""
}

// beat puts the request to its group. With errNone the answer comes into ch.
func (c *coordinator) beat(req *kmsg.ConsumerGroupHeartbeatRequest, from *conn, ch chan<- group.Answer) int16 {
	joins := req.MemberEpoch == 0
	if _, code := c.find(req.Group); code != errNone {
		return code
	}
	r := beatRequest(req, from)
	r.Pace = c.cfg.paceOf(req.Group)
	bytes := group.MemberBytes + len(text(req.SubscribedTopicRegex))
	for _, t := range req.SubscribedTopicNames {
		bytes += len(t)
	}
	if r.MayGrow = !c.full(bytes); !r.MayGrow && joins {
		c.log.Warn("kafka: groups take too much memory for further members", "group", req.Group, "limit", c.cfg.MaxBytes)
	}
	e, code := c.lock(req.Group, joins)
	switch code {
	case errNone:
	case errGroupIDNotFound:
		return errUnknownMemberID
	default:
		return code
	}
	before := e.g.State()
	r.Ticket = e.await(ch)
	c.unlock(e, before, e.g.Beat(r, c.topics.Load(), time.Now()))
	return errNone
}

func beatRequest(req *kmsg.ConsumerGroupHeartbeatRequest, from *conn) *group.BeatRequest {
	r := &group.BeatRequest{
		MemberID: req.MemberID, Epoch: req.MemberEpoch, Instance: text(req.InstanceID),
		ClientID: from.clientID, Host: clientHost(from), Rack: text(req.RackID),
		Rebalance: time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		Topics:    req.SubscribedTopicNames, Pattern: req.SubscribedTopicRegex, Assignor: text(req.ServerAssignor),
		SaysOwned: req.Topics != nil,
	}
	if r.MemberID == "" {
		r.MemberID = newMemberID(r.Instance, r.ClientID)
	}
	var owned []assign.Partition
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			owned = append(owned, assign.Partition{Topic: req.Topics[i].TopicID, Index: p})
		}
	}
	r.Owned = assign.NewSet(owned)
	return r
}
