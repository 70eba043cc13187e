package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
)

// fullPlace is where a record stands on the edge.
type fullPlace struct {
	partition int32
	offset    int64
}

// The centre is away, and the edge has a small quota: it thins what waits, and is killed again and again meanwhile. When the centre is back each offset is there, or it was told as
// given up for room and its last of the minute is there; nothing went as a whole, nobody who publishes was held, and `weir bridge verify` says the same. // K3, U10
func TestUplinkThinsWhileItsDiskIsFull(t *testing.T) {
	t.Parallel()
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink with on_full: thin that was away until the edge's quota was used up, the edge killed meanwhile")
	centre := &apache.Kafka{Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka")}
	need(t, apache.Found(centre.Jars), "Apache Kafka")
	if err := centre.Format(peerPort(t)); err != nil {
		t.Fatalf("Apache Kafka: %v", err)
	}
	config := edgeConfig(t, centre.Addr, []string{"topics: [lasts]", "on_full: thin", "lanes: [{topics: [lasts], thin: {after: 1h, last_over: 1m}}]"})
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	const quota = 3 << 20 // more than a round: what is replayed after a kill may be one segment, and the last is not thinned
	if err := os.WriteFile(config, fmt.Appendf(text, "log: {disk_quota: %d}\n", quota), 0o600); err != nil {
		t.Fatal(err)
	}
	edge := startNode(t, "--config", config)
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "topics", "create", "lasts", "--partitions", "2", "--replicas", "1", "--config", "segment.bytes=65536")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	ledger := map[fullPlace]*kgo.Record{}
	begun := time.Now()
	produce := func(from time.Time, n int) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(edge.kafka), kgo.DefaultProduceTopic("lasts"), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for n > 0 { // batches of some tens
			var some []*kgo.Record
			for range min(n, 1+rng.IntN(80)) {
				n--
				from = from.Add(time.Second)
				some = append(some, &kgo.Record{Key: fmt.Appendf(nil, "device-%d", rng.IntN(4)), Timestamp: from, Value: fmt.Appendf(nil, `{"temp": %d, "note": "%0120x"}`, rng.IntN(100), rng.Uint64())})
			}
			if err := c.ProduceSync(t.Context(), some...).FirstErr(); err != nil {
				t.Fatalf("who publishes is held: %v", err)
			}
			for _, r := range some {
				ledger[fullPlace{r.Partition, r.Offset}] = r
			}
		}
	}

	for i := range 5 {
		before := metric(t, edge.http, "weir_log_thinned_records_total")
		produce(begun.Add(-24*time.Hour+time.Duration(i)*4*time.Hour), 8000)
		for end := time.Now().Add(11 * time.Second); time.Now().Before(end) && metric(t, edge.http, "weir_log_thinned_records_total") == before; { // housekeeping comes every 10 s
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond) // not synchronisation: it is random on purpose where in its work it is killed
		edge.kill()
		edge.start()
	}
	produce(begun, 100)
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if n := segmentBytes(t, filepath.Join(edge.dir, "topics"), "lasts-"); n <= quota {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%d bytes with a quota of %d: %s", n, quota, edge.stderr)
		}
	}

	t.Cleanup(centre.Kill)
	startAgain(t, centre)
	s := edge.awaitUplink("all is carried", func(s uplinkStatus) bool { return carriedAll(s) && s.Records > 0 })
	if s.GapRecords > 0 || s.Full == 0 {
		t.Errorf("%+v", s)
	}
	v, ok := edge.verify()
	if !ok {
		t.Errorf("weir bridge verify: %+v", v)
	}
	var full, told int64
	for _, p := range v.Partitions {
		full, told = full+p.Full, told+p.Full+p.Thinned
		if p.Records != p.Arrived+p.LeftOut || p.Filtered+p.Averaged > 0 {
			t.Errorf("%+v", p)
		}
	}

	arrived := map[fullPlace]bool{}
	left := map[fullPlace]bool{}
	counted := int64(0)
	tell := func(partition int32, text string) {
		for one := range strings.SplitSeq(text, ", ") {
			if one == "" {
				continue
			}
			words := strings.Fields(one)
			var first, last int64
			if n, err := fmt.Sscanf(words[0], "%d-%d", &first, &last); n != 2 || err != nil {
				t.Fatalf("%q", text)
			}
			for o := first; o <= last; o++ {
				left[fullPlace{partition, o}] = true
			}
			for _, w := range words[1:] {
				_, n, _ := strings.Cut(w, "=")
				count, err := strconv.ParseInt(n, 10, 64)
				if err != nil {
					t.Fatalf("%q", text)
				}
				counted += count
			}
		}
	}
	for _, r := range readTopic(t, centre.Addr, atCentre(t, "lasts"), int(s.Records)) {
		parts := strings.Split(header(r, "weir.origin"), "/")
		p, _ := strconv.Atoi(parts[2])
		o, err := strconv.ParseInt(parts[3], 10, 64)
		at := fullPlace{int32(p), o}
		if was := ledger[at]; err != nil || was == nil || arrived[at] || string(was.Value) != string(r.Value) || string(was.Key) != string(r.Key) || !was.Timestamp.Truncate(time.Millisecond).Equal(r.Timestamp) {
			t.Fatalf("%+v is %s, and was %+v", at, r.Value, was)
		}
		arrived[at] = true
		tell(at.partition, header(r, "weir.left-out"))
	}
	for partition, text := range leftByCursor(t, centre.Addr, clusterID(t, edge.kafka)) {
		tell(partition, text)
	}
	type group struct{ key, minute string }
	last := map[group]fullPlace{}
	missing := int64(0)
	for at, r := range ledger {
		g := group{string(r.Key), fmt.Sprint(r.Timestamp.UnixMilli() / 60_000)}
		if l, there := last[g]; !there || at.offset > l.offset {
			last[g] = at
		}
		young := r.Timestamp.After(begun.Add(-time.Minute))
		switch {
		case arrived[at] && left[at]:
			t.Errorf("%+v has arrived, and was told as left out", at)
		case !arrived[at] && (!left[at] || young):
			t.Errorf("%+v has not arrived; told %v, young %v", at, left[at], young)
		case !arrived[at]:
			missing++
		}
	}
	for g, at := range last {
		if !arrived[at] {
			t.Errorf("%+v is the last of %v, and has not arrived", at, g)
		}
	}
	if counted != missing || told != missing || s.Full > full {
		t.Errorf("%d records have not arrived; told were %d, verify has %d, and the node %d of them as full", missing, counted, told, s.Full)
	}
	t.Logf("%d records, %d arrived, %d were told as left out, %d of them given up for room", len(ledger), len(arrived), missing, full)
	if full < 8000 {
		t.Errorf("only %d records were given up for room: the test proves little", full)
	}
}

// segmentBytes is the size of a topic's segments on the disk.
func segmentBytes(t *testing.T, dir, topic string) (total int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, topic+"*", "*", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segments in %s: %v", dir, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			total += info.Size()
		}
	}
	return total
}

// leftByCursor is what the newest cursors at the target say to be left out, in the words of the header.
func leftByCursor(t *testing.T, addr, cluster string) map[int32]string {
	t.Helper()
	found := map[int32]string{}
	for _, r := range committed(t, addr, "weir.uplinks") {
		if !strings.HasPrefix(string(r.Key), cluster+"/central/") {
			continue
		}
		var c struct {
			Partition int32
			Left      []struct{ From, To, Full, Thinned int64 }
		}
		if err := json.Unmarshal(r.Value, &c); err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, l := range c.Left {
			all = append(all, fmt.Sprintf("%d-%d full=%d thinned=%d", l.From, l.To-1, l.Full, l.Thinned))
		}
		found[c.Partition] = strings.Join(all, ", ")
	}
	return found
}
