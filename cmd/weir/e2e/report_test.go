package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The report of `make clients` says which version of which client passed which checks on which date. It is written only by a run in which nothing failed.

var report struct {
	sync.Mutex
	rows    []string
	skipped []string
}

// notInstalled notes a check that was not made.
func notInstalled(t *testing.T, what string) {
	report.Lock()
	defer report.Unlock()
	report.skipped = append(report.skipped, fmt.Sprintf("| %s | not installed where this was written (%s) | |", what, t.Name()))
}

// passed notes a check that the test has made. It counts once the whole test has passed.
func passed(t *testing.T, client, version, check string) {
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		report.Lock()
		defer report.Unlock()
		report.rows = append(report.rows, fmt.Sprintf("| %s | %s | %s | %s |", client, version, check, time.Now().UTC().Format(time.DateOnly)))
	})
}

const reportHead = `# Clients and applications

What passed against this version of weir, written by ` + "`make clients`" + `. The checks are the tests in cmd/weir/e2e.

| client | version | checks | date |
| --- | --- | --- | --- |
`

// What the tests cannot run, since no registry that they install from has it.
const reportTail = `
## Not run

| application | reason | what asks the same of weir and ran |
| --- | --- | --- |
| ksqlDB | not run: artifact not on the registries (Confluent's own repository has it) | it is an application of Kafka Streams (exactly_once_v2, changelog and repartition topics) with the admin client: Kafka Streams, and Kafka's tools |
| MongoDB's own server | not run: artifact not on the registries | its sink for Kafka Connect ran into FerretDB, which speaks MongoDB's protocol; weir sees only the sink |
| MySQL | not run: Debian has MariaDB | Debezium's sources for both are one program but for the dialect: the source for MariaDB |
| Elasticsearch and OpenSearch sinks | not run: artifact not on the registries | a sink of Kafka Connect is a consumer group: the JDBC, Iceberg and MongoDB sinks |
| S3 sinks of Confluent and Aiven | not run: artifact not on the registries | a consumer group as well: the sinks above; objects were written by Iceberg's |
| Spark and Flink on several machines | not run: there is one | the same sources and sinks in one process |
`

// writeReport puts the table into the docs.
func writeReport() error {
	slices.Sort(report.rows)
	slices.Sort(report.skipped)
	return os.WriteFile(filepath.Join(cacheDir(), "..", "deploy", "docs", "clients.md"), []byte(reportHead+strings.Join(report.rows, "\n")+"\n"+reportTail+strings.Join(append(slices.Compact(report.skipped), ""), "\n")), 0o644)
}

// jarVersion is the version of a library that .ci/clients-deps has fetched into dir.
func jarVersion(t *testing.T, dir, name string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(dir, name+"-[0-9]*.jar"))
	need(t, len(found) == 1, name)
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), name+"-"), ".jar")
}

// pythonVersion is the version of a distribution in the tests' Python.
func pythonVersion(t *testing.T, dist string) string {
	t.Helper()
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	return strings.TrimSpace(run(t, "", python, "-c", "import importlib.metadata as m; print(m.version('"+dist+"'))"))
}

// wordAfter is the word behind another in what a command says of its version.
func wordAfter(t *testing.T, word, name string, args ...string) string {
	t.Helper()
	out, stderr, _ := execute("", name, args...)
	_, rest, _ := strings.Cut(out+stderr, word+" ")
	version, _, _ := strings.Cut(rest, " ")
	return version
}

// javaVersion is the version of the Apache Kafka clients.
func javaVersion(t *testing.T) string {
	t.Helper()
	return jarVersion(t, filepath.Join(cacheDir(), "java"), "kafka-clients")
}
