package cluster

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"
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
	p := table.parts[0]
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
