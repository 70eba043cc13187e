package quorum

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testPace   = 300 * time.Millisecond
	testDead   = 2 * time.Second
	methodTest = 1
)

var quickGossip = gossip.Timing{
	ProbeInterval: 100 * time.Millisecond, ProbeTimeout: 50 * time.Millisecond, SuspicionMult: 2, GossipInterval: 20 * time.Millisecond, PushPullInterval: time.Second,
}

// site is a number of nodes over loopback: each has its metadata, gossip and port for other nodes, as package cluster joins them.
type site struct {
	t     *testing.T
	nodes map[string]*siteNode // that run
	dirs  map[string]*siteDir
}

// siteDir is what is left of a node that does not run.
type siteDir struct {
	path    string
	uuid    meta.UUID
	cluster string // id, once it registered
}

type siteNode struct {
	*meta.Node
	open  atomic.Pointer[meta.Node] // the same, for those who ask before it is open
	dir   *siteDir
	g     *gossip.Gossip
	k     *Keeper
	ln    *rpc.Listener
	cfg   rpc.Config
	stats rpc.Stats
	stop  context.CancelCauseFunc
	ran   sync.WaitGroup
	ended chan error // of Form and Run
}

// start says how a node comes up.
type start struct {
	expect int
	join   []string // nodes
	role   gossip.Role
	ring   [][]byte
	listen string // gossip's; any port without
}

func newSite(t *testing.T) *site {
	s := &site{t, map[string]*siteNode{}, map[string]*siteDir{}}
	t.Cleanup(func() {
		for name := range s.nodes {
			s.stop(name)
		}
	})
	return s
}

// id of the node with that name: ids are in the order of names.
func id(name string) string { return meta.UUID{name[0]}.String() }

