package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// kafkaScripts are the classes behind Apache Kafka's scripts, as its bin/ directory names them: each of those does no more than run its class.
var kafkaScripts = map[string]string{
	"kafka-features":            "FeatureCommand",
	"kafka-topics":              "TopicCommand",
	"kafka-configs":             "ConfigCommand",
	"kafka-console-producer":    "ConsoleProducer",
	"kafka-console-consumer":    "consumer.ConsoleConsumer",
	"kafka-consumer-groups":     "consumer.group.ConsumerGroupCommand",
	"kafka-groups":              "GroupsCommand",
	"kafka-acls":                "AclCommand",
	"kafka-get-offsets":         "GetOffsetShell",
	"kafka-delete-records":      "DeleteRecordsCommand",
	"kafka-log-dirs":            "LogDirsCommand",
	"kafka-leader-election":     "LeaderElectionCommand",
	"kafka-reassign-partitions": "reassign.ReassignPartitionsCommand",
	"kafka-broker-api-versions": "BrokerApiVersionsCommand",
	"kafka-cluster":             "ClusterTool",
	"kafka-producer-perf-test":  "ProducerPerformance",
	"kafka-consumer-perf-test":  "ConsumerPerformance",
	"kafka-verifiable-producer": "VerifiableProducer",
	"kafka-verifiable-consumer": "VerifiableConsumer",
}

// scripts runs Apache Kafka's scripts against one node, each in a process of its own as its user does.
type scripts struct {
	t         *testing.T
	java      string
	bootstrap string
	files     string
}

func kafkaTools(t *testing.T, n *node) *scripts {
	t.Helper()
	s := &scripts{t: t, java: needCommand(t, "java"), bootstrap: n.kafka, files: t.TempDir()}
	found, _ := filepath.Glob(filepath.Join(cacheDir(), "java", "kafka-tools-*.jar"))
	need(t, len(found) > 0, "Apache Kafka's tools (kafka-tools)")
	archiveClasses.Do(func() {
		_, _ = s.execute("", "-XX:ArchiveClassesAtExit="+classArchive(), "TopicCommand", "--bootstrap-server "+n.kafka+" --list")
	})
	return s
}

// archiveClasses has the classes of a first run be kept as the next ones load them, which halves the time that each takes to start.
var archiveClasses sync.Once

func classArchive() string { return filepath.Join(filepath.Dir(bins.weir), "kafka-tools.jsa") }

// run runs a script and returns what it printed; $B in its arguments stands for --bootstrap-server and the node's address.
func (s *scripts) run(stdin, script, args string) (out string, err error) {
	s.t.Helper()
	class, ok := kafkaScripts[script]
	if !ok {
		s.t.Fatalf("no script %s", script)
	}
	return s.execute(stdin, "-XX:SharedArchiveFile="+classArchive(), class, strings.ReplaceAll(args, "$B", "--bootstrap-server "+s.bootstrap))
}

func (s *scripts) execute(stdin, archive, class, args string) (out string, err error) {
	s.t.Helper()
	command := []string{
		archive, "-Xlog:disable", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", // they end before more could be gained from compiling
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", filepath.Join(cacheDir(), "java", "*"), "org.apache.kafka.tools." + class,
	}
	return tryRun(s.t, stdin, s.java, append(command, strings.Fields(args)...)...)
}

// want runs a script that has to succeed and to print something that each of the patterns matches.
func (s *scripts) want(script, args string, patterns ...string) string {
	s.t.Helper()
	return s.wantOf("", script, args, patterns...)
}

func (s *scripts) wantOf(stdin, script, args string, patterns ...string) string {
	s.t.Helper()
	out, err := s.run(stdin, script, args)
	if err != nil {
		s.t.Errorf("%s %s: %v", script, args, err)
	}
	s.match(out, script, args, patterns)
	return out
}

// refused runs a script that has to be told why not.
func (s *scripts) refused(script, args string, patterns ...string) {
	s.t.Helper()
	out, _ := s.run("", script, args) // some of them end with 0 all the same
	s.match(out, script, args, patterns)
}

