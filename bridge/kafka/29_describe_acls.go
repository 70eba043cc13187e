package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// DescribeAcls (key 29): v1–3
//
// The rules that a filter chooses, of the metadata and of this node's file. Those of the file are topics by the name mqtt:FILTER,
// as the file has filters of MQTT topics.
//
//	v2  flexible
//	v3  rules about users, for delegation tokens, which there are none of
func (s *Server) describeACLs(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeACLsRequest)
	resp := kmsg.NewPtrDescribeACLsResponse()
	f := access.Filter{
		Resource: access.Resource(req.ResourceType), Pattern: access.Pattern(req.ResourcePatternType), Name: req.ResourceName,
		Principal: req.Principal, Host: req.Host, Operation: access.Operation(req.Operation), Permission: access.Permission(req.PermissionType),
	}
	if err := f.Validate(); err != nil {
		resp.ErrorCode, resp.ErrorMessage = errInvalidRequest, new(err.Error())
		return resp, nil
	}
	rules := slices.Concat(s.broker.Image().Rules().Rules(), s.given())
	rules = slices.DeleteFunc(rules, func(r access.Rule) bool { return !f.Chooses(&r) })
	slices.SortFunc(rules, func(a, b access.Rule) int { return a.Compare(&b) })
	for _, r := range rules {
		if n := len(resp.Resources); n == 0 || !sameResource(&resp.Resources[n-1], &r) {
			rr := kmsg.NewDescribeACLsResponseResource()
			rr.ResourceType, rr.ResourcePatternType, rr.ResourceName = kmsg.ACLResourceType(r.Resource), kmsg.ACLResourcePatternType(r.Pattern), r.Name
			resp.Resources = append(resp.Resources, rr)
		}
		of := &resp.Resources[len(resp.Resources)-1]
		ra := kmsg.NewDescribeACLsResponseResourceACL()
		ra.Principal, ra.Host = r.Principal, r.Host
		ra.Operation, ra.PermissionType = kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
		of.ACLs = append(of.ACLs, ra)
	}
	return resp, nil
}

func sameResource(a *kmsg.DescribeACLsResponseResource, r *access.Rule) bool {
	return access.Resource(a.ResourceType) == r.Resource && access.Pattern(a.ResourcePatternType) == r.Pattern && a.ResourceName == r.Name
}

// given are the rules of the node's file.
func (s *Server) given() []access.Rule {
	if s.cfg.Given == nil {
		return nil
	}
	return s.cfg.Given.Rules()
}
