package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeUserScramCredentials (key 50): v0
//
// Which mechanisms users have, and with how many iterations; nothing from which a password could be found. No users asked for means all. Users of
// the node's file have no SCRAM credentials, and are not among them.
func (s *Server) describeScram(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeUserSCRAMCredentialsRequest)
	if err := tooMany(len(req.Users)); err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	im := s.broker.Image()
	if len(req.Users) == 0 {
		for _, c := range im.Credentials() {
			if n := len(resp.Results); n == 0 || resp.Results[n-1].User != c.User {
				resp.Results = append(resp.Results, s.scramOf(c.User))
			}
		}
		return resp, nil
	}
	times := make(map[string]int, len(req.Users))
	for _, u := range req.Users {
		times[u.Name]++
	}
	for _, u := range req.Users {
		switch times[u.Name] {
		case 0: // answered at its first place
			continue
		case 1:
			resp.Results = append(resp.Results, s.scramOf(u.Name))
		default:
			r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
			r.User, r.ErrorCode, r.ErrorMessage = u.Name, errDuplicateResource, new("the user is in the request more than once")
			resp.Results = append(resp.Results, r)
		}
		times[u.Name] = 0
	}
	return resp, nil
}

func (s *Server) scramOf(user string) kmsg.DescribeUserSCRAMCredentialsResponseResult {
	r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
	r.User = user
	for _, c := range s.broker.Image().CredentialsOf(user) {
		info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
		info.Mechanism, info.Iterations = int8(c.Mechanism), c.Iterations
		r.CredentialInfos = append(r.CredentialInfos, info)
	}
	if r.CredentialInfos == nil {
		r.ErrorCode, r.ErrorMessage = errResourceNotFound, new("the user has no SCRAM credentials")
	}
	return r
}
