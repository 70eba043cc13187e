package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A client that makes a thousand topics in a loop, and deletes them, gets what it asks for, in bounded time, memory, metadata and disk; the node lists them
// right, also after a restart, and when they are gone nothing of them is left.
func TestAThousandTopics(t *testing.T) {
	const topics, bytesEach = 1000, 64 << 10
	n := startNode(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	listed := func() (names map[string]bool) {
		t.Helper()
		var all []struct{ Topic string }
		if err := json.Unmarshal([]byte(run(t, "", bins.weir, "topics", "list", "--json", "--bootstrap", n.kafka)), &all); err != nil {
			t.Fatal(err)
		}
		names = map[string]bool{}
		for _, topic := range all {
			names[topic.Topic] = true
		}
		return names
	}
	was, wasMeta := residentBytes(t, n), metadataBytes(t, n)
	began := time.Now()
	for i := range topics {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, fmt.Sprintf("many-%d", i)); err != nil {
			t.Fatalf("topic %d: %v", i, err)
		}
	}
	took := time.Since(began)
	if got := listed(); len(got) != topics+1 || !got["many-0"] || !got[fmt.Sprintf("many-%d", topics-1)] {
		t.Errorf("%d topics are listed", len(got))
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "many-500", Value: []byte("x")}).FirstErr(); err != nil {
		t.Errorf("a record for one of them: %v", err)
	}
	grew, meta := residentBytes(t, n)-was, metadataBytes(t, n)-wasMeta
	t.Logf("%d topics in %v: %d bytes of memory each, %d of metadata", topics, took.Round(time.Millisecond), grew/topics, meta/topics)
	if grew > topics*bytesEach {
		t.Errorf("%d bytes more memory for %d topics", grew, topics)
	}
	if meta > topics*8<<10 {
		t.Errorf("%d bytes more metadata for %d topics", meta, topics)
	}
	n.stop()
	n.start()
	if got := listed(); len(got) != topics+1 {
		t.Errorf("%d topics are listed after a restart", len(got))
	}
	cl.Close()
	if cl, err = kgo.NewClient(kgo.SeedBrokers(n.kafka)); err != nil {
		t.Fatal(err)
	}
	admin = kadm.NewClient(cl)
	for i := range topics {
		got, err := admin.DeleteTopics(ctx, fmt.Sprintf("many-%d", i))
		if err != nil || got.Error() != nil {
			t.Fatalf("delete topic %d: %v, %v", i, err, got.Error())
		}
	}
	if got := listed(); len(got) != 1 || !got["telemetry"] {
		t.Errorf("listed behind the last: %v", got)
	}
	n.stop()
	left, err := filepath.Glob(filepath.Join(n.dir, "topics", "many-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%d directories of deleted topics are left, %v", len(left), err)
	}
}

func residentBytes(t *testing.T, n *node) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		t.Skipf("no /proc to see the node's memory in: %v", err)
	}
	kib, err := strconv.ParseInt(regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindStringSubmatch(string(status))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func metadataBytes(t *testing.T, n *node) (bytes int64) {
	t.Helper()
	if err := filepath.WalkDir(filepath.Join(n.dir, "raft"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil { // a snapshot may be replaced meanwhile
				bytes += info.Size()
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return bytes
}
