package kafka

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups (key 15): v0–6
//
// A group that does not exist, or is of the consumer protocol (see ConsumerGroupDescribe), is Dead,
// before v6 without an error. Each broker describes
// those that it coordinates.
//
//	v3  authorized operations: not told, which the protocol allows
//	v4  group.instance.id
//	v6  GROUP_ID_NOT_FOUND, and an error message
func (s *Server) describeGroups(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeGroupsRequest)
	resp := kmsg.NewPtrDescribeGroupsResponse()
	for _, id := range req.Groups {
		r := s.groups.describe(id)
		if r.ErrorCode == errGroupIDNotFound && req.Version < 6 {
			r.ErrorCode, r.ErrorMessage = errNone, nil
		}
		resp.Groups = append(resp.Groups, r)
	}
	return resp, nil
}

func (c *coordinator) describe(id string) kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group, r.State, r.AuthorizedOperations = id, "Dead", math.MinInt32
	e, code := c.lock(id, false)
	if e == nil {
		r.ErrorCode = code
		if code == errGroupIDNotFound {
			r.ErrorMessage = new("there is no group of that name")
		}
		return r
	}
	defer e.mu.Unlock()
	if e.g.OfConsumers() {
		r.ErrorCode, r.ErrorMessage = errGroupIDNotFound, new("the group is of the consumer protocol: describe it with ConsumerGroupDescribe")
		return r
	}
	d := e.g.Describe()
	r.State, r.ProtocolType, r.Protocol = d.State.String(), d.ProtocolType, d.Protocol
	for i := range d.Members {
		m := &d.Members[i]
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.ID, optional(m.Instance), m.ClientID, m.Host
		rm.ProtocolMetadata, rm.MemberAssignment = m.Metadata, m.Assignment
		r.Members = append(r.Members, rm)
	}
	return r
}
