package kafka

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var quiet = slog.New(slog.DiscardHandler)

func TestBadFrames(t *testing.T) {
	s, addr := startServer(t, Config{Logger: quiet, MaxRequestBytes: 1 << 20})
	for name, b := range map[string][]byte{
		"too short":        {0, 0, 0, 3, 0, 18, 0},
		"negative size":    {0xff, 0xff, 0xff, 0xff, 0, 18, 0, 0},
		"over the limit":   {0, 0x10, 0, 1, 0, 0, 0, 9},
		"no client id":     {0, 0, 0, 8, 0, 18, 0, 0, 0, 0, 0, 1},
		"client id length": {0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0x7f, 0xff},
		"http":             []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":              {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"large metadata":   {0, 0x30, 0, 0, 0, 3, 0, 9},
	} {
		c := dialRaw(t, addr)
		c.Write(b)
		t.Run(name, func(t *testing.T) { c.wantClosed() })
	}
	eventually(t, "connections are gone", func() bool { return s.Stats().Connections == 0 })
	if got := s.Stats(); got.RequestErrors < 6 || got.InflightBytes != 0 {
		t.Errorf("stats: %+v", got)
	}
}

func TestConnectionLimit(t *testing.T) {
	s, addr := startServer(t, Config{Logger: quiet, MaxConnections: 2})
	first, second := dialRaw(t, addr), dialRaw(t, addr)
	roundTrip[*kmsg.ApiVersionsResponse](first, kmsg.NewPtrApiVersionsRequest())
	roundTrip[*kmsg.ApiVersionsResponse](second, kmsg.NewPtrApiVersionsRequest())
	dialRaw(t, addr).wantClosed()
	if got := s.Stats().ConnectionsRefused; got != 1 {
		t.Errorf("%d connections were refused", got)
	}
	first.Close()
	eventually(t, "a place is free", func() bool { return s.Stats().Connections == 1 })
	roundTrip[*kmsg.ApiVersionsResponse](dialRaw(t, addr), kmsg.NewPtrApiVersionsRequest())
}

func TestIdleAndSlowPeersAreClosed(t *testing.T) {
	_, addr := startServer(t, Config{Logger: quiet, IdleTimeout: 100 * time.Millisecond, ProgressTimeout: 100 * time.Millisecond})
	createTopic(t, addr, "t", 1, nil)
	t.Run("idle", func(t *testing.T) { dialRaw(t, addr).wantClosed() })
	t.Run("half a size", func(t *testing.T) {
		c := dialRaw(t, addr)
		c.Write([]byte{0, 0})
		c.wantClosed()
	})
	t.Run("half a frame", func(t *testing.T) {
		c := dialRaw(t, addr)
		c.Write([]byte{0, 1, 0, 0, 0, 0, 0, 9, 1, 2, 3})
		c.wantClosed()
	})
	t.Run("waiting for an answer is not idle", func(t *testing.T) {
		req := fetchRequest(12, "t", 0, 0)
		req.MaxWaitMillis = 400
		fetchOne(dialRaw(t, addr), req)
	})
}

// TestPeerThatNeverReads loses its connection, and nobody else waits for it.
func TestPeerThatNeverReads(t *testing.T) {
	s, addr := startServer(t, Config{Logger: quiet, ProgressTimeout: 300 * time.Millisecond})
	createTopic(t, addr, "t", 1, nil)
	other := dialRaw(t, addr)
	value := strings.Repeat("x", 900_000)
	for range 8 {
		fill(t, other, "t", value)
	}
	c := dialRaw(t, addr)
	req := fetchRequest(12, "t", 0, 0)
	req.Topics[0].Partitions[0].PartitionMaxBytes = 50 << 20
	frame := frameOf(req, 1)
	for range 50 { // far more answers than socket buffers hold
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
			break
		}
	}
	fill(t, other, "t", "still served")
	eventually(t, "connection is closed", func() bool { return s.Stats().Connections == 1 })
	eventually(t, "fetch budget is free", func() bool { return s.fetching.Load() == 0 })
}

