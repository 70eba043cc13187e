package site

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func binary() string { return os.Getenv(insideEnv) }

func soak() bool { return os.Getenv("WEIR_SOAK") != "" }

// scenario is one way to break a cluster. run breaks it and lets it heal.
type scenario struct {
	name  string
	small bool // also in `make test`
	run   func(c *cluster, l *load)
}

// play lets scenarios follow each other on one cluster. Each begins when the one before has healed.
func play(t *testing.T, nodes int, scenarios []scenario) {
	needCommand(t, "kcat")
	python(t)
	c := newCluster(t, form{size: nodes}, clientHost)
	c.nameNodes()
	subscribers := []*subscriber{c.subscribe("reader-1", 1), c.subscribe("reader-2", 2)}
	for _, s := range scenarios {
		if !s.small && !soak() {
			continue
		}
		for round := range rounds() {
			ok := t.Run(s.name, func(t *testing.T) {
				c.use(t)
				c.awaitHealthy()
				l := c.load(fmt.Sprint(s.name, "-", round), c.net.hosts[0], c.nodes...)
				l.mosquitto(1)
				l.mosquitto(2)
				l.flow(everybody)
				began := time.Now()
				s.run(c, l)
				c.net.heal()
				l.flow(everybody)
				healthy := c.awaitHealthy()
				l.finish()
				for _, other := range l.others {
					other.finish()
				}
				r := c.check(l)
				for _, other := range l.others {
					c.check(other)
				}
				for _, s := range subscribers {
					c.checkSubscriber(s, l)
				}
				report(t, fmt.Sprintf("%d nodes, %s: acked %s, duplicates %s, longest pauses %s, healthy %.1f s after", nodes, s.name,
					figures(r.acked), figures(r.duplicates), figures(l.pauses(began)), healthy.Seconds()))
			})
			if !ok {
				break
			}
		}
		if t.Failed() {
			break // what a broken cluster does next proves nothing
		}
	}
	c.use(t)
	c.net.heal()
	if !t.Failed() {
		c.compare()
	}
}

func rounds() int {
	if soak() {
		return 3
	}
	return 1
}

// clientHost is where clients are that a cut puts on the smaller side.
const clientHost = 100

// everybody is how many clients a load has: devices of paho, producers, and two of mosquitto.
const everybody = devicesAndProducers + 2

func figures[V any](m map[string]V) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := any(m[k])
		if d, ok := v.(time.Duration); ok {
			v = d.Round(10 * time.Millisecond)
		}
		all = append(all, fmt.Sprintf("%s %v", k, v))
	}
	return strings.Join(all, ", ")
}

func TestThreeNodes(t *testing.T) {
	play(t, 3, append([]scenario{
		{"leader-kill", true, leaderKill},
		{"controller-and-leader-kill", false, controllerKill},
		{"cut-off-leader", false, cutOffLeader},
		{"stopped-leader", false, func(c *cluster, l *load) { stopped(c, l, c.leader(c.nodes[0], kafkaTopic, 0)) }},
		{"stopped-controller", false, func(c *cluster, l *load) { stopped(c, l, c.controller()) }},
		{"power-cut-of-all", false, powerCut},
		{"rolling-restart", false, rollingRestart},
		{"deaf-leader", false, func(c *cluster, l *load) { oneWay(c, l, true) }},
		{"mute-leader", false, func(c *cluster, l *load) { oneWay(c, l, false) }},
		{"bridge-node", false, bridgeNode},
		{"bridge-controller", false, bridgeController},
		{"clock-steps", false, clockSteps},
	}, nodeFaults...))
}

func TestFiveNodes(t *testing.T) {
	if !soak() {
		t.Skip("five nodes take long: set WEIR_SOAK=1")
	}
	play(t, 5, []scenario{
		{"leader-kill", false, leaderKill},
		{"two-replicas-kill", false, twoReplicasKill},
		{"cut-off-two", false, cutOffTwo},
		{"power-cut-of-all", false, powerCut},
		{"rolling-restart", false, rollingRestart},
		{"drained", false, drained},
	})
}

