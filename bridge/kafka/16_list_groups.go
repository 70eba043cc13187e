package kafka

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// ListGroups (key 16): v0–5
//
// Those that this broker coordinates: clients ask every broker.
//
//	v4  only groups in some states, by name, whatever the case
//	v5  types: classic and consumer, and only groups of some of them
func (s *Server) listGroups(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListGroupsRequest)
	resp := kmsg.NewPtrListGroupsResponse()
	resp.Groups, resp.ErrorCode = s.groups.list(req.StatesFilter, req.TypesFilter)
	return resp, nil
}

func (c *coordinator) list(states, types []string) (groups []kmsg.ListGroupsResponseGroup, code int16) {
	if c == nil {
		return nil, errCoordinatorNotAvailable
	}
	for p := range c.terms {
		switch _, why := c.serves(int32(p)); why {
		case errCoordinatorNotAvailable:
			code = errCoordinatorNotAvailable // told beside the groups that there are
		case errCoordinatorLoadInProgress:
			return nil, errCoordinatorLoadInProgress
		}
	}
	c.each(func(e *groupEntry) {
		e.mu.Lock()
		state, protocolType, typ, gone := e.g.State(), e.g.ProtocolType(), "Classic", e.gone
		if e.g.OfConsumers() {
			typ = "Consumer"
		}
		e.mu.Unlock()
		if gone || state == group.Dead || !wanted(states, state.String()) || !wanted(types, typ) {
			return
		}
		g := kmsg.NewListGroupsResponseGroup()
		g.Group, g.ProtocolType, g.GroupState, g.GroupType = e.id, protocolType, state.String(), typ
		groups = append(groups, g)
	})
	slices.SortFunc(groups, func(a, b kmsg.ListGroupsResponseGroup) int { return cmp.Compare(a.Group, b.Group) })
	return groups, code
}

func wanted(names []string, name string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}
