package meta

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// switchboard is the network between the nodes of a test: it knows where everybody is.
type switchboard struct {
	mu    sync.Mutex
	addrs map[string]string
	cut   map[string]bool // nobody reaches them, nor they anybody
	lines []line
}

// line is a connection and who is at its ends.
type line struct {
	net.Conn
	ends [2]string
}

// isolate cuts a node off, open connections included, or lets it back.
func (b *switchboard) isolate(id string, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut[id] = cut
	for _, l := range b.lines {
		if cut && slices.Contains(l.ends[:], id) {
			l.Close()
		}
	}
}

// port is one node's place in it.
type port struct {
	net.Listener
	board *switchboard
	id    string
}

func (p *port) DialPeer(addr string, timeout time.Duration) (net.Conn, error) {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	to := ""
	for id, a := range p.board.addrs {
		if a == addr {
			to = id
		}
	}
	if p.board.cut[p.id] || p.board.cut[to] {
		return nil, errors.New("cut off")
	}
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err == nil {
		p.board.lines = append(p.board.lines, line{c, [2]string{p.id, to}})
	}
	return c, err
}

func (p *port) Address(id string) (string, bool) {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	addr, known := p.board.addrs[id]
	return addr, known
}

// group is a quorum under test.
type group struct {
	t     *testing.T
	board *switchboard
	nodes map[string]*testNode
	dirs  map[string]string
}

func newGroup(t *testing.T) *group {
	g := &group{t, &switchboard{addrs: map[string]string{}, cut: map[string]bool{}}, map[string]*testNode{}, map[string]string{}}
	t.Cleanup(func() {
		for id := range g.nodes {
			g.stop(id)
		}
	})
	return g
}

// start brings a node up, at a new address each time.
func (g *group) start(id string, bootstrap bool) *testNode {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	if g.dirs[id] == "" {
		g.dirs[id] = g.t.TempDir()
	}
	g.board.mu.Lock()
	g.board.addrs[id] = l.Addr().String()
	g.board.mu.Unlock()
	tn := &testNode{news: make(chan struct{}, 1)}
	tn.Node, err = OpenNode(Options{
		Dir: g.dirs[id], ID: id, Bootstrap: bootstrap, Network: &port{l, g.board, id}, Timing: FastTiming, Logger: quiet(),
		OnApply: func(*Image) {
			select {
			case tn.news <- struct{}{}:
			default:
			}
		},
		OnFail: func(err error) { g.t.Error(err) },
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.nodes[id] = tn
	return tn
}

func (g *group) stop(id string) {
	mustClose(g.t, g.nodes[id])
	delete(g.nodes, id)
}

func (g *group) member(id string, voter bool) Member {
	g.board.mu.Lock()
	defer g.board.mu.Unlock()
	return Member{ID: id, Addr: g.board.addrs[id], Voter: voter}
}

// leader waits for one of the nodes to lead.
func (g *group) leader() *testNode {
	g.t.Helper()
	ctx := within(g.t)
	for {
		var changed []<-chan struct{}
		for _, n := range g.nodes {
			leads, moved := n.Leads()
			if leads && n.Barrier(ctx) == nil {
				return n
			}
			changed = append(changed, moved)
		}
		any := make(chan struct{}, len(changed))
		stop := make(chan struct{})
		for _, c := range changed {
			go func() {
				select {
				case <-c:
					any <- struct{}{}
				case <-stop:
				}
			}()
		}
		select {
		case <-any:
			close(stop)
		case <-ctx.Done():
			close(stop)
			g.t.Fatal("nobody leads")
		}
	}
}

// set changes the configuration at whoever leads, as often as it takes.
func (g *group) set(m Member) {
	g.t.Helper()
	for ctx := within(g.t); ctx.Err() == nil; {
		l := g.leader()
		_, index, err := l.Members()
		if err == nil {
			err = l.SetMember(m, index)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnavailable) {
			g.t.Fatal(err)
		}
	}
	g.t.Fatalf("%s is not set", m.ID)
}

// register goes on until some leader has answered: on a busy machine the one asked may lose its place meanwhile.
func (g *group) register(broker, nonce byte) {
	g.t.Helper()
	ctx := within(g.t)
	for {
		_, err := g.leader().Propose(ctx, &RegisterBroker{ClusterID: "c", UUID: uuid(broker), Nonce: uuid(nonce), Held: held(nonce)})
		if err == nil {
			return
		}
		if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			g.t.Fatal(err)
		}
	}
}

// caughtUp waits until n has the image of the leader.
func (g *group) caughtUp(n *testNode) {
	g.t.Helper()
	want := g.leader().Image().Version
	for ctx := within(g.t); n.Image().Version < want; {
		select {
		case <-n.news:
		case <-ctx.Done():
			g.t.Fatalf("%s is at %d, want %d", n.id, n.Image().Version, want)
		}
	}
}

func (g *group) bootstrap(ids ...string) {
	g.t.Helper()
	var ms []Member
	for _, id := range ids {
		g.start(id, false)
	}
	for _, id := range ids {
		ms = append(ms, g.member(id, true))
	}
	for _, id := range ids {
		if err := g.nodes[id].Bootstrap(ms); err != nil {
			g.t.Fatal(err)
		}
	}
}

// Three nodes that form a group: what one answers all have, whoever does not lead says so, and a lost leader is replaced.
func TestQuorumSurvivesItsLeader(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	l := g.leader()
	g.register(1, 11)
	for id, n := range g.nodes {
		g.caughtUp(n)
		if n == l {
			continue
		}
		if _, err := n.Propose(within(t), &DeleteTopic{}); !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s does not lead and answered %v", id, err)
		}
		if n.Leader() != l.id {
			t.Errorf("%s follows %q, not %q", id, n.Leader(), l.id)
		}
	}
	g.stop(l.id)
	next := g.leader()
	if next.Image().Broker(1) == nil {
		t.Error("the new leader does not have what was answered")
	}
	g.register(2, 21)
	back := g.start(l.id, false)
	g.caughtUp(back)
	if back.Image().Broker(2) == nil {
		t.Error("the old leader does not catch up")
	}
}

