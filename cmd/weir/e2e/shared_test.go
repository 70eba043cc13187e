package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// tally counts what the workers of one shared subscription got, by payload.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
	each map[string]int
}

func (c *tally) follow(worker string, lines <-chan string) {
	for line := range lines {
		c.mu.Lock()
		c.seen[line]++
		c.each[worker]++
		c.mu.Unlock()
	}
}

// await waits for all of from to to-1, and returns how many came more than once.
func (c *tally) await(t *testing.T, from, to int) (again int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		var missing []int
		again = 0
		c.mu.Lock()
		for i := from; i < to; i++ {
			if n := c.seen[fmt.Sprint("record ", i)]; n == 0 {
				missing = append(missing, i)
			} else if n > 1 {
				again++
			}
		}
		c.mu.Unlock()
		if len(missing) == 0 {
			return again
		}
		if time.Now().After(end) {
			t.Fatalf("%d messages did not come: %v", len(missing), missing)
		}
	}
}

// leader is the node that leads a shared subscription.
func (s *site) leader(group string) *member {
	s.t.Helper()
	return s.leads("__mqtt_sessions", func(n int) int { return mqtt.PartitionFor([]byte(deliver.GroupKeyPrefix+group), n) })
}

// leads is the node that leads one of a topic's partitions.
func (s *site) leads(topic string, partition func(n int) int) *member {
	s.t.Helper()
	var topics []struct {
		Parts []struct{ Leader int } `json:"partition_list"`
	}
	out := s.members[0].weir("--json", "topics", "describe", topic)
	if err := json.Unmarshal([]byte(out), &topics); err != nil || len(topics) != 1 {
		s.t.Fatalf("%v: %s", err, out)
	}
	p := topics[0].Parts[partition(len(topics[0].Parts))]
	for _, b := range s.members[0].status().Brokers {
		if b.ID == p.Leader {
			for i, m := range s.members {
				if b.Name == fmt.Sprintf("node%d", i+1) {
					return m
				}
			}
		}
	}
	s.t.Fatalf("nobody leads %s: %s", topic, out)
	return nil
}

// Workers of one shared subscription are on all nodes of a cluster. Each message goes to one of them; when the node that leads
// the group is killed under load, with a worker's connection on it, whatever was acknowledged comes to one of the others.
func TestSharedSubscriptionOfACluster(t *testing.T) { // MQTT 5 §4.8.2
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	s := startSite(t, 3)
	const group = "$share/workers/load/#"
	victim := s.leader(group)
	seen := &tally{seen: map[string]int{}, each: map[string]int{}}
	var alive []*member
	for i, m := range s.members {
		for j := range 2 {
			id := fmt.Sprintf("worker%d%d", i, j)
			args := []string{"-oL", sub, "-h", "127.0.0.1", "-p", m.mqttPort(), "-V", "mqttv5", "-q", "1", "-i", id, "-t", group, "-F", "%p", "-d"}
			if j == 1 {
				args = append(args, "-c", "-x", "3600")
			}
			out := background(t, "stdbuf", args...)
			await(t, out, "SUBACK")
			go seen.follow(id, filter(out))
		}
		if m != victim {
			alive = append(alive, m)
		}
	}
	send := func(m *member, from, n int) {
		t.Helper()
		var err error
		var out string
		for range 10 { // a connection may end before all of it is acknowledged
			if out, err = tryRun(t, lines(from, n), pub, "-h", "127.0.0.1", "-p", m.mqttPort(), "-V", "mqttv5", "-q", "1", "-t", "load/x", "-l"); err == nil {
				return
			}
			time.Sleep(time.Second)
		}
		t.Fatalf("publish: %v\n%s", err, out)
	}
	for i, m := range s.members {
		send(m, 100*i, 100)
	}
	if again := seen.await(t, 0, 300); again > 0 {
		t.Errorf("%d messages came more than once", again)
	}
	seen.mu.Lock()
	if len(seen.each) != 6 {
		t.Errorf("not all workers took part: %v", seen.each)
	}
	seen.mu.Unlock()
	var sending sync.WaitGroup
	for i, m := range alive {
		sending.Go(func() {
			for k := range 10 {
				send(m, 1000*(i+1)+50*k, 50)
			}
		})
	}
	seen.await(t, 1000, 1050)
	victim.kill()
	sending.Wait()
	t.Logf("%d messages came more than once", seen.await(t, 1000, 1500)+seen.await(t, 2000, 2500))
	send(alive[0], 3000, 100)
	seen.await(t, 3000, 3100)
}

// filter leaves the messages of what mosquitto_sub says with -d.
func filter(in <-chan string) <-chan string {
	out := make(chan string, 64)
	go func() {
		defer close(out)
		for line := range in {
			if strings.HasPrefix(line, "record ") {
				out <- line
			}
		}
	}()
	return out
}
