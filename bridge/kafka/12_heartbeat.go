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

func (c *coordinator) heartbeat(req *kmsg.HeartbeatRequest) int16 {
	if code := c.serves(req.Group); code != errNone {
		return code
	}
	e, _ := c.lock(req.Group, false)
	if e == nil {
		return errUnknownMemberID
	}
	before := e.g.State()
	f := e.g.Heartbeat(req.MemberID, text(req.InstanceID), req.Generation, time.Now())
	c.unlock(e, before, group.Effects{})
	return groupCode[f]
}