// A node alone grows to three and is outlived by the others. Addresses change at every start; ids are what counts.
func TestGrowFromOne(t *testing.T) {
	g := newGroup(t)
	g.start("a", true)
	g.register(1, 11)
	for _, id := range []string{"b", "c"} {
		if n := g.start(id, false); n.Known() {
			t.Errorf("%s is in a group before it was added", id)
		}
		g.set(g.member(id, false))
	}
	_, first, err := g.leader().Members()
	if err != nil || first == 0 {
		t.Fatalf("configuration %d, %v", first, err)
	}
	for _, id := range []string{"b", "c"} {
		g.caughtUp(g.nodes[id])
		g.set(g.member(id, true))
	}
	ms, index, err := g.leader().Members()
	if err != nil || index <= first || len(ms) != 3 || slices.ContainsFunc(ms, func(m Member) bool { return !m.Voter }) {
		t.Fatalf("members %v %v", ms, err)
	}
	l := g.leader()
	for name, err := range map[string]error{
		"no vote": l.SetMember(g.member("b", false), first), "a vote": l.SetMember(g.member("b", true), first),
		"a vote less": l.Demote("b", first), "a member less": l.RemoveMember("b", first),
	} {
		if err == nil {
			t.Errorf("%s, decided on an older configuration, was taken", name)
		}
	}
	for id := range g.nodes { // the whole site, at other addresses
		g.stop(id)
	}
	for _, id := range []string{"a", "b", "c"} {
		g.start(id, false)
	}
	if g.leader().Image().Broker(1) == nil {
		t.Error("metadata is gone")
	}
	if _, again, err := g.leader().Members(); err != nil || again != index {
		t.Errorf("after a restart the configuration is that of entry %d, was %d, %v", again, index, err)
	}
	g.stop(g.leader().id)
	g.register(2, 21)
}

