package gossip

import (
	"context"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quick = Timing{100 * time.Millisecond, 50 * time.Millisecond, 2, 20 * time.Millisecond, time.Second}

func start(t *testing.T, cfg Config) *Gossip {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Timing, cfg.JoinEvery = quick, 50*time.Millisecond
	g, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// until waits for g to see the others as want says; "" is not seen at all.
func until(t *testing.T, g *Gossip, want map[string]Status) {
	t.Helper()
	untilSo(t, g, func(ms []Member) bool {
		got := map[string]Status{}
		for _, m := range ms {
			got[m.ID] = m.Status
		}
		for id, status := range want {
			if got[id] != status {
				return false
			}
		}
		return true
	})
}

func untilSo(t *testing.T, g *Gossip, so func([]Member) bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		changed := g.Changed()
		if so(g.Members()) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s sees %+v", g.cfg.ID, g.Members())
		}
	}
}

// One address is enough to find everybody; a stop is not a departure, and the way back needs no address.
func TestJoinFailReturn(t *testing.T) {
	snapshot := filepath.Join(t.TempDir(), "members")
	a := start(t, Config{ID: "a", Tags: Tags{Cluster: "c", Peer: "10.0.0.1:7947", Load: 3}})
	b := start(t, Config{ID: "b", Join: []string{a.Addr()}, Tags: Tags{Cluster: "c"}})
	c, err := Open(Config{ID: "c", Listen: "127.0.0.1:0", SnapshotFile: snapshot, Timing: quick, Tags: Tags{Cluster: "c"}, Join: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	c.join(t.Context(), map[string]bool{})
	for _, g := range []*Gossip{a, b} {
		until(t, g, map[string]Status{"a": Alive, "b": Alive, "c": Alive})
	}
	for _, m := range b.Members() {
		if m.ID == "a" && (m.Tags.Peer != "10.0.0.1:7947" || m.Tags.Load != 3 || m.Addr != a.Addr()) {
			t.Errorf("a looks like %+v", m)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, a, map[string]Status{"c": Failed})
	if s := a.Stats(); s.Members[Alive] != 2 || s.Members[Failed] != 1 {
		t.Errorf("counted %+v", s)
	}
	start(t, Config{ID: "c", SnapshotFile: snapshot, Tags: Tags{Cluster: "c"}}) // at another port, told nothing
	until(t, a, map[string]Status{"c": Alive})
}

// An address that nobody listens on yet is tried until somebody does.
func TestJoinNeverEnds(t *testing.T) {
	a, err := Open(Config{ID: "a", Listen: "127.0.0.1:0", Timing: quick})
	if err != nil {
		t.Fatal(err)
	}
	addr := a.Addr()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b := start(t, Config{ID: "b", Join: []string{addr}})
	start(t, Config{ID: "a", Listen: addr})
	until(t, b, map[string]Status{"a": Alive})
}

// Two that have found each other go on looking for a third that was not there yet.
func TestJoinTheRest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	a := start(t, Config{ID: "a"})
	b := start(t, Config{ID: "b", Join: []string{a.Addr(), free}})
	until(t, b, map[string]Status{"a": Alive})
	<-b.Tried()
	start(t, Config{ID: "c", Listen: free})
	until(t, b, map[string]Status{"a": Alive, "c": Alive})
}

// C3: neither side takes in a member of another cluster; a node that is in none is welcome.
func TestAnotherCluster(t *testing.T) {
	a := start(t, Config{ID: "a", Tags: Tags{Cluster: "one", Name: "alpha"}})
	other := start(t, Config{ID: "other", Join: []string{a.Addr()}, Tags: Tags{Cluster: "two"}})
	fresh := start(t, Config{ID: "fresh", Join: []string{a.Addr()}})
	until(t, a, map[string]Status{"fresh": Alive, "other": ""})
	until(t, fresh, map[string]Status{"a": Alive, "other": ""})
	if _, err := other.serf.Join([]string{a.Addr()}, false); err == nil {
		t.Error("joined another cluster")
	}
	if other.Stats().Refused+a.Stats().Refused == 0 {
		t.Error("nobody counted a refusal")
	}
	until(t, a, map[string]Status{"other": ""})
	<-a.Tried()
	if err := a.Stranger(); err != nil {
		t.Errorf("who was asked is not a stranger: %v", err)
	}
	<-other.Tried()
	if err := other.Stranger(); err == nil || !strings.Contains(err.Error(), "belongs to cluster one") || !strings.Contains(err.Error(), "empty data directory") {
		t.Errorf("joining another cluster: %v", err)
	}
}

// Whoever does not have the key is not heard.
func TestKeys(t *testing.T) {
	key := func(c byte) []byte { return []byte(strings.Repeat(string(c), KeyBytes)) }
	file := filepath.Join(t.TempDir(), "keyring")
	if err := os.WriteFile(file, []byte(`["`+base64.StdEncoding.EncodeToString(key('k'))+`"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeyring(file)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, Config{ID: "a", Keyring: keys, KeyringFile: file})
	b := start(t, Config{ID: "b", Keyring: [][]byte{key('k')}, Join: []string{a.Addr()}})
	until(t, a, map[string]Status{"b": Alive})
	wrong := start(t, Config{ID: "wrong", Keyring: [][]byte{key('x')}})
	if _, err := wrong.serf.Join([]string{a.Addr()}, false); err == nil {
		t.Error("joined with another key")
	}
	none := start(t, Config{ID: "none"})
	if _, err := none.serf.Join([]string{a.Addr()}, false); err == nil {
		t.Error("joined without a key")
	}
	next := base64.StdEncoding.EncodeToString(key('n'))
	if err := a.Rotate(next); err != nil {
		t.Fatal(err)
	}
	if keys, err = ReadKeyring(file); err != nil || len(keys) != 1 || string(keys[0]) != string(key('n')) {
		t.Errorf("the file holds %d keys, %v", len(keys), err)
	}
	c := start(t, Config{ID: "c", Keyring: [][]byte{key('n')}, Join: []string{b.Addr()}})
	until(t, c, map[string]Status{"a": Alive, "b": Alive})
	until(t, a, map[string]Status{"wrong": "", "none": ""})
}

func TestKeyringFile(t *testing.T) {
	dir := t.TempDir()
	good := base64.StdEncoding.EncodeToString(make([]byte, KeyBytes))
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by others": {`["` + good + `"]`, 0o644, "chmod 600"},
		"no list":            {good, 0o600, "JSON list"},
		"empty":              {`[]`, 0o600, "no key"},
		"short key":          {`["` + good + `","AAAA"]`, 0o600, "key 2"},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyring(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadKeyring(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "keygen") {
		t.Errorf("absent: %v", err)
	}
	if keys, err := ReadKeyring(""); keys != nil || err != nil {
		t.Errorf("none wanted: %v %v", keys, err)
	}
}

// Peers hear of changed tags; what is too long is refused before it is sent.
func TestTags(t *testing.T) {
	a := start(t, Config{ID: "a"})
	b := start(t, Config{ID: "b", Join: []string{a.Addr()}})
	until(t, b, map[string]Status{"a": Alive})
	if err := a.SetTags(func(t *Tags) { t.Disk, t.Quorum = "full", true }); err != nil {
		t.Fatal(err)
	}
	untilSo(t, b, func(ms []Member) bool {
		for _, m := range ms {
			if m.ID == "a" && m.Tags.Disk == "full" && m.Tags.Quorum {
				return true
			}
		}
		return false
	})
	if err := a.SetTags(func(t *Tags) { t.Name = strings.Repeat("x", maxTagBytes) }); err == nil {
		t.Error("tags without limit")
	}
}

// What a peer sends is never taken as it comes.
func TestTagsOfStrangers(t *testing.T) {
	got := decode(map[string]string{"load": "99", "expect": "-3", "proto": "x", "name": "a\nb", "zone": strings.Repeat("z", 300), "role": "witness"})
	if got != (Tags{Load: 9, Role: RoleWitness}) {
		t.Errorf("got %+v", got)
	}
	all := Tags{"c", "n", "p:1", "k:2", "m:3", RoleNode, "z", "v", 1, 3, true, "ok", 9, "trusted"}
	m, err := all.encode()
	if err != nil || decode(m) != all {
		t.Errorf("%+v came back as %+v, %v", all, decode(m), err)
	}
}
