package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a server on a free loopback port until the test ends.
func startServer(t testing.TB, cfg Config) (*Server, string) {
	t.Helper()
	s, stop := runServer(t, cfg)
	t.Cleanup(stop)
	return s, s.Addrs()[0].String()
}

// runServer runs a server until stop is called, which returns when Run has.
func runServer(t testing.TB, cfg Config) (s *Server, stop func()) {
	t.Helper()
	if cfg.Broker == nil {
		cfg.Broker = openBroker(t)
	}
	if cfg.Listeners == nil {
		cfg.Listeners = []Listener{{Addr: "127.0.0.1:0"}}
	}
	if cfg.Logger == nil {
		cfg.Logger = testLogger(t)
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after 20 s", what)
		}
	}
}

// openBroker opens a one-node broker in a directory of its own until the test ends.
func openBroker(t testing.TB) *cluster.Broker {
	t.Helper()
	b := openBrokerIn(t, t.TempDir())
	t.Cleanup(func() {
		ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		if err := b.Close(ctx); err != nil {
			t.Errorf("close broker: %v", err)
		}
	})
	return b
}

// smallLog spares each test the 192 MiB that a node writes at its first start.
var smallLog = log.Config{JournalFileBytes: 16 << 20, BallastBytes: -1}

// openBrokerIn opens a broker that the caller closes.
func openBrokerIn(t testing.TB, dir string) *cluster.Broker {
	t.Helper()
	cfg := cluster.Config{NodeID: "test", DataDir: dir, AdvertiseHost: "127.0.0.1", KafkaPort: 9092, Logger: testLogger(t)}
	if _, benchmark := t.(*testing.B); !benchmark {
		cfg.Log = smallLog
	}
	b, err := cluster.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rawConn speaks frames, with no client library between the test and the bytes.
type rawConn struct {
	t testing.TB
	net.Conn
	corr int32
}

func dialRaw(t testing.TB, addr string) *rawConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { nc.Close() })
	return &rawConn{t: t, Conn: nc}
}

func (c *rawConn) sendFrame(body []byte) {
	c.t.Helper()
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := c.Write(append(frame, body...)); err != nil {
		c.t.Fatalf("write frame: %v", err)
	}
}

// readFrame returns the next answer's correlation id and what follows it.
func (c *rawConn) readFrame() (int32, []byte) {
	c.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		c.t.Fatalf("read frame size: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("read frame: %v", err)
	}
	return int32(binary.BigEndian.Uint32(b)), b[4:]
}

// wantClosed fails unless the server hangs up without another byte.
func (c *rawConn) wantClosed() {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("connection still open")
	}
	if len(b) > 0 {
		c.t.Fatalf("got %d bytes, want none and the end: %x", len(b), b)
	}
}

func frameOf(req kmsg.Request, corr int32) []byte {
	b := kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, corr)
	return b[4:]
}

// roundTrip sends req and decodes the answer into its own type.
func roundTrip[R kmsg.Response](c *rawConn, req kmsg.Request) R {
	c.t.Helper()
	c.corr++
	c.sendFrame(frameOf(req, c.corr))
	corr, body := c.readFrame()
	if corr != c.corr {
		c.t.Fatalf("correlation id %d, want %d", corr, c.corr)
	}
	return parseResponse[R](c, req, body)
}

func parseResponse[R kmsg.Response](c *rawConn, req kmsg.Request, body []byte) R {
	c.t.Helper()
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != keyApiVersions {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		c.t.Fatalf("key %d version %d: decode answer: %v", req.Key(), req.GetVersion(), err)
	}
	if again := resp.AppendTo(nil); !bytes.Equal(again, body) {
		c.t.Fatalf("key %d version %d: answer is not canonical:\n%x\n%x", req.Key(), req.GetVersion(), body, again)
	}
	return resp.(R)
}

func versioned[R kmsg.Request](req R, version int16) R {
	req.SetVersion(version)
	return req
}

type commitSignal chan struct{}

func (s commitSignal) Advanced(*cluster.Partition) {
	select {
	case s <- struct{}{}:
	default:
	}
}

// waitCommitted returns once everything below end is committed.
func waitCommitted(t testing.TB, p *cluster.Partition, end log.Offset) {
	t.Helper()
	w := make(commitSignal, 1)
	p.Watch(w)
	defer p.Unwatch(w)
	for timeout := time.After(20 * time.Second); p.HighWatermark() < end; {
		select {
		case <-w:
		case <-timeout:
			t.Fatalf("high watermark %d, want %d", p.HighWatermark(), end)
		}
	}
}

var noDeadline time.Time
