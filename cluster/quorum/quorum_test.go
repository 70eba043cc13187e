package quorum

import (
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// readdresses skips a test that changes addresses of running followers: raft 1.8.0 reads a follower's id, in updateLastAppended, without the
// lock that it takes to write the same id with another address. The detector is right, and nothing comes of it.
func readdresses(t *testing.T) {
	if raceEnabled {
		t.Skip("raft has a race there")
	}
}

func clusters(s *site) map[string]bool {
	seen := map[string]bool{}
	for _, n := range s.nodes {
		seen[n.name()] = true
	}
	return seen
}

// Three nodes that expect three make one quorum, whoever hears of whom first; a fourth is added.
func TestExpectThree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("b", start{expect: 3})
	s.start("c", start{expect: 3, join: []string{"b"}})
	s.start("a", start{expect: 3, join: []string{"c"}})
	s.until("formed", s.is("ABC"))
	if _, index, err := s.nodes[s.led()].Members(); err != nil || index != 1 {
		t.Errorf("formed as of entry %d, %v: not by all of them at once", index, err)
	}
	s.start("d", start{expect: 3, join: []string{"a"}})
	s.until("four", s.is("ABCd"))
	if c := clusters(s); len(c) != 1 {
		t.Errorf("clusters %v", c)
	}
	s.stop(s.led())
	s.until("led by another", func() bool { return s.leader() != "" })
}

// A node that is alone takes two more in; each is asked for its place, and both get a vote when both are ready.
func TestGrow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("b", start{expect: 1})
	s.until("alone", s.is("B"))
	s.start("a", start{join: []string{"b"}})
	s.until("two", s.is("aB"))
	s.start("c", start{join: []string{"a"}})
	s.until("three", s.is("ABC"))
	s.until("found", s.found)
	s.stop("b")
	s.until("led by another", func() bool { return s.leader() != "" })
}

// Two nodes have one voter; a witness makes them three.
func TestTwoAndWitness(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("a", start{expect: 2})
	s.start("b", start{expect: 2, join: []string{"a"}})
	s.until("two", s.is("Ab"))
	s.start("w", start{join: []string{"a"}, role: gossip.RoleWitness})
	s.until("three", s.is("ABW"))
	s.stop("a")
	s.until("led by another", func() bool { return s.leader() != "" })
}

// A whole site comes back with other addresses: nobody is removed, and everybody is found.
func TestAllAddressesChange(t *testing.T) {
	t.Parallel()
	readdresses(t)
	s := newSite(t)
	s.start("a", start{expect: 3})
	s.start("b", start{expect: 3, join: []string{"a"}})
	s.start("c", start{expect: 3, join: []string{"a"}})
	s.until("formed", s.is("ABC"))
	s.until("found", s.found)
	for _, name := range []string{"a", "b", "c"} {
		s.stop(name)
	}
	s.start("a", start{})
	s.start("b", start{join: []string{"a"}})
	s.start("c", start{join: []string{"b"}})
	s.until("formed again", s.is("ABC"))
	s.until("found again", s.found)
}

// Nodes that were down at different times find each other by the addresses that they were given.
func TestBothSidesWereDown(t *testing.T) {
	t.Parallel()
	readdresses(t)
	s := newSite(t)
	where := map[string]string{"a": freeAddr(t), "b": freeAddr(t), "c": freeAddr(t)}
	all := []string{where["a"], where["b"], where["c"]}
	for _, name := range []string{"a", "b", "c"} {
		s.start(name, start{expect: 3, join: all, listen: where[name]})
	}
	s.until("formed", s.is("ABC"))
	s.stop("b")
	s.until("led without it", func() bool { return s.leader() != "" })
	s.stop("a")
	s.stop("c")
	s.start("b", start{expect: 3, join: all, listen: where["b"]})
	s.start("a", start{expect: 3, join: all, listen: where["a"]})
	s.until("a quorum of two", func() bool { return s.leader() != "" })
	s.start("c", start{expect: 3, join: all, listen: where["c"]})
	s.until("whole again", func() bool { return s.is("ABC")() && s.found() })
}

// A directory of another cluster is refused, and the error says how to go on; the cluster itself is left alone.
func TestOtherCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("x", start{expect: 1})
	s.until("alone", s.is("X"))
	s.stop("x")
	s.start("a", start{expect: 1})
	s.until("known for what it is", func() bool { ms := s.nodes["a"].g.Members(); return s.is("A")() && ms[0].Tags.Cluster != "" })
	x := s.start("x", start{join: []string{"a"}})
	err := <-x.ended
	if err == nil || !strings.Contains(err.Error(), "belongs to cluster cluster-61") || !strings.Contains(err.Error(), "empty data directory") {
		t.Errorf("the node ends with %v", err)
	}
	if ms, _, _ := s.nodes["a"].Members(); len(ms) != 1 {
		t.Errorf("members %v", ms)
	}
}

