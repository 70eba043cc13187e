package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// CreateAcls (key 30): v1–3
//
// Answered when the rules are metadata, known to this broker; the others follow it in the order of all metadata. Each rule stands for itself, but those that are taken
// come into force together. A rule that is there already is done.
//
//	v2  flexible
//	v3  rules about users, for delegation tokens: refused, there are none
func (s *Server) createACLs(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreateACLsRequest)
	if err := tooMany(len(req.Creations)); err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrCreateACLsResponse()
	resp.Results = make([]kmsg.CreateACLsResponseResult, len(req.Creations))
	var rules []access.Rule
	for i, c := range req.Creations {
		r := access.Rule{
			Resource: access.Resource(c.ResourceType), Pattern: access.Pattern(c.ResourcePatternType), Name: c.ResourceName,
			Principal: c.Principal, Host: c.Host, Operation: access.Operation(c.Operation), Permission: access.Permission(c.PermissionType),
		}
		if err := s.checkRule(&r); err != nil {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = errInvalidRequest, new(err.Error())
			continue
		}
		rules = append(rules, r)
	}
	if len(rules) == 0 {
		return resp, nil
	}
	ctx, done := controllerWait(ctx, 0)
	defer done()
	if err := s.broker.AddRules(ctx, rules); err != nil {
		for i := range resp.Results {
			if r := &resp.Results[i]; r.ErrorCode == errNone {
				r.ErrorCode, r.ErrorMessage = codeOf(err), new(err.Error())
			}
		}
		return resp, nil
	}
	s.log.Info("kafka: rules added", "rules", len(rules))
	return resp, nil
}

// checkRule says what is wrong with a rule that a client sends.
func (s *Server) checkRule(r *access.Rule) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if s.cfg.CheckRule != nil {
		if err := s.cfg.CheckRule(r); err != nil {
			return fmt.Errorf("%w: %w", access.ErrInvalid, err)
		}
	}
	return nil
}
