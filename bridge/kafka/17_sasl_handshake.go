package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// Authenticator decides who may use the server. It is called from many goroutines and may
// take its time.
type Authenticator interface {
	// AuthenticatePlain checks a user and password of SASL/PLAIN (RFC 4616). The error is
	// logged, and not told to the client.
	AuthenticatePlain(ctx context.Context, user, password string) error
	// Credential is what a user's SCRAM exchange is checked against; false if he has none.
	Credential(user string, m access.Mechanism) (access.Credential, bool)
	// Admin says whether a user may do everything, whatever the rules say (Kafka's super.users).
	Admin(user string) bool
}

const mechanismPlain = "PLAIN"

// saslMechanisms are those that there are.
var saslMechanisms = []string{access.SHA256.String(), access.SHA512.String(), mechanismPlain}

// saslState is how far a connection's authentication is.
type saslState struct {
	mechanism string           // chosen by the handshake; empty = none yet
	rawTokens bool             // handshake v0: the next frames are bare tokens
	exchange  *access.Exchange // of SCRAM, once the first message is answered
	user      string           // authenticated as
}

// SaslHandshake (key 17): v0–1
//
// Chooses the mechanism: SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN. After v0 the tokens follow as bare
// frames, after v1 in SaslAuthenticate.
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
	case !slices.Contains(saslMechanisms, req.Mechanism):
		resp.ErrorCode = errUnsupportedSaslMechanism
		resp.SupportedMechanisms = saslMechanisms
		return resp, errHangup
	}
	resp.SupportedMechanisms = saslMechanisms
	c.sasl = saslState{mechanism: req.Mechanism, rawTokens: req.Version == 0}
	return resp, nil
}

// handleToken answers a bare token after a handshake in v0 by another, an empty one for PLAIN, and a failure by
// nothing but the end of the connection.
func (c *conn) handleToken(r *request) error {
	defer r.free()
	answer, err := c.authenticate(r.frame.b)
	if err != nil {
		return err
	}
	c.sasl.rawTokens = c.sasl.user == ""
	out := newBuffer(minResponseBytes)
	out.b = appendInt32(out.b, int32(len(answer)))
	out.b = append(out.b, answer...)
	rep := newReply(0)
	rep.complete(out)
	c.enqueue(rep)
	return nil
}

// authenticate takes the next token of the client's, and gives the answer. The client is known when c.sasl.user is.
func (c *conn) authenticate(token []byte) (answer []byte, err error) {
	var user string
	switch x := c.sasl.exchange; {
	case c.sasl.mechanism == mechanismPlain:
		user, err = c.authenticatePlain(token)
	case x == nil:
		x = &access.Exchange{Mechanism: access.SHA256, Lookup: c.s.cfg.Auth.Credential, Decoys: c.s.decoysNow()}
		if c.sasl.mechanism == access.SHA512.String() {
			x.Mechanism = access.SHA512
		}
		c.sasl.exchange = x
		answer, err = x.First(token, rand.Text())
	default:
		answer, user, err = x.Final(token)
	}
	if err != nil {
		c.s.n.unauthenticated.Add(1)
		return nil, fmt.Errorf("sasl: %w", err)
	}
	if user != "" {
		c.sasl.user, c.sasl.exchange = user, nil
		c.who.principal, c.who.admin = access.Principal(user), c.s.cfg.Auth.Admin(user)
		c.trusted.Store(true)
	}
	return answer, nil
}

// decoys are those of one version of the credentials.
type decoys struct {
	version uint64
	*access.Decoys
}

// decoysNow are what those who are not there are given, the same on all nodes, or who asks two of them could tell. While there are no credentials nobody is there, and
// each node has its own secret; so it has while those of a cluster have not been changed since a build without one.
func (s *Server) decoysNow() *access.Decoys {
	im := s.broker.Image()
	d := s.decoys.Load()
	if d == nil || d.version != im.CredentialsVersion {
		secret := im.Secret()
		if secret == nil {
			secret = s.secret[:]
		}
		d = &decoys{im.CredentialsVersion, access.NewDecoys(secret, im.Credentials())}
		s.decoys.Store(d)
	}
	return d.Decoys
}

// authenticatePlain checks `[authzid] NUL user NUL password`.
func (c *conn) authenticatePlain(token []byte) (user string, err error) {
	user, password, err := splitPlain(token)
	if err != nil {
		return "", err
	}
	if err := c.s.cfg.Auth.AuthenticatePlain(c.ctx, user, password); err != nil {
		return "", fmt.Errorf("user %q: %w", user, err)
	}
	return user, nil
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