// The entry of a configuration may lie before a snapshot, where nobody reads it again: a change is decided on it all the same.
func TestConfigurationOfASnapshotIsKnown(t *testing.T) {
	g := newGroup(t)
	g.start("a", true)
	g.register(1, 11)
	_, index, err := g.leader().Members()
	if err != nil || index == 0 {
		t.Fatalf("configuration %d, %v", index, err)
	}
	if err := g.leader().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	g.stop("a")
	g.start("a", false)
	if _, again, err := g.leader().Members(); err != nil || again != index {
		t.Errorf("after a restart the configuration is that of entry %d, was %d, %v", again, index, err)
	}
	if err := g.leader().SetMember(g.member("a", true), index+1); err == nil {
		t.Error("a change decided on another configuration was taken")
	}
}

// A leader that is cut off steps down; what it is asked then is not answered as done.
func TestCutOffLeader(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	l := g.leader()
	g.board.isolate(l.id, true)
	if _, err := l.Propose(within(t), &RegisterBroker{ClusterID: "c", UUID: uuid(9), Nonce: uuid(91)}); err == nil {
		t.Fatal("a leader without followers answered")
	}
	delete(g.nodes, l.id)
	g.register(1, 11)
	g.nodes[l.id] = l
	g.board.isolate(l.id, false)
	g.caughtUp(l)
	if err := l.Image().Check(); err != nil || l.Image().Broker(1) == nil {
		t.Errorf("after it is back: %v %+v", err, l.Image().Brokers())
	}
}

// E9: a leader whose disk hangs can neither write nor hand over, and its heartbeats go on. Muted, it is replaced; when its disk answers it follows.
func TestLeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	l := g.leader()
	hang, err := l.store.db.Begin(true) // every write waits for it
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() {
		_, err := l.Propose(within(t), &RegisterBroker{ClusterID: "c", UUID: uuid(9), Nonce: uuid(91)})
		over <- err
	}()
	for ctx := within(t); l.WriteAge() == 0; {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no write waits")
		}
	}
	l.Mute(true)
	delete(g.nodes, l.id)
	if next := g.leader(); next == l {
		t.Fatal("it still leads")
	}
	g.register(1, 11)
	if err := hang.Rollback(); err != nil {
		t.Fatal(err)
	}
	l.Mute(false)
	if err := <-over; err == nil {
		t.Error("it answered what nobody else has")
	}
	g.nodes[l.id] = l
	g.caughtUp(l)
	if err := l.Image().Check(); err != nil || l.Image().Broker(1) == nil || l.WriteAge() != 0 {
		t.Errorf("after it is back: %v %+v, a write of %s", err, l.Image().Brokers(), l.WriteAge())
	}
}

// The same image on every member after a random history is C1's promise; here under changes of the leader.
func TestHandOver(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	for i := range 3 {
		l := g.leader()
		g.register(byte(1+i), byte(10*(1+i)))
		if err := l.HandOver(); err != nil && !errors.Is(err, raft.ErrNotLeader) {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("%x", encoded(t, g.leader().Image()))
	for id, n := range g.nodes {
		g.caughtUp(n)
		if got := fmt.Sprintf("%x", encoded(t, n.Image())); got != want {
			t.Errorf("%s has\n%s, want\n%s", id, got, want)
		}
	}
}

// Of nodes that form a group together one may be so much faster that its first messages reach another before that has formed it: the
// other is told that it need not, and is part of the group all the same.
func TestBootstrapAfterTheOthers(t *testing.T) {
	g := newGroup(t)
	var ms []Member
	for _, id := range []string{"a", "b", "c"} {
		g.start(id, false)
	}
	for _, id := range []string{"a", "b", "c"} {
		ms = append(ms, g.member(id, true))
	}
	for _, id := range []string{"a", "b"} {
		if err := g.nodes[id].Bootstrap(ms); err != nil {
			t.Fatal(err)
		}
	}
	g.leader()
	g.register(1, 11)
	late := g.nodes["c"]
	g.caughtUp(late)
	if err := late.Bootstrap(ms); !errors.Is(err, ErrConflict) {
		t.Errorf("formed after the others: %v", err)
	}
	if !late.Known() {
		t.Error("the late node is no part of the group")
	}
}
