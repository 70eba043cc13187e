package e2e

import (
	"regexp"
	"strconv"
	"testing"
)

// What Kafka's scripts set as quotas of clients holds a Java producer to them, who is told and counts it, and is gone when they are removed.
func TestQuotas(t *testing.T) {
	n := startNode(t)
	s := kafkaTools(t, n)
	passed(t, "Apache Kafka tools", javaVersion(t), "client quotas, verbatim; a producer throttled")
	s.want("kafka-configs", "$B --alter --add-config producer_byte_rate=100000,consumer_byte_rate=10000000 --entity-type users --entity-name ANONYMOUS --entity-type clients --entity-name perf",
		`^Completed updating config for user ANONYMOUS`)
	s.want("kafka-configs", "$B --alter --add-config producer_byte_rate=100000000,controller_mutation_rate=10 --entity-type clients --entity-default", `^Completed updating default config for clients in the cluster`)
	s.want("kafka-configs", "$B --alter --add-config connection_creation_rate=100 --entity-type ips --entity-name 127.0.0.1", `^Completed updating config for ip 127\.0\.0\.1`)
	s.want("kafka-configs", "$B --describe --entity-type users --entity-type clients",
		`^Quota configs for user-principal 'ANONYMOUS', client-id 'perf' are .*producer_byte_rate=100000\.0`)
	s.want("kafka-configs", "$B --describe --entity-type clients --entity-default", `^Quota configs for the default client-id are .*controller_mutation_rate=10\.0`)
	s.want("kafka-configs", "$B --describe --entity-type ips", `^Quota configs for ip '127\.0\.0\.1' are connection_creation_rate=100\.0`)
	s.refused("kafka-configs", "$B --alter --add-config request_percentage=50 --entity-type users --entity-name alice", `request_percentage is not honoured: requests have no threads of their own`)
	s.refused("kafka-configs", "$B --alter --add-config connection_creation_rate=5 --entity-type ips --entity-name localhost", `ip "localhost": want an address`)

	throttled := func() float64 {
		t.Helper()
		out := s.want("kafka-producer-perf-test", "$B --topic load --num-records 1200 --record-size 1000 --throughput -1 --print-metrics "+
			"--command-property client.id=perf", `^1200 records sent`)
		m := regexp.MustCompile(`(?m)^producer-metrics:produce-throttle-time-max:\S* *: ([\d.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("the producer does not say how long it was throttled:\n%s", out)
		}
		ms, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	if ms := throttled(); ms <= 0 {
		t.Errorf("a producer of 1.2 MB at 100 kB/s was throttled for %v ms", ms)
	}
	s.want("kafka-configs", "$B --alter --delete-config producer_byte_rate,consumer_byte_rate --entity-type users --entity-name ANONYMOUS --entity-type clients --entity-name perf",
		`^Completed updating config for user ANONYMOUS`)
	if ms := throttled(); ms != 0 {
		t.Errorf("without the quota the producer was throttled for %v ms", ms)
	}
	if got := kcatRead(t, n, "load", "%o"); len(got) != 2400 {
		t.Errorf("%d records are there", len(got))
	}
}
