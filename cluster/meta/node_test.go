package meta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/weir-io/weir/cluster/meta.(*Node).spread.func1")) // see there
}

type testNode struct {
	*Node
	applied atomic.Pointer[Image]
	failed  chan error
	news    chan struct{} // group: holds a token after an image was applied
}

func openNode(t *testing.T, dir string) (*testNode, error) {
	t.Helper()
	tn := &testNode{failed: make(chan error, 16)}
	n, err := OpenNode(Options{
		Dir: dir, ID: "broker-a", Bootstrap: true, Logger: quiet(),
		OnApply: func(im *Image) { tn.applied.Store(im) },
		OnFail:  func(err error) { tn.failed <- err },
	})
	tn.Node = n
	return tn, err
}

func mustOpenNode(t *testing.T, dir string) *testNode {
	t.Helper()
	n, err := openNode(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustPropose(t *testing.T, n *testNode, cmd Command) any {
	t.Helper()
	answer, err := n.Propose(within(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustClose(t *testing.T, n *testNode) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNodeKeepsWhatItAnswered(t *testing.T) {
	dir := t.TempDir()
	n := mustOpenNode(t, dir)
	reg := mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)}).(Registration)
	mustPropose(t, n, &CreateTopic{Name: "a", ID: topicID(1), Assignment: one(reg.BrokerID)})
	if _, err := n.Propose(within(t), &CreateTopic{Name: "a", ID: topicID(2), Assignment: one(1)}); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if n.applied.Load() != n.Image() {
		t.Error("OnApply did not get the newest image")
	}
	before := encoded(t, n.Image())
	mustClose(t, n)
	if _, err := n.Propose(within(t), &DeleteTopic{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("proposal after close: %v", err)
	}

	n = mustOpenNode(t, dir)
	defer mustClose(t, n)
	// The refused command proves that all entries before it are applied.
	if _, err := n.Propose(within(t), &DeleteTopic{ID: topicID(9)}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if got := encoded(t, n.Image()); string(got) != string(before) {
		t.Errorf("after restart\n%x, want\n%x", got, before)
	}
}

// Enough entries for a snapshot: what a restart reads is the snapshot and the entries behind it.
func TestNodeSnapshot(t *testing.T) {
	dir := t.TempDir()
	n := mustOpenNode(t, dir)
	reg := mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)}).(Registration)
	alloc := func(n *testNode) {
		mustPropose(t, n, &AllocProducerIDs{BrokerID: reg.BrokerID, BrokerEpoch: reg.BrokerEpoch, Expect: n.Image().NextProducerID})
	}
	for range 5 {
		alloc(n)
	}
	if err := n.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	alloc(n)
	mustClose(t, n)
	snaps, err := raft.NewFileSnapshotStore(dir, retainedSnapshots, raftLog{quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := snaps.List(); err != nil || len(list) != 1 {
		t.Fatalf("snapshots %v %v", list, err)
	}
	n = mustOpenNode(t, dir)
	defer mustClose(t, n)
	if _, err := n.Propose(within(t), &DeleteTopic{ID: topicID(9)}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if next := n.Image().NextProducerID; next != 6*ProducerIDBlock {
		t.Errorf("next producer id %d", next)
	}
}

// An entry of a newer version stops the node, with a reason, and still does after a restart.
func TestNodeStopsAtUnknownEntry(t *testing.T) {
	dir := t.TempDir()
	n := mustOpenNode(t, dir)
	mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)})
	if out := n.apply([]byte{99, 1, 0xa0}); !errors.Is(out.err, ErrFormat) {
		t.Fatalf("unknown entry: %v", out.err)
	}
	if err := <-n.failed; !errors.Is(err, ErrFormat) {
		t.Errorf("told %v", err)
	}
	mustClose(t, n)
	n = mustOpenNode(t, dir)
	defer mustClose(t, n)
	if _, err := n.Propose(within(t), &DeleteTopic{}); !errors.Is(err, ErrFormat) {
		t.Errorf("a proposal behind it: %v", err)
	}
}

// Who waits in vain for a leader learns that the disk is full.
func TestProposalTellsOfAFullDisk(t *testing.T) {
	n := mustOpenNode(t, t.TempDir())
	defer mustClose(t, n)
	mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)})
	if err := n.store.update(func(*bbolt.Tx) error { return syscall.ENOSPC }); !full(err) {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.leads = false // as when the vote could not be stored
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Propose(ctx, &DeleteTopic{}); !errors.Is(err, ErrUnavailable) || !full(err) {
		t.Errorf("got %v", err)
	}
}

func TestNodeOfAnotherDirectory(t *testing.T) {
	dir := t.TempDir()
	n := mustOpenNode(t, dir)
	mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)})
	mustClose(t, n)
	o := Options{Dir: dir, ID: "broker-b", Bootstrap: true, Logger: quiet(), OnApply: func(*Image) {}, OnFail: func(error) {}}
	if _, err := OpenNode(o); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("got %v", err)
	}
}

// C6: a group without proposals writes nothing.
func TestIdleNodeWritesNothing(t *testing.T) {
	dir := t.TempDir()
	n := mustOpenNode(t, dir)
	defer mustClose(t, n)
	mustPropose(t, n, &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)})
	last := n.raft.LastIndex()
	before, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	// Longer than any timer of this profile.
	select {
	case err := <-n.failed:
		t.Fatal(err)
	case <-time.After(2*LANTiming.Election + 100*time.Millisecond):
	}
	after, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) || n.raft.LastIndex() != last {
		t.Errorf("entries %d to %d without a proposal", last, n.raft.LastIndex())
	}
}

// Start to the first answer, on an empty directory: the part of start-to-ready that raft takes.
func BenchmarkNodeStart(b *testing.B) {
	for i := range b.N {
		n, err := OpenNode(Options{
			Dir: filepath.Join(b.TempDir(), fmt.Sprint(i)), ID: "a", Bootstrap: true, Logger: quiet(),
			OnApply: func(*Image) {}, OnFail: func(error) {},
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := n.Propose(b.Context(), &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(2)}); err != nil {
			b.Fatal(err)
		}
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
