package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errNoSuch = errors.New("no such thing")

const (
	methodEcho Method = 1 + iota
	methodFail
	methodWait
)

type echo struct {
	Text string `cbor:"1,keyasint"`
}

func self(n byte, cluster string) func() Self {
	return func() Self { return Self{ClusterID: cluster, UUID: UUID{15: n}, Name: fmt.Sprint("node", n)} }
}

// testServer answers echo and fail; wait answers once its ctx ends, and says so on waiting.
type testServer struct {
	addr    string
	uuid    UUID
	stats   Stats
	waiting chan struct{}
	close   func()
}

func serve(t *testing.T, cfg Config) *testServer {
	t.Helper()
	s := &testServer{waiting: make(chan struct{}, 100), uuid: cfg.Self().UUID}
	cfg.Errors = []error{ErrFrame, errNoSuch}
	server := NewServer(cfg, &s.stats, func(ctx context.Context, r *Request) (Answer, error) {
		switch r.Method {
		case methodEcho:
			var e echo
			if err := Decode(r.Control, &e); err != nil {
				return Answer{}, err
			}
			return Answer{Control: e, Raw: bytes.Clone(r.Raw)}, nil
		case methodWait:
			s.waiting <- struct{}{}
			<-ctx.Done()
			return Answer{}, ctx.Err()
		}
		return Answer{}, fmt.Errorf("method %d of %s: %w", r.Method, r.Peer.Name, errNoSuch)
	})
	l, err := Listen("127.0.0.1:0", cfg, &s.stats, server.Serve)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	s.close = func() { cancel(); running.Wait() }
	t.Cleanup(s.close)
	return s
}

