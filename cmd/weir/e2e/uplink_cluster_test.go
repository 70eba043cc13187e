package e2e

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Three nodes are the edge. Whichever of them owns the uplink is killed, stopped for a while and continued (a zombie that still believes it is the owner), and drained:
// the others take over, and the centre has each record once. // U3
func TestUplinkOwnerChanges(t *testing.T) {
	t.Parallel()
	passed(t, "Apache Kafka", kafkaVersion(t), "target of a cluster's uplink, exactly once; its owner killed, hung and continued, drained; read with librdkafka, read_committed")
	centre := centreKafka(t)
	s := startSiteWith(t, 3, []string{"--config", edgeConfig(t, centre.Addr, []string{"topics: [telemetry, alerts]"})})
	rounds := 1
	if os.Getenv("WEIR_SOAK") != "" {
		rounds = 10
	}
	s.members[0].await("three nodes in full", func(c clusterStatus) bool {
		return len(c.Brokers) == 3 && c.Partitions["under_replicated"]+c.Partitions["moving"]+c.Partitions["leaderless"] == 0
	})
	producer, err := kgo.NewClient(kgo.SeedBrokers(s.members[0].kafka, s.members[1].kafka, s.members[2].kafka), kgo.DefaultProduceTopic("telemetry"),
		kgo.ProduceRequestTimeout(2*time.Second), kgo.RequestTimeoutOverhead(time.Second)) // it is not to wait for who hangs
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	produced := 0
	produce := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var records []*kgo.Record
		for range 350 {
			records = append(records, &kgo.Record{Key: fmt.Append(nil, "device-", produced%7), Value: fmt.Append(nil, "reading ", produced)})
			produced++
		}
		if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	owner := func(not *member) *member {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			for _, m := range s.members {
				if m == not {
					continue
				}
				for _, u := range m.uplinks() {
					for _, o := range s.members {
						if u.Node == o.name() && o != not {
							return o
						}
					}
				}
			}
			if time.Now().After(end) {
				t.Fatalf("nobody owns the uplink\n%s", s.members[0].weir("bridge", "status"))
			}
		}
	}
	other := func(m *member) *member {
		if s.members[0] == m {
			return s.members[1]
		}
		return s.members[0]
	}
	inSync := func(c clusterStatus) bool {
		return c.Partitions["under_replicated"]+c.Partitions["moving"]+c.Partitions["leaderless"] == 0
	}
	for range rounds {
		old := owner(nil)
		produce()
		old.kill()
		produce()
		owner(old)
		produce()
		s.start(old)
		old.await("it is in sync again", inSync)

		old = owner(nil)
		produce()
		if err := old.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		produce()
		owner(old)
		produce()
		if err := old.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		produce()
		old.await("it is in sync again", inSync)
	}
	old := owner(nil)
	produce()
	other(old).weir("cluster", "drain", old.name(), "--wait")
	produce()
	if owner(nil) == old {
		t.Error("a drained node owns the uplink")
	}
	other(old).awaitUplink("all is carried", carriedAll)
	compare(t, other(old).kafka, centre.Addr, "telemetry").whole(t, produced)
}
