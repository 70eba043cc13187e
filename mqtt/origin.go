package mqtt

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/conn"
)

// A connection between two nodes that stands for a client's begins, in the front's direction, with
//
//	4  "wmp\x01": what this is, and its version: 2 where no CONNECT follows, which nodes of earlier builds refuse at once
//	2  length of what follows, big endian
//	   origin (CBOR)
//
// and then has what the client sends, from its CONNECT on. The owner answers with one byte, taken or notTaken, and what
// follows taken is for the client.
var originMagic = [3]byte{'w', 'm', 'p'}

const (
	originConnects byte = 1 + iota // versions
	originResumes

	originHead = 4 + 2
	originMax  = 16 << 10

	notTaken byte = 0
	taken    byte = 1
)

// origin says where a client's connection really ends. Numbers of fields are never reused.
type origin struct {
	Addr     string        `cbor:"1,keyasint,omitempty"`
	Listener byte          `cbor:"2,keyasint,omitempty"` // overTLS, overWebSocket
	TLS      *originTLS    `cbor:"3,keyasint,omitempty"`
	Shares   *originShares `cbor:"4,keyasint,omitempty"` // it is no client's: see sharewire.go
	Resume   *originResume `cbor:"5,keyasint,omitempty"` // it goes on where another owner has left it: no CONNECT follows
	Link     uint64        `cbor:"6,keyasint,omitempty"` // names the connection to Release: the front can take it to the next owner
}

// Kinds of listeners, as bits.
const (
	overTLS byte = 1 << iota
	overWebSocket
)

// originTLS is what an Authorizer may want to know of the client's TLS connection.
type originTLS struct {
	Version     uint16 `cbor:"1,keyasint"`
	ServerName  string `cbor:"2,keyasint,omitempty"`
	Certificate []byte `cbor:"3,keyasint,omitempty"` // the client's, DER
	Verified    bool   `cbor:"4,keyasint,omitempty"` // against the listener's authorities
}

var errOrigin = errors.New("not the beginning of a connection that another node passes on")

func originOf(c *conn.Conn, listener byte) *origin {
	o := &origin{Addr: c.RemoteAddr(), Listener: listener}
	if t := c.TLS(); t != nil {
		o.TLS = &originTLS{Version: t.Version, ServerName: t.ServerName, Verified: len(t.VerifiedChains) > 0}
		if len(t.PeerCertificates) > 0 && len(t.PeerCertificates[0].Raw) <= originMax/2 {
			o.TLS.Certificate = t.PeerCertificates[0].Raw
		}
	}
	return o
}

// append encodes the header.
func (o *origin) append(b []byte) []byte {
	body := mustCBOR(o)
	version := originConnects
	if o.Resume != nil {
		version = originResumes
	}
	b = append(append(b, originMagic[:]...), version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// readOrigin decodes a header at the beginning of b; size is 0 while b ends before it does.
func readOrigin(b []byte) (o *origin, size int, err error) {
	if n := min(len(b), len(originMagic)); !bytes.Equal(b[:n], originMagic[:n]) {
		return nil, 0, errOrigin
	}
	if len(b) < originHead {
		return nil, 0, nil
	}
	if b[3] != originConnects && b[3] != originResumes {
		return nil, 0, fmt.Errorf("%w: it has version %d", errOrigin, b[3])
	}
	size = originHead + int(binary.BigEndian.Uint16(b[4:]))
	if size > originHead+originMax {
		return nil, 0, fmt.Errorf("%w: it announces %d bytes about itself", errOrigin, size)
	}
	if len(b) < size {
		return nil, 0, nil
	}
	o = new(origin)
	if err := cbor.Unmarshal(b[originHead:size], o); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errOrigin, err)
	}
	if (o.Resume != nil) != (b[3] == originResumes) {
		return nil, 0, fmt.Errorf("%w: version %d does not go with what follows", errOrigin, b[3])
	}
	return o, size, nil
}

// tlsState is as much of the client's TLS connection as the front passed on, nil for plain ones.
func (o *origin) tlsState() *tls.ConnectionState {
	if o.TLS == nil {
		return nil
	}
	t := &tls.ConnectionState{Version: o.TLS.Version, HandshakeComplete: true, ServerName: o.TLS.ServerName}
	if cert, err := x509.ParseCertificate(o.TLS.Certificate); err == nil {
		t.PeerCertificates = []*x509.Certificate{cert}
		if o.TLS.Verified {
			t.VerifiedChains = [][]*x509.Certificate{t.PeerCertificates}
		}
	}
	return t
}

// Passed serves a connection that another node's Owners.Dial opened to this one. What it says about its client is
// believed, so hand over none whose other end is not known to be a node of the cluster. Passed takes nc over.
func (s *Server) Passed(nc net.Conn) {
	if !s.far.join() {
		nc.Close()
		return
	}
	defer s.far.leave()
	if err := s.loop.Adopt(nc, func(c *conn.Conn, full bool) conn.Handler {
		c.SetDeadline(s.cfg.ConnectTimeout)
		return &handshake{srv: s, full: full, inner: true}
	}); err != nil {
		s.cfg.Logger.Warn("connection from another node not taken", "err", err)
	}
}
