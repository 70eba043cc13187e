package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// SaslAuthenticate (key 36): v0–2
//
// One round for PLAIN, two for SCRAM. A failure is answered with SASL_AUTHENTICATION_FAILED and words
// that do not say whether the user exists, then the connection is closed.
//
//	v1  session lifetime: always 0, sessions do not expire
//	v2  flexible
func (s *Server) saslAuthenticate(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.SASLAuthenticateRequest)
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.SASLAuthBytes = []byte{}
	if c.sasl.mechanism == "" || c.sasl.user != "" {
		resp.ErrorCode = errIllegalSaslState
		resp.ErrorMessage = new("SaslAuthenticate needs a SaslHandshake before it, and is done once")
		return resp, nil
	}
	answer, err := c.authenticate(req.SASLAuthBytes)
	if err != nil {
		s.log.Warn("kafka: authentication failed", "peer", c.nc.RemoteAddr(), "err", err)
		resp.ErrorCode = errSaslAuthenticationFailed
		resp.ErrorMessage = new("Authentication failed: Invalid username or password")
		return resp, errors.Join(errHangup, err)
	}
	if answer != nil {
		resp.SASLAuthBytes = answer
	}
	return resp, nil
}
