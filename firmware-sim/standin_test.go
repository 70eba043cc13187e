package firmwaresim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/fxamacker/cbor/v2"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// standin is a broker in this process that remembers what it was sent. The devices reach it over pipes, so that a
// testing/synctest bubble can hold both.
type standin struct {
	*mochi.Server
	rec *recorder
	wg  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	down  bool
}

// publish is one PUBLISH packet as it came in.
type publish struct {
	client, topic string
	seq, ts       int64
	dup           bool
	contentType   string
	payload       map[string]any
}

type recorder struct {
	mochi.HookBase
	mu   sync.Mutex
	got  []publish
	drop func(p publish) bool // true: PUBACK with "not authorized" instead of success
	bad  []string
}

func (r *recorder) Provides(b byte) bool {
	return b == mochi.OnPublish || b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}
func (r *recorder) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (r *recorder) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func (r *recorder) OnPublish(cl *mochi.Client, p packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return p, nil
	}
	in := publish{client: cl.ID, topic: p.TopicName, dup: p.FixedHeader.Dup, contentType: p.Properties.ContentType, seq: -1}
	var err error
	switch in.contentType {
	case "application/json":
		err = json.Unmarshal(p.Payload, &in.payload)
	case "application/cbor":
		err = cbor.Unmarshal(p.Payload, &in.payload)
	default:
		err = errors.New("content type " + in.contentType)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.bad = append(r.bad, in.topic+": "+err.Error())
	}
	in.seq, in.ts = whole(in.payload["seq"]), whole(in.payload["ts"])
	r.got = append(r.got, in)
	drop := r.drop
	r.mu.Unlock() // it may take its time
	refused := drop != nil && drop(in)
	r.mu.Lock()
	if refused {
		return p, packets.ErrNotAuthorized
	}
	return p, nil
}

func whole(v any) int64 {
	switch n := v.(type) {
	case float64:
		return int64(n)
	case uint64:
		return int64(n)
	case int64:
		return n
	}
	return -1
}

// telemetry returns the seqs of a device in the order they came, repeats included.
func (r *recorder) telemetry(client string) []publish {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []publish
	for _, p := range r.got {
		if p.client == client && strings.HasSuffix(p.topic, "/telemetry") {
			out = append(out, p)
		}
	}
	return out
}

func newStandin(t *testing.T) *standin {
	t.Helper()
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumClients = 100_000
	s := &standin{
		Server: mochi.New(&mochi.Options{Capabilities: caps, InlineClient: true, Logger: slog.New(slog.DiscardHandler)}),
		rec:    &recorder{},
	}
	if err := s.AddHook(s.rec, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return s
}

// dial is Config.Dial.
func (s *standin) dial(context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("stand-in is down")
	}
	near, far := net.Pipe()
	s.conns = append(s.conns, far)
	s.wg.Go(func() {
		q := newQueued(far)
		defer q.Close()
		_ = s.EstablishConnection("pipe", q)
	})
	return newQueued(near), nil
}

// cut breaks every connection; while down, dials fail.
func (s *standin) cut(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns, s.down = nil, down
}

// close stops the broker and checks what must hold for every run.
func (s *standin) close(t *testing.T) {
	t.Helper()
	s.cut(true)
	s.wg.Wait()
	if err := s.Server.Close(); err != nil {
		t.Error(err)
	}
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	for _, b := range s.rec.bad {
		t.Errorf("payload: %s", b)
	}
}

// queued lets its owner write to a pipe without waiting for the reader, as a socket does.
type queued struct {
	net.Conn
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
}

func newQueued(c net.Conn) *queued {
	q := &queued{Conn: c}
	q.cond = sync.NewCond(&q.mu)
	go func() {
		defer c.Close()
		for {
			q.mu.Lock()
			for len(q.buf) == 0 && !q.closed {
				q.cond.Wait()
			}
			b := q.buf
			q.buf = nil
			q.mu.Unlock()
			if len(b) == 0 {
				return
			}
			if _, err := c.Write(b); err != nil {
				q.Close()
				return
			}
		}
	}()
	return q
}

func (q *queued) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, io.ErrClosedPipe
	}
	q.buf = append(q.buf, b...)
	q.cond.Signal()
	return len(b), nil
}

// Close sends what was written before, then closes.
func (q *queued) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Signal()
	return nil
}
