package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/weir-io/weir/cluster/access"
)

// onePassword lets one user in, who may do everything.
type onePassword struct{ user, password string }

func (a onePassword) AuthenticatePlain(_ context.Context, user, password string) error {
	if user != a.user || password != a.password {
		return errors.New("wrong user or password")
	}
	return nil
}

func (a onePassword) Admin(user string) bool { return user == a.user }

func (onePassword) Credential(string, access.Mechanism) (access.Credential, bool) {
	return access.Credential{}, false
}

func handshake(version int16, mechanism string) *kmsg.SASLHandshakeRequest {
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Version, req.Mechanism = version, mechanism
	return req
}

func authenticate(version int16, token string) *kmsg.SASLAuthenticateRequest {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.Version, req.SASLAuthBytes = version, []byte(token)
	return req
}

func TestSaslWithoutAuthentication(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	if got := roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN")); got.ErrorCode != errIllegalSaslState || len(got.SupportedMechanisms) != 0 {
		t.Errorf("handshake: %+v", got)
	}
	if got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "\x00u\x00p")).ErrorCode; got != errIllegalSaslState {
		t.Errorf("authenticate: error %d", got)
	}
	roundTrip[*kmsg.MetadataResponse](c, metadataRequest(12)) // goes on
}

func TestSaslPlain(t *testing.T) {
	_, addr := startServer(t, Config{Auth: onePassword{"u", "p"}})
	for v := int16(0); v <= 2; v++ {
		c := dialRaw(t, addr)
		roundTrip[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest()) // allowed before
		if got := roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN")); got.ErrorCode != 0 || fmt.Sprint(got.SupportedMechanisms) != "[SCRAM-SHA-256 SCRAM-SHA-512 PLAIN]" {
			t.Fatalf("handshake: %+v", got)
		}
		if got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(v, "u\x00u\x00p")); got.ErrorCode != 0 || got.SessionLifetimeMillis != 0 {
			t.Fatalf("v%d: %+v", v, got)
		}
		roundTrip[*kmsg.MetadataResponse](c, metadataRequest(12))
		if got := roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN")).ErrorCode; got != errIllegalSaslState {
			t.Errorf("second handshake: error %d", got)
		}
	}
}

// TestSaslPlainBareToken: after a handshake in version 0 the token has no request header.
func TestSaslPlainBareToken(t *testing.T) {
	_, addr := startServer(t, Config{Auth: onePassword{"u", "p"}})
	c := dialRaw(t, addr)
	roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(0, "PLAIN"))
	c.sendFrame([]byte("\x00u\x00p"))
	var head [4]byte
	if _, err := c.Read(head[:]); err != nil || binary.BigEndian.Uint32(head[:]) != 0 {
		t.Fatalf("answer to the token: %x, %v", head, err)
	}
	roundTrip[*kmsg.MetadataResponse](c, metadataRequest(12))

	c = dialRaw(t, addr)
	roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(0, "PLAIN"))
	c.sendFrame([]byte("\x00u\x00wrong"))
	c.wantClosed()
}

func TestSaslRefusals(t *testing.T) {
	s, addr := startServer(t, Config{Auth: onePassword{"u", "p"}})
	t.Run("request before", func(t *testing.T) {
		c := dialRaw(t, addr)
		c.sendFrame(frameOf(metadataRequest(12), 1))
		c.wantClosed()
	})
	t.Run("authenticate before handshake", func(t *testing.T) {
		c := dialRaw(t, addr)
		if got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "\x00u\x00p")).ErrorCode; got != errIllegalSaslState {
			t.Errorf("error %d", got)
		}
	})
	t.Run("mechanism", func(t *testing.T) {
		c := dialRaw(t, addr)
		got := roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "GSSAPI"))
		if got.ErrorCode != errUnsupportedSaslMechanism || fmt.Sprint(got.SupportedMechanisms) != "[SCRAM-SHA-256 SCRAM-SHA-512 PLAIN]" {
			t.Errorf("%+v", got)
		}
		c.wantClosed()
	})
	for _, token := range []string{"\x00u\x00wrong", "\x00who\x00p", "", "u", "\x00u", "other\x00u\x00p", "\x00\x00p", "\x00u\x00p\x00", "\x00\x00\x00\x00"} {
		t.Run(fmt.Sprintf("token %q", token), func(t *testing.T) {
			c, before := dialRaw(t, addr), s.Stats().Unauthenticated
			roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN"))
			got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, token))
			if got.ErrorCode != errSaslAuthenticationFailed || got.ErrorMessage == nil {
				t.Errorf("%+v", got)
			}
			if n := s.Stats().Unauthenticated; n != before+1 {
				t.Errorf("counted %d times", n-before)
			}
			c.wantClosed()
		})
	}
	t.Run("large frame before", func(t *testing.T) {
		c := dialRaw(t, addr)
		c.Write(append([]byte{0, 1, 0, 1, 0, 18, 0, 0}, bytes.Repeat([]byte{0}, 100)...))
		c.wantClosed()
	})
}

func TestSaslWithAClient(t *testing.T) {
	_, addr := startServer(t, Config{Auth: onePassword{"u", "p"}})
	good := newClient(t, addr, kgo.SASL(plain.Auth{User: "u", Pass: "p"}.AsMechanism()))
	if err := good.Ping(testContext(t)); err != nil {
		t.Errorf("right password: %v", err)
	}
	bad := newClient(t, addr, kgo.SASL(plain.Auth{User: "u", Pass: "x"}.AsMechanism()))
	if err := bad.Ping(testContext(t)); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("wrong password: %v", err)
	}
}
