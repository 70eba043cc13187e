package mqtt

import (
	"crypto/tls"
	"errors"
)

// ClientInfo is what a client says and shows of itself in CONNECT.
type ClientInfo struct {
	ClientID    string
	UserName    string
	HasPassword bool
	Password    []byte
	RemoteAddr  string
	TLS         *tls.ConnectionState // nil on plain connections
}

// Identity is who a client was found to be.
type Identity struct {
	Name     string // the user, "" when anonymous
	ClientID string
}

// Action is what an identity wants to do with a topic or a filter.
type Action byte

// Actions that are subject to authorisation.
const (
	Publish Action = iota
	Subscribe
)

// ErrNotAuthorized says that who the client is was established and that it may not connect. Any other error
// of Authenticate means a bad user name or password.
var ErrNotAuthorized = errors.New("not authorized")

// Authorizer decides who may connect and who may do what. Safe for concurrent use. Authenticate may take its
// time; Allow is asked for every publish and must not block nor allocate.
type Authorizer interface {
	Authenticate(ClientInfo) (Identity, error)
	Allow(id Identity, a Action, topic []byte) bool
}
