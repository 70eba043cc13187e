package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// A probe that is under way when memberlist is shut down ends by its own time limit.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func testConfig(dir string) Config {
	return Config{NodeID: "test", DataDir: dir, Log: log.Config{JournalFileBytes: 1 << 20, BallastBytes: -1}, Logger: slog.New(slog.DiscardHandler)}
}

func openBroker(t testing.TB, cfg Config) *Broker {
	t.Helper()
	b, err := Open(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil && b.Err() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func closeBroker(t testing.TB, b *Broker) {
	t.Helper()
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustCreate(t testing.TB, b *Broker, spec TopicSpec) []*Partition {
	t.Helper()
	topic, err := b.CreateTopic(within(t), spec, false)
	if err != nil {
		t.Fatal(err)
	}
	return partitionsOf(t, b, topic)
}

func partitionsOf(t testing.TB, b *Broker, topic *meta.Topic) (ps []*Partition) {
	t.Helper()
	for i := range topic.Partitions {
		p, err := b.Partition(topic.Name, int32(i))
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

// acks collects what a Waiter is told.
type acks struct {
	mu   sync.Mutex
	seqs []uint64
	errs []error
	more chan struct{}
}

func newAcks() *acks { return &acks{more: make(chan struct{}, 1)} }

func (a *acks) Committed(first uint64, n int, err error) {
	a.mu.Lock()
	for i := range n {
		a.seqs, a.errs = append(a.seqs, first+uint64(i)), append(a.errs, err)
	}
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// await returns when n numbers were told.
func (a *acks) await(t testing.TB, n int) {
	t.Helper()
	ctx := within(t)
	for {
		a.mu.Lock()
		have := len(a.seqs)
		a.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-a.more:
		case <-ctx.Done():
			t.Fatalf("%d of %d answers", have, n)
		}
	}
}

func appendAll(t testing.TB, p *Partition, values ...string) {
	t.Helper()
	a := newAcks()
	for i, v := range values {
		if err := p.Append(&log.Record{Timestamp: 1000, Value: []byte(v)}, a, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	a.await(t, len(values))
	for i, err := range a.errs {
		if err != nil || a.seqs[i] != uint64(i) {
			t.Fatalf("answer %d: number %d, %v", i, a.seqs[i], err)
		}
	}
}

func readAll(t testing.TB, p *Partition) (values []string) {
	t.Helper()
	var buf []byte
	var r log.RecordReader
	for next := p.LogStart(); next < p.HighWatermark(); {
		var err error
		if buf, err = p.Read(next, 1<<16, buf); err != nil || len(buf) == 0 {
			t.Fatalf("read at %d: %d bytes, %v", next, len(buf), err)
		}
		for rest := buf; len(rest) > 0; {
			b, err := log.NextBatch(rest, 0)
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[b.Size():]
			if err := r.Reset(b); err != nil {
				t.Fatal(err)
			}
			for {
				var rec log.Record
				more, err := r.Next(&rec)
				if err != nil {
					t.Fatal(err)
				}
				if !more {
					break
				}
				if rec.Offset >= next {
					values = append(values, string(rec.Value))
				}
			}
			next = b.NextOffset()
		}
	}
	return values
}

func numbered(prefix string, n int) (vs []string) {
	for i := range n {
		vs = append(vs, fmt.Sprint(prefix, i))
	}
	return vs
}

// A7: a restart keeps topics and records, and leads in a higher epoch under a higher broker epoch.
func TestRestartKeepsEverything(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	ps := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 2, Configs: map[string]string{"retention.ms": "-1"}})
	mustCreate(t, b, TopicSpec{Name: "b"})
	appendAll(t, ps[1], numbered("v", 100)...)
	if e := ps[1].LeaderEpoch(); e != 0 {
		t.Errorf("first epoch %d", e)
	}
	id, epoch, cluster, topic := b.NodeID(), b.epoch, b.ClusterID(), b.Image().Topic("a")
	producer, err := b.NextProducerID(within(t))
	if err != nil {
		t.Fatal(err)
	}
	closeBroker(t, b)

	b = openBroker(t, cfg)
	if b.NodeID() != id || b.ClusterID() != cluster || b.epoch <= epoch {
		t.Errorf("broker %d of %s, epoch %d after %d", b.NodeID(), b.ClusterID(), b.epoch, epoch)
	}
	again := b.Image().Topic("a")
	if again == nil || again.ID != topic.ID || !maps.Equal(again.Configs, topic.Configs) || len(b.Image().Topics()) != 2 {
		t.Fatalf("topic %+v, was %+v", again, topic)
	}
	ps = partitionsOf(t, b, again)
	if e := ps[1].LeaderEpoch(); e != 1 {
		t.Errorf("epoch after a restart: %d", e)
	}
	if got := readAll(t, ps[1]); !slices.Equal(got, numbered("v", 100)) {
		t.Errorf("%d records after a restart", len(got))
	}
	appendAll(t, ps[1], "more")
	if got := ps[1].HighWatermark(); got != 101 {
		t.Errorf("high watermark %d", got)
	}
	if next, err := b.NextProducerID(within(t)); err != nil || next <= producer {
		t.Errorf("producer id %d after %d: %v", next, producer, err)
	}
}

func TestTopicsAreMadeChangedAndRemoved(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	ctx := within(t)
	var seen []string
	stop := b.WatchTopics(func(im *meta.Image) {
		names := []string{}
		for _, t := range im.Topics() {
			names = append(names, fmt.Sprint(t.Name, len(t.Partitions)))
		}
		seen = append(seen, strings.Join(names, ","))
	})
	planned, err := b.CreateTopic(ctx, TopicSpec{Name: "a"}, true)
	if err != nil || len(planned.Partitions) != 4 || b.Image().Topic("a") != nil {
		t.Fatalf("validate only: %+v %v", planned, err)
	}
	mustCreate(t, b, TopicSpec{Name: "a"})
	for name, c := range map[string]struct {
		spec TopicSpec
		want error
	}{
		"exists":          {TopicSpec{Name: "a"}, ErrTopicExists},
		"name":            {TopicSpec{Name: "a/b"}, ErrInvalidTopic},
		"broker's own":    {TopicSpec{Name: "__a"}, ErrInvalidTopic},
		"partitions":      {TopicSpec{Name: "b", Partitions: meta.MaxPartitions + 1}, ErrInvalidPartitions},
		"replicas":        {TopicSpec{Name: "b", Replicas: 2}, ErrInvalidReplicas},
		"unknown config":  {TopicSpec{Name: "b", Configs: map[string]string{"x": "1"}}, ErrInvalidConfig},
		"config's values": {TopicSpec{Name: "b", Configs: map[string]string{"retention.ms": "soon"}}, ErrInvalidConfig},
	} {
		for _, validateOnly := range []bool{true, false} {
			if _, err := b.CreateTopic(ctx, c.spec, validateOnly); !errors.Is(err, c.want) || Transient(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := b.CreatePartitions(ctx, "a", 6, nil, false); err != nil {
		t.Fatal(err)
	}
	if err := b.CreatePartitions(ctx, "a", 6, nil, false); !errors.Is(err, ErrInvalidPartitions) {
		t.Errorf("no more partitions: %v", err)
	}
	appendAll(t, partitionsOf(t, b, b.Image().Topic("a"))[5], "x")
	p, err := b.Partition("a", 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteTopic(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Partition("a", 0); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("after delete: %v", err)
	}
	if err := p.Append(&log.Record{}, nil, 0); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("append to a deleted partition: %v", err)
	}
	if err := b.DeleteTopic(ctx, "a"); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("deleted twice: %v", err)
	}
	mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1}) // the name is free again, and the topic is empty
	if p, err := b.Partition("a", 0); err != nil || p.LogEnd() != 0 {
		t.Errorf("made again: end %d, %v", p.LogEnd(), err)
	}
	stop()
	mustCreate(t, b, TopicSpec{Name: "b", Partitions: 1})
	if want := []string{"", "a4", "a6", "", "a1"}; !slices.Equal(seen, want) {
		t.Errorf("watched %q, want %q", seen, want)
	}
}

func TestInternalTopicsAreProtected(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	ctx := within(t)
	if _, err := b.OpenTable(ctx, TopicSpec{Name: "__t", Partitions: 1, Internal: true}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"delete":      b.DeleteTopic(ctx, "__t"),
		"partitions":  b.CreatePartitions(ctx, "__t", 9, nil, false),
		"policy":      b.AlterConfigs(ctx, "__t", map[string]string{"cleanup.policy": "delete"}, nil, false),
		"policy back": b.AlterConfigs(ctx, "__t", nil, []string{"cleanup.policy"}, false),
	} {
		if !errors.Is(err, ErrProtected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.AlterConfigs(ctx, "__t", map[string]string{"segment.bytes": "1048576"}, nil, false); err != nil {
		t.Errorf("a harmless config: %v", err)
	}
}

func TestAlterConfigs(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	ctx := within(t)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	value := func() string {
		v, own := ConfigValue(b.Image().Topic("a"), "max.message.bytes")
		return fmt.Sprint(v, own)
	}
	if err := b.AlterConfigs(ctx, "a", map[string]string{"max.message.bytes": "2000"}, nil, true); err != nil || value() != "1114112false" {
		t.Errorf("validate only: %v, now %s", err, value())
	}
	if err := b.AlterConfigs(ctx, "a", map[string]string{"max.message.bytes": "2000"}, nil, false); err != nil || value() != "2000true" {
		t.Errorf("%v, now %s", err, value())
	}
	big := oneBatch(-1, -1, strings.Repeat("x", 3000))
	if _, err := produce(t, p, big, -1); !errors.Is(err, log.ErrTooLarge) || Transient(err) {
		t.Errorf("a batch over the limit: %v", err)
	}
	version := b.Image().Version
	if err := b.AlterConfigs(ctx, "a", map[string]string{"max.message.bytes": "2000"}, []string{"retention.ms"}, false); err != nil || b.Image().Version != version {
		t.Errorf("nothing new: %v, version %d after %d (C6)", err, b.Image().Version, version)
	}
	if err := b.AlterConfigs(ctx, "a", nil, []string{"max.message.bytes"}, false); err != nil || value() != "1114112false" {
		t.Errorf("deleted: %v, now %s", err, value())
	}
	if _, err := produce(t, p, big, -1); err != nil {
		t.Errorf("a batch under the limit again: %v", err)
	}
	if err := b.AlterConfigs(ctx, "a", map[string]string{"max.compaction.lag.ms": "3600000", "min.compaction.lag.ms": "3600000"}, nil, false); err != nil {
		t.Error(err)
	}
	if got := settingsOf(b.Image().Topic("a")).log; got.MaxCompactionLag != time.Hour || got.MinCompactionLag != time.Hour {
		t.Errorf("lags %v and %v", got.MinCompactionLag, got.MaxCompactionLag)
	}
	for name, err := range map[string]error{
		"set":        b.AlterConfigs(ctx, "a", map[string]string{"x": "1"}, nil, false),
		"delete":     b.AlterConfigs(ctx, "a", nil, []string{"x"}, false),
		"least lag":  b.AlterConfigs(ctx, "a", map[string]string{"min.compaction.lag.ms": "3600001"}, nil, false),
		"most lag":   b.AlterConfigs(ctx, "a", map[string]string{"max.compaction.lag.ms": "1"}, nil, true),
		"both":       b.AlterConfigs(ctx, "a", map[string]string{"max.compaction.lag.ms": "1", "min.compaction.lag.ms": "2"}, nil, false),
		"no lag":     b.AlterConfigs(ctx, "a", map[string]string{"max.compaction.lag.ms": "0"}, nil, false),
		"of another": b.AlterConfigs(ctx, "a", map[string]string{"min.compaction.lag.ms": "3600001"}, []string{"retention.ms"}, false),
	} {
		if !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many at once: each topic is made once, producer ids never repeat (C1).
func TestConcurrentChanges(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	ctx := within(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, made := map[int64]bool{}, 0
	for range 8 {
		wg.Go(func() {
			_, err := b.CreateTopic(ctx, TopicSpec{Name: "a", Partitions: 1}, false)
			if err != nil && !errors.Is(err, ErrTopicExists) {
				t.Error(err)
			}
			if cerr := b.AlterConfigs(ctx, "a", map[string]string{"retention.ms": fmt.Sprint(time.Now().UnixNano())}, nil, false); cerr != nil {
				t.Error(cerr)
			}
			for range 300 {
				id, ierr := b.NextProducerID(ctx)
				mu.Lock()
				if ierr != nil || ids[id] {
					t.Errorf("producer id %d again, or %v", id, ierr)
				}
				ids[id] = true
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

// A log that held records and is gone is reported, not made again; other partitions go on.
func TestLostLogIsNotMadeAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	ps := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 2})
	appendAll(t, ps[0], "kept")
	appendAll(t, ps[1], "kept")
	id := ps[0].ID()
	if err := b.log.Delete(id); err != nil {
		t.Fatal(err)
	}
	closeBroker(t, b)

	b = openBroker(t, cfg)
	_, err := b.Partition("a", 0)
	if !errors.Is(err, ErrOffline) || !Transient(err) {
		t.Errorf("the lost partition: %v", err)
	}
	if p, err := b.Partition("a", 1); err != nil || !slices.Equal(readAll(t, p), []string{"kept"}) {
		t.Errorf("the other partition: %v", err)
	}
	if s := b.Stats(); s.Offline != 1 || s.Partitions != 1 {
		t.Errorf("stats %+v", s)
	}
	// The way out that the message names.
	if err := b.DeleteTopic(within(t), "a"); err != nil {
		t.Error(err)
	}
	mustCreate(t, b, TopicSpec{Name: "a", Partitions: 2})
}

// A topic whose creation was committed just before a stop, and whose logs were not made yet, is made at the next start.
func TestCommittedButNeverOpened(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})
	// Stop the applier as a crash would, then commit.
	close(b.closing)
	b.stopLog()
	b.workers.Wait()
	if _, err := b.controller.createTopic(within(t), TopicSpec{Name: "late", Partitions: 2}, false); err != nil {
		t.Fatal(err)
	}
	// And a deletion whose logs were not removed yet.
	if _, err := b.controller.deleteTopic(within(t), "a"); err != nil {
		t.Fatal(err)
	}
	b.closing = make(chan struct{})
	closeBroker(t, b)

	b = openBroker(t, cfg)
	appendAll(t, partitionsOf(t, b, b.Image().Topic("late"))[1], "x")
	if n := len(b.log.Partitions()); n != 2 {
		t.Errorf("%d logs, want those of one topic", n)
	}
}

func TestDirectoriesThatDoNotFit(t *testing.T) {
	prepare := func(t *testing.T) string {
		dir := t.TempDir()
		b := openBroker(t, testConfig(dir))
		appendAll(t, mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0], "acked")
		closeBroker(t, b)
		return dir
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, dir string)
		want string
	}{
		"without identity": {func(t *testing.T, dir string) { remove(t, dir, identityFile) }, "meta.cbor is missing"},
		"without metadata": {func(t *testing.T, dir string) { remove(t, dir, "raft") }, "raft/raft.db, is missing"},
		"identity of another": {func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(prepare(t), identityFile), filepath.Join(dir, identityFile))
		}, "another node"},
		"damaged identity":     {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, identityFile), []byte("garbage")) }, "damaged"},
		"empty metadata":       {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "raft", "raft.db"), nil) }, "another node"},
		"in use":               {func(t *testing.T, dir string) { openBroker(t, testConfig(dir)) }, "lock"},
		"identity of yore, E5": {restoreOldIdentity, "old copy"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := prepare(t)
			c.harm(t, dir)
			b, err := Open(within(t), testConfig(dir))
			if err == nil {
				closeBroker(t, b)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want it to say %q", err, c.want)
			}
		})
	}
}

