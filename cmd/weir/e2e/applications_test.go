package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// application is a program that runs on Kafka, killed and started again. All that it says is kept.
type application struct {
	t      *testing.T
	argv   []string
	output *lockedBuffer
	cmd    *exec.Cmd
	exited chan struct{}
}

// startApplication runs one; the test's end kills it.
func startApplication(t *testing.T, argv ...string) *application {
	t.Helper()
	a := &application{t: t, argv: argv, output: &lockedBuffer{}}
	a.start()
	t.Cleanup(func() { a.kill() })
	return a
}

func (a *application) start() {
	a.t.Helper()
	a.cmd = exec.Command(a.argv[0], a.argv[1:]...)
	a.cmd.Stdout, a.cmd.Stderr = a.output, a.output
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // scripts start the program proper as their child
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.exited = make(chan struct{})
	go func() { _ = a.cmd.Wait(); close(a.exited) }()
}

// kill ends it with all its children, as a power cut does.
func (a *application) kill() {
	_ = syscall.Kill(-a.cmd.Process.Pid, syscall.SIGKILL)
	<-a.exited
}

// startTelemetryNode runs a node that puts what the fleet publishes into readings, both of whose partitions its devices come to.
func startTelemetryNode(t *testing.T) *node {
	t.Helper()
	config := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(config, []byte("routes: [{match: devices/+device/telemetry, topic: readings, partitions: 2}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, "--config", config)
	run(t, "", bins.weir, "--bootstrap", n.kafka, "topics", "create", "counts", "--partitions", "2")
	return n
}

// fleet is eight devices that publish readings over MQTT for some time.
type fleet struct {
	t      *testing.T
	report string
	done   chan error
}

func startFleet(t *testing.T, n *node, rate string, d time.Duration) *fleet {
	t.Helper()
	f := &fleet{t: t, report: filepath.Join(t.TempDir(), "ledger.json"), done: make(chan error, 1)}
	sim := exec.Command(bins.sim, "--broker", "mqtt://"+n.mqtt, "--devices", "8", "--rate", rate, "--duration", d.String(), "--drain", "30s", "--backoff-max", "1s", "--report", f.report, "-q")
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { f.done <- sim.Wait() }()
	t.Cleanup(func() { _ = sim.Process.Kill() })
	return f
}

// acked waits for the fleet's end and returns how many readings of each device the node has acknowledged.
func (f *fleet) acked() map[string]int {
	f.t.Helper()
	if err := <-f.done; err != nil {
		f.t.Fatalf("the fleet: %v", err)
	}
	b, err := os.ReadFile(f.report)
	if err != nil {
		f.t.Fatal(err)
	}
	var l firmwaresim.Ledger
	if err := json.Unmarshal(b, &l); err != nil {
		f.t.Fatal(err)
	}
	acked := map[string]int{}
	for _, d := range l.Devices {
		if d.Acked == 0 || d.Pending > 0 || d.Refused > 0 {
			f.t.Fatalf("%+v", d)
		}
		acked[d.Device] = int(d.Acked)
	}
	return acked
}

// span is that of the applications' windows.
const span = 5 * time.Second

// windowCounts reads a topic of readings to its end and counts those of each device by windows, keyed "device@start" with the start in Unix seconds. Every reading that was
// acknowledged has to be there.
func windowCounts(t *testing.T, n *node, topic string, acked map[string]int) map[string]int {
	t.Helper()
	type reading struct {
		device string
		seq    int64
	}
	counts, seen, missing := map[string]int{}, map[reading]bool{}, 0
	for _, n := range acked {
		missing += n
	}
	for _, line := range kcatRead(t, n, topic, "%k %T %s") {
		var device, value string
		var ms int64
		if _, err := fmt.Sscan(line, &device, &ms, &value); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var payload struct{ Seq int64 }
		if err := json.Unmarshal([]byte(value), &payload); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		counts[windowKey(device, time.UnixMilli(ms))]++
		if r := (reading{device, payload.Seq}); !seen[r] {
			seen[r] = true
			missing--
		}
	}
	if missing > 0 {
		t.Fatalf("%d readings were acknowledged and are not in %s", missing, topic)
	}
	return counts
}

func windowKey(device string, at time.Time) string {
	return fmt.Sprint(device, "@", at.Truncate(span).Unix())
}

// results follows the topic that an application writes: the last value of each key, and how many records there were.
type results struct {
	t       *testing.T
	reader  *kgo.Client
	last    map[string]int
	records int
}

func follow(t *testing.T, n *node, topic string, isolation kgo.IsolationLevel) *results {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(isolation))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return &results{t: t, reader: reader, last: map[string]int{}}
}

// until reads on until there is enough; the application's words say why there is not.
func (r *results) until(a *application, what string, enough func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*patience)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() { // an application that has ended writes nothing more
		select {
		case <-a.exited:
			cancel()
		case <-done:
		}
	}()
	for !enough() {
		fetches := r.reader.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatalf("waited for %s in vain; there are %d records: %v\nthe application said:\n%s", what, r.records, r.last, a.output)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			n, err := strconv.Atoi(string(rec.Value))
			if err != nil {
				r.t.Fatalf("%s: %v", rec.Key, err)
			}
			r.last[string(rec.Key)] = n
			r.records++
		})
	}
}

// more waits for that many more records.
func (r *results) more(a *application, records int) {
	r.t.Helper()
	enough := r.records + records
	r.until(a, fmt.Sprint(enough, " records"), func() bool { return r.records >= enough })
}
