package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
)

// authorityOf makes a CA whose certificates are for this machine, server's and client's alike.
type authorityOf struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authorityOf {
	t.Helper()
	a := &authorityOf{t: t, dir: t.TempDir()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func (a *authorityOf) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authorityOf) write(name string, blocks ...*pem.Block) {
	a.t.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(b)...)
	}
	if err := os.WriteFile(a.path(name), text, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes name.pem, name.key and, as Kafka wants it, both in name.both.
func (a *authorityOf) issue(name string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, private := &pem.Block{Type: "CERTIFICATE", Bytes: der}, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}
	a.write(name+".pem", cert)
	a.write(name+".key", private)
	a.write(name+".both", private, cert)
}

// Over TLS, with a certificate at each end. Whom the uplink does not know, and who does not know it, is named; once the files are mended it goes on without a restart.
func TestUplinkOverTLS(t *testing.T) {
	t.Parallel()
	need(t, apache.Found(filepath.Join(cacheDir(), "kafka")), "Apache Kafka")
	passed(t, "Apache Kafka", kafkaVersion(t), "target over TLS with client certificates; unknown ones refused by name")
	ours, other := newAuthority(t, "the plant's"), newAuthority(t, "somebody's")
	ours.issue("server")
	ours.issue("gateway")
	other.issue("gateway")
	secure := peerPort(t)
	centre := &apache.Kafka{
		Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka"), Others: []apache.Listener{{Name: "SECURE", Bind: secure, Dial: secure, Protocol: "SSL"}},
		More: []string{
			"ssl.keystore.type=PEM", "ssl.keystore.location=" + ours.path("server.both"), "ssl.truststore.type=PEM", "ssl.truststore.location=" + ours.path("ca.pem"),
			"listener.name.secure.ssl.client.auth=required",
		},
	}
	runKafka(t, centre)
	mine := t.TempDir()
	use := func(from *authorityOf, names ...string) {
		t.Helper()
		for _, name := range names {
			text, err := os.ReadFile(from.path(name))
			if err == nil {
				err = os.WriteFile(filepath.Join(mine, name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	use(other, "ca.pem", "gateway.pem", "gateway.key")
	file := edgeConfig(t, secure, []string{"topics: [telemetry]", "tls: {ca: " + mine + "/ca.pem, cert: " + mine + "/gateway.pem, key: " + mine + "/gateway.key}"})
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), "kafka://", "kafkas://", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	edge := startNode(t, "--config", file)
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	s := edge.awaitUplink("nobody it knows", func(s uplinkStatus) bool { return s.State == "failing" })
	if !strings.Contains(s.Why, "certificate signed by unknown authority") {
		t.Errorf("of a server that it does not know: %s", s.Why)
	}
	use(ours, "ca.pem")
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	s = edge.awaitUplink("it is not known", func(s uplinkStatus) bool {
		return s.State == "failing" && !strings.Contains(s.Why, "unknown authority")
	})
	if !strings.Contains(s.Why, "tls") && !strings.Contains(s.Why, "certificate") {
		t.Errorf("of a server that does not know it: %s", s.Why)
	}
	use(ours, "gateway.pem", "gateway.key")
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("all is carried", carriedAll)
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 70)
	if v, ok := edge.verify(); !ok || len(v.Notes) > 0 {
		t.Errorf("verify over TLS: %v, %+v", ok, v)
	}
}
