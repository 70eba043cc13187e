package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rolled is what python/rolling.py says at its end.
type rolled struct {
	Sent, Acked         int
	Failed, Lost, Twice []string
	Unread, ReadTwice   map[string][]string
	Goodbyes            map[string]int
}

// startLoad has clients of all nodes publish, produce and read until the input of the answer is closed.
func startLoad(t *testing.T, s *site) *talker {
	t.Helper()
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "paho-mqtt and confluent-kafka (Python)")
	needCommand(t, "mosquitto_pub")
	needCommand(t, "mosquitto_sub")
	var kafka []string
	args := []string{"python/rolling.py", ""}
	for _, m := range s.members {
		kafka = append(kafka, m.kafka)
		args = append(args, m.mqttPort())
	}
	args[1] = strings.Join(kafka, ",")
	c := talk(t, python, args...)
	if line := c.line(t); line != "ready" {
		t.Fatalf("the clients said %q", line)
	}
	return c
}

func (c *talker) line(t *testing.T) string {
	t.Helper()
	select {
	case line := <-c.out:
		return line
	case <-time.After(2 * patience):
		t.Fatal("the clients say nothing")
		return ""
	}
}

// longest answers how long each client has waited at most since it was asked last.
func (c *talker) longest(t *testing.T) (waits map[string]float64) {
	t.Helper()
	fmt.Fprintln(c.in)
	if err := json.Unmarshal([]byte(c.line(t)), &waits); err != nil {
		t.Fatal(err)
	}
	return waits
}

// ends wants that no publish failed, nothing acknowledged is lost, and what is to come once did.
func (c *talker) ends(t *testing.T) {
	t.Helper()
	c.in.Close()
	var r rolled
	if err := json.Unmarshal([]byte(c.line(t)), &r); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d acknowledged; connections that ended: %v", r.Acked, r.Sent, r.Goodbyes)
	if len(r.Failed)+len(r.Lost)+len(r.Twice)+len(r.Unread)+len(r.ReadTwice) > 0 {
		t.Errorf("failed: %.300q\nlost: %.300q\ntwice in the log: %.300q\nnot read: %.300q\nread twice: %.300q", r.Failed, r.Lost, r.Twice, r.Unread, r.ReadTwice)
	}
	if r.Acked != r.Sent || r.Acked < 300 {
		t.Errorf("%d of %d acknowledged", r.Acked, r.Sent)
	}
}

// longestOf lists the longest wait of each kind of client: of those that have to do with a node, by themselves or whoever published to them, and of the others.
func longestOf(waits map[string]float64, node int) string {
	by := map[string]float64{}
	for name, w := range waits {
		kind, where := "", " elsewhere"
		for i, client := range strings.Split(name, " of ") {
			at := strings.LastIndexByte(client, '-')
			if client[at+1:] == fmt.Sprint(node) {
				where = " there"
			}
			if i == 0 {
				kind = strings.TrimRight(client, "-0123456789")
			}
		}
		by[kind+where] = max(by[kind+where], w)
	}
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(&b, "\n    %-28s %6.3f s", kind, by[kind])
	}
	return b.String()
}

func (m *member) awaitFull(voters int) {
	m.t.Helper()
	m.await("all nodes there and in sync", func(s clusterStatus) bool {
		return s.Quorum.Reachable == voters && s.Partitions["under_replicated"]+s.Partitions["moving"]+s.Partitions["leaderless"] == 0 &&
			!slices.ContainsFunc(s.Brokers, func(k brokerState) bool { return k.State != "running" })
	})
}

// Each of three nodes is restarted under load. Clients have nothing but their own reconnect, and no publish fails; nothing acknowledged is lost, and what is to
// come once does.
func TestRollingRestart(t *testing.T) {
	s := startSite(t, 3)
	a := s.members[0]
	a.weir("topics", "create", "orders", "--partitions", "4", "--replicas", "3")
	a.awaitFull(3)
	load := startLoad(t, s)
	load.longest(t) // all of them are at work
	for i, m := range s.members {
		other := s.members[(i+1)%3]
		began := time.Now()
		m.stop()
		t.Logf("%s stopped in %s", m.name(), time.Since(began).Round(time.Millisecond))
		m.start()
		other.awaitFull(3)
		t.Logf("longest wait while %s was restarted:%s", m.name(), longestOf(load.longest(t), i+1))
	}
	load.ends(t)
}

// Two drains, one right after the other, pause nobody, whichever node he is connected to: all of them stay connected.
func TestDrainUnderLoad(t *testing.T) {
	s := startSite(t, 4)
	a := s.members[0]
	a.weir("topics", "create", "orders", "--partitions", "4", "--replicas", "3")
	a.awaitFull(3)
	load := startLoad(t, s)
	load.longest(t)
	for i := range 2 {
		name := s.members[i+1].name()
		a.weir("cluster", "drain", name, "--wait")
		t.Logf("longest wait while %s was drained:%s", name, longestOf(load.longest(t), i+2))
		a.weir("cluster", "drain", name, "--cancel")
	}
	load.ends(t)
}
