package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka Streams counts by windows with exactly_once_v2, its state in changelog topics, while the application and the nodes are killed in turn: each record
// counts once.
func TestKafkaStreamsExactlyOnce(t *testing.T) {
	inClients(t)
	java, javac := needCommand(t, "java"), needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "streams")
	version := jarVersion(t, jars, "kafka-streams")
	classes, state := t.TempDir(), t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/WindowedTotals.java")
	s := startSite(t, 3)
	var seeds []string
	for _, m := range s.members {
		seeds = append(seeds, m.kafka)
	}
	for _, topic := range []string{"readings", "totals"} {
		s.members[0].weir("topics", "create", topic, "--partitions", "3")
	}
	output := &lockedBuffer{}
	app := func() (kill func()) {
		cmd := exec.Command(java, "-cp", classPath, "WindowedTotals", strings.Join(seeds, ","), "totals-app", state, "readings", "totals")
		cmd.Stdout, cmd.Stderr = output, output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	kill := app()
	defer func() { kill() }()

	const keys, total = 10, 6000
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	producer, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("readings"))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			for i := range total {
				if i%100 == 0 {
					time.Sleep(500 * time.Millisecond)
				}
				key := fmt.Sprint("device-", i%keys)
				if err := producer.ProduceSync(ctx, &kgo.Record{Value: []byte(fmt.Sprint(key, " ", i)), Key: []byte(fmt.Sprint(i % 3))}).FirstErr(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	whole := func(c clusterStatus) bool {
		return c.Partitions["under_replicated"]+c.Partitions["leaderless"]+c.Partitions["moving"] == 0
	}
	for i := range 2 {
		time.Sleep(7 * time.Second)
		kill()
		kill = app()
		time.Sleep(7 * time.Second)
		victim := s.members[i]
		victim.kill()
		time.Sleep(2 * time.Second)
		victim.start()
		victim.await("all replicas are in sync", whole)
	}
	if err := <-sent; err != nil {
		t.Fatalf("produce: %v\nthe application said:\n%s", err, output)
	}

	reader, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("totals"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	windows := map[string]int{} // the last count of each window of each key
	sums := func() map[string]int {
		sum := map[string]int{}
		for window, n := range windows {
			key, _, _ := strings.Cut(window, "@")
			sum[key] += n
		}
		return sum
	}
	for done := false; !done; {
		fetches := reader.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("counted in the end: %v; want %d of each of %d\nthe application said:\n%s", sums(), total/keys, keys, output)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n, err := strconv.Atoi(string(r.Value))
			if err != nil || n <= windows[string(r.Key)] {
				t.Errorf("%s: %q after %d", r.Key, r.Value, windows[string(r.Key)])
			}
			windows[string(r.Key)] = n
		})
		done = len(sums()) == keys
		for key, n := range sums() {
			if n > total/keys {
				t.Fatalf("%s: counted %d, written %d", key, n, total/keys)
			}
			done = done && n == total/keys
		}
	}
	passed(t, "Kafka Streams", version, "windowed count, exactly_once_v2, RocksDB; application and nodes killed meanwhile")
}

// inClients skips what takes long or needs much software, unless it was asked for by `make clients`.
func inClients(t *testing.T) {
	t.Helper()
	if os.Getenv("WEIR_CLIENTS") == "" {
		t.Skip("runs with the other applications: make clients")
	}
}
