package meta

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// E2: nothing that the lost majority may have counted is counted again.
func TestBeginGeneration(t *testing.T) {
	im := mustApply(t, NewImage(),
		&RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)},
		&RegisterBroker{ClusterID: "c", UUID: uuid(2), Nonce: uuid(21)},
		&CreateTopic{Name: "t", ID: topicID(1), Assignment: [][]int32{{1, 2}, {2, 1}}},
		&FenceBrokers{Brokers: []Incarnation{{2, 2}}},
		&AllocProducerIDs{BrokerID: 1, BrokerEpoch: 1})
	for _, g := range []uint32{1, 5, MaxGeneration} {
		next, err := im.BeginGeneration(g)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Check(); err != nil {
			t.Error(err)
		}
		if next.Version < 1<<32 || next.NextBrokerID <= 1000 || next.NextProducerID < 1<<48 || next.ClusterID != "c" || len(next.Brokers()) != 2 {
			t.Errorf("generation %d: %+v", g, next)
		}
		for i, p := range next.Topic("t").Partitions {
			was := im.Topic("t").Partitions[i]
			if int64(p.LeaderEpoch) <= int64(g)<<20 || p.LeaderEpoch <= was.LeaderEpoch || p.Leader != was.Leader || p.LastUnclean != p.LeaderEpoch {
				t.Errorf("generation %d: %+v became %+v", g, was, p)
			}
		}
		for _, bad := range []uint32{0, im.Generation, g, MaxGeneration + 1} {
			if _, err := next.BeginGeneration(bad); !errors.Is(err, ErrRefused) {
				t.Errorf("generation %d after %d: %v", bad, g, err)
			}
		}
		later := mustApply(t, next,
			&CreatePartitions{ID: topicID(1), Expect: next.Topic("t").Version, Assignment: one(1)},
			&RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(12), Held: held(11)})
		ps := later.Topic("t").Partitions
		if ps[2].LeaderEpoch>>20 != ps[0].LeaderEpoch>>20 || ps[0].LeaderEpoch <= next.Topic("t").Partitions[0].LeaderEpoch {
			t.Errorf("generation %d goes on with %+v", g, ps)
		}
		im = next
	}
}

// A recovered member leads alone, and again after a second recovery.
func TestRecoverTwice(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	g.register(1, 11)
	g.caughtUp(g.nodes["a"])
	for _, id := range []string{"a", "b", "c"} {
		g.stop(id)
	}
	for want := uint32(1); want <= 2; want++ {
		r, err := Recover(g.dirs["a"], "a", 0, quiet())
		if err != nil || r.Generation != want {
			t.Fatalf("%+v %v", r, err)
		}
		a := g.start("a", false)
		if g.leader() != a || a.Image().Generation != want || a.Image().Broker(1) == nil {
			t.Errorf("%+v", a.Image())
		}
		g.register(byte(1+want), byte(10*(1+want)))
		g.stop("a")
	}
	if _, err := Recover(g.dirs["a"], "a", 2, quiet()); err == nil || !strings.Contains(err.Error(), "want 3 to") {
		t.Errorf("a generation that was: %v", err)
	}
	if a := g.start("a", false); g.leader() != a || a.Image().Broker(1) == nil || len(a.Image().Brokers()) != 3 {
		t.Errorf("%+v", a.Image().Brokers())
	}
}

// What a recovery has made is found after the clock has gone back, too: its snapshot is of no later entry and term than the one before, and raft then goes by time.
func TestRecoverAfterTheClockWentBack(t *testing.T) {
	g := newGroup(t)
	g.bootstrap("a", "b", "c")
	g.register(1, 11)
	g.caughtUp(g.nodes["a"])
	for _, id := range []string{"a", "b", "c"} {
		g.stop(id)
	}
	if _, err := Recover(g.dirs["a"], "a", 0, quiet()); err != nil {
		t.Fatal(err)
	}
	made, err := filepath.Glob(filepath.Join(g.dirs["a"], "snapshots", "*"))
	if err != nil || len(made) != 1 {
		t.Fatalf("snapshots %q, %v", made, err)
	}
	id := filepath.Base(made[0])
	later := id[:strings.LastIndex(id, "-")] + "-99999999999999"
	about := filepath.Join(made[0], "meta.json")
	b, err := os.ReadFile(about)
	if err == nil {
		err = os.WriteFile(about, bytes.ReplaceAll(b, []byte(id), []byte(later)), 0o600)
	}
	if err := errors.Join(err, os.Rename(made[0], filepath.Join(g.dirs["a"], "snapshots", later))); err != nil {
		t.Fatal(err)
	}
	if r, err := Recover(g.dirs["a"], "a", 0, quiet()); err != nil || r.Generation != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	if a := g.start("a", false); g.leader() != a || a.Image().Generation != 2 {
		t.Errorf("generation %d", a.Image().Generation)
	}
}

// Entries that do not follow the last one come after a snapshot: the file must be good at the next start.
func TestStoreLeavesNoGap(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	fail := func(err error) { t.Error(err) }
	s, err := openStore(dir, fail)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{1, 2, 3, 500, 501} {
		if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: []byte("x"), AppendedAt: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openStore(dir, fail); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first != 500 || last != 501 {
		t.Errorf("entries %d to %d, %v", first, last, err)
	}
}
