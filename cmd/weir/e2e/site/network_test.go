package site

import (
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// host is a place in the network: a namespace with one address. Host 254 is where the test itself and its clients are.
type host struct {
	number int
	ns     string
}

const hub = 254

func (h *host) addr() string { return fmt.Sprintf("10.99.0.%d", h.number) }
func (h *host) device() string {
	if h.ns == "" {
		return "br0"
	}
	return "eth0"
}

func mac(number int) string { return fmt.Sprintf("02:00:00:00:00:%02x", number) }

// command is a process in the host's namespace.
func (h *host) command(name string, args ...string) *exec.Cmd {
	if h.ns == "" {
		return exec.Command(name, args...)
	}
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.ns, name}, args...)...)
}

// network is a switch with hosts at it. Hosts know each other's hardware addresses for good, so that a wrong one is a cut.
type network struct {
	t     *testing.T
	hosts []*host
}

func newNetwork(t *testing.T, hosts ...int) *network {
	t.Helper()
	need(t, outsideReason == "", "namespaces cannot be made here ("+outsideReason+"): run as root")
	for _, c := range []string{"ip", "tc", "nsenter"} {
		needCommand(t, c)
	}
	n := &network{t: t, hosts: []*host{{number: hub}}}
	n.ip("link", "set", "lo", "up")
	n.ip("link", "add", "br0", "address", mac(hub), "type", "bridge")
	t.Cleanup(func() { n.ip("link", "del", "br0") })
	n.ip("addr", "add", n.hosts[0].addr()+"/24", "dev", "br0")
	n.ip("link", "set", "br0", "up")
	for _, number := range hosts {
		h := &host{number, fmt.Sprint("h", number)}
		n.ip("netns", "add", h.ns)
		t.Cleanup(func() { n.ip("netns", "del", h.ns) })
		n.ip("link", "add", "v"+h.ns, "type", "veth", "peer", "name", "eth0", "address", mac(number), "netns", h.ns)
		t.Cleanup(func() { n.ip("link", "del", "v"+h.ns) }) // at once: a namespace goes later, and its devices with it
		n.ip("link", "set", "v"+h.ns, "master", "br0", "up")
		n.at(h, "ip", "addr", "add", h.addr()+"/24", "dev", "eth0")
		n.at(h, "ip", "link", "set", "lo", "up")
		n.at(h, "ip", "link", "set", "eth0", "up")
		n.hosts = append(n.hosts, h)
	}
	n.heal()
	return n
}

func (n *network) ip(args ...string) { n.t.Helper(); n.at(n.hosts[0], "ip", args...) }

func (n *network) at(h *host, name string, args ...string) {
	n.t.Helper()
	if out, err := h.command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s at host %d: %v\n%s", append([]string{name}, args...), h.number, err, out)
	}
}

// block makes what from sends to the other get lost.
func (n *network) block(from, to *host) { n.t.Helper(); n.neighbour(from, to, mac(255)) }

func (n *network) neighbour(from, to *host, mac string) {
	n.t.Helper()
	n.at(from, "ip", "neigh", "replace", to.addr(), "lladdr", mac, "dev", from.device(), "nud", "permanent")
}

// cut parts two sides from each other, both ways.
func (n *network) cut(side, other []*host) {
	n.t.Helper()
	for _, a := range side {
		for _, b := range other {
			n.block(a, b)
			n.block(b, a)
		}
	}
}

// slow has a host's line carry so many Mbit/s each way, 0 for as much as it can.
func (n *network) slow(h *host, mbit int) {
	n.t.Helper()
	for at, device := range map[*host]string{h: "eth0", n.hosts[0]: "v" + h.ns} {
		if mbit == 0 {
			n.at(at, "tc", "qdisc", "del", "dev", device, "root")
		} else {
			n.at(at, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", fmt.Sprint(mbit, "mbit"), "burst", "32kb", "latency", "200ms")
		}
	}
}

// thin makes a host's line a mobile one: so many kbit/s, half of delay each way, and a packet of 500 that is lost. A kernel without netem gives it no delay but that of its
// queue, and loses what has no room there: thin says what the line lacks.
func (n *network) thin(h *host, kbit int, delay time.Duration) (lacks string) {
	n.t.Helper()
	for at, device := range map[*host]string{h: "eth0", n.hosts[0]: "v" + h.ns} {
		set := []string{"qdisc", "replace", "dev", device, "root"}
		netem := append(set[:len(set):len(set)], "netem", "rate", fmt.Sprint(kbit, "kbit"), "delay", fmt.Sprint(delay/2), "loss", "0.2%", "limit", "200")
		if at.command("tc", netem...).Run() == nil {
			continue
		}
		lacks = fmt.Sprintf("a delay of %s there and back, and the loss of 0.2 %%", delay)
		n.at(at, "tc", append(set, "tbf", "rate", fmt.Sprint(kbit, "kbit"), "burst", "16kb", "latency", "200ms")...)
	}
	return lacks
}

// heal joins everybody with everybody.
func (n *network) heal() {
	n.t.Helper()
	for _, a := range n.hosts {
		for _, b := range n.hosts {
			if a != b {
				n.neighbour(a, b, mac(b.number))
			}
		}
	}
}
