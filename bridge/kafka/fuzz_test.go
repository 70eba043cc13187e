package kafka

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// FuzzRequest sends one frame to a live server and hangs up. Properties: no panic, the
// connection's goroutines end, the quota and the fetch budget are given back, and the
// server still answers. Each frame goes to a server that lets everybody do everything, and to one with rules.
//
// The corpus has a random request for each key and version served, whole, and two with
// junk in them.
func FuzzRequest(f *testing.F) {
	s, stop := runServer(f, Config{Operate: func(_ context.Context, _ string, b []byte) ([]byte, error) { return b, nil }, AutoCreateTopics: true, MemoryInFlight: 8 << 20})
	f.Cleanup(stop)
	addr := s.Addrs()[0].String()
	createTopic(f, addr, "t", 1, nil)
	guarded, stopGuarded := runServer(f, Config{AutoCreateTopics: true, MemoryInFlight: 8 << 20})
	f.Cleanup(stopGuarded)
	createTopic(f, guarded.Addrs()[0].String(), "t", 1, nil)
	if err := guarded.broker.AddRules(context.Background(), []access.Rule{{ // a net.Pipe has no address: everybody is anonymous
		Resource: access.Topic, Pattern: access.Literal, Name: "t", Principal: access.Anonymous, Host: "*", Operation: access.Read, Permission: access.Allow,
	}, {
		Resource: access.Group, Pattern: access.Literal, Name: "*", Principal: access.Everyone, Host: "*", Operation: access.All, Permission: access.Deny,
	}, {
		Resource: access.Cluster, Pattern: access.Literal, Name: access.ClusterName, Principal: "User:root", Host: "*", Operation: access.All, Permission: access.Allow,
	}}); err != nil {
		f.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for _, k := range s.listed {
		for v := k.MinVersion; v <= k.MaxVersion; v++ {
			req := kmsg.RequestForKey(k.ApiKey)
			req.SetVersion(v)
			randomize(reflect.ValueOf(req).Elem(), r)
			b := frameOf(req, 1)
			f.Add(b)
			for range 2 {
				junk := slices.Clone(b)
				for range 1 + r.IntN(4) {
					junk[r.IntN(len(junk))] = byte(r.Uint32())
				}
				junk[0], junk[1] = b[0], b[1]
				f.Add(junk)
			}
		}
	}
	f.Add([]byte{0x7d, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0, 2, 'x', 3, '{', '}', 0})
	f.Add(frameOf(produceRequest(9, "t", -1, batchOf(1, "a")), 1))
	f.Add(frameOf(produceRequest(3, "t", 0, batchOf(1, "a")), 1))
	f.Add(frameOf(fetchRequest(12, "t", 0, 0), 1))
	begin := fetchRequest(12, "t", 0, 0)
	begin.SessionEpoch = epochNewSession
	f.Add(frameOf(begin, 1))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > 1<<20 {
			return
		}
		for _, s := range []*Server{s, guarded} {
			exchange(t, s, frame)
			if got := s.quota.inUse(); got != 0 {
				t.Errorf("%d bytes of the quota are held", got)
			}
			if got := s.fetching.Load(); got != 0 {
				t.Errorf("%d bytes of the fetch budget are held", got)
			}
			s.sessions.mu.Lock()
			if err := s.sessions.check(); err != nil {
				t.Error(err)
			}
			s.sessions.mu.Unlock()
		}
		if rules := guarded.broker.Image().Rules().Rules(); len(rules) != 3 {
			t.Errorf("somebody who may not has changed the rules: %v", rules)
		}
	})
}

// exchange gives a frame to a connection of its own, without a socket, and returns when
// all its goroutines have ended.
func exchange(t *testing.T, s *Server, frame []byte) {
	t.Helper()
	client, server := net.Pipe()
	c := newConn(s, server, s.listeners[0])
	ended := make(chan struct{})
	go func() { c.serve(context.Background()); close(ended) }()
	client.SetDeadline(time.Now().Add(5 * time.Second))
	client.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)) // an error is a hang-up
	client.Close()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("connection does not end:\n%s", buf[:runtime.Stack(buf, true)])
	}
}
