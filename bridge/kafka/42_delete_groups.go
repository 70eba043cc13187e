package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// DeleteGroups (key 42): v0–3
//
// Removes groups without members, with their offsets. Answered when the removal
// is committed (D11).
//
//	v3  error message
func (s *Server) deleteGroups(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteGroupsRequest)
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, id := range req.Groups {
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = id
		switch rg.ErrorCode = s.deleteGroup(ctx, id); rg.ErrorCode {
		case errNonEmptyGroup:
			rg.ErrorMessage = new("the group has members: stop them first")
		case errGroupIDNotFound:
			rg.ErrorMessage = new("there is no such group")
		}
		resp.Groups = append(resp.Groups, rg)
	}
	return resp, nil
}

func (s *Server) deleteGroup(ctx context.Context, id string) int16 {
	gone := make(chan bool, 1)
	if code := s.groups.remove(id, gone); code != errNone {
		return code
	}
	timeout := time.NewTimer(s.groups.cfg.CommitTimeout)
	defer timeout.Stop()
	select {
	case ok, here := <-gone:
		switch {
		case ok:
			return errNone
		case !here:
			return errNotCoordinator
		}
	case <-timeout.C:
	case <-ctx.Done():
	}
	return errCoordinatorNotAvailable
}

// remove begins the removal of a group. With errNone, gone tells how it ended.
func (c *coordinator) remove(id string, gone chan<- bool) int16 {
	e, code := c.lock(id, false)
	if code != errNone {
		return code
	}
	if len(e.pending) > 0 { // of a transaction that is open
		e.mu.Unlock()
		return errNonEmptyGroup
	}
	before := e.g.State()
	f, fx := e.g.Remove(time.Now())
	if f == group.OK {
		e.removals = append(e.removals, gone)
	}
	c.unlock(e, before, fx)
	return groupCode[f]
}
