package site

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"
)

// nodeFaults are what disks and lines do to nodes.
var nodeFaults = []scenario{
	{"full-disk", false, fullDisk},
	{"hung-disk", false, func(c *cluster, l *load) { hungDisk(c, l, c.victim()) }},
	{"hung-disk-of-the-controller", false, func(c *cluster, l *load) { hungDisk(c, l, c.controller()) }},
	{"slow-disk", false, slowDisk},
	{"slow-line", false, slowLine},
	{"flipped-bits", false, flippedBits},
	{"cut-off-journal", false, cutOffJournal},
	{"damaged-metadata", false, damagedMetadata},
}

// victim is the node that the faults of a scenario are for.
func (c *cluster) victim() *node { return c.leader(c.nodes[0], kafkaTopic, 0) }

// Somebody else fills the disk of a leader to the last byte, and clears it later.
func fullDisk(c *cluster, l *load) {
	n := c.victim()
	filler := filepath.Join(n.disk.dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		c.t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		c.t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-16<<20); err != nil {
		c.t.Fatal(err)
	}
	chunk := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if err := f.Close(); err != nil {
		c.t.Fatal(err)
	}
	wait(c.t, 10*time.Second)
	if n.exitedNow() {
		c.t.Fatalf("%s ended on a full disk", n.name())
	}
	if err := os.Remove(filler); err != nil {
		c.t.Fatal(err)
	}
}

// The disk of a node stops answering for a while: others take over what it leads, and its clients go to them. // E9
func hungDisk(c *cluster, l *load, n *node) {
	n.disk.freeze()
	l.flow(everybody)
	wait(c.t, 5*time.Second)
	n.disk.thaw()
}

// The disk of a leader answers now and then.
func slowDisk(c *cluster, l *load) {
	n := c.victim()
	for until := time.Now().Add(15 * time.Second); time.Now().Before(until); {
		n.disk.freeze()
		wait(c.t, 300*time.Millisecond)
		n.disk.thaw()
		wait(c.t, 50*time.Millisecond)
	}
}

// A node that was away comes back on a line of 10 Mbit/s with 32 MiB to catch up. Meanwhile clients of all nodes, its own too, go on: what it has to catch up
// does not starve what is new.
func slowLine(c *cluster, l *load) {
	n := c.others(c.victim(), c.controller())[0]
	c.fill("bulk", 64<<10)
	n.kill()
	c.fill("bulk", 32<<20)
	c.net.slow(n.host, 10)
	defer c.net.slow(n.host, 0)
	n.start()
	n.awaitReady()
	began := time.Now()
	l.flow(everybody)
	adm := c.admin(c.others(n)...)
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c.healthy(ctx, adm) == nil {
		c.t.Errorf("%s has caught up after %.1f s: that proves nothing", n.name(), time.Since(began).Seconds())
	}
	c.awaitHealthy()
	c.t.Logf("%s has caught up after %.1f s", n.name(), time.Since(began).Seconds())
}

// fill makes a topic, if it is not there yet, and produces so many bytes to it.
func (c *cluster) fill(topic string, bytes int) {
	c.t.Helper()
	cl := newClient(c.t, c.nodes...)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	min := "2"
	if _, err := kadm.NewClient(cl).CreateTopics(ctx, 1, 3, map[string]*string{"min.insync.replicas": &min}, topic); err != nil {
		c.t.Fatal(err)
	}
	var records []*kgo.Record
	for sum := 0; sum < bytes; sum += 64 << 10 {
		value := make([]byte, 64<<10) // no two alike, nothing to compress
		_, _ = rand.Read(value)       // never fails
		records = append(records, &kgo.Record{Topic: topic, Value: value})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		c.t.Fatalf("fill %s: %v", topic, err)
	}
}

// A node stops, and one bit of each file of its logs turns before it is started again. NATS 2.12.1 lost most of a stream when one bit of a .blk file was wrong on a
// minority of the nodes.
func flippedBits(c *cluster, l *load) {
	n := c.victim()
	n.stop()
	l.flow(everybody)
	segments, _ := filepath.Glob(filepath.Join(n.dir(), "topics", "*", "*", "*.log"))
	flipped := 0
	for _, f := range segments {
		data := readFile(c, f)
		if i := lastUsed(data); i > 0 {
			data[i/2] ^= 1
			writeFile(c, f, data)
			flipped++
		}
	}
	if flipped == 0 {
		c.t.Fatalf("no segment of %s has anything to flip", n.name())
	}
	n.start()
	n.awaitReady()
	l.flow(everybody)
	c.readEveryReplica(n)
}

