package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
)

// AlterUserScramCredentials (key 51): v0
//
// Sets and removes what users prove themselves by, over SASL and over MQTT. The salted password that the client sends becomes two keys here, and
// is kept nowhere. Each user stands for himself: what is wrong with one does not keep the others. Who is connected stays so, as with Kafka.
func (s *Server) alterScram(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterUserSCRAMCredentialsRequest)
	if err := tooMany(len(req.Deletions) + len(req.Upsertions)); err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	ctx, done := controllerWait(ctx, 0)
	defer done()
	changes := scramChanges(req)
	var set []access.Credential
	var remove []meta.CredentialName
	var good []int // of the answers, those of users without a fault
	for _, user := range usersNamed(req) {
		r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		r.User = user
		ch := changes[user]
		if r.ErrorCode, r.ErrorMessage = s.refuseScram(user, ch); r.ErrorCode == errNone {
			set, remove = append(set, ch.set...), append(remove, ch.remove...)
			good = append(good, len(resp.Results))
		}
		resp.Results = append(resp.Results, r)
	}
	if len(good) == 0 {
		return resp, nil
	}
	err := s.broker.AlterCredentials(ctx, set, remove)
	for _, i := range good {
		if r := &resp.Results[i]; err != nil {
			r.ErrorCode, r.ErrorMessage = codeOf(err), new(err.Error())
		} else {
			s.log.Info("kafka: credentials changed", "user", r.User)
		}
	}
	return resp, nil
}

// scramChange is all that a request wants for one user.
type scramChange struct {
	set    []access.Credential
	remove []meta.CredentialName
	seen   []access.Mechanism
	fault  error
}

var errTwice = errors.New("the same mechanism of the user is in the request twice")

func scramChanges(req *kmsg.AlterUserSCRAMCredentialsRequest) map[string]*scramChange {
	changes := make(map[string]*scramChange)
	of := func(user string, m access.Mechanism) *scramChange {
		ch := changes[user]
		if ch == nil {
			ch = new(scramChange)
			changes[user] = ch
		}
		if slices.Contains(ch.seen, m) {
			ch.fault = errTwice
		}
		ch.seen = append(ch.seen, m)
		return ch
	}
	for _, d := range req.Deletions {
		m := access.Mechanism(d.Mechanism)
		ch := of(d.Name, m)
		ch.remove = append(ch.remove, meta.CredentialName{User: d.Name, Mechanism: m})
	}
	for _, u := range req.Upsertions {
		m := access.Mechanism(u.Mechanism)
		ch := of(u.Name, m)
		c, err := access.NewCredential(u.Name, m, u.Salt, u.SaltedPassword, u.Iterations)
		if err != nil && ch.fault == nil {
			ch.fault = err
		}
		ch.set = append(ch.set, c)
	}
	return changes
}

// refuseScram says why a user's credentials cannot be changed so, with Kafka's codes.
func (s *Server) refuseScram(user string, ch *scramChange) (code int16, why *string) {
	im := s.broker.Image()
	missing := slices.ContainsFunc(ch.remove, func(n meta.CredentialName) bool {
		_, there := im.Credential(n.User, n.Mechanism)
		return !there
	})
	unknown := slices.ContainsFunc(ch.seen, func(m access.Mechanism) bool { return !slices.Contains(access.Mechanisms, m) })
	switch {
	case s.cfg.Given != nil && s.cfg.Given.User(user):
		return errPolicyViolation, new("the user and his password stand in " + s.cfg.Given.Where())
	case errors.Is(ch.fault, errTwice):
		return errDuplicateResource, new(errTwice.Error())
	case unknown:
		return errUnsupportedSaslMechanism, new(fmt.Sprintf("want one of %v", access.Mechanisms))
	case ch.fault != nil:
		return errUnacceptableCredential, new(ch.fault.Error())
	case missing:
		return errResourceNotFound, new("there is no such credential to remove")
	}
	return errNone, nil
}
