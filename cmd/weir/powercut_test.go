package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log/vfs"
)

// The promise from end to end, on a disk that loses power under load: what MQTT clients saw acknowledged by PUBACK or
// PUBREC is there for a Kafka client after the power came back, and what was acknowledged as retained is retained.
// Of what was not synced nothing, half or all is kept. // A5, M1, M4, M6
func TestAckedOverMQTTIsThereAfterAPowerCut(t *testing.T) {
	if err := powerCutUnderMQTT(t, nil); err != nil {
		t.Fatal(err)
	}
}

// The test above sees what it should: on a disk whose syncs of one kind of file do nothing it finds a broken promise.
func TestAckedOverMQTTNeedsSyncs(t *testing.T) {
	for _, match := range []string{"*.wal", "*.log"} {
		t.Run(match, func(t *testing.T) {
			err := powerCutUnderMQTT(t, func(fs vfs.FS) *lazyFS { return &lazyFS{FS: fs, match: match} })
			if err == nil {
				t.Errorf("syncs of %s do nothing and no power cut shows it", match)
			}
			t.Log(err)
		})
	}
}

// lazyFS says that files matching a pattern are synced and does nothing, once it is on.
type lazyFS struct {
	vfs.FS
	match string
	on    atomic.Bool
}

type lazyFile struct {
	vfs.File
	fs *lazyFS
}

func (f lazyFile) Sync() error {
	if f.fs.on.Load() {
		return nil
	}
	return f.File.Sync()
}

func (fs *lazyFS) OpenFile(name string, flag int) (vfs.File, error) {
	f, err := fs.FS.OpenFile(name, flag)
	if ok, _ := filepath.Match(fs.match, filepath.Base(name)); ok && err == nil {
		f = lazyFile{f, fs}
	}
	return f, err
}

