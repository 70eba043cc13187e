package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Authenticator decides who may use the server. It is called from many goroutines and may
// take its time.
type Authenticator interface {
	// AuthenticatePlain checks a user and password of SASL/PLAIN (RFC 4616). The error is
	// logged, and not told to the client.
	AuthenticatePlain(ctx context.Context, user, password string) error
}

const mechanismPlain = "PLAIN"

// saslState is how far a connection's authentication is.
type saslState struct {
	mechanism string // chosen by the handshake; empty = none yet
	rawTokens bool   // handshake v0: the next frames are bare tokens
	user      string // authenticated as
}

// SaslHandshake (key 17): v0–1
//
// Chooses the mechanism; PLAIN is the one there is. After v0 the token follows as a bare
// frame, after v1 in SaslAuthenticate.
//
// Where the server asks for no authentication, or it is done already, the answer is
// ILLEGAL_SASL_STATE, as from a PLAINTEXT listener of Apache Kafka. A mechanism that is
// not there is answered with UNSUPPORTED_SASL_MECHANISM and the list, then the connection
// is closed.
func (s *Server) saslHandshake(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.SASLHandshakeRequest)
	resp := kmsg.NewPtrSASLHandshakeResponse()
	resp.SupportedMechanisms = []string{}
	switch {
	case s.cfg.Auth == nil || c.sasl.user != "":
		resp.ErrorCode = errIllegalSaslState
		return resp, nil
	case req.Mechanism != mechanismPlain:
		resp.ErrorCode = errUnsupportedSaslMechanism
		resp.SupportedMechanisms = []string{mechanismPlain}
		return resp, errHangup
	}
	resp.SupportedMechanisms = []string{mechanismPlain}
	c.sasl.mechanism = req.Mechanism
	c.sasl.rawTokens = req.Version == 0
	return resp, nil
}

// handleToken answers the bare token after a handshake in v0: an empty frame for success,
// for failure nothing but the end of the connection.
func (c *conn) handleToken(r *request) error {
	defer r.free()
	if err := c.authenticatePlain(r.frame.b); err != nil {
		return err
	}
	c.sasl.rawTokens = false
	out := newBuffer(minResponseBytes)
	out.b = append(out.b, 0, 0, 0, 0)
	rep := newReply(0)
	rep.complete(out)
	c.enqueue(rep)
	return nil
}

// authenticatePlain checks `[authzid] NUL user NUL password`.
func (c *conn) authenticatePlain(token []byte) error {
	user, password, err := splitPlain(token)
	if err != nil {
		return err
	}
	if err := c.s.cfg.Auth.AuthenticatePlain(c.ctx, user, password); err != nil {
		return fmt.Errorf("sasl user %q: %w", user, err)
	}
	c.sasl.user = user
	c.trusted.Store(true)
	return nil
}

func splitPlain(token []byte) (user, password string, err error) {
	var field [3][]byte
	n := 0
	for _, b := range token {
		if b == 0 {
			if n++; n == len(field) {
				break
			}
			continue
		}
		field[n] = append(field[n], b)
	}
	authz, user := string(field[0]), string(field[1])
	switch {
	case n != 2:
		return "", "", errors.New("sasl token is not [authzid] NUL user NUL password")
	case user == "":
		return "", "", errors.New("sasl token names no user")
	case authz != "" && authz != user:
		return "", "", fmt.Errorf("sasl user %q asks to act as %q: not supported", user, authz)
	}
	return user, string(field[2]), nil
}
