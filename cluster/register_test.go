package cluster

import (
	"crypto/rand"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log/vfs"
)

// slowDraw runs fn once, before a cluster id is drawn.
type slowDraw struct {
	once sync.Once
	fn   func()
}

func (s *slowDraw) Read(b []byte) (int, error) {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for f, more := frames.Next(); more; f, more = frames.Next() {
		if strings.HasSuffix(f.Function, ".belong") {
			s.once.Do(s.fn)
		}
	}
	return rand.Read(b)
}

// C3: the quorum's first leader draws a cluster id, and another leads, and names the cluster, before that is known to anybody. The first is part of the
// cluster there is; it used to be bound to its own for ever.
func TestTwoNamesForOneCluster(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.AdvertiseHost = "127.0.0.1"
	cfg.Peer = &PeerConfig{Listen: freePort(t), Gossip: freePort(t), Expect: 1, Timing: control.FastTiming}
	draw := &slowDraw{}
	cfg.Rand = draw
	b := newBroker(cfg.withDefaults())
	draw.fn = func() {
		if _, err := b.raft.Load().Propose(within(t), &meta.RegisterBroker{ClusterID: "the other", UUID: meta.UUID{9}, Nonce: meta.UUID{9}}); err != nil {
			t.Error(err)
		}
	}
	if err := b.open(within(t)); err != nil || b.ClusterID() != "the other" {
		t.Errorf("cluster %q: %v", b.ClusterID(), err)
	}
	if id, err := loadIdentity(vfs.OS{}, cfg.DataDir); err != nil || id.ClusterID != "the other" {
		t.Errorf("the directory says %+v, %v", id, err)
	}
	closeBroker(t, b)
	if b = openBroker(t, cfg); b.ClusterID() != "the other" {
		t.Errorf("after a restart: cluster %q", b.ClusterID())
	}
}
