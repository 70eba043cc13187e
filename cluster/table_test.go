package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

func mustTable(t *testing.T, b *Broker, partitions int) *Table {
	t.Helper()
	table, err := b.OpenTable(within(t), TopicSpec{Name: "__table", Partitions: partitions, Internal: true})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func contents(t *testing.T, table *Table) map[string]string {
	t.Helper()
	m := map[string]string{}
	for i := range int32(table.Partitions()) {
		err := table.Load(i, func(key, value []byte) error {
			if value == nil {
				delete(m, string(key))
			} else {
				m[string(key)] = string(value)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// The history that compaction works on: keys written again and again, some deleted. A restart loads the last state.
func TestTableReload(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	table := mustTable(t, b, 3)
	want := map[string]string{}
	done := make(chan error, 2000)
	n := 0
	put := func(key string, value []byte) {
		table.Put(int32(len(key))%3, []byte(key), value, func(err error) { done <- err })
		n++
		if value == nil {
			delete(want, key)
		} else {
			want[key] = string(value)
		}
	}
	for round := range 20 {
		for k := range 50 {
			put(fmt.Sprint("key", k*k), []byte(fmt.Sprint("value", round)))
		}
		put(fmt.Sprint("key", round*round), nil)
		put("empty", []byte{})
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, table); !maps.Equal(got, want) {
		t.Errorf("got %d keys, want %d", len(got), len(want))
	}
	closeBroker(t, b)
	b = openBroker(t, cfg)
	table = mustTable(t, b, 7)
	if table.Partitions() != 3 {
		t.Errorf("%d partitions, the topic has 3", table.Partitions())
	}
	if got := contents(t, table); !maps.Equal(got, want) {
		t.Errorf("after a restart %d keys, want %d", len(got), len(want))
	}
	if policy, _ := ConfigValue(b.Image().Topic("__table"), "cleanup.policy"); policy != "compact" {
		t.Errorf("cleanup.policy %s", policy)
	}
}

func TestTableAnswersInOrderAndOutsidePut(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	w := &locking{told: make(chan struct{}, 1000)}
	next := 0
	for i := range 1000 {
		w.mu.Lock() // done takes it: inside Put it would never get it
		table.Put(0, []byte("k"), []byte("v"), func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err != nil || next != i {
				t.Errorf("answer %d of put %d: %v", next, i, err)
			}
			next++
			w.told <- struct{}{}
		})
		w.mu.Unlock()
	}
	for range 1000 {
		<-w.told
	}
}

func TestTableErrors(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	done := make(chan error, 1)
	table.Put(1, []byte("k"), nil, func(err error) { done <- err })
	if err := <-done; !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("put to a missing partition: %v", err)
	}
	if err := table.Load(-1, nil); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("load of a missing partition: %v", err)
	}
	table.Put(0, []byte("k"), []byte("v"), func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if err := table.Load(0, func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("load goes on: %v", err)
	}
	closeBroker(t, b)
	table.Put(0, []byte("k"), nil, func(err error) { done <- err })
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
}

// Real compaction under a table: it gets smaller and loads the same, also when what stood last were tombstones that are gone now.
func TestTableAfterCompaction(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Log.HousekeepTick = 20 * time.Millisecond
	cfg.Log.CheckpointEvery, cfg.Log.CheckpointIdleEvery = 20*time.Millisecond, 20*time.Millisecond
	cfg.Log.SyncsPerSecond = 100_000 // each put is a commit of its own
	b := openBroker(t, cfg)
	table, err := b.OpenTable(within(t), TopicSpec{Name: "__table", Partitions: 1, Internal: true, Configs: map[string]string{
		"segment.bytes": "16384", "segment.ms": "100", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "0",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	written := int64(0)
	done := make(chan error)
	put := func(key string, value []byte) {
		written += int64(len(key) + len(value))
		table.Put(0, []byte(key), value, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if value == nil {
			delete(want, key)
		} else {
			want[key] = string(value)
		}
	}
	for round := range 60 {
		for k := range 20 {
			put(fmt.Sprint("key", k), fmt.Appendf(nil, "value %d %0100d", round, k))
		}
	}
	for k := range 10 {
		put(fmt.Sprint("key", k), nil)
	}
	p, err := table.partition(0)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); p.Size() > written/4; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d bytes of %d written", p.Size(), written)
		}
	}
	if got := contents(t, table); !maps.Equal(got, want) {
		t.Errorf("after compaction %d keys, want %d", len(got), len(want))
	}
	closeBroker(t, b)
	b = openBroker(t, cfg)
	table = mustTable(t, b, 1)
	if got := contents(t, table); !maps.Equal(got, want) {
		t.Errorf("after a restart %d keys, want %d", len(got), len(want))
	}
}

// elsewhere has the broker know that it does not lead a partition, as if the metadata had given it to another.
func elsewhere(b *Broker, p *Partition) {
	old := b.table.Load()
	next := newPartitionTable(b.id, old.image)
	for _, o := range old.open {
		if o != p {
			next.keep(o)
		}
	}
	b.table.Store(next)
}

// A table is opened whoever leads its partitions; those led elsewhere are refused, and come back without opening it again.
func TestTableWithPartitionsElsewhere(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	mustTable(t, b, 2)
	whole := b.table.Load()
	p, err := b.Partition("__table", 1)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere(b, p)
	table := mustTable(t, b, 2)
	if table.Partitions() != 2 {
		t.Fatalf("%d partitions", table.Partitions())
	}
	done := make(chan error, 1)
	put := func(partition int32) error {
		table.Put(partition, []byte("k"), []byte("v"), func(err error) { done <- err })
		return <-done
	}
	if err := put(0); err != nil {
		t.Errorf("put where it leads: %v", err)
	}
	none := func(_, _ []byte) error { return nil }
	if put, load, settle := put(1), table.Load(1, none), table.Settle(within(t), 1, p.LeaderEpoch()); !errors.Is(put, ErrNotLeader) || !errors.Is(load, ErrNotLeader) || !errors.Is(settle, ErrNotLeader) {
		t.Errorf("where it does not lead: put %v, load %v, settle %v", put, load, settle)
	}
	b.table.Store(whole)
	if err := put(1); err != nil {
		t.Errorf("put after it leads again: %v", err)
	}
}

// What was decided in one term is not written in another.
func TestTableWritesInOneTerm(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	p, err := table.partition(0)
	if err != nil {
		t.Fatal(err)
	}
	term := p.LeaderEpoch()
	done := make(chan error, 1)
	for _, other := range []log.Epoch{term - 1, term + 1} {
		table.PutIn(0, other, []byte("k"), []byte("late"), func(err error) { done <- err })
		if err := <-done; !errors.Is(err, ErrNotLeader) {
			t.Errorf("put in term %d of %d: %v", other, term, err)
		}
		if err := table.Settle(within(t), 0, other); !errors.Is(err, ErrNotLeader) {
			t.Errorf("settled in term %d of %d: %v", other, term, err)
		}
	}
	if p.LogEnd() != 0 {
		t.Error("something was written")
	}
	table.PutIn(0, term, []byte("k"), []byte("v"), func(err error) { done <- err })
	if err := <-done; err != nil || p.LogEnd() != 1 {
		t.Errorf("put in its term: %v", err)
	}
}

// Only a broker that is alone has all of a partition in its journal. // J8
func TestOnlyALoneBrokerGoesAhead(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	if p, err := table.partition(0); err != nil || table.Ahead(0) != p.log {
		t.Errorf("a broker that is alone: %v, %v", table.Ahead(0), err)
	}
	if table.Ahead(1) != nil {
		t.Error("behind a partition that is not there")
	}
	g := openGroup(t, 2)
	both := mustTable(t, g.brokers[0], 2)
	for i := range int32(both.Partitions()) {
		if both.Ahead(i) != nil {
			t.Errorf("partition %d: another broker may have a replica", i)
		}
	}
}

// A follower that comes just then reads what is taken for a commit that is not synced, but nothing that would be there alone if the power went. // H2, J8
func TestFollowersReadNothingThatRestsOnAnUnsyncedJournal(t *testing.T) {
	cfg := testConfig(t.TempDir())
	fault := vfs.NewFault(vfs.OS{})
	cfg.FS = fault
	b := openBroker(t, cfg)
	table := mustTable(t, b, 1)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	if _, err := produce(t, p, oneBatch(7, 0, "x"), -1); err != nil {
		t.Fatal(err)
	}
	gate, syncing, committed := make(chan struct{}), make(chan struct{}, 100), make(chan error, 10)
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) {
		syncing <- struct{}{}
		<-gate
	}})
	read := func(from int64) int {
		n := feedNews{LeaderEpoch: int32(p.LeaderEpoch())}
		return len(p.records(replica.Fetch{Node: b.id + 1, From: from}, feedPartBytes, &n, make([]byte, 0, 1<<16)))
	}
	add := func(seq int32, v log.Verified) {
		p.ProduceVerified(oneBatch(7, seq, "y"), -1, v, func(_ log.Offset, _ int64, err error) { committed <- err })
		<-syncing // it was taken
	}
	add(1, notVerified)
	if read(1) == 0 {
		t.Error("a follower does not read ahead of this disk")
	}
	gate <- struct{}{}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	v := notVerified
	v.Behind = table.Ahead(0)
	add(2, v)
	if read(2) > 0 {
		t.Error("a follower may have alone what rests on an entry that is not durable")
	}
	close(gate)
	if err := <-committed; err != nil || read(2) == 0 {
		t.Errorf("once it is durable: %v, %d bytes", err, read(2))
	}
}

// R3: a partition is loaded once all is known to be committed that was there when the term began.
func TestTableSettles(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	table := mustTable(t, b, 1)
	p, err := table.partition(0)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	term := p.epoch
	p.leader = replica.Lead(replica.Term{Self: b.id, Epoch: int32(term), Start: 1, State: replica.State{ISR: []int32{b.id}}}, 0)
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if err := table.Settle(ctx, 0, term); !errors.Is(err, context.Canceled) || p.Settled() {
		t.Fatalf("settled %t before the high watermark was where the term began: %v", p.Settled(), err)
	}
	watching := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.watchers)
	}
	settled := make(chan error, 1)
	go func() { settled <- table.Settle(within(t), 0, term) }()
	for tick := time.NewTicker(time.Millisecond); watching() == 0; {
		<-tick.C
	}
	if len(settled) > 0 {
		t.Fatalf("settled: %v", <-settled)
	}
	appendAll(t, p, "v")
	if err := <-settled; err != nil || !p.Settled() {
		t.Errorf("settled: %v", err)
	}
	if watching() > 0 {
		t.Error("it watches on")
	}
}