func restoreOldIdentity(t *testing.T, dir string) {
	old, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	closeBroker(t, openBroker(t, testConfig(dir)))
	writeFile(t, filepath.Join(dir, identityFile), old)
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, b)
}

func TestConfigFaultsAreToldTogether(t *testing.T) {
	err := Config{KafkaPort: 70000, DefaultPartitions: -1}.Validate()
	for _, want := range []string{"data directory", "kafka port", "default partitions"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
}

// The log of a node may be on any file system, the metadata file is on the operating system's.
var _ vfs.FS = vfs.OS{}

// Start to ready on an empty directory, and on one that was closed cleanly.
func BenchmarkOpen(b *testing.B) {
	for _, again := range []bool{false, true} {
		b.Run(map[bool]string{false: "empty", true: "again"}[again], func(b *testing.B) {
			cfg := testConfig("")
			cfg.Log = log.Config{}
			for i := range b.N {
				if !again || i == 0 {
					cfg.DataDir = b.TempDir()
				}
				broker, err := Open(b.Context(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				if again && i == 0 {
					mustCreate(b, broker, TopicSpec{Name: "telemetry"})
					b.ResetTimer()
				}
				b.StopTimer()
				closeBroker(b, broker)
				b.StartTimer()
			}
		})
	}
}

// Whoever makes a topic, and says nothing of a config, gets the node's default; what is internal is left alone.
func TestDefaultConfigs(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.DefaultConfigs = map[string]string{"retention.ms": "1000", "segment.bytes": "1048576"}
	b := openBroker(t, cfg)
	topic, err := b.CreateTopic(t.Context(), TopicSpec{Name: "a", Configs: map[string]string{"retention.ms": "2000"}}, false)
	if err != nil || topic.Configs["retention.ms"] != "2000" || topic.Configs["segment.bytes"] != "1048576" {
		t.Errorf("got %v %v", topic, err)
	}
	internal, err := b.CreateTopic(t.Context(), TopicSpec{Name: "__b", Internal: true}, false)
	if err != nil || len(internal.Configs) != 0 {
		t.Errorf("internal: %v %v", internal, err)
	}
	cfg = testConfig(t.TempDir())
	cfg.DefaultConfigs = map[string]string{"retention.ms": "soon"}
	if err := cfg.Validate(); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("a bad default: %v", err)
	}
}
