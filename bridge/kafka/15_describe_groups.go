package kafka

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups (key 15): v0–5
//
// A group that does not exist is Dead, without an error. Each broker describes
// those that it coordinates.
//
//	v3  authorized operations: not told, which the protocol allows
//	v4  group.instance.id
func (s *Server) describeGroups(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeGroupsRequest)
	resp := kmsg.NewPtrDescribeGroupsResponse()
	for _, id := range req.Groups {
		resp.Groups = append(resp.Groups, s.groups.describe(id))
	}
	return resp, nil
}

func (c *coordinator) describe(id string) kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group, r.State, r.AuthorizedOperations = id, "Dead", math.MinInt32
	e, code := c.lock(id, false)
	if e == nil {
		if code != errGroupIDNotFound {
			r.ErrorCode = code
		}
		return r
	}
	d := e.g.Describe()
	e.mu.Unlock()
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
