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
//
// In a group of the consumer protocol it may find that the topics have changed, and waits until that is committed.
func (s *Server) heartbeat(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.HeartbeatRequest)
	resp := kmsg.NewPtrHeartbeatResponse()
	code, later := s.groups.heartbeat(req)
	if later != nil {
		_, code = s.awaitAnswer(ctx, later)
	}
	resp.ErrorCode = code
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

// heartbeat is the answer, or where it will come from.
func (c *coordinator) heartbeat(req *kmsg.HeartbeatRequest) (code int16, later <-chan group.Answer) {
	e, code := c.lockMembers(req.Group)
	if code != errNone {
		return code, nil
	}
	before := e.g.State()
	if e.g.OfConsumers() {
		ch := make(chan group.Answer, 1)
		c.unlock(e, before, e.g.HeartbeatConsumers(e.await(ch), req.MemberID, text(req.InstanceID), req.Generation, c.topics.Load(), time.Now()))
		return errNone, ch
	}
	f := e.g.Heartbeat(req.MemberID, text(req.InstanceID), req.Generation, time.Now())
	c.unlock(e, before, group.Effects{})
	return groupCode[f], nil
}