// A node dies, and the newest half of its journal is gone when it is started again, with what it has told others to be synced. Where it cannot start it says what
// an operator has to do; the others have what was lost.
func cutOffJournal(c *cluster, l *load) {
	n := c.victim()
	n.kill()
	l.flow(everybody)
	files, _ := filepath.Glob(filepath.Join(n.dir(), "journal", "*.wal"))
	slices.Sort(files)
	newest := ""
	for _, f := range files {
		if lastUsed(readFile(c, f)) > 0 {
			newest = f
		}
	}
	if newest == "" {
		c.t.Fatalf("the journal of %s is empty", n.name())
	}
	data := readFile(c, newest)
	clear(data[lastUsed(data)/2:])
	writeFile(c, newest, data)
	n.start()
	select {
	case <-n.ready:
		return
	case <-n.exited:
	case <-time.After(patience):
		c.t.Fatalf("%s neither runs nor ends", n.name())
	}
	repair := fmt.Sprintf("weir repair %s", n.dir())
	if last := tail(n.log.String(), 2); !strings.Contains(last, repair) {
		c.t.Fatalf("%s does not say what to do: %s", n.name(), last)
	}
	if out, err := exec.Command(binary(), "repair", n.dir(), "--yes").CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", repair, err, out)
	}
	n.start()
	n.awaitReady()
}

// A node dies, and its copy of the metadata is damaged. NATS 2.12.1 deleted streams on such a node's word. Here it refuses to start, names the file, and the others
// go on; once the file is as it was, so does the node.
func damagedMetadata(c *cluster, l *load) {
	n := c.victim()
	n.kill()
	path := filepath.Join(n.dir(), "raft", "raft.db")
	good := readFile(c, path)
	bad := bytes.Clone(good)
	for i := os.Getpagesize(); i < len(bad); i += os.Getpagesize() {
		bad[i+24] ^= 0x10
	}
	writeFile(c, path, bad)
	n.start()
	select {
	case <-n.exited:
	case <-time.After(patience):
		c.t.Fatalf("%s runs on damaged metadata", n.name())
	}
	if code := n.cmd.ProcessState.ExitCode(); code <= 0 || !strings.Contains(tail(n.log.String(), 5), "raft.db") {
		c.t.Errorf("%s exited %d and does not name the file:\n%s", n.name(), code, tail(n.log.String(), 5))
	}
	l.flow(everybody)
	writeFile(c, path, good)
	n.start()
	n.awaitReady()
}

// readEveryReplica has the node lead each partition that it has a replica of, and reads it there from the beginning: what is wrong with it is then
// noticed, and mended from the others.
func (c *cluster) readEveryReplica(n *node) {
	c.t.Helper()
	for _, topic := range []string{mqttTopic, kafkaTopic} {
		for p := range int32(partitions) {
			c.lead(n, topic, p)
		}
		c.awaitHealthy()
		c.readAgain(topic)
	}
}

// readAgain reads as many records as a topic has by now. It goes on filling: its end would not be reached.
func (c *cluster) readAgain(topic string) {
	c.t.Helper()
	adm := c.admin(c.nodes...)
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		c.t.Fatal(err)
	}
	records := int64(0)
	ends.Each(func(o kadm.ListedOffset) { records += o.Offset })
	kcat := exec.CommandContext(ctx, "kcat", "-b", c.nodes[0].kafka(), "-C", "-t", topic, "-o", "beginning", "-c", fmt.Sprint(records), "-q", "-f", "%o\n")
	var said lockedBuffer
	kcat.Stderr = &said
	out, err := kcat.Output()
	if n := bytes.Count(out, []byte("\n")); err != nil || int64(n) != records {
		c.t.Errorf("kcat read %d of %d records of %s: %v\n%s", n, records, topic, err, &said)
	}
}

// lead has a node lead a partition, by giving it the first place among the replicas.
func (c *cluster) lead(n *node, topic string, partition int32) {
	c.t.Helper()
	adm := c.admin(c.nodes...)
	defer adm.Close()
	c.await(fmt.Sprintf("%s leads %s/%d", n.name(), topic, partition), func(ctx context.Context) error {
		m, err := adm.Metadata(ctx, topic)
		if err != nil {
			return err
		}
		p := m.Topics[topic].Partitions[partition]
		id := int32(-1)
		for _, b := range m.Brokers {
			if b.Host == n.host.addr() {
				id = b.NodeID
			}
		}
		if p.Leader == id {
			return nil
		}
		order := []string{fmt.Sprint(id)}
		for _, r := range p.Replicas {
			if r != id {
				order = append(order, fmt.Sprint(r))
			}
		}
		if p.Replicas[0] != id {
			n.weir("cluster", "reassign", topic, "--partition", fmt.Sprint(partition), "--replicas", strings.Join(order, ","), "--wait")
		}
		n.weir("cluster", "rebalance")
		return fmt.Errorf("it is led by %d", p.Leader)
	})
}

// lastUsed is where a file ends that may be filled up with zeros.
func lastUsed(data []byte) int { return len(bytes.TrimRight(data, "\x00")) }

func readFile(c *cluster, path string) []byte {
	c.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// writeFile writes over a file in place.
func writeFile(c *cluster, path string, data []byte) {
	c.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