func (fs *lazyFS) Create(name string) (vfs.File, error) {
	return fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// cut is the disk as a power cut left it, with what had been acknowledged by then.
type cut struct {
	disk     *vfs.Mem
	keep     float64
	acked    map[string]bool
	retained int
}

// powerCutUnderMQTT runs a node on a disk in memory under load, cuts the power nine times on copies of the disk, and
// returns the first broken promise.
func powerCutUnderMQTT(t *testing.T, lazy func(vfs.FS) *lazyFS) (broken error) {
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	cfg.Log.JournalFile = 64 << 10 // small, so that journal files are used again several times
	cfg.Log.CommitMaxWait = 0
	mem := diskWith(t, cfg.Node.Data)
	var disk vfs.FS = mem
	var off *lazyFS
	if lazy != nil {
		off = lazy(mem)
		disk = off
	}
	n, stop := startNodeOn(t, cfg, disk)
	if off != nil {
		off.on.Store(true)
	}
	l := &ackLedger{acked: map[string]bool{}, enough: make(chan struct{}, 1)}
	const perClient, size = 500, 1000
	var load sync.WaitGroup
	for client, qos := range []byte{1, 2, 1} {
		retain := client == 2
		load.Go(func() {
			if err := l.publish(n.addrOf("mqtt"), fmt.Sprint("dev", client), qos, retain, perClient, size); err != nil {
				t.Errorf("client %d: %v", client, err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(7, 11))
	var cuts []cut
	for i := range 9 {
		l.await(t, (i+1)*3*perClient/10)
		c := l.snapshot() // before the cut: what is acknowledged later does not count
		c.keep = []float64{0, 0.5, 1}[i%3]
		c.disk = mem.CrashClone(c.keep, rng)
		cuts = append(cuts, c)
	}
	load.Wait()
	stop()
	raft := filepath.Join(cfg.Node.Data, "raft") // bbolt's file lies on the real disk: each start finds it as it is now
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(raft)); err != nil {
		t.Fatal(err)
	}
	for i, c := range cuts {
		if err := errors.Join(os.RemoveAll(raft), os.CopyFS(raft, os.DirFS(saved))); err != nil {
			t.Fatal(err)
		}
		if err := c.check(t, cfg); err != nil {
			return fmt.Errorf("power cut %d, %d acknowledged, keeping %g of what was not synced: %w", i, len(c.acked), c.keep, err)
		}
	}
	return nil
}

// diskWith is an empty disk on which dir exists for good.
func diskWith(t *testing.T, dir string) *vfs.Mem {
	t.Helper()
	disk := vfs.NewMem()
	err := disk.MkdirAll(dir)
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		err = errors.Join(err, disk.SyncDir(filepath.Dir(at)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

func startNodeOn(t testing.TB, cfg Config, disk vfs.FS) (n *node, stop func()) {
	t.Helper()
	n, stop, err := tryNodeOn(t, cfg, disk)
	if err != nil {
		t.Fatal(err)
	}
	return n, stop
}

func tryNodeOn(t testing.TB, cfg Config, disk vfs.FS) (n *node, stop func(), err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	if n, err = openNodeOn(ctx, cfg, disk, slog.New(slog.DiscardHandler)); err != nil {
		cancel()
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	return n, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	}, nil
}

// check starts a node on the disk and looks for everything that was acknowledged.
func (c *cut) check(t *testing.T, cfg Config) error {
	t.Helper()
	n, stop, err := tryNodeOn(t, cfg, c.disk)
	if err != nil {
		return fmt.Errorf("the node does not start: %w", err)
	}
	defer stop()
	for i := range cfg.Topics.Partitions { // a consumer would wait for a damaged one to be repaired
		p, err := n.broker.Partition(defaultTopic, int32(i))
		if err == nil && p.LogEnd() > 0 {
			_, err = p.Read(0, 1, nil)
		}
		if err != nil {
			return fmt.Errorf("partition %d: %w", i, err)
		}
	}
	stored, err := readWithKafka(t, n.addrOf("kafka"), defaultTopic)
	if err != nil {
		return err
	}
	missing := 0
	for payload := range c.acked {
		if stored[payload] == 0 {
			missing++
		} else if strings.HasPrefix(payload, "dev1-") && stored[payload] > 1 {
			return fmt.Errorf("the QoS 2 message %.10s is there %d times", payload, stored[payload])
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d acknowledged messages are missing", missing)
	}
	if c.retained < 0 {
		return nil
	}
	got, err := readRetained(n.addrOf("mqtt"), "dev2")
	if err != nil {
		return fmt.Errorf("message %d was acknowledged as retained: %w", c.retained, err)
	}
	if got < c.retained {
		return fmt.Errorf("message %d is retained, %d was acknowledged as retained", got, c.retained)
	}
	return nil
}

// ackLedger is what clients saw acknowledged.
type ackLedger struct {
	mu       sync.Mutex
	acked    map[string]bool
	retained int // number of the last retained message acknowledged, plus one
	want     int
	enough   chan struct{}
}

func (l *ackLedger) add(payload string, retain bool, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[payload] = true
	if retain {
		l.retained = number + 1
	}
	if len(l.acked) == l.want {
		l.enough <- struct{}{}
	}
}

// await returns once n messages were acknowledged.
func (l *ackLedger) await(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	there := len(l.acked) >= n
	l.want = n
	l.mu.Unlock()
	if there {
		return
	}
	select {
	case <-l.enough:
	case <-time.After(time.Minute):
		t.Fatalf("no %d messages were acknowledged", n)
	}
}

func (l *ackLedger) snapshot() cut {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cut{acked: maps.Clone(l.acked), retained: l.retained - 1}
}

// publish sends count messages as an MQTT 3.1.1 client, bytes by hand, at most 20 unacknowledged. Each payload begins
// with the client's name and a number.
func (l *ackLedger) publish(addr, client string, qos byte, retain bool, count, size int) error {
	c, err := dial311(addr, client)
	if err != nil {
		return err
	}
	window := make(chan struct{}, 20)
	failed := make(chan error, 1)
	payload := func(i int) string { return (fmt.Sprintf("%s-%d ", client, i) + strings.Repeat("x", size))[:size] }
	var acks sync.WaitGroup
	acks.Go(func() {
		for ended := 0; ended < count; {
			var b [4]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				failed <- err
				return
			}
			i := int(b[2])<<8 | int(b[3]) - 1
			switch {
			case b[0] == 0x40 && qos == 1: // PUBACK
				l.add(payload(i), retain, i)
			case b[0] == 0x50 && qos == 2: // PUBREC, then PUBREL
				l.add(payload(i), retain, i)
				if _, err := c.Write([]byte{0x62, 2, b[2], b[3]}); err != nil {
					failed <- err
					return
				}
				continue
			case b[0] == 0x70 && qos == 2: // PUBCOMP
			default:
				failed <- fmt.Errorf("got % x", b)
				return
			}
			ended++
			<-window
		}
	})
	defer func() { c.Close(); acks.Wait() }()
	for i := range count {
		head := 0x30 | qos<<1
		if retain {
			head |= 1
		}
		p := payload(i)
		n := 2 + len(client) + 2 + len(p)
		b := []byte{head, byte(n&0x7f | 0x80), byte(n >> 7), 0, byte(len(client))}
		b = append(append(append(b, client...), byte((i+1)>>8), byte(i+1)), p...)
		select {
		case window <- struct{}{}:
		case err := <-failed:
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	acks.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// dial311 connects with a clean session.
func dial311(addr, client string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	b := append([]byte{0x10, byte(12 + len(client)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, byte(len(client))}, client...)
	var ack [4]byte
	if _, err = c.Write(b); err == nil {
		_, err = io.ReadFull(c, ack[:])
	}
	if err == nil && ack != [4]byte{0x20, 2, 0, 0} {
		err = fmt.Errorf("CONNACK % x", ack)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readRetained gives the number of the retained message that publish left on a topic.
func readRetained(addr, topic string) (number int, err error) {
	c, err := dial311(addr, "reader")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(append(append([]byte{0x82, byte(5 + len(topic)), 0, 1, 0, byte(len(topic))}, topic...), 0)); err != nil {
		return 0, err
	}
	// SUBACK, then a PUBLISH with QoS 0 whose length takes two bytes.
	b := make([]byte, 5+3+2+len(topic)+20)
	if _, err := io.ReadFull(c, b); err != nil {
		return 0, fmt.Errorf("no retained message: %w", err)
	}
	if !bytes.Equal(b[:5], []byte{0x90, 3, 0, 1, 0}) || b[5] != 0x31 {
		return 0, fmt.Errorf("got % x", b)
	}
	_, err = fmt.Sscanf(string(b[5+3+2:]), topic+topic+"-%d", &number)
	return number, err
}

// readWithKafka counts the values of all records of a topic.
func readWithKafka(t *testing.T, addr, topic string) (map[string]int, error) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the ends: %w", err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	values := map[string]int{}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, err
		}
		for _, e := range fetches.Errors() {
			return nil, fmt.Errorf("fetch %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		for r := range slices.Values(fetches.Records()) {
			values[string(r.Value)]++
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return values, nil
}
