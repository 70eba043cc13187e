package access

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of credentials (S5). The iterations are those that Kafka takes.
const (
	MaxUsers      = 10_000
	MaxUserName   = MaxPrincipal - len(userPrefix)
	MinIterations = 4096
	MaxIterations = 16_384
	MaxSalt       = 256
	MaxNonce      = 256 // of a client
)

// Mechanism is a kind of credential, by Kafka's number, which is stored.
type Mechanism int8

const (
	SHA256 Mechanism = 1
	SHA512 Mechanism = 2
)

// Mechanisms are all that there are.
var Mechanisms = []Mechanism{SHA256, SHA512}

func (m Mechanism) String() string {
	switch m {
	case SHA256:
		return "SCRAM-SHA-256"
	case SHA512:
		return "SCRAM-SHA-512"
	}
	return fmt.Sprintf("SCRAM mechanism %d", int8(m))
}

func (m Mechanism) hash() func() hash.Hash {
	if m == SHA512 {
		return sha512.New
	}
	return sha256.New
}

func (m Mechanism) size() int { return m.hash()().Size() }

func (m Mechanism) mac(key, text []byte) []byte {
	h := hmac.New(m.hash(), key)
	h.Write(text)
	return h.Sum(nil)
}

func (m Mechanism) sum(b []byte) []byte {
	h := m.hash()()
	h.Write(b)
	return h.Sum(nil)
}

// Credential is what a user's password is checked against (S2). It does not print its keys.
type Credential struct {
	User       string    `cbor:"1,keyasint"`
	Mechanism  Mechanism `cbor:"2,keyasint"`
	Salt       []byte    `cbor:"3,keyasint"`
	StoredKey  []byte    `cbor:"4,keyasint"`
	ServerKey  []byte    `cbor:"5,keyasint"`
	Iterations int32     `cbor:"6,keyasint"`
}

// String names the credential, and no more.
func (c Credential) String() string { return fmt.Sprintf("%s of %q", c.Mechanism, c.User) }

// GoString is String: a credential that is printed with %#v must not show its keys either.
func (c Credential) GoString() string { return c.String() }

// NewCredential makes a credential of a salted password, as clients that set one send it.
func NewCredential(user string, m Mechanism, salt, saltedPassword []byte, iterations int32) (Credential, error) {
	c := Credential{User: user, Mechanism: m, Salt: salt, Iterations: iterations}
	if m != SHA256 && m != SHA512 {
		return c, fmt.Errorf("%w: %s", ErrInvalid, m)
	}
	if len(saltedPassword) != m.size() {
		return c, fmt.Errorf("%w: a salted password of %d bytes, want %d", ErrInvalid, len(saltedPassword), m.size())
	}
	c.StoredKey = m.sum(m.mac(saltedPassword, []byte("Client Key")))
	c.ServerKey = m.mac(saltedPassword, []byte("Server Key"))
	return c, c.Validate()
}

// Validate says why nobody could use c; every error is an ErrInvalid.
func (c *Credential) Validate() error {
	switch {
	case c.Mechanism != SHA256 && c.Mechanism != SHA512:
		return fmt.Errorf("%w: %s", ErrInvalid, c.Mechanism)
	case c.User == "" || len(c.User) > MaxUserName || !utf8.ValidString(c.User):
		return fmt.Errorf("%w: a user's name has 1 to %d bytes of UTF-8, not %d", ErrInvalid, MaxUserName, len(c.User))
	case c.Iterations < MinIterations || c.Iterations > MaxIterations:
		return fmt.Errorf("%w: %d iterations, want %d to %d", ErrInvalid, c.Iterations, MinIterations, MaxIterations)
	case len(c.Salt) == 0 || len(c.Salt) > MaxSalt:
		return fmt.Errorf("%w: a salt of %d bytes, want 1 to %d", ErrInvalid, len(c.Salt), MaxSalt)
	case len(c.StoredKey) != c.Mechanism.size() || len(c.ServerKey) != c.Mechanism.size():
		return fmt.Errorf("%w: keys of another length than %s has", ErrInvalid, c.Mechanism)
	}
	return nil
}

// Compare orders credentials by user, then mechanism.
func (c *Credential) Compare(o *Credential) int {
	if d := strings.Compare(c.User, o.User); d != 0 {
		return d
	}
	return int(c.Mechanism) - int(o.Mechanism)
}

// Matches tells whether password is the one that c was made of. It takes milliseconds, by design.
func (c *Credential) Matches(password []byte) bool {
	salted, err := pbkdf2.Key(c.Mechanism.hash(), string(password), c.Salt, int(c.Iterations), c.Mechanism.size())
	if err != nil {
		return false
	}
	key := c.Mechanism.sum(c.Mechanism.mac(salted, []byte("Client Key")))
	return subtle.ConstantTimeCompare(key, c.StoredKey) == 1
}

// ErrAuthentication: the client has not proved who it says it is.
var ErrAuthentication = errors.New("authentication failed")