// Nobody leads a partition for a moment after all brokers have lost power, or while its leader restarts: a start that needs it waits.
func TestLoadWaitsForALeader(t *testing.T) {
	g := openGroup(t, 3)
	table, err := g.brokers[0].OpenTable(within(t), TopicSpec{Name: "__state", Partitions: 1, Replicas: 1, Internal: true})
	if err != nil {
		t.Fatal(err)
	}
	leader, _ := g.leaderOf("__state", 0)
	l := slices.Index(g.brokers, leader)
	put := make(chan error, 1)
	(&Table{leader, "__state", table.ID(), 1}).Put(0, []byte("k"), []byte("v"), func(err error) { put <- err })
	if err := <-put; err != nil {
		t.Fatal(err)
	}
	if err := leader.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	other := &Table{g.brokers[(l+1)%3], "__state", table.ID(), 1}
	found := 0
	load := func(ctx context.Context) error {
		found = 0
		return other.LoadAnywhere(ctx, 0, func(_, _ []byte) error { found++; return nil })
	}
	short, cancel := context.WithTimeout(context.Background(), 3*loadRetry)
	defer cancel()
	if err := load(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while its only replica is away: %v", err)
	}
	loaded := make(chan error, 1)
	go func() { loaded <- load(within(t)) }()
	g.start(l)
	if err := <-loaded; err != nil || found != 1 {
		t.Errorf("it found %d records, %v", found, err)
	}
}
