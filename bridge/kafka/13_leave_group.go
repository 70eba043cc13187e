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
func (s *Server) leaveGroup(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.LeaveGroupRequest)
	resp := kmsg.NewPtrLeaveGroupResponse()
	members := req.Members
	if req.Version < 3 {
		members = []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}}
	}
	codes, code := s.groups.leave(req.Group, members)
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

func (c *coordinator) leave(groupID string, members []kmsg.LeaveGroupRequestMember) (codes []int16, code int16) {
	codes = make([]int16, len(members))
	e, code := c.lockMembers(groupID)
	switch code {
	case errNone:
	case errUnknownMemberID:
		for i := range codes {
			codes[i] = errUnknownMemberID
		}
		return codes, errNone
	default:
		return nil, code
	}
	rs := make([]group.LeaveRequest, len(members))
	for i := range members {
		rs[i] = group.LeaveRequest{MemberID: members[i].MemberID, Instance: text(members[i].InstanceID)}
	}
	before := e.g.State()
	faults, fx := e.g.Leave(rs, time.Now())
	c.unlock(e, before, fx)
	for i, f := range faults {
		codes[i] = groupCode[f]
		c.log.Debug("kafka: member leaves", "group", groupID, "member", members[i].MemberID, "reason", text(members[i].Reason), "fault", f)
	}
	return codes, errNone
}