// Two of a partition's three replicas die at once, and with them perhaps the controller: what needs them waits, all else goes on, and nothing is lost.
func twoReplicasKill(c *cluster, l *load) {
	nodes := c.replicas(c.nodes[0], kafkaTopic, 0)[:2]
	for _, n := range nodes {
		n.kill()
	}
	wait(c.t, 5*time.Second)
	for _, n := range nodes {
		n.start()
		n.awaitReady()
	}
}

// Two of five nodes are cut off, the leader of a partition among them: the other three go on.
func cutOffTwo(c *cluster, l *load) {
	away := []*node{c.leader(c.nodes[0], kafkaTopic, 0)}
	away = append(away, c.others(away...)[0])
	c.net.cut(hosts(away...), append(hosts(c.others(away...)...), c.net.hosts[0]))
	wait(c.t, 10*time.Second)
}

// Whoever leads dies. Redpanda 21.10.1 gave records twice, and lost some, when a leader changed with batches in flight.
func leaderKill(c *cluster, l *load) {
	n := c.leader(c.nodes[0], kafkaTopic, 0)
	n.kill()
	l.flow(everybody)
	n.start()
	n.awaitReady()
}

// The node that leads the quorum dies, and with it the leader of some partitions.
func controllerKill(c *cluster, l *load) {
	n := c.controller()
	n.kill()
	l.flow(everybody)
	n.start()
	n.awaitReady()
}

// controller is the node that leads the quorum. The nodes' logs would not say: their clocks may be wrong.
func (c *cluster) controller() (found *node) {
	c.t.Helper()
	c.await("there is an active controller", func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, binary(), "cluster", "members", "--json", "--bootstrap", addresses(c.running())).Output()
		if err != nil {
			return err
		}
		var quorum struct {
			Members []struct {
				Address string
				Leader  bool
			}
		}
		if err := json.Unmarshal(out, &quorum); err != nil {
			return err
		}
		for _, m := range quorum.Members {
			for _, n := range c.nodes {
				if m.Leader && strings.HasPrefix(m.Address, n.host.addr()+":") {
					found = n
					return nil
				}
			}
		}
		return fmt.Errorf("no member leads: %s", out)
	})
	return found
}

func (c *cluster) running() []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), (*node).exitedNow)
}

func addresses(nodes []*node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.kafka())
	}
	return strings.Join(all, ",")
}

// A node is drained for maintenance, and then has work again. Nobody is to notice.
func drained(c *cluster, l *load) {
	n := c.victim()
	order := func(arg string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, binary(), "cluster", "drain", n.name(), arg, "--bootstrap", addresses(c.others(n))).CombinedOutput(); err != nil {
			c.t.Fatalf("weir cluster drain %s %s: %v\n%s", n.name(), arg, err, out)
		}
	}
	began := time.Now()
	order("--wait")
	l.flow(everybody)
	c.t.Logf("longest pauses from the order until all had moved: %s", figures(l.pauses(began)))
	order("--cancel")
}

// A leader and some clients are cut off from the others: on the larger side work goes on, on the smaller nothing is acknowledged.
func cutOffLeader(c *cluster, l *load) {
	n := c.leader(c.nodes[0], kafkaTopic, 0)
	away := c.host(clientHost)
	inside := c.newLoad(l.name + "-inside")
	inside.devices(away, n)
	inside.producers(away, n)
	inside.flow(devicesAndProducers)
	var rest []*host
	for _, h := range c.net.hosts {
		if h != n.host && h != away {
			rest = append(rest, h)
		}
	}
	c.net.cut([]*host{n.host, away}, rest)
	cut := time.Now()
	l.flowThrough()
	wait(c.t, time.Until(cut.Add(5*time.Second)))
	quiet := time.Now()
	wait(c.t, time.Second)
	inside.mu.Lock()
	for client, as := range inside.acks {
		if last := as[len(as)-1]; last.at.After(quiet) {
			c.t.Errorf("%s: %d was acknowledged on the smaller side %.1f s after the cut", client, last.number, last.at.Sub(cut).Seconds())
		}
	}
	inside.mu.Unlock()
	c.net.heal()
	inside.flow(devicesAndProducers)
	l.others = append(l.others, inside)
}

// wait lets a fault last; it synchronises nothing.
func wait(_ *testing.T, d time.Duration) { time.Sleep(d) }

func (c *cluster) host(number int) *host {
	for _, h := range c.net.hosts {
		if h.number == number {
			return h
		}
	}
	return nil
}

