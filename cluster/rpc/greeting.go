package rpc

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Versions of the calls that this build speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// UUID is a broker's identity (C2).
type UUID [16]byte

func (u UUID) String() string { return fmt.Sprintf("%x", u[:]) }

// Self is what a node says of itself.
type Self struct {
	// ClusterID is empty while the node belongs to none (C3).
	ClusterID string
	UUID      UUID
	Name      string // for logs
}

// Peer is who the other side has shown to be.
type Peer struct {
	Self
	Version int
	Addr    string
	Onward  *UUID // of a stream: the node that it is for, another one
}

// Refusal is why one side does not talk to the other. It is sent to the peer, so that both operators read the same.
type Refusal struct {
	Code RefusalCode
	Text string
}

func (r *Refusal) Error() string { return r.Text }

// RefusalCode is the reason in a form that can be counted.
type RefusalCode uint8

// Reasons for refusals. Numbers are for ever.
const (
	RefusedGarbage RefusalCode = 1 + iota
	RefusedVersion
	RefusedCluster
	RefusedIdentity
	RefusedKey
	RefusedBusy
)

func (c RefusalCode) String() string {
	switch c {
	case RefusedGarbage:
		return "garbage"
	case RefusedVersion:
		return "version"
	case RefusedCluster:
		return "cluster"
	case RefusedIdentity:
		return "identity"
	case RefusedKey:
		return "key"
	case RefusedBusy:
		return "busy"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Purpose is what a connection is for: its first byte.
type Purpose byte

// Purposes.
const (
	ForQuorum Purpose = 'R'
	ForCalls  Purpose = 'C'
	// ForStreams: the bytes of a device's connection, passed through to the node that its session lives at.
	ForStreams Purpose = 'S'
)

// greeting is what both sides say first. Keys are only ever added.
type greeting struct {
	Versions [2]int `cbor:"1,keyasint"`
	Cluster  string `cbor:"2,keyasint,omitempty"`
	UUID     []byte `cbor:"3,keyasint"`
	Name     string `cbor:"4,keyasint,omitempty"`
	Nonce    []byte `cbor:"5,keyasint"`           // fresh: a proof cannot be used again
	Keyed    bool   `cbor:"6,keyasint,omitempty"` // has a key and wants a proof
	Want     []byte `cbor:"7,keyasint,omitempty"` // uuid of who is meant, if it is known

	RefusalCode RefusalCode `cbor:"8,keyasint,omitempty"`
	RefusalText string      `cbor:"9,keyasint,omitempty"`

	// Onward is the uuid of the node that a stream is for, where that is not the listener. One that does not know the field takes the stream for its own, and
	// finds that what comes is not for it.
	Onward []byte `cbor:"10,keyasint,omitempty"`
}

const (
	maxGreeting = 2 << 10
	nonceBytes  = 16
	maxName     = 256
	// GreetTimeout bounds the whole greeting.
	GreetTimeout = 5 * time.Second
)

func writeShort(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func readShort(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint16(n[:])
	if size > maxGreeting {
		return nil, fmt.Errorf("greeting of %d bytes, limit %d: %w", size, maxGreeting, ErrFrame)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}

func (s Self) greeting(keyed bool, want, onward *UUID) ([]byte, error) {
	g := greeting{Versions: [2]int{MinVersion, MaxVersion}, Cluster: s.ClusterID, UUID: s.UUID[:], Name: s.Name, Nonce: make([]byte, nonceBytes), Keyed: keyed}
	if _, err := rand.Read(g.Nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	if want != nil {
		g.Want = want[:]
	}
	if onward != nil {
		g.Onward = onward[:]
	}
	return Encode(g)
}

func (r *Refusal) encode() []byte {
	b, err := Encode(greeting{RefusalCode: r.Code, RefusalText: r.Text[:min(len(r.Text), maxGreeting/2)]})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// judge reads the other side's greeting and says what is wrong with it, seen from self.
func judge(b []byte, self Self, keyed bool) (g greeting, p Peer, err error) {
	if err := Decode(b, &g); err != nil {
		return g, p, &Refusal{RefusedGarbage, "greeting cannot be read: " + err.Error()}
	}
	if g.RefusalCode != 0 {
		return g, p, &Refusal{g.RefusalCode, fmt.Sprintf("refused by the peer: %.1000s", g.RefusalText)}
	}
	if len(g.UUID) != len(p.UUID) || len(g.Nonce) != nonceBytes || len(g.Name) > maxName || len(g.Cluster) > maxName {
		return g, p, &Refusal{RefusedGarbage, "greeting is incomplete"}
	}
	if len(g.Onward) > 0 && len(g.Onward) != len(p.UUID) {
		return g, p, &Refusal{RefusedGarbage, "greeting names no node to pass the stream on to"}
	}
	p = Peer{Self: Self{ClusterID: g.Cluster, UUID: UUID(g.UUID), Name: g.Name}, Version: min(MaxVersion, g.Versions[1])}
	if len(g.Onward) > 0 {
		p.Onward = (*UUID)(g.Onward)
	}
	switch {
	case p.Version < max(MinVersion, g.Versions[0]):
		return g, p, &Refusal{RefusedVersion, fmt.Sprintf("node %q speaks versions %d to %d, node %q %d to %d: upgrade the older one", p.Name, g.Versions[0], g.Versions[1], self.Name, MinVersion, MaxVersion)}
	case g.Cluster != "" && self.ClusterID != "" && g.Cluster != self.ClusterID: // C3
		return g, p, &Refusal{RefusedCluster, fmt.Sprintf("node %q belongs to cluster %s, node %q to %s: join with an empty data directory", p.Name, g.Cluster, self.Name, self.ClusterID)}
	case p.UUID == self.UUID:
		return g, p, &Refusal{RefusedIdentity, fmt.Sprintf("node %q has the identity of node %q, %s: one data directory is a copy of the other", p.Name, self.Name, p.UUID)}
	case len(g.Want) > 0 && !bytes.Equal(g.Want, self.UUID[:]): // C4
		return g, p, &Refusal{RefusedIdentity, fmt.Sprintf("this is node %q, %s, not %x", self.Name, self.UUID, g.Want)}
	case g.Keyed != keyed:
		return g, p, &Refusal{RefusedKey, fmt.Sprintf("only one of the nodes %q and %q has a cluster key", p.Name, self.Name)}
	}
	return g, p, nil
}

func proof(key []byte, side string, dialer, listener []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	m := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(side), dialer, listener} {
		_ = binary.Write(m, binary.BigEndian, uint32(len(part))) // a hash never fails
		m.Write(part)
	}
	return m.Sum(nil)
}

const (
	sideDialer   = "weir dialer"
	sideListener = "weir listener"
)

// keyRing is what a node may prove itself with; the first is used to dial, any is accepted (rotation).
type keyRing [][]byte

func (k keyRing) use() []byte {
	if len(k) == 0 {
		return nil
	}
	return k[0]
}

// proven is the key that got was made with.
func (k keyRing) proven(got []byte, side string, dialer, listener []byte) ([]byte, bool) {
	if len(k) == 0 {
		return nil, len(got) == 0
	}
	for _, key := range k {
		if hmac.Equal(got, proof(key, side, dialer, listener)) {
			return key, true
		}
	}
	return nil, false
}

var errWrongKey = &Refusal{RefusedKey, "the peer does not have this cluster's key"}

// greetDialer runs the dialer's side on a fresh connection. want is nil while nobody particular is meant, onward unless a stream is for another node.
func greetDialer(c net.Conn, purpose Purpose, self Self, keys keyRing, want, onward *UUID) (Peer, error) {
	_ = c.SetDeadline(time.Now().Add(GreetTimeout))
	mine, err := self.greeting(len(keys) > 0, want, onward)
	if err != nil {
		return Peer{}, err
	}
	hello := append([]byte{byte(purpose)}, binary.BigEndian.AppendUint16(nil, uint16(len(mine)))...)
	if _, err := c.Write(append(hello, mine...)); err != nil {
		return Peer{}, fmt.Errorf("greet: %w", err)
	}
	theirs, err := readShort(c)
	if err != nil {
		return Peer{}, fmt.Errorf("greet: %w", err)
	}
	_, peer, err := judge(theirs, self, len(keys) > 0)
	if err != nil {
		return peer, err
	}
	if want != nil && peer.UUID != *want { // C4
		return peer, &Refusal{RefusedIdentity, fmt.Sprintf("%s is node %q, %s, not %s", c.RemoteAddr(), peer.Name, peer.UUID, want)}
	}
	if err := writeShort(c, proof(keys.use(), sideDialer, mine, theirs)); err != nil {
		return peer, fmt.Errorf("greet: %w", err)
	}
	answer, err := readShort(c)
	if err != nil {
		return peer, fmt.Errorf("greet: %w", err)
	}
	if _, ok := keys.proven(answer, sideListener, mine, theirs); !ok {
		var g greeting
		if Decode(answer, &g) == nil && g.RefusalCode != 0 {
			return peer, &Refusal{g.RefusalCode, fmt.Sprintf("refused by the peer: %.1000s", g.RefusalText)}
		}
		return peer, errWrongKey
	}
	peer.Addr = c.RemoteAddr().String()
	return peer, c.SetDeadline(time.Time{})
}

// greetListener runs the listener's side.
func greetListener(c net.Conn, self Self, keys keyRing) (Purpose, Peer, error) {
	_ = c.SetDeadline(time.Now().Add(GreetTimeout))
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return 0, Peer{}, fmt.Errorf("greet: %w", err)
	}
	purpose := Purpose(first[0])
	if purpose != ForQuorum && purpose != ForCalls && purpose != ForStreams {
		return 0, Peer{}, &Refusal{RefusedGarbage, fmt.Sprintf("connection begins with byte 0x%02x: this port is for weir nodes", first[0])}
	}
	theirs, err := readShort(c)
	if err != nil {
		return purpose, Peer{}, fmt.Errorf("greet: %w", err)
	}
	_, peer, err := judge(theirs, self, len(keys) > 0)
	if err == nil {
		err = answerGreeting(c, self, keys, theirs)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		_ = writeShort(c, refusal.encode()) // the reason is only a courtesy
	}
	if err != nil {
		return purpose, peer, err
	}
	peer.Addr = c.RemoteAddr().String()
	return purpose, peer, c.SetDeadline(time.Time{})
}

func answerGreeting(c net.Conn, self Self, keys keyRing, theirs []byte) error {
	mine, err := self.greeting(len(keys) > 0, nil, nil)
	if err != nil {
		return err
	}
	if err := writeShort(c, mine); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	shown, err := readShort(c)
	if err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	key, ok := keys.proven(shown, sideDialer, theirs, mine)
	if !ok {
		return errWrongKey
	}
	if err := writeShort(c, proof(key, sideListener, theirs, mine)); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	return nil
}