func (s *scripts) match(out, script, args string, patterns []string) {
	s.t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(out) {
			s.t.Errorf("%s %s: nothing is like %q in\n%s", script, args, p, out)
		}
	}
}

// file writes what a script is to read, and returns its name.
func (s *scripts) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.files, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// What the documentation of Apache Kafka tells an operator to type works on a node: topics and their configs, records in and out, groups and their offsets.
func TestKafkaScripts(t *testing.T) {
	n := startNode(t)
	s := kafkaTools(t, n)
	passed(t, "Apache Kafka tools", javaVersion(t), "topics, configs, console producer and consumer, groups, offsets, log dirs, elections, verbatim")
	s.want("kafka-topics", "$B --create --topic orders --partitions 3 --replication-factor 1 --config retention.ms=86400000", `^Created topic orders\.$`)
	s.refused("kafka-topics", "$B --create --topic no --config segment.jitter.ms=5", `segment\.jitter\.ms is always "0": segments are begun when they are due`)
	s.refused("kafka-topics", "$B --create --topic no --config file.delete.delay.ms=5", `file\.delete\.delay\.ms is not honoured: segments are deleted`)
	s.want("kafka-topics", "$B --describe --topic orders", `PartitionCount: 3\s+ReplicationFactor: 1\s+Configs: retention\.ms=86400000`, `Partition: 2\s+Leader: 1\s+Replicas: 1\s+Isr: 1\s+Elr: *\s`)
	s.want("kafka-configs", "$B --alter --entity-type topics --entity-name orders --add-config max.message.bytes=65536,cleanup.policy=[compact,delete] --delete-config retention.ms", `Completed updating config for topic orders`)
	s.want("kafka-configs", "$B --describe --entity-type topics --entity-name orders", `^  cleanup\.policy=compact,delete `, `^  max\.message\.bytes=65536 `)
	s.want("kafka-features", "$B describe", `^Feature: transaction\.version\s+SupportedMinVersion: 0\s+SupportedMaxVersion: 2\s+FinalizedVersionLevel: 2\s+Epoch: 0$`)
	s.want("kafka-configs", "$B --describe --entity-type brokers --entity-name 1 --all", `^  broker\.id=1 .*STATIC_BROKER_CONFIG`, `^  log\.retention\.ms=604800000 .*DEFAULT_CONFIG`)
	s.refused("kafka-configs", "$B --alter --entity-type brokers --entity-name 1 --add-config log.retention.ms=1", `brokers are configured by their file`)

	s.wantOf("a:1\nb:2\nc:3\n", "kafka-console-producer", "$B --topic orders --reader-property parse.key=true --reader-property key.separator=:")
	if got := kcatRead(t, n, "orders", "%k=%s"); len(got) != 3 {
		t.Errorf("kcat reads %q", got)
	}
	s.want("kafka-console-consumer", "$B --topic orders --group clerks --from-beginning --max-messages 3 --formatter-property print.key=true", `^a\t1$`, `^b\t2$`, `^c\t3$`, `Processed a total of 3 messages`)
	s.want("kafka-get-offsets", "$B --topic orders", `^orders:[012]:[123]$`)
	s.want("kafka-consumer-groups", "$B --list --state", `^clerks\s+Empty`)
	s.want("kafka-groups", "$B --list", `^clerks\s`)
	s.want("kafka-configs", "$B --alter --entity-type groups --entity-name clerks --add-config consumer.heartbeat.interval.ms=5000", `Completed updating config for group clerks`)
	s.want("kafka-configs", "$B --describe --entity-type groups --entity-name clerks", `^  consumer\.heartbeat\.interval\.ms=5000 `)
	s.refused("kafka-configs", "$B --alter --entity-type groups --entity-name clerks --add-config consumer.session.timeout.ms=1", `consumer\.session\.timeout\.ms="1": want 6000 to 1800000`)
	s.want("kafka-consumer-groups", "$B --describe --group clerks", `has no active members`, `^clerks\s+orders\s+[012]\s+([123])\s+[123]\s+0\s`)
	s.want("kafka-consumer-groups", "$B --group clerks --reset-offsets --topic orders --to-earliest --execute", `^clerks\s+orders\s+[012]\s+0`)
	kept := s.want("kafka-consumer-groups", "$B --group clerks --reset-offsets --all-topics --to-current --dry-run --export", `^orders,[012],0$`)
	s.want("kafka-consumer-groups", "$B --group clerks --reset-offsets --execute --from-file "+s.file("offsets.csv", kept), `^clerks\s+orders\s+[012]\s+0`)
	s.want("kafka-console-consumer", "$B --topic orders --group clerks --max-messages 3", `^1$`, `^2$`, `^3$`)
	s.want("kafka-consumer-groups", "$B --group clerks --delete-offsets --topic orders:0", `^orders\s+0\s+Successful`)
	s.want("kafka-consumer-groups", "$B --group clerks --delete", `Deletion of requested consumer groups \('clerks'\) was successful`)

	from := kcatRead(t, n, "orders", "%p")[0]
	s.want("kafka-delete-records", "$B --offset-json-file "+s.file("delete.json", fmt.Sprintf(`{"version":1,"partitions":[{"topic":"orders","partition":%s,"offset":-1}]}`, from)), `partition: orders-`+from+`\s+low_watermark: [123]`)
	s.want("kafka-get-offsets", "$B --topic orders --time earliest", `^orders:`+from+`:[123]$`)
	s.want("kafka-log-dirs", "$B --describe --topic-list orders", `"logDir":"`+regexp.QuoteMeta(n.dir)+`"`, `"partition":"orders-`+from+`","size":\d+,"offsetLag":0,"isFuture":false`)
	s.want("kafka-leader-election", "$B --election-type preferred --topic orders --partition 0", `Valid replica already elected for partitions orders-0`)
	s.want("kafka-cluster", "cluster-id $B", `^Cluster ID: [\w-]{22}$`)
	s.want("kafka-broker-api-versions", "$B", `DescribeLogDirs\(35\): 1 to 5 \[usable: 5\]`, `DescribeTopicPartitions\(75\): 0 \[usable: 0\]`)
	s.want("kafka-topics", "$B --delete --topic orders")
	if out := s.want("kafka-topics", "$B --list", `^telemetry$`); strings.Contains(out, "orders") {
		t.Errorf("it is not gone:\n%s", out)
	}
}

