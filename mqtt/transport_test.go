package mqtt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

func mustListen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// wsPeer makes a client's WebSocket look like a net.Conn.
type wsPeer struct {
	net.Conn
	buf []byte
}

func dialWebSocket(t testing.TB, addr string) net.Conn {
	t.Helper()
	d := ws.Dialer{Protocols: []string{"mqtt"}}
	c, br, _, err := d.Dial(context.Background(), "ws://"+addr+"/mqtt")
	if err != nil {
		t.Fatal(err)
	}
	if br != nil {
		t.Fatal("bytes before the first frame")
	}
	t.Cleanup(func() { c.Close() })
	return &wsPeer{Conn: c}
}

func (p *wsPeer) Read(b []byte) (int, error) {
	for len(p.buf) == 0 {
		data, err := wsutil.ReadServerBinary(p.Conn)
		if err != nil {
			return 0, err
		}
		p.buf = data
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	return n, nil
}

func (p *wsPeer) Write(b []byte) (int, error) { return len(b), wsutil.WriteClientBinary(p.Conn, b) }