// A node stops for 10 s and goes on as if nothing had been. It must not say that a log ends where it ended for it, also not on its own word as the
// controller. // R2
func stopped(c *cluster, l *load, n *node) {
	n.signal(syscall.SIGSTOP)
	since := time.Now()
	l.flowThrough()
	wait(c.t, time.Until(since.Add(10*time.Second)))
	var acked [partitions]int64
	l.mu.Lock()
	for _, as := range l.acks {
		for _, a := range as {
			acked[a.partition] = max(acked[a.partition], a.offset+1)
		}
	}
	l.mu.Unlock()
	var asking sync.WaitGroup
	for p := range acked {
		asking.Go(func() { c.askForEnd(n, int32(p), acked[p]) })
	}
	n.signal(syscall.SIGCONT)
	asking.Wait()
}

// askForEnd asks one node for the end of a partition for a second: it may refuse, and must not answer less than what was acknowledged before.
func (c *cluster) askForEnd(n *node, partition int32, acked int64) {
	cl := newClient(c.t, n)
	defer cl.Close()
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		r := kmsg.NewPtrListOffsetsRequest()
		r.ReplicaID = -1
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Topic = kafkaTopic
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.Timestamp = partition, -1, -1
		topic.Partitions = append(topic.Partitions, p)
		r.Topics = append(r.Topics, topic)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		resp, err := cl.SeedBrokers()[0].Request(ctx, r)
		cancel()
		if err != nil {
			continue
		}
		if a := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; a.ErrorCode == 0 && a.Offset < acked {
			c.t.Errorf("%s says that %s/%d ends at %d, and up to %d had been acknowledged", n.name(), kafkaTopic, partition, a.Offset, acked)
			return
		}
	}
}

// All nodes lose power at once. NATS 2.12.1 lost what it had acknowledged, since it synced every two minutes.
func powerCut(c *cluster, l *load) {
	for _, n := range c.nodes {
		n.signal(syscall.SIGSTOP) // who has no power says nothing about it
	}
	for _, n := range c.nodes {
		n.disk.cutPower()
	}
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.disk.unmount()
		n.disk.mount()
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
}

// Every node in turn is told to stop, and started when it has; no publish fails.
func rollingRestart(c *cluster, l *load) {
	for _, n := range c.nodes {
		n.stop()
		n.start()
		n.awaitReady()
		c.awaitHealthy()
	}
}

// The other nodes hear the leader and it does not hear them, or the other way round. Clients reach everybody.
func oneWay(c *cluster, l *load, deaf bool) {
	n := c.leader(c.nodes[0], kafkaTopic, 0)
	for _, other := range c.others(n) {
		if deaf {
			c.net.block(other.host, n.host)
		} else {
			c.net.block(n.host, other.host)
		}
	}
	l.flowThrough()
}

// Two nodes reach each other only through the third, which passes no packets on. The controller is one of them, and fences the other.
func bridgeNode(c *cluster, l *load) {
	n := c.controller()
	c.net.cut(hosts(n), hosts(c.others(n)[0]))
	l.flow(everybody)
}

// The same with the controller between them, so that nobody is fenced, for longer than replicas stay in sync that do not fetch. Devices that know one of the two
// nodes only go on as well, wherever their sessions and partitions are led. // M10, M11
func bridgeController(c *cluster, l *load) {
	outer := c.others(c.controller())
	for _, n := range outer {
		side := c.newLoad(fmt.Sprint(l.name, "-at", n.host.number))
		side.devices(c.net.hosts[0], n)
		side.flow(6)
		l.others = append(l.others, side)
	}
	c.net.cut(hosts(outer[0]), hosts(outer[1]))
	cut := time.Now()
	l.flow(everybody)
	for _, side := range l.others {
		side.flow(6)
	}
	wait(c.t, time.Until(cut.Add(20*time.Second)))
	later := time.Now()
	l.flow(everybody)
	for _, side := range l.others {
		side.flow(6)
		c.t.Logf("devices at one node: longest pauses %s", figures(side.pauses(cut)))
	}
	if took := time.Since(later); took > 10*time.Second {
		c.t.Errorf("20 s after the cut it took %.1f s until everybody had something acknowledged", took.Seconds())
	}
}
