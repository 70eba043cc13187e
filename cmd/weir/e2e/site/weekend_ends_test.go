package site

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// broker is a mosquitto at a host, with a reader beside it whose session has everything that comes.
type broker struct {
	t    *testing.T
	host *host
	log  lockedBuffer
	file string // what the reader has got: topic, payload in hexadecimal, user properties

	mu    sync.Mutex
	watch func(payload []byte)
	ended chan struct{} // closed with the last message
}

const lastMessage = "plant-7/that-was-all"

func startBroker(t *testing.T, h *host) *broker {
	t.Helper()
	for _, c := range []string{"mosquitto", "mosquitto_sub", "mosquitto_pub"} {
		needCommand(t, c)
	}
	dir := t.TempDir()
	b := &broker{t: t, host: h, file: filepath.Join(dir, "received"), ended: make(chan struct{})}
	conf := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener 1883 %s\nallow_anonymous true\nuser root\npersistence true\npersistence_location %s/\nmax_queued_messages 0\n", h.addr(), dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := h.command("mosquitto", "-c", conf)
	c.Stdout, c.Stderr = &b.log, &b.log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if t.Failed() {
			t.Logf("mosquitto's log:\n%s", &b.log)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", h.addr()+":1883")
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("mosquitto does not listen: %v\n%s", err, &b.log)
		}
	}
	received, err := os.Create(b.file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = received.Close() })
	subscribed := make(chan struct{})
	sub := h.command("stdbuf", "-oL", "mosquitto_sub", "-V", "mqttv5", "-h", h.addr(), "-q", "1", "-i", "centre", "-t", "plant-7/#", "-F", `%t\t%x\t%P`)
	lines(t, sub, func(line []byte) { b.got(line, received, subscribed) })
	b.send("plant-7/is-anybody-there", subscribed)
	return b
}

// send publishes to a topic, until its reader has got it.
func (b *broker) send(topic string, got chan struct{}) {
	b.t.Helper()
	for end := time.Now().Add(patience); ; {
		_ = b.host.command("mosquitto_pub", "-V", "mqttv5", "-h", b.host.addr(), "-q", "1", "-t", topic, "-m", "-").Run()
		select {
		case <-got:
			return
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			b.t.Fatalf("the reader at the broker does not get %s", topic)
		}
	}
}

func (b *broker) got(line []byte, to *os.File, subscribed chan struct{}) {
	f := bytes.SplitN(line, []byte("\t"), 3)
	switch topic := string(f[0]); {
	case topic == "plant-7/is-anybody-there":
		if !closed(subscribed) {
			close(subscribed)
		}
		return
	case topic == lastMessage:
		if !closed(b.ended) {
			close(b.ended)
		}
		return
	}
	if _, err := to.Write(append(line, '\n')); err != nil {
		b.t.Error(err)
	}
	payload, err := hex.DecodeString(string(f[1]))
	if err != nil {
		b.t.Errorf("%q: %v", line, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watch != nil {
		b.watch(payload)
	}
}

// read has the payloads passed on that come from now on.
func (b *broker) read(watch func(payload []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watch = watch
}

// again is how often the uplink has connected anew.
func (b *broker) again() int { return strings.Count(b.log.String(), " as weir-uplink-") - 1 }

// kafkaHasAll compares both ends: with the tool, with librdkafka, and the centre with the devices' own ledger.
func (w *weekend) kafkaHasAll(ledger string) {
	w.t.Helper()
	hub := w.net.hosts[0]
	if out, err := w.tool(hub, "bridge", "verify", "central", "--bootstrap", w.edge.kafka()); err != nil {
		w.t.Errorf("bridge verify: %v\n%s", err, out)
	} else {
		w.t.Logf("bridge verify:\n%s", out)
	}
	if out, err := w.tool(hub, "audit", "plant-7.telemetry", "--ledger", ledger, "--bootstrap", w.centre.Addr); err != nil || !strings.Contains(out, "ledger: ") {
		w.t.Errorf("audit at the centre: %v\n%s", err, out)
	}
	for _, topic := range []string{"telemetry", "alerts", "small", "bulk"} {
		c := w.compare("uplink_compare.py", w.edge.kafka(), w.centre.Addr, w.cluster(), topic+"=plant-7."+topic)
		switch topic {
		case "small":
			c.Strange = 0 // at the source they are deleted, now that they were carried
		case "bulk":
			w.t.Logf("live_first: at %d records older ones of their partition came behind newer ones", c.Disordered)
			c.Disordered = 0
		}
		if c.Missing+c.Duplicates+c.Differing+c.Disordered+c.Strange > 0 || c.Arrived < 100 {
			w.t.Errorf("%s at both ends, read with librdkafka: %+v", topic, c)
		}
	}
}

// mosquittoHasAll compares what a session at the broker has got with what is here, read with librdkafka. The protocol has what was not acknowledged sent again over the next
// connection: a partition goes back once for each of them at most.
func (w *weekend) mosquittoHasAll() {
	w.t.Helper()
	w.broker.send(lastMessage, w.broker.ended)
	c := w.compare("uplink_compare_mqtt.py", w.edge.kafka(), w.cluster(), w.broker.file, "telemetry=plant-7/", "alerts=plant-7/")
	again := w.broker.again()
	w.t.Logf("mosquitto: %d of %d records have arrived, %d came more than once over %d connections that followed upon a broken one", c.Arrived, c.Records, c.Duplicates, again)
	if c.Missing+c.Differing+c.Disordered+c.Strange > 0 || c.Arrived < 100 {
		w.t.Errorf("both ends, mosquitto there: %+v", c)
	}
	if again < 1 || c.Rewinds > again {
		w.t.Errorf("a partition was sent again %d times, and %d connections broke: %+v", c.Rewinds, again, c)
	}
}

type comparison struct {
	Records, Arrived, Missing, Duplicates, Differing, Disordered, Strange, Rewinds int
	Examples                                                                       []string
}

// compare runs a program that shares no code with the uplink.
func (w *weekend) compare(args ...string) (c comparison) {
	w.t.Helper()
	args[0] = "../python/" + args[0]
	cmd := exec.Command(python(w.t), args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err != nil {
		w.t.Errorf("%s: %v\n%s%s", args[0], err, out, &errs)
	}
	return c
}

// cluster is the gateway's, as origins name it.
func (w *weekend) cluster() string {
	w.t.Helper()
	m, err := kadm.NewClient(w.gateway).BrokerMetadata(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Cluster
}