// A voter that is gone for long is replaced by a spare; one that says it leaves goes at once, the leader too.
func TestDeadAndLeaving(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("a", start{expect: 3})
	s.start("b", start{expect: 3, join: []string{"a"}})
	s.start("c", start{expect: 3, join: []string{"a"}})
	s.until("formed", s.is("ABC"))
	s.start("d", start{join: []string{"a"}})
	s.until("a spare", s.is("ABCd"))
	s.stop("c")
	s.until("replaced", s.is("ABD"))
	leaver := s.led()
	s.must(s.nodes[leaver].g.Leave())
	s.until("gone", func() bool {
		l := s.nodes[s.leader()]
		if l == nil {
			return false
		}
		ms, _, _ := l.Members()
		return len(ms) == 2
	})
	s.stop(leaver)
	s.until("two, one voter", func() bool {
		l := s.nodes[s.leader()]
		if l == nil {
			return false
		}
		ms, _, _ := l.Members()
		return len(ms) == 2 && ms[0].Voter != ms[1].Voter
	})
}

// The majority is lost for ever: one node goes on in a new generation, and whoever comes back has to forget first.
func TestRecover(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("a", start{expect: 3})
	s.start("b", start{expect: 3, join: []string{"a"}})
	s.start("c", start{expect: 3, join: []string{"a"}})
	s.until("formed", s.is("ABC"))
	quiet := slog.New(slog.DiscardHandler)
	raftOf := func(name string) string { return filepath.Join(s.dirs[name].path, "raft") }
	if _, err := Recover(raftOf("a"), id("a"), 0, quiet); err == nil || !strings.Contains(err.Error(), "another process uses") {
		t.Errorf("a node that runs is recovered: %v", err)
	}
	if _, err := Forget(raftOf("a")); err == nil || !strings.Contains(err.Error(), "another process uses") {
		t.Errorf("a node that runs forgets: %v", err)
	}
	before := s.nodes["a"].Image()
	for _, name := range []string{"a", "b", "c"} {
		s.stop(name)
	}
	r, err := Recover(raftOf("a"), id("a"), 0, quiet)
	if err != nil || r.Generation != 1 || len(r.Members) != 3 || r.ClusterID != before.ClusterID {
		t.Fatalf("%+v %v", r, err)
	}
	s.dirs["a"].cluster = Name(r.ClusterID, r.Generation)
	a := s.start("a", start{})
	s.until("alone", s.is("A"))
	if im := a.Image(); im.Generation != 1 || im.ClusterID != before.ClusterID || len(im.Brokers()) != len(before.Brokers()) {
		t.Errorf("%+v, was %+v", im, before)
	}
	b := s.start("b", start{join: []string{"a"}})
	if err := <-b.ended; err == nil || !strings.Contains(err.Error(), before.ClusterID+"/1") {
		t.Errorf("metadata from before the recovery: %v", err)
	}
	s.stop("b")
	aside, err := Forget(raftOf("b"))
	s.must(err)
	if _, err := os.Stat(filepath.Join(aside, "raft.db")); err != nil {
		t.Error(err)
	}
	s.dirs["b"].cluster = ""
	s.start("b", start{join: []string{"a"}})
	s.until("two", s.is("Ab"))
	if im := s.nodes["b"].Image(); im.Generation != 1 || len(im.Brokers()) != len(before.Brokers()) {
		t.Errorf("%+v", im)
	}
	if _, err := Recover(raftOf("c"), id("x"), 0, quiet); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("recovered for a stranger: %v", err)
	}
	if _, err := Recover(t.TempDir(), id("x"), 0, quiet); err == nil || !strings.Contains(err.Error(), "no metadata") {
		t.Errorf("recovered from nothing: %v", err)
	}
}

// A new key reaches gossip and calls on all nodes; who has only the old one is a stranger to both.
func TestRotation(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keyring")
	s := newSite(t)
	s.must(CreateKeyring(file))
	if err := CreateKeyring(file); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a keyring is replaced: %v", err)
	}
	old, err := gossip.ReadKeyring(file)
	s.must(err)
	a := s.start("a", start{expect: 2, ring: old})
	b := s.start("b", start{expect: 2, join: []string{"a"}, ring: old})
	s.until("formed", s.is("Ab"))
	key, err := NewKey()
	s.must(err)
	s.must(a.g.Rotate(key))
	raw, err := base64.StdEncoding.DecodeString(key)
	s.must(err)
	for _, n := range []*siteNode{a, b} {
		if got := n.g.Keys(); len(got) != 1 || string(got[0]) != string(raw) {
			t.Errorf("%d keys after the rotation", len(got))
		}
	}
	if string(CallKeys(old)[0]) == string(old[0]) || string(CallKeys(old)[0]) == string(CallKeys([][]byte{raw})[0]) {
		t.Error("calls do not have a key of their own")
	}
	ctx := t.Context()
	if st, err := a.ask(ctx, meta.Member{ID: id("b"), Addr: b.ln.Addr().String()}); err != nil || !st.Known {
		t.Errorf("after the rotation %+v %v", st, err)
	}
	late := s.start("z", start{expect: 2, ring: old})
	if _, err := late.ask(ctx, meta.Member{ID: id("b"), Addr: b.ln.Addr().String()}); err == nil {
		t.Error("the old key still opens calls")
	}
}
