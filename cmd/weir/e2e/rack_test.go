package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Consumers that say in which zone they are read from the replica there (KIP-392), all of the topic, and go on at the leader when it is gone.
func TestConsumersReadNearby(t *testing.T) {
	kcat, java, javac := needCommand(t, "kcat"), needCommand(t, "java"), needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/NearbyReader.java")

	zones := []string{"north", "south", "west"}
	s := startSite(t, 3, zones...)
	const records = 500
	s.members[0].weir("topics", "create", "t", "--partitions", "1", "--replicas", "3")
	run(t, lines(0, records), bins.weir, "--bootstrap", s.members[0].kafka, "produce", "t")
	s.members[0].await("all replicas are in sync", func(c clusterStatus) bool { return c.Partitions["under_replicated"]+c.Partitions["leaderless"] == 0 })

	leader := s.leads("t", func(int) int { return 0 })
	at := slices.IndexFunc(s.members, func(m *member) bool { return m != leader })
	near, zone := s.members[at], zones[at]

	served := func(m *member) int { return metric(t, m.http, "weir_kafka_fetch_bytes_total") }
	// nearby checks that the replica has served, and not the leader.
	nearby := func(client string, read func()) {
		t.Helper()
		byLeader, byReplica := served(leader), served(near)
		read()
		if l, r := served(leader)-byLeader, served(near)-byReplica; l > 0 || r < records*10 {
			t.Errorf("%s: the leader has sent %d bytes, the replica %d", client, l, r)
		}
	}
	nearby("Java", func() {
		out := run(t, "", java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "NearbyReader", leader.kafka, "t", zone, fmt.Sprint(records))
		if !strings.Contains(out, fmt.Sprint("read ", records)) {
			t.Errorf("the client said:\n%s", out)
		}
	})
	nearby("librdkafka", func() {
		out := run(t, "", kcat, "-b", leader.kafka, "-C", "-t", "t", "-e", "-q", "-X", "client.rack="+zone, "-X", "isolation.level=read_uncommitted")
		if got := strings.Count(out, "\n"); got != records {
			t.Errorf("kcat read %d records", got)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var consumer *kgo.Client
	read := func(n int) {
		t.Helper()
		for n > 0 {
			fetches := consumer.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("%d records are missing: %v", n, errors.Join(ctx.Err(), fetches.Err()))
			}
			n -= fetches.NumRecords()
		}
	}
	nearby("franz-go", func() { // which fetches from the moment on that it is there
		var err error
		consumer, err = kgo.NewClient(kgo.SeedBrokers(leader.kafka), kgo.Rack(zone), kgo.ConsumeTopics("t"),
			kgo.RecheckPreferredReplicaInterval(2*time.Second)) // before, franz-go does not leave a replica, be it gone
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(consumer.Close)
		read(records)
	})
	near.kill()
	run(t, lines(records, 10), bins.weir, "--bootstrap", leader.kafka, "produce", "t")
	read(10)
}

// metric is the value of a metric of a node.
func metric(t *testing.T, addr, name string) (value int) {
	t.Helper()
	_, body := get(t, "GET", "http://"+addr+"/metrics")
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			var f float64
			if _, err := fmt.Sscan(v, &f); err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
