package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// LeaveGroup (key 13): v0–5
//
//	v3  several members, each with a code; by group.instance.id alone an operator
//	    removes a static member (KIP-345)
//	v5  a reason, which is logged
//
// In a group of the consumer protocol, whose members leave by ConsumerGroupHeartbeat, an operator takes
// members out; that is answered when it is committed (D11).
func (s *Server) leaveGroup(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.LeaveGroupRequest)
	resp := kmsg.NewPtrLeaveGroupResponse()
	members := req.Members
	if req.Version < 3 {
		members = []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}}
	}
	var codes []int16
	_, code := s.ask(ctx, func(ch chan<- group.Answer) (code int16) {
		codes, code = s.groups.leave(req.Group, members, ch)
		return code
	})
	if resp.ErrorCode = code; code != errNone {
		return resp, nil
	}
	if req.Version < 3 {
		resp.ErrorCode = codes[0]
		return resp, nil
	}
	for i := range members {
		rm := kmsg.NewLeaveGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ErrorCode = members[i].MemberID, members[i].InstanceID, codes[i]
		resp.Members = append(resp.Members, rm)
	}
	return resp, nil
}

// leave takes members out. With errNone the codes count once an answer has come into ch.
func (c *coordinator) leave(groupID string, members []kmsg.LeaveGroupRequestMember, ch chan<- group.Answer) (codes []int16, code int16) {
	codes = make([]int16, len(members))
	e, code := c.lockMembers(groupID)
	switch code {
	case errNone:
	case errUnknownMemberID:
		for i := range codes {
			codes[i] = errUnknownMemberID
		}
		ch <- group.Answer{}
		return codes, errNone
	default:
		return nil, code
	}
	rs := make([]group.LeaveRequest, len(members))
	for i := range members {
		rs[i] = group.LeaveRequest{MemberID: members[i].MemberID, Instance: text(members[i].InstanceID)}
	}
	before := e.g.State()
	var faults []group.Fault
	var fx group.Effects
	if e.g.OfConsumers() {
		faults, fx = e.g.LeaveConsumers(e.await(ch), rs, time.Now())
	} else {
		faults, fx = e.g.Leave(rs, time.Now())
		ch <- group.Answer{}
	}
	c.unlock(e, before, fx)
	for i, f := range faults {
		codes[i] = groupCode[f]
		c.log.Debug("kafka: member leaves", "group", groupID, "member", members[i].MemberID, "reason", text(members[i].Reason), "fault", f)
	}
	return codes, errNone
}
