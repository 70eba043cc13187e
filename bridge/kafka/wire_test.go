package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a server on a free loopback port until the test ends.
func startServer(t testing.TB, cfg Config) (*Server, string) {
	t.Helper()
	cfg.Listeners = []Listener{{Addr: "127.0.0.1:0"}}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, s.Addrs()[0].String()
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
