package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Exactly once with the Java client: transactions that are committed, aborted, taken over, and offsets in them.
func TestJavaTransactions(t *testing.T) {
	classPath := javaClass(t, "Transactions")
	passed(t, "Apache Kafka clients (Java)", javaVersion(t), "transactions: commit, abort, offsets within them, fencing")
	n := startNode(t)
	out := run(t, "", "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "Transactions", n.kafka, "in", "out", "500")
	if !strings.Contains(out, "copied 500 exactly once") || !strings.Contains(out, "the old producer is fenced") {
		t.Errorf("the client said:\n%s", out)
	}
}

// The same in a cluster, while one node after the other is killed and comes back: leaders, coordinators of transactions and of groups move in the middle
// of them. Java's transactions are of version 2, those of librdkafka of version 1 (TestClientsUseTheNewestVersions).
func TestJavaTransactionsOverFailovers(t *testing.T) {
	classPath := javaClass(t, "Transactions")
	passed(t, "Apache Kafka clients (Java)", javaVersion(t), "transactions while the nodes of a cluster are killed one after the other")
	transactionsOverFailovers(t, 6000, func(bootstrap, count string) []string {
		return []string{"java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "Transactions", bootstrap, "in", "out", count}
	}, "copied 6000 exactly once", "the old producer is fenced")
}

func TestLibrdkafkaTransactionsOverFailovers(t *testing.T) {
	python := confluentPython(t)
	passed(t, "librdkafka (confluent-kafka-python)", pythonVersion(t, "confluent-kafka"), "transactions while the nodes of a cluster are killed one after the other")
	transactionsOverFailovers(t, 4000, func(bootstrap, count string) []string {
		return []string{python, "python/transactions.py", bootstrap, "in", "out", count}
	}, "copied 4000 exactly once")
}

// transactionsOverFailovers runs a client until it has copied so many records, and kills nodes meanwhile.
func transactionsOverFailovers(t *testing.T, count int, client func(bootstrap, count string) []string, want ...string) {
	s := startSite(t, 3)
	var bootstrap []string
	for _, m := range s.members {
		bootstrap = append(bootstrap, m.kafka)
	}
	m := s.members[0]
	m.weir("topics", "create", "in", "--partitions", "3")
	m.weir("topics", "create", "out", "--partitions", "3")
	said := make(chan string, 1)
	go func() {
		command := client(strings.Join(bootstrap, ","), fmt.Sprint(count))
		out, stderr, err := execute("", command[0], command[1:]...)
		if err != nil {
			out += "\n" + err.Error() + "\n" + stderr
		}
		said <- out
	}()
	for kills := 0; ; kills++ {
		select {
		case out := <-said:
			for _, want := range want {
				if !strings.Contains(out, want) {
					t.Errorf("the client said:\n%s", out)
				}
			}
			if kills < 3 {
				t.Errorf("only %d nodes were killed meanwhile", kills)
			}
			return
		case <-time.After(3 * time.Second):
		}
		victim := s.members[kills%3]
		victim.kill()
		time.Sleep(2 * time.Second) // others take over what it led
		victim.start()
		victim.await("all replicas are in sync", func(c clusterStatus) bool {
			return c.Partitions["under_replicated"] == 0 && c.Partitions["offline"] == 0
		})
	}
}
