package e2e

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
)

// A target that runs for a tenth of the time only has everything in the end, once and in order, and the uplink need not begin anew for that.
func TestUplinkToASlowTarget(t *testing.T) {
	t.Parallel()
	centre := ownKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	end, slowed := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			if err = centre.Pause(); err != nil {
				break
			}
			time.Sleep(900 * time.Millisecond) // how slow it is, not for how long anybody waits
			if err = centre.Resume(); err != nil {
				break
			}
			select {
			case <-end:
				slowed <- nil
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
		slowed <- err
	}()
	for i := 70; i < 1400; i += 70 {
		produceLines(t, edge.kafka, "telemetry", i, 70)
	}
	s := edge.awaitUplink("all is carried", carriedAll)
	close(end)
	if err := <-slowed; err != nil {
		t.Fatal(err)
	}
	if s.Failures > 0 {
		t.Errorf("it began anew %d times: %s", s.Failures, s.LastError)
	}
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 1400)
}

// A target whose disk is full ends; with more room, and started again, it gets everything once.
func TestUplinkToATargetThatIsFull(t *testing.T) {
	t.Parallel()
	need(t, os.Geteuid() == 0, "root, which may mount a small disk,")
	need(t, apache.Found(filepath.Join(cacheDir(), "kafka")), "Apache Kafka")
	disk := t.TempDir()
	mount := func(options string) {
		t.Helper()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "weir-e2e", disk).CombinedOutput(); err != nil {
			t.Logf("mount: %v: %s", err, out)
			need(t, false, "a disk of tmpfs")
		}
	}
	mount("size=24m")
	t.Cleanup(func() { _ = exec.Command("umount", "-l", disk).Run() })
	centre := &apache.Kafka{
		Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka"),
		More: []string{"log.dirs=" + filepath.Join(disk, "data"), "log.index.size.max.bytes=65536", "metadata.log.max.snapshot.interval.ms=0"},
	}
	runKafka(t, centre)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	records := make([]*kgo.Record, 400)
	for i := range records {
		value := make([]byte, 100_000) // 40 MB that nothing compresses
		_, _ = rand.Read(value)
		records[i] = &kgo.Record{Topic: "telemetry", Key: fmt.Append(nil, i%7), Partition: int32(i % 4), Value: value}
	}
	produceRecords(t, edge.kafka, records...)
	var s uplinkStatus
	for end := time.Now().Add(2 * patience); s.State != "failing" || s.LagRecords == 0; time.Sleep(100 * time.Millisecond) { // it gives the target 55 s
		if s = edge.uplinks()[0]; time.Now().After(end) {
			t.Fatalf("nobody has noticed: %+v", s)
		}
	}
	if t.Logf("%d of 470 records were carried, then: %s", s.Records, s.Why); !strings.Contains(centre.Said(), "No space left on device") {
		t.Error("it was not the disk")
	}
	produceLines(t, edge.kafka, "telemetry", 70, 70) // goes on here
	centre.Kill()
	mount("remount,size=200m")
	startAgain(t, centre)
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("all is carried", carriedAll)
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 540)
}

// thinLink carries so many bytes a second from its clients to an address.
func thinLink(t *testing.T, to string, bytesPerSecond int) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			_ = in.(*net.TCPConn).SetReadBuffer(4096)
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			stop := func() { _ = in.Close(); _ = out.Close() }
			all.Go(func() {
				defer stop()
				_, _ = io.Copy(in, out)
			})
			all.Go(func() {
				defer stop()
				buf := make([]byte, 1024)
				for {
					n, err := in.Read(buf)
					if err != nil {
						return
					}
					time.Sleep(time.Duration(n) * time.Second / time.Duration(bytesPerSecond))
					if _, err := out.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

// A record that takes longer than a minute on its link arrives. It takes a few of them.
func TestUplinkLargeRecordOnAThinLink(t *testing.T) {
	t.Parallel()
	if os.Getenv("WEIR_SOAK") == "" {
		t.Skip("takes 4 minutes: set WEIR_SOAK")
	}
	need(t, apache.Found(filepath.Join(cacheDir(), "kafka")), "Apache Kafka")
	behind := peerPort(t)
	link := thinLink(t, behind, 10_000)
	centre := &apache.Kafka{Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka"), Others: []apache.Listener{{Name: "THIN", Bind: behind, Dial: link, Protocol: "PLAINTEXT"}}}
	runKafka(t, centre)
	edge := startEdge(t, link, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	value := make([]byte, 800_000)
	_, _ = rand.Read(value)
	produceRecords(t, edge.kafka, &kgo.Record{Topic: "telemetry", Value: value})
	var s uplinkStatus
	for end := time.Now().Add(6 * time.Minute); !carriedAll(s); time.Sleep(time.Second) {
		if s = edge.uplinks()[0]; time.Now().After(end) {
			t.Fatalf("not in time: %+v\n%s", s, edge.stderr)
		}
	}
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 71)
	t.Logf("%+v", s)
}