func client(t *testing.T, s *testServer, cfg Config) *Client {
	t.Helper()
	cfg.Errors = []error{ErrFrame, errNoSuch}
	c := NewClient(cfg, new(Stats), s.uuid, func() (string, error) { return s.addr, nil })
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCalls(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	c := client(t, s, Config{Self: self(2, "c")})
	ctx := within(t)
	var callers sync.WaitGroup
	for i := range 40 {
		callers.Go(func() {
			raw := bytes.Repeat([]byte{byte(i)}, i*20_000)
			var got echo
			reply, err := c.Call(ctx, methodEcho, echo{fmt.Sprint(i)}, raw, &got)
			if err != nil || got.Text != fmt.Sprint(i) || !bytes.Equal(reply.Raw, raw) {
				t.Errorf("call %d: %v %q, %d bytes", i, err, got.Text, len(reply.Raw))
			}
			reply.Release()
		})
	}
	callers.Wait()
	_, err := c.Call(ctx, methodFail, echo{}, nil, nil)
	if !errors.Is(err, errNoSuch) || !strings.Contains(err.Error(), "method 2 of node2") {
		t.Errorf("failure came as %v", err)
	}
	if n := s.stats.Calls.Load(); n != 41 {
		t.Errorf("%d calls counted", n)
	}
}

// A call that is given up does not disturb the others, and its late answer is dropped.
func TestGivenUp(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	c := client(t, s, Config{Self: self(2, "c")})
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error)
	go func() {
		_, err := c.Call(ctx, methodWait, echo{}, []byte("raw"), nil)
		done <- err
	}()
	<-s.waiting
	cancel()
	if err := <-done; !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if _, err := c.Call(within(t), methodEcho, echo{}, nil, nil); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// Whoever waits when a connection breaks is told; the next call connects again.
func TestLostConnection(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	c := client(t, s, Config{Self: self(2, "c")})
	ctx := within(t)
	done := make(chan error)
	go func() {
		_, err := c.Call(ctx, methodWait, echo{}, nil, nil)
		done <- err
	}()
	<-s.waiting
	s.close()
	if err := <-done; !errors.Is(err, ErrUnreachable) {
		t.Errorf("lost: %v", err)
	}
	if _, err := c.Call(ctx, methodEcho, echo{}, nil, nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	again := serve(t, Config{Self: self(1, "c")})
	s.addr = again.addr
	if _, err := c.Call(ctx, methodEcho, echo{}, nil, nil); err != nil {
		t.Errorf("back: %v", err)
	}
}

func keys(ks ...string) func() [][]byte {
	return func() (out [][]byte) {
		for _, k := range ks {
			out = append(out, []byte(k))
		}
		return out
	}
}

func TestGreeting(t *testing.T) {
	for name, c := range map[string]struct {
		server, client Config
		meant          byte // whom the client wants to reach
		want           RefusalCode
		counted        bool // by the listener
	}{
		"same cluster":             {Config{Self: self(1, "c")}, Config{Self: self(2, "c")}, 1, 0, false},
		"joining (C3)":             {Config{Self: self(1, "c")}, Config{Self: self(2, "")}, 1, 0, false},
		"both in none":             {Config{Self: self(1, "")}, Config{Self: self(2, "")}, 1, 0, false},
		"another cluster (C3)":     {Config{Self: self(1, "c")}, Config{Self: self(2, "d")}, 1, RefusedCluster, true},
		"cloned directory (C4)":    {Config{Self: self(1, "c")}, Config{Self: self(1, "c")}, 1, RefusedIdentity, true},
		"address has moved (C4)":   {Config{Self: self(1, "c")}, Config{Self: self(2, "c")}, 3, RefusedIdentity, true},
		"same key":                 {Config{Self: self(1, "c"), Keys: keys("k")}, Config{Self: self(2, "c"), Keys: keys("k")}, 1, 0, false},
		"new key, server has both": {Config{Self: self(1, "c"), Keys: keys("k", "l")}, Config{Self: self(2, "c"), Keys: keys("l")}, 1, 0, false},
		"new key, client has both": {Config{Self: self(1, "c"), Keys: keys("k")}, Config{Self: self(2, "c"), Keys: keys("k", "l")}, 1, 0, false},
		"wrong key":                {Config{Self: self(1, "c"), Keys: keys("k")}, Config{Self: self(2, "c"), Keys: keys("x")}, 1, RefusedKey, true},
		"no key":                   {Config{Self: self(1, "c"), Keys: keys("k")}, Config{Self: self(2, "c")}, 1, RefusedKey, true},
		"key where none is wanted": {Config{Self: self(1, "c")}, Config{Self: self(2, "c"), Keys: keys("k")}, 1, RefusedKey, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.server)
			s.uuid = UUID{15: c.meant}
			_, err := client(t, s, c.client).Call(within(t), methodEcho, echo{}, nil, nil)
			if c.want == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Code != c.want || !errors.Is(err, ErrUnreachable) {
				t.Fatalf("got %v, want a refusal of %s", err, c.want)
			}
			s.close()
			if n := s.stats.Refused[c.want].Load(); (n == 1) != c.counted {
				t.Errorf("counted %d", n)
			}
		})
	}
}

// One side alone cannot pass for having the key by giving back what it was sent.
func TestProofIsOneSided(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c"), Keys: keys("k")})
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mine, err := self(2, "c")().greeting(true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{byte(ForCalls)}); err != nil {
		t.Fatal(err)
	}
	if err := writeShort(c, mine); err != nil {
		t.Fatal(err)
	}
	theirs, err := readShort(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeShort(c, proof([]byte("k"), sideListener, mine, theirs)); err != nil {
		t.Fatal(err)
	}
	answer, err := readShort(c)
	if err != nil {
		t.Fatal(err)
	}
	var g greeting
	if err := Decode(answer, &g); err != nil || g.RefusalCode != RefusedKey {
		t.Errorf("the listener's proof passed for the dialer's: %v %+v", err, g)
	}
}

// Strangers are told to go, and cost nothing.
func TestGarbage(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	for name, bytes := range map[string][]byte{
		"http":            []byte("GET / HTTP/1.1\r\n\r\n"),
		"long greeting":   {byte(ForCalls), 0xff, 0xff, 1, 2, 3},
		"no greeting":     {byte(ForQuorum), 0, 0},
		"greeting of ff":  {byte(ForCalls), 0, 2, 0xff, 0xff},
		"empty greeting":  {byte(ForCalls), 0, 1, 0xa0},
		"nothing and bye": {},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(bytes); err != nil {
				t.Fatal(err)
			}
			if len(bytes) == 0 {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(GreetTimeout / 2))
			for buf := make([]byte, 100); err == nil; {
				_, err = c.Read(buf)
			}
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Error("the connection is still open")
			}
		})
	}
	if _, err := client(t, s, Config{Self: self(2, "c")}).Call(within(t), methodEcho, echo{}, nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A peer that calls more than it may has to wait, and gets all its answers.
func TestMaxCalls(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c"), MaxCalls: 2})
	c := client(t, s, Config{Self: self(2, "c")})
	ctx, cancel := context.WithCancel(within(t))
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() { _, _ = c.Call(ctx, methodWait, echo{}, nil, nil) })
	}
	<-s.waiting
	<-s.waiting
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := c.Call(short, methodEcho, echo{}, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third call was answered: %v", err)
	}
	cancel()
	callers.Wait()
}

