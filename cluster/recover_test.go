package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/quorum"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// Two of three nodes are lost. The third goes on in a new generation with all that was acknowledged (E2); one of the lost that turns up again comes back
// after it has forgotten, with its number, and fills what it lacks.
func TestRecoverAndForget(t *testing.T) {
	g := openGroup(t, 3)
	topic, err := g.brokers[0].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	id := log.PartitionID{Topic: topic.ID}
	for n := range 20 {
		appendUntil(t, g.brokers[0], id, fmt.Sprint(n))
	}
	quiet := slog.New(slog.DiscardHandler)
	dir, other := g.cfgs[2].DataDir, g.cfgs[1].DataDir // the one that stops last holds everything
	if _, err := RecoverDir(dir, 0, quiet); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("a node that runs is recovered: %v", err)
	}
	if _, err := ForgetDir(dir); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("a node that runs forgets: %v", err)
	}
	before, lost := g.brokers[2], g.brokers[1].NodeID()
	clusterID := before.ClusterID()
	for i := range g.brokers {
		if err := g.brokers[i].Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		g.brokers[i] = nil
	}

	if _, err := RecoverDir(t.TempDir(), 0, quiet); err == nil || !strings.Contains(err.Error(), "meta.cbor") {
		t.Errorf("recovered from nothing: %v", err)
	}
	r, err := RecoverDir(dir, 0, quiet)
	if err != nil || r.Generation != 1 || r.ClusterID != clusterID || r.Broker != before.NodeID() || len(r.Others) != 2 || len(r.Behind)+len(r.Elsewhere) > 0 || r.Partitions != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	g.cfgs[2].Peer.Join, g.cfgs[2].Peer.Expect = nil, 1
	if g.start(2); t.Failed() {
		t.FailNow()
	}
	b := g.brokers[2]
	for _, o := range r.Others { // nobody can take what they had: fewer replicas
		if _, err := b.Drain(within(t), o.Broker); err != nil {
			t.Fatal(err)
		}
	}
	appendUntil(t, b, id, "after")
	if s := status(t, b); s.Generation != 1 || s.Partitions.Unclean != 2 || s.Quorum.Voters != 1 {
		t.Errorf("status after a recovery: %+v", s)
	}

	g.cfgs[1].Peer.Join, g.cfgs[1].Peer.Expect = []string{g.cfgs[2].Peer.Gossip}, 0
	aside, err := ForgetDir(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "raft.db")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(other, "raft")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("raft/ is there: %v", err)
	}
	if _, err := ForgetDir(other); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Errorf("it forgets twice: %v", err)
	}
	alone := g.cfgs[1]
	alone.Peer = nil
	if b, err := Open(within(t), alone); err == nil || !strings.Contains(err.Error(), clusterID) {
		t.Errorf("it made a cluster of its own, where its records are strangers: %v, %v", b, err)
	}
	if g.start(1); t.Failed() {
		t.FailNow()
	}
	if got := g.brokers[1].NodeID(); got != lost {
		t.Errorf("it came back as broker %d, was %d", got, lost)
	}
	g.await("gossip takes both for one cluster", func() bool {
		for _, b := range []*Broker{b, g.brokers[1]} {
			alive := 0
			for _, m := range b.port.gossip.Members() {
				if m.Status == gossip.Alive && m.Tags.Cluster == quorum.Name(clusterID, 1) {
					alive++
				}
			}
			if alive != 2 {
				return false
			}
		}
		return true
	})
	if err := b.Undrain(within(t), lost); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reassign(within(t), []Wish{{"a", 0, []int32{b.NodeID(), lost}}}, false); err != nil {
		t.Fatal(err)
	}
	g.await("it has what it lacks", func() bool {
		r, err := g.brokers[1].Replica(id)
		return err == nil && r.HighWatermark() == 21
	})
	rd, err := g.brokers[1].Replica(id)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, rd.(*Partition)); len(got) != 21 || got[20] != "after" || got[0] != "0" {
		t.Errorf("it has %v", got)
	}
}
