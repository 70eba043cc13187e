package kafka

import (
	"context"

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
	at := make(map[access.Rule]int) // by what a rule is about
	for _, rules := range [2][]access.Rule{s.broker.Image().Rules().Rules(), s.given()} {
		for i := range rules {
			if f.Chooses(&rules[i]) {
				describeRule(resp, at, &rules[i])
			}
		}
	}
	return resp, nil
}

func describeRule(resp *kmsg.DescribeACLsResponse, at map[access.Rule]int, r *access.Rule) {
	about := access.Rule{Resource: r.Resource, Pattern: r.Pattern, Name: r.Name}
	i, seen := at[about]
	if !seen {
		i, at[about] = len(resp.Resources), len(resp.Resources)
		rr := kmsg.NewDescribeACLsResponseResource()
		rr.ResourceType, rr.ResourcePatternType, rr.ResourceName = kmsg.ACLResourceType(r.Resource), kmsg.ACLResourcePatternType(r.Pattern), r.Name
		resp.Resources = append(resp.Resources, rr)
	}
	ra := kmsg.NewDescribeACLsResponseResourceACL()
	ra.Principal, ra.Host = r.Principal, r.Host
	ra.Operation, ra.PermissionType = kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
	resp.Resources[i].ACLs = append(resp.Resources[i].ACLs, ra)
}

// given are the rules of the node's file.
func (s *Server) given() []access.Rule {
	if s.cfg.Given == nil {
		return nil
	}
	return s.cfg.Given.Rules()
}