// TestQuotaStopsReaders: frames that are only half there do not lock each other out, and
// hold no more than was sent of them.
func TestQuotaStopsReaders(t *testing.T) {
	s, addr := startServer(t, Config{MemoryInFlight: 1 << 20, ProgressTimeout: 5 * time.Second})
	createTopic(t, addr, "t", 1, nil)
	batch := batchOf(1, strings.Repeat("x", 900_000))
	frame := frameOf(produceRequest(9, "t", -1, batch), 1)
	frame = append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
	const peers = 6
	conns := make([]*rawConn, peers)
	for i := range conns {
		conns[i] = dialRaw(t, addr)
		conns[i].Write(frame[:len(frame)/2])
	}
	done := make(chan error, peers)
	for _, c := range conns {
		go func() {
			_, err := c.Write(frame[len(frame)/2:])
			done <- err
		}()
	}
	for range conns {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conns {
		if _, body := c.readFrame(); len(body) == 0 {
			t.Fatal("no answer")
		}
	}
	eventually(t, "quota is free", func() bool { return s.quota.inUse() == 0 })
}

func TestAnnouncedSizeReservesNothing(t *testing.T) {
	s, addr := startServer(t, Config{Logger: quiet})
	var conns []*rawConn
	for range 20 {
		c := dialRaw(t, addr)
		c.Write([]byte{6, 0, 0, 0, 0, 0, 0, 9}) // 96 MiB are to come
		conns = append(conns, c)
	}
	eventually(t, "all have begun", func() bool { return s.quota.inUse() >= 20*frameChunk })
	if got := s.quota.inUse(); got != 20*frameChunk {
		t.Errorf("%d bytes are taken", got)
	}
	roundTrip[*kmsg.ApiVersionsResponse](dialRaw(t, addr), kmsg.NewPtrApiVersionsRequest())
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "quota is free", func() bool { return s.quota.inUse() == 0 })
}

func TestQuotaOverdraft(t *testing.T) {
	q := newQuota(100)
	a, b := charge{q: q}, charge{q: q}
	ctx, cancel := context.WithCancel(t.Context())
	for _, take := range []struct {
		c *charge
		n int64
	}{{&a, 60}, {&b, 40}, {&a, 500}} { // a is the one that may
		if err := take.c.take(ctx, take.n); err != nil {
			t.Fatal(err)
		}
	}
	if b.tryTake(1) {
		t.Error("tryTake over the limit")
	}
	waits := make(chan error, 1)
	go func() { waits <- b.take(ctx, 1) }()
	eventually(t, "b waits", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return len(q.waiting) == 1 })
	a.release()
	if err := <-waits; err != nil {
		t.Errorf("b: %v", err)
	}
	if err := a.take(ctx, 99); err != nil { // over again, since b is within the limit
		t.Fatal(err)
	}
	go func() { waits <- b.take(ctx, 1) }()
	eventually(t, "b waits", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return len(q.waiting) == 1 })
	cancel()
	if err := <-waits; err != context.Canceled {
		t.Errorf("b: %v", err)
	}
	a.release()
	b.release()
	b.release()
	if q.inUse() != 0 || q.overdraw != nil || len(q.waiting) != 0 {
		t.Errorf("left: %d bytes, %d waiting", q.inUse(), len(q.waiting))
	}
}

// TestDrain: what was read is answered, nothing more is read, and Run returns.
func TestDrain(t *testing.T) {
	s, stop := runServer(t, Config{})
	addr := s.Addrs()[0].String()
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	const n = 20
	for i := range int32(n) {
		c.sendFrame(frameOf(produceRequest(9, "t", -1, batchOf(1, "x")), i))
	}
	for range n / 2 {
		c.readFrame()
	}
	stop()
	rest, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	for len(rest) > 0 { // whole answers only
		size := int(binary.BigEndian.Uint32(rest)) + 4
		if size > len(rest) {
			t.Fatalf("half an answer: %x", rest)
		}
		rest = rest[size:]
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

func TestListenerInUse(t *testing.T) {
	s, addr := startServer(t, Config{})
	_, err := NewServer(Config{Broker: s.cfg.Broker, Listeners: []Listener{{Addr: "127.0.0.1:0"}, {Addr: addr}}})
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error is %v", err)
	}
}

func TestTLS(t *testing.T) {
	cert, pool := selfSigned(t)
	s, _ := startServer(t, Config{Logger: quiet, Listeners: []Listener{
		{Addr: "127.0.0.1:0"},
		{Addr: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Advertise: "localhost"},
	}})
	addr := s.Addrs()[1].String()
	cl := newClient(t, addr, kgo.DialTLSConfig(&tls.Config{RootCAs: pool, ServerName: "localhost"}))
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(testContext(t), cl)
	if err != nil {
		t.Fatal(err)
	}
	// Told the listener it came by.
	if b := meta.Brokers[0]; b.Host != "localhost" || !strings.HasSuffix(addr, hostPort("", b.Port)) {
		t.Errorf("broker is %+v, listener %s", b, addr)
	}
	c := dialRaw(t, addr) // not TLS
	c.Write(bytes.Repeat([]byte{0}, 64))
	b, _ := io.ReadAll(c) // an alert at most
	if len(b) > 32 {
		t.Errorf("plain bytes on TLS were answered with %d bytes", len(b))
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
