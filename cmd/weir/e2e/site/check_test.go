package site

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

type place struct {
	partition int
	offset    int64
	number    int
	headers   string
}

// result is what a load came to.
type result struct {
	acked      map[string]int // by kind of client
	duplicates map[string]int
}

// read reads a topic back with kcat, by client, while nobody writes to it: kcat ends when there is nothing more. Offsets of each partition must have no gaps.
func (c *cluster) read(topic string) map[string][]place {
	c.t.Helper()
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.kafka())
	}
	kcat := exec.Command("timeout", "60", "kcat", "-b", strings.Join(addrs, ","), "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%p %o %s %T %h\\n")
	var said lockedBuffer
	kcat.Stderr = &said
	out, err := kcat.Output()
	if err != nil {
		c.t.Fatalf("kcat %s: %v\n%s", topic, err, said.String())
	}
	read, next := map[string][]place{}, map[int]int64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		client, number, _ := strings.Cut(f[2], ":")
		var p place
		p.partition, _ = strconv.Atoi(f[0])
		p.offset, _ = strconv.ParseInt(f[1], 10, 64)
		p.number, _ = strconv.Atoi(number)
		p.headers = strings.Join(f[3:], " ")
		if want, seen := next[p.partition]; seen && p.offset != want || !seen && p.offset != 0 {
			c.t.Errorf("%s/%d: offset %d follows %d", topic, p.partition, p.offset, want-1)
		}
		next[p.partition] = p.offset + 1
		read[client] = append(read[client], p)
	}
	return read
}

// check reads everything back and compares it with the ledger.
func (c *cluster) check(l *load) result {
	c.t.Helper()
	r := result{map[string]int{}, map[string]int{}}
	read := c.read(mqttTopic)
	for client, places := range c.read(kafkaTopic) {
		read[client] = places
	}
	for client, acks := range l.acks {
		r.acked[kind(client)] += len(acks)
		r.duplicates[kind(client)] += c.checkClient(l, client, acks, read[client])
	}
	for _, k := range []string{"q2", "k"} {
		if n := r.duplicates[k]; n != 0 {
			c.t.Errorf("%s: %d duplicates of %s, where the protocol allows none", l.name, n, k)
		}
	}
	return r
}

func (c *cluster) checkClient(l *load, client string, acks []ack, read []place) (duplicates int) {
	first, highest := map[int]place{}, map[int]int{}
	for _, p := range read {
		if f, seen := first[p.number]; seen {
			duplicates++
			if kind(client) != "q1" {
				c.t.Logf("%s: %d is at %d (%s) and at %d (%s)", client, p.number, f.offset, f.headers, p.offset, p.headers)
			}
			continue
		}
		first[p.number] = p
		if last, seen := highest[p.partition]; seen && p.number < last && !l.unruly[client] {
			c.t.Errorf("%s: %d stands at %d/%d behind %d", client, p.number, p.partition, p.offset, last)
		}
		highest[p.partition] = p.number
		if p.number >= l.sent[client] {
			c.t.Errorf("%s: %d was read and never sent", client, p.number)
		}
	}
	if len(highest) > 1 {
		c.t.Errorf("%s: its records are in %d partitions", client, len(highest))
	}
	for _, a := range acks {
		p, ok := first[a.number]
		switch {
		case !ok:
			c.t.Errorf("%s: %d was acknowledged at %s and is not there", client, a.number, a.at.Format(time.StampMilli))
		case a.offset >= 0 && (a.offset != p.offset || int(a.partition) != p.partition):
			c.t.Errorf("%s: %d was acknowledged at %d/%d and is at %d/%d", client, a.number, a.partition, a.offset, p.partition, p.offset)
		}
	}
	return duplicates
}

// compare stops all nodes and wants each replica of the topics to have the same records at the same offsets, and every checksum to be right.
func (c *cluster) compare() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.stop()
	}
	for _, topic := range []string{mqttTopic, kafkaTopic} {
		for p := range partitions {
			var first string
			for _, n := range c.nodes {
				got := c.batches(n, topic, p)
				switch {
				case got == "" || first == "":
					first = got
				case got != first:
					c.t.Errorf("%s/%d: %s and %s differ:\n%s", topic, p, c.nodes[0].name(), n.name(), difference(first, got))
				}
			}
		}
	}
	for _, n := range c.nodes {
		out, err := exec.Command(binary(), "inspect", "data", "--records", n.dir()).CombinedOutput()
		if err != nil {
			c.t.Errorf("inspect the data of %s: %v\n%s", n.name(), err, out)
		}
	}
}

// batches are the bytes of a replica's segments, whatever files they are in. // D6
func (c *cluster) batches(n *node, topic string, partition int) string {
	c.t.Helper()
	files, _ := filepath.Glob(filepath.Join(n.dir(), "topics", topic+"-*", fmt.Sprint(partition), "*.log"))
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			c.t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

func difference(a, b string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("of %d and %d bytes, from byte %d", len(a), len(b), i)
		}
	}
	return fmt.Sprintf("the one has %d bytes, the other %d", len(a), len(b))
}
