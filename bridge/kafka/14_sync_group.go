package kafka

import (
	"bytes"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// SyncGroup (key 14): v0–5
//
// Answered when the leader's assignment is committed in __consumer_offsets (D11); in a group of the consumer protocol
// when the broker's is.
//
//	v3  group.instance.id (KIP-345)
//	v5  protocol type and name, which must be those of the generation
func (s *Server) syncGroup(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.SyncGroupRequest)
	a, code := s.ask(ctx, func(ch chan<- group.Answer) int16 { return s.groups.sync(req, ch) })
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.MemberAssignment = []byte{}
	if resp.ErrorCode = code; code != errNone {
		return resp, nil
	}
	resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
	if a.Assignment != nil {
		resp.MemberAssignment = a.Assignment
	}
	return resp, nil
}

func (c *coordinator) sync(req *kmsg.SyncGroupRequest, ch chan<- group.Answer) int16 {
	r := &group.SyncRequest{
		MemberID: req.MemberID, Instance: text(req.InstanceID), Generation: req.Generation,
		ProtocolType: text(req.ProtocolType), Protocol: text(req.Protocol),
		Assignments: make(map[string][]byte, len(req.GroupAssignment)),
	}
	for i := range req.GroupAssignment {
		a := &req.GroupAssignment[i]
		r.Assignments[a.MemberID] = bytes.Clone(a.MemberAssignment)
	}
	e, code := c.lockMembers(req.Group)
	if code != errNone {
		return code
	}
	before := e.g.State()
	r.Ticket, r.Topics = e.await(ch), c.topics.Load()
	c.unlock(e, before, e.g.Sync(r, time.Now()))
	return errNone
}
