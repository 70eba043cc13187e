package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// DeleteAcls (key 31): v1–3
//
// Each filter is answered with the rules that it chose, which are gone when the answer comes. What the node's file says is
// not for a request to change: such a rule is answered with POLICY_VIOLATION, and where it stands.
//
//	v2  flexible
//	v3  rules about users, for delegation tokens, which there are none of
func (s *Server) deleteACLs(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteACLsRequest)
	if len(req.Filters) > maxRuleFilters {
		return nil, tooMany(maxNamed + len(req.Filters))
	}
	resp := kmsg.NewPtrDeleteACLsResponse()
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(req.Filters))
	filters := make([]access.Filter, len(req.Filters))
	usable := make([]bool, len(req.Filters))
	for i, rf := range req.Filters {
		filters[i] = access.Filter{
			Resource: access.Resource(rf.ResourceType), Pattern: access.Pattern(rf.ResourcePatternType), Name: rf.ResourceName,
			Principal: rf.Principal, Host: rf.Host, Operation: access.Operation(rf.Operation), Permission: access.Permission(rf.PermissionType),
		}
		if err := filters[i].Validate(); err != nil {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = errInvalidRequest, new(err.Error())
			continue
		}
		usable[i] = true
	}
	chosen := func(r access.Rule) bool {
		for i := range filters {
			if usable[i] && filters[i].Chooses(&r) {
				return true
			}
		}
		return false
	}
	ctx, done := controllerWait(ctx, 0)
	defer done()
	removed, err := s.broker.RemoveRules(ctx, chosen)
	given, room := slices.DeleteFunc(slices.Clone(s.given()), func(r access.Rule) bool { return !chosen(r) }), access.MaxRules
	for i := range filters {
		res := &resp.Results[i]
		switch {
		case !usable[i]:
			continue
		case err != nil:
			res.ErrorCode, res.ErrorMessage = codeOf(err), new(err.Error())
			continue
		}
		for _, r := range removed {
			if room > 0 && filters[i].Chooses(&r) {
				res.MatchingACLs = append(res.MatchingACLs, matchingACL(&r))
				room--
			}
		}
		for _, r := range given {
			if room > 0 && filters[i].Chooses(&r) {
				m := matchingACL(&r)
				m.ErrorCode, m.ErrorMessage = errPolicyViolation, new("this rule stands in "+s.cfg.Given.Where())
				res.MatchingACLs = append(res.MatchingACLs, m)
				room--
			}
		}
	}
	if len(removed) > 0 {
		s.log.Info("kafka: rules removed", "rules", len(removed))
	}
	return resp, nil
}

// maxRuleFilters bounds what one request takes: each filter is held against each rule.
const maxRuleFilters = 1000

func matchingACL(r *access.Rule) kmsg.DeleteACLsResponseResultMatchingACL {
	m := kmsg.NewDeleteACLsResponseResultMatchingACL()
	m.ResourceType, m.ResourcePatternType, m.ResourceName = kmsg.ACLResourceType(r.Resource), kmsg.ACLResourcePatternType(r.Pattern), r.Name
	m.Principal, m.Host = r.Principal, r.Host
	m.Operation, m.PermissionType = kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
	return m
}