// Kafka's own load generators get through, and read back what they were told is stored.
func TestKafkaLoadScripts(t *testing.T) {
	n := startNode(t)
	s := kafkaTools(t, n)
	passed(t, "Apache Kafka tools", javaVersion(t), "perf tests, verifiable producer and consumer, verbatim")
	s.want("kafka-producer-perf-test", "$B --topic load --num-records 20000 --record-size 200 --throughput -1", `^20000 records sent`)
	s.want("kafka-consumer-perf-test", "$B --topic load --num-records 20000", `, 20000, `)
	s.want("kafka-verifiable-producer", "$B --topic checked --max-messages 100 --throughput -1 --acks -1", `"sent":100,"acked":100`)
	s.want("kafka-verifiable-consumer", "$B --topic checked --group-id checkers --max-messages 100 --reset-policy earliest", `"name":"records_consumed","count":100`, `"name":"offsets_committed".*"success":true`)
	if got := kcatRead(t, n, "checked", "%s"); len(got) != 100 {
		t.Errorf("kcat reads %d records", len(got))
	}
}

// On a cluster Kafka's scripts move partitions and back, give leaderships back, and show who is away.
func TestKafkaScriptsOnACluster(t *testing.T) {
	site := startSite(t, 3)
	first := site.members[0]
	s := kafkaTools(t, first.node)
	passed(t, "Apache Kafka tools", javaVersion(t), "reassignments, elections and rollback on three nodes, verbatim")
	ids := map[string]*member{}
	for _, k := range first.status().Brokers {
		for _, m := range site.members {
			if k.Kafka == m.kafka {
				ids[fmt.Sprint(k.ID)] = m
			}
		}
	}
	if len(ids) != 3 {
		t.Fatalf("brokers are %v", ids)
	}
	s.want("kafka-topics", "$B --create --topic moved --replica-assignment 1:2,2:3,3:1", `^Created topic moved`)
	s.want("kafka-topics", "$B --describe --topic moved", `Partition: 0\s+Leader: 1\s+Replicas: 1,2\s`, `Partition: 1\s+Leader: 2\s+Replicas: 2,3\s`, `Partition: 2\s+Leader: 3\s+Replicas: 3,1\s`)

	plan := s.file("plan.json", `{"version":1,"partitions":[{"topic":"moved","partition":0,"replicas":[3,2]},{"topic":"moved","partition":1,"replicas":[1,2,3]}]}`)
	out := s.want("kafka-reassign-partitions", "$B --reassignment-json-file "+plan+" --execute", `Successfully started partition reassignments for moved-0,moved-1`)
	first.await("no move is under way", func(c clusterStatus) bool { return c.Partitions["moving"] == 0 })
	s.want("kafka-reassign-partitions", "$B --reassignment-json-file "+plan+" --verify", `Reassignment of partition moved-0 is completed`, `Reassignment of partition moved-1 is completed`, `Clearing broker-level throttles`)
	s.want("kafka-reassign-partitions", "$B --list", `No partition reassignments found`)
	back := s.file("back.json", regexp.MustCompile(`(?m)^\{.*\}$`).FindString(out)) // as the script printed it, log directories included
	s.want("kafka-reassign-partitions", "$B --reassignment-json-file "+back+" --execute", `Successfully started partition reassignments`, `Successfully started moving log directory`)
	s.refused("kafka-reassign-partitions", "$B --reassignment-json-file "+plan+" --execute --throttle 1000 --additional", `replication is not throttled`)
	first.await("no move is under way", func(c clusterStatus) bool { return c.Partitions["moving"] == 0 })
	s.want("kafka-topics", "$B --describe --topic moved", `Partition: 0\s+Leader: \d\s+Replicas: 1,2\s`, `Partition: 1\s+Leader: \d\s+Replicas: 2,3\s`)

	// The one that is asked stays.
	away := "3"
	if ids[away] == first {
		away = "2"
	}
	ids[away].stop()
	first.await("it is away", func(c clusterStatus) bool {
		for _, k := range c.Brokers {
			if fmt.Sprint(k.ID) == away {
				return k.State == "gone" || k.State == "fenced"
			}
		}
		return false
	})
	s.want("kafka-topics", "$B --describe --topic moved --under-replicated-partitions", `Topic: moved\s+Partition: 1\s`)
	s.want("kafka-cluster", "list-endpoints $B --include-fenced-brokers", `^`+away+`\s+127\.0\.0\.1\s+\d+\s+null\s+fenced`)
	s.refused("kafka-cluster", "unregister $B --id "+away, `weir cluster drain `+away+` --wait`)
	led := map[string]string{"2": "1", "3": "2"}[away] // the partition whose preferred leader is away
	s.refused("kafka-leader-election", "$B --election-type preferred --topic moved --partition "+led, `PreferredLeaderNotAvailableException: .*broker `+away+` is not in sync`)
	ids[away].start()
	first.await("all are in sync", func(c clusterStatus) bool { return c.Partitions["under_replicated"] == 0 })
	s.want("kafka-leader-election", "$B --election-type preferred --topic moved --partition "+led, `(Successfully completed leader election \(PREFERRED\)|Valid replica already elected) for partitions moved-`+led)
	s.want("kafka-topics", "$B --describe --topic moved", `Partition: `+led+`\s+Leader: `+away+`\s`)
	s.want("kafka-log-dirs", "$B --describe --broker-list "+away, `"broker":`+away)
	s.want("kafka-configs", "$B --describe --entity-type brokers --entity-name "+away+" --all", `^  broker\.id=`+away)
}
