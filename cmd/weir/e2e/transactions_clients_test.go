package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// Exactly once with the Java client: transactions that are committed, aborted, taken over, and offsets in them.
func TestJavaTransactions(t *testing.T) {
	java, javac := needCommand(t, "java"), needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/Transactions.java")
	n := startNode(t)
	out := run(t, "", java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "Transactions", n.kafka, "in", "out", "500")
	if !strings.Contains(out, "copied 500 exactly once") || !strings.Contains(out, "the old producer is fenced") {
		t.Errorf("the client said:\n%s", out)
	}
}