func TestQuorumConnections(t *testing.T) {
	cfg := Config{Self: self(1, "c")}
	a, err := Listen("127.0.0.1:0", cfg, new(Stats), func(context.Context, net.Conn, Peer) { t.Error("raft's connection was taken for calls") })
	if err != nil {
		t.Fatal(err)
	}
	b, err := Listen("127.0.0.1:0", Config{Self: self(2, "c")}, new(Stats), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	known := UUID{15: 1}
	qa, qb := a.Quorum(nil), b.Quorum(func(string) (UUID, bool) { return known, true })
	sent, err := qb.DialPeer(a.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got, err := qa.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sent.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := got.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("read %d %v", n, err)
	}
	sent.Close()
	got.Close()
	known = UUID{15: 9}
	if c, err := qb.DialPeer(a.Addr().String(), 5*time.Second); err == nil {
		c.Close()
		t.Error("connected to a node that was not meant (C4)")
	}
	cancel()
	running.Wait()
	if _, err := qa.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

func TestMessageTooLarge(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	c := client(t, s, Config{Self: self(2, "c")})
	if _, err := c.Call(within(t), methodEcho, echo{}, make([]byte, MaxFrame), nil); !errors.Is(err, ErrFrame) {
		t.Errorf("too large a call: %v", err)
	}
	if _, err := c.Call(within(t), methodEcho, echo{strings.Repeat("x", maxControl)}, nil, nil); !errors.Is(err, ErrFrame) {
		t.Errorf("too large a control part: %v", err)
	}
	if _, err := c.Call(within(t), methodEcho, echo{}, nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	good := frame{call: 7, method: 3, kind: frameAnswer, control: []byte{0xa0}, raw: []byte("raw")}
	f.Add(append(append(appendHeader(nil, &good), good.control...), good.raw...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		again := append(append(appendHeader(nil, &got), got.control...), got.raw...)
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("read %x as %x", b, again)
		}
		var e echo
		_ = Decode(got.control, &e)
		got.release()
	})
}

func FuzzGreeting(f *testing.F) {
	me := self(1, "c")()
	for _, g := range [][]byte{(&Refusal{RefusedKey, "no"}).encode(), {0xa0}} {
		f.Add(g)
	}
	good, err := self(2, "c")().greeting(true, &UUID{15: 1}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, peer, err := judge(b, me, true)
		if err == nil && (peer.UUID == me.UUID || peer.ClusterID != "" && peer.ClusterID != me.ClusterID) {
			t.Fatalf("let in %+v", peer)
		}
	})
}

// Streams that nobody takes yet, as while a node starts and devices storm it, leave room for calls and the quorum, without which the start would not
// come to its end.
func TestStreamsLeaveRoomForCalls(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c"), MaxConnections: 8})
	for range 20 {
		c, err := DialStream(within(t), s.addr, Config{Self: self(2, "c")}, s.uuid, nil)
		if err != nil {
			continue // it is told that the port is busy
		}
		defer c.Close()
	}
	c := client(t, s, Config{Self: self(3, "c")})
	var got echo
	if _, err := c.Call(within(t), methodEcho, echo{"x"}, nil, &got); err != nil || got.Text != "x" {
		t.Errorf("a call is answered %q, %v", got.Text, err)
	}
	if s.stats.Refused[RefusedBusy].Load() == 0 {
		t.Error("no stream was refused")
	}
}