// Exchange is the server's side of one SCRAM authentication (RFC 5802): First, then Final.
type Exchange struct {
	Mechanism Mechanism
	// Lookup finds the credential of a user. Who has none is given one of Decoys: the exchange goes on, and fails at its end (S4).
	Lookup func(user string, m Mechanism) (Credential, bool)
	Decoys *Decoys

	user      string
	known     bool
	cred      Credential
	own       string // the client's part of the nonce
	nonce     string
	messages  []byte // client-first-message-bare, a comma, server-first-message
	gs2Header string
}

var enc = base64.StdEncoding

// First takes the client's first message and a fresh nonce, and gives the answer.
func (x *Exchange) First(message []byte, nonce string) ([]byte, error) {
	// n,,n=user,r=nonce[,extensions]; with y the client could have bound a channel, which is not offered
	head, rest, ok := strings.Cut(string(message), ",")
	authz, bare, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 || head != "n" && head != "y" || !utf8.Valid(message) {
		return nil, fmt.Errorf("%w: the first message is not n,,n=USER,r=NONCE", ErrAuthentication)
	}
	fields := strings.Split(bare, ",")
	name, isName := strings.CutPrefix(fields[0], "n=")
	user, err := unescape(name)
	if len(fields) < 2 || !isName || err != nil || user == "" || len(user) > MaxUserName {
		return nil, fmt.Errorf("%w: the first message names no user", ErrAuthentication)
	}
	clientNonce, isNonce := strings.CutPrefix(fields[1], "r=")
	if !isNonce || clientNonce == "" || len(clientNonce) > MaxNonce {
		return nil, fmt.Errorf("%w: the first message has no nonce of 1 to %d bytes", ErrAuthentication, MaxNonce)
	}
	if authz != "" {
		if as, err := unescape(strings.TrimPrefix(authz, "a=")); err != nil || as != user {
			return nil, fmt.Errorf("%w: user %q asks to act as somebody else, which is not supported", ErrAuthentication, user)
		}
	}
	for _, ext := range fields[2:] {
		if strings.HasPrefix(ext, "m=") || ext == "tokenauth=true" {
			return nil, fmt.Errorf("%w: extension %.40q is not supported", ErrAuthentication, ext)
		}
	}
	x.user, x.own, x.nonce, x.gs2Header = user, clientNonce, clientNonce+nonce, head+","+authz+","
	decoy := x.Decoys.credential(x.Mechanism, user) // for everybody: who is there waits as long
	if x.cred, x.known = x.Lookup(user, x.Mechanism); !x.known {
		x.cred = decoy
	}
	answer := fmt.Sprintf("r=%s,s=%s,i=%d", x.nonce, enc.EncodeToString(x.cred.Salt), x.cred.Iterations)
	x.messages = []byte(bare + "," + answer)
	return []byte(answer), nil
}

// Final takes the client's last message, and gives the answer and who the client has proved to be.
func (x *Exchange) Final(message []byte) (answer []byte, user string, err error) {
	wrong := func() ([]byte, string, error) {
		return nil, "", fmt.Errorf("%w: user %q with %s", ErrAuthentication, x.user, x.Mechanism)
	}
	// c=base64 of the gs2 header,r=nonce[,extensions],p=proof
	at := bytes.LastIndex(message, []byte(",p="))
	if at < 0 || x.messages == nil {
		return wrong()
	}
	without := message[:at]
	proof, err := enc.DecodeString(string(message[at+3:]))
	fields := strings.Split(string(without), ",")
	if err != nil || len(fields) < 2 || fields[0] != "c="+enc.EncodeToString([]byte(x.gs2Header)) || len(proof) != x.Mechanism.size() {
		return wrong()
	}
	// librdkafka before 2.6.1 puts its own part in front once more. That proves as much: all of the nonce is there, and signed.
	if nonce, _ := strings.CutPrefix(fields[1], "r="); nonce != x.nonce && nonce != x.own+x.nonce {
		return wrong()
	}
	auth := append(append(x.messages, ','), without...)
	x.messages = nil // once
	signature := x.Mechanism.mac(x.cred.StoredKey, auth)
	key := make([]byte, len(proof))
	subtle.XORBytes(key, proof, signature)
	if subtle.ConstantTimeCompare(x.Mechanism.sum(key), x.cred.StoredKey) != 1 || !x.known {
		return wrong()
	}
	return []byte("v=" + enc.EncodeToString(x.Mechanism.mac(x.cred.ServerKey, auth))), x.user, nil
}

// unescape reads a saslname.
func unescape(name string) (string, error) {
	if !strings.Contains(name, "=") {
		return name, nil
	}
	out := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
	if strings.Count(name, "=") != strings.Count(name, "=2C")+strings.Count(name, "=3D") {
		return "", errors.New("not a saslname: " + strconv.Quote(name))
	}
	return out, nil
}
