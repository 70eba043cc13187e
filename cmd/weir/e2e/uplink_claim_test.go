package e2e

import (
	"encoding/json"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A site's claim that somebody deletes at the target while the gateway runs costs nothing: it carries on, and claims its site again when it begins anew.
func TestUplinkWhoseClaimIsDeleted(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	at := int32(-1)
	claimed := func(n int) (cluster string) { // by the last of n records under the key
		t.Helper()
		client, err := kgo.NewClient(kgo.SeedBrokers(centre.Addr), kgo.ConsumeTopics("weir.uplinks"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for n > 0 {
			fetches := client.PollFetches(t.Context())
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			for r := range fetches.RecordsAll() {
				if string(r.Key) != "site/"+siteOf(t) {
					continue
				}
				n--
				at, cluster = r.Partition, ""
				if r.Value != nil {
					var c struct{ Cluster string }
					if err := json.Unmarshal(r.Value, &c); err != nil {
						t.Fatal(err)
					}
					cluster = c.Cluster
				}
			}
		}
		return cluster
	}
	own := clusterID(t, edge.kafka)
	if got := claimed(1); got != own {
		t.Fatalf("the site is claimed by %q, want %q", got, own)
	}
	produceRecords(t, centre.Addr, &kgo.Record{Topic: "weir.uplinks", Partition: at, Key: []byte("site/" + siteOf(t))})
	produceLines(t, edge.kafka, "telemetry", 70, 70)
	if s := edge.awaitUplink("all is carried", func(s uplinkStatus) bool { return carriedAll(s) && s.Records == 140 }); s.Warning != "" || s.Failures > 0 {
		t.Errorf("without a claim: %+v", s)
	}
	edge.kill()
	edge.start()
	produceLines(t, edge.kafka, "telemetry", 140, 70)
	if s := edge.awaitUplink("all is carried", func(s uplinkStatus) bool { return carriedAll(s) && s.Records == 70 }); s.Warning != "" {
		t.Errorf("it has nobody to complain of: %s", s.Warning)
	}
	if got := claimed(3); got != own {
		t.Errorf("the site is claimed by %q after a new beginning, want %q", got, own)
	}
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 210)
}