func uuidOf(id string) (u rpc.UUID) {
	_, _ = hex.Decode(u[:], []byte(id))
	return u
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// port is meta.Network as package cluster will have it.
type port struct {
	*rpc.QuorumLayer
	g *gossip.Gossip
}

func (p *port) Address(id string) (string, bool) { return Address(p.g, id) }

func (s *site) start(name string, how start) *siteNode {
	s.t.Helper()
	d := s.dirs[name]
	if d == nil {
		d = &siteDir{path: s.t.TempDir(), uuid: meta.UUID{name[0]}}
		s.dirs[name] = d
	}
	n := &siteNode{dir: d, ended: make(chan error, 1)}
	n.cfg = rpc.Config{
		Self: func() rpc.Self { return rpc.Self{ClusterID: n.name(), UUID: rpc.UUID(d.uuid), Name: name} },
		Keys: func() [][]byte { return CallKeys(n.g.Keys()) },
	}
	server := rpc.NewServer(n.cfg, &n.stats, func(context.Context, *rpc.Request) (rpc.Answer, error) {
		return rpc.Answer{Control: n.k.Status()}, nil
	})
	var err error
	n.ln, err = rpc.Listen("127.0.0.1:0", n.cfg, &n.stats, server.Serve)
	s.must(err)
	if how.role == "" {
		how.role = gossip.RoleNode
	}
	if how.listen == "" {
		how.listen = "127.0.0.1:0"
	}
	var join []string
	for _, o := range how.join {
		if !strings.Contains(o, ":") {
			o = s.nodes[o].g.Addr()
		}
		join = append(join, o)
	}
	_, err = os.Stat(filepath.Join(d.path, "raft"))
	n.g, err = gossip.Open(gossip.Config{
		ID: id(name), Listen: how.listen, Join: join, Keyring: how.ring, Timing: quickGossip, JoinEvery: 50 * time.Millisecond,
		Tags: gossip.Tags{Cluster: n.name(), Name: name, Peer: n.ln.Addr().String(), Role: how.role, Expect: how.expect, Quorum: err == nil},
	})
	s.must(err)
	layer := n.ln.Quorum(func(addr string) (u rpc.UUID, known bool) {
		id, known := At(n.g, addr)
		return uuidOf(id), known
	})
	n.Node, err = meta.OpenNode(meta.Options{
		Dir: filepath.Join(d.path, "raft"), ID: id(name), Network: &port{layer, n.g}, Timing: meta.FastTiming,
		Logger: slog.New(slog.DiscardHandler), OnApply: func(*meta.Image) {}, OnFail: func(err error) { s.t.Error(err) },
	})
	s.must(err)
	n.open.Store(n.Node)
	n.k, err = New(Config{
		ID: id(name), Node: n.Node, Gossip: n.g, Ask: n.ask, Cluster: n.name, Expect: how.expect, Join: len(join) > 0 && how.expect != 1,
		Pace: testPace, Dead: testDead,
	})
	s.must(err)
	n.run()
	s.nodes[name] = n
	return n
}

// name is the Name of the cluster.
func (n *siteNode) name() string {
	if node := n.open.Load(); node != nil && node.Image().ClusterID != "" {
		return Name(node.Image().ClusterID, node.Image().Generation)
	}
	return n.dir.cluster
}

func (n *siteNode) ask(ctx context.Context, m meta.Member) (s Status, err error) {
	c := rpc.NewClient(n.cfg, &n.stats, uuidOf(m.ID), func() (string, error) { return m.Addr, nil })
	defer c.Close()
	r, err := c.Call(ctx, methodTest, struct{}{}, nil, &s)
	if err == nil {
		r.Release()
	}
	return s, err
}

func (n *siteNode) run() {
	ctx, cancel := context.WithCancelCause(context.Background())
	n.stop = cancel
	n.ran.Go(func() { _ = n.ln.Run(ctx) })
	n.ran.Go(func() { _ = n.g.Run(ctx) })
	n.ran.Go(func() { n.register(ctx) })
	n.ran.Go(func() {
		err := n.k.Form(ctx)
		if err == nil {
			err = n.k.Run(ctx)
		}
		n.ended <- err
	})
}

// register has the leader name the cluster, and keeps what the node says of itself up to date.
func (n *siteNode) register(ctx context.Context) {
	for ctx.Err() == nil {
		leads, moved := n.Leads()
		if leads && n.Image().ClusterID == "" {
			_, _ = n.Propose(ctx, &meta.RegisterBroker{ClusterID: "cluster-" + n.dir.uuid.String()[:2], UUID: n.dir.uuid, Nonce: meta.UUID{9}, Held: []meta.UUID{{9}}})
		}
		if im := n.Image(); im.ClusterID != "" {
			_ = n.g.SetTags(func(t *gossip.Tags) { t.Cluster, t.Quorum = n.name(), true })
		}
		select {
		case <-moved:
		case <-time.After(20 * time.Millisecond): // the interval of looking, not a wait for something
		case <-ctx.Done():
		}
	}
}

func (s *site) stop(name string) {
	s.t.Helper()
	n := s.nodes[name]
	delete(s.nodes, name)
	n.stop(errors.New("stopped"))
	s.must(n.Close())
	n.ran.Wait()
	s.must(n.g.Close())
	n.dir.cluster = n.name()
}

// until waits for so to hold, and tells what is instead when it does not come.
func (s *site) until(what string, so func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not %s: %s", what, s)
		}
	}
}

func (s *site) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		n := s.nodes[name]
		leads, _ := n.Leads()
		ms, _, _ := n.Members()
		fmt.Fprintf(&b, "\n%s leads=%t cluster=%q members=%+v why=%q gossip=%+v", name, leads, n.name(), ms, n.k.why, n.g.Members())
	}
	return b.String()
}

// leader is the node that leads and has applied what its predecessors committed, "" while there is none.
func (s *site) leader() string {
	for name, n := range s.nodes {
		if leads, _ := n.Leads(); leads {
			return name
		}
	}
	return ""
}

// led waits for a node that leads: that one formed or changed its members a moment ago does not say that it leads still.
func (s *site) led() (name string) {
	s.t.Helper()
	s.until("led", func() bool { name = s.leader(); return name != "" })
	return name
}

// is says whether all nodes have these members, voters in capitals, and one of them leads.
func (s *site) is(members string) func() bool {
	return func() bool {
		for _, n := range s.nodes {
			ms, _, err := n.Members()
			got := ""
			for _, m := range ms {
				u := uuidOf(m.ID)
				name := string(u[:1])
				if m.Voter {
					name = strings.ToUpper(name)
				}
				got += name
			}
			if err != nil || got != members || n.Image().ClusterID == "" {
				return false
			}
		}
		return s.leader() != ""
	}
}

// found says whether every member's address is where that node is now.
func (s *site) found() bool {
	l := s.nodes[s.leader()]
	if l == nil {
		return false
	}
	ms, _, err := l.Members()
	for _, m := range ms {
		for name, n := range s.nodes {
			if id(name) == m.ID && m.Addr != n.ln.Addr().String() {
				return false
			}
		}
	}
	return err == nil
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
