package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Apache Kafka as its download is run: the options of its start scripts, and of its config/server.properties what differs from the defaults.

// kafkaHeap is what bin/kafka-server-start.sh and bin/kafka-run-class.sh give a broker.
const kafkaHeap = "-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 -Djava.awt.headless=true"

const kafkaConf = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%LISTEN2%
listeners=PLAINTEXT://%LISTEN%,CONTROLLER://%LISTEN2%
advertised.listeners=PLAINTEXT://%LISTEN%
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%DIR%/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
`

// jvm runs what .ci/clients-deps has put into a directory of jars.
type jvm struct{ java, jars string }

func findJVM(jars string) (jvm, error) {
	j := jvm{jars: jars}
	if found, _ := filepath.Glob(filepath.Join(jars, "kafka_*.jar")); len(found) == 0 {
		return j, fmt.Errorf("no Apache Kafka in %s: WEIR_PEERS=1 .ci/clients-deps fetches it, with Maven", jars)
	}
	var err error
	if j.java, err = exec.LookPath("java"); err != nil {
		return j, fmt.Errorf("apache kafka needs Java: %w", err)
	}
	j.jars, err = filepath.Abs(jars) // it runs in the peer's directory
	return j, err
}

// command is a line for one of the classes there, or for a source file.
func (j jvm) command(options, class string, args ...string) []string {
	line := append([]string{j.java}, strings.Fields(options)...)
	line = append(line, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", filepath.Join(j.jars, "*"), class)
	return append(line, args...)
}

// kafkaPeers are the two that the loads of Apache Kafka's tools compare; syncs is weir's log.syncs_per_second.
func (j jvm) kafkaPeers(weir string, syncs int) []peer {
	return []peer{
		{name: "weir", ours: true, conf: fmt.Sprintf("log: {syncs_per_second: %d}\n", syncs), command: []string{weir, "serve", "--config", "%DIR%/conf", "--data", "%DIR%/data", "--mqtt", "127.0.0.1:0", "--mqtt-ws", "", "--kafka", "%LISTEN%", "--http", "",
			"--gossip", "127.0.0.1:0", "--raft", "%LISTEN2%"}},
		{name: "Apache Kafka", conf: kafkaConf,
			prepare: j.command("", "kafka.tools.StorageTool", "format", "-t", "weir-bench-peers-AAAAA", "-c", "%DIR%/conf"),
			command: j.command(kafkaHeap, "kafka.Kafka", "%DIR%/conf")},
	}
}

// perfTool is a broker that Apache Kafka's tools are run against.
type perfTool struct {
	ctx context.Context // ends the run
	*broker
	jvm
	weir string
	dir  string
}

// sent is what kafka-producer-perf-test says of a run.
type sent struct{ rate, p50, p99 float64 }

func (t *perfTool) topic(name string, partitions int) error {
	_, err := t.run([]string{t.weir, "topics", "create", name, "--partitions", strconv.Itoa(partitions), "--replicas", "1", "--bootstrap", t.listen})
	return err
}

// toolHeap is what the scripts of the two give them.
const toolHeap = "-Xmx512M"

// produce sends n records as fast as can be, or at a rate; then the first few are not part of the figures, in which the tool itself warms up and makes up for its start.
func (t *perfTool) produce(topic string, n, size, rate, few int) (sent, error) {
	args := []string{"--bootstrap-server", t.listen, "--topic", topic, "--num-records", strconv.Itoa(n), "--record-size", strconv.Itoa(size),
		"--reporting-interval", "3600000", "--command-property", "acks=all"}
	if rate > 0 {
		args = append(args, "--throughput", strconv.Itoa(rate), "--warmup-records", strconv.Itoa(few))
	} else {
		args = append(args, "--throughput", "-1")
	}
	out, err := t.run(t.command(toolHeap, "org.apache.kafka.tools.ProducerPerformance", args...))
	if err != nil {
		return sent{}, err
	}
	return parseSent(out, rate > 0)
}

// consume reads n records with a new group and returns how many a second, from the moment that partitions were assigned.
func (t *perfTool) consume(topic string, n int) (float64, error) {
	out, err := t.run(t.command(toolHeap, "org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", t.listen, "--topic", topic,
		"--num-records", strconv.Itoa(n), "--hide-header", "--timeout", "60000"))
	if err != nil {
		return 0, err
	}
	return parseConsumed(out, n)
}

//go:embed apache/Commits.java
var commitsSource []byte

// commits is how many transactions a second so many producers get committed, and how many there were in all.
func (t *perfTool) commits(topic string, producers int, d time.Duration) (rate, all float64, err error) {
	source := filepath.Join(t.dir, "Commits.java")
	if err := os.WriteFile(source, commitsSource, 0o600); err != nil {
		return 0, 0, err
	}
	out, err := t.run(t.command(toolHeap, source, t.listen, topic, strconv.Itoa(producers), fmt.Sprint(d.Seconds())))
	if err != nil {
		return 0, 0, err
	}
	if line := anewLine.FindString(out); line != "" {
		fmt.Fprintf(os.Stderr, "\r\033[K%s: %s, see deploy/docs/apache-kafka.md\n", t.listen, line)
	}
	return parseCommits(out)
}

func (t *perfTool) run(line []string) (string, error) {
	tool := exec.CommandContext(t.ctx, line[0], line[1:]...)
	var out, errs bytes.Buffer
	tool.Stdout, tool.Stderr = &out, &errs
	if err := tool.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(line, " "), err, out.Bytes(), errs.Bytes())
	}
	return out.String(), nil
}

var (
	sentLine    = regexp.MustCompile(`(?m)^(\d+)( steady state)? records sent, ([\d.]+) records/sec .* ms max latency, (\d+) ms 50th, .* (\d+) ms 99th`)
	consumed    = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d [^,]*, [^,]*, [\d.]+, [\d.]+, (\d+), [\d.]+, \d+, \d+, [\d.]+, ([\d.]+)$`)
	commitsLine = regexp.MustCompile(`(?m)^(\d+) commits in (\d+) ms, (\d+) in all$`)
	anewLine    = regexp.MustCompile(`(?m)^\d+ producers made anew .*$`)
)

func parseSent(out string, steady bool) (sent, error) {
	for _, m := range sentLine.FindAllStringSubmatch(out, -1) {
		if (m[2] != "") == steady {
			f, err := numbers(m[3:])
			if err != nil {
				return sent{}, err
			}
			return sent{rate: f[0], p50: f[1], p99: f[2]}, nil
		}
	}
	return sent{}, fmt.Errorf("kafka-producer-perf-test printed no figures:\n%s", out)
}

func parseConsumed(out string, n int) (float64, error) {
	m := consumed.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("kafka-consumer-perf-test printed no figures:\n%s", out)
	}
	f, err := numbers(m[1:])
	if err == nil && int(f[0]) < n {
		err = fmt.Errorf("kafka-consumer-perf-test read %.0f records of %d", f[0], n)
	}
	if err != nil {
		return 0, err
	}
	return f[1], nil
}

func parseCommits(out string) (rate, all float64, err error) {
	m := commitsLine.FindStringSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("no commits were counted:\n%s", out)
	}
	f, err := numbers(m[1:])
	if err != nil {
		return 0, 0, err
	}
	return f[0] / f[1] * 1000, f[2], nil
}

func numbers(texts []string) ([]float64, error) {
	all := make([]float64, len(texts))
	var errs []error
	for i, s := range texts {
		var err error
		all[i], err = strconv.ParseFloat(s, 64)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}
