package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// Heartbeat (key 12): v0–4
//
//	v3  group.instance.id (KIP-345)
func (s *Server) heartbeat(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.HeartbeatRequest)
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.ErrorCode = s.groups.heartbeat(req)
	return resp, nil
}

// lockMembers is lock for requests of members, which a group that does not exist
// has none of.
func (c *coordinator) lockMembers(id string) (*groupEntry, int16) {
	e, code := c.lock(id, false)
	if code == errGroupIDNotFound {
		code = errUnknownMemberID
	}
	return e, code
}

func (c *coordinator) heartbeat(req *kmsg.HeartbeatRequest) int16 {
	e, code := c.lockMembers(req.Group)
	if code != errNone {
		return code
	}
	before := e.g.State()
	f := e.g.Heartbeat(req.MemberID, text(req.InstanceID), req.Generation, time.Now())
	c.unlock(e, before, group.Effects{})
	return groupCode[f]
}
