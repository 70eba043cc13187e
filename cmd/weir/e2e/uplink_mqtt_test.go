package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// mosquitto is a running broker with persistence, as a centre.
type mosquitto struct {
	t    *testing.T
	dir  string
	port string
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

func startMosquitto(t *testing.T, settings ...string) *mosquitto {
	t.Helper()
	m := &mosquitto{t: t, dir: t.TempDir(), port: freePort(t)}
	conf := fmt.Sprintf("listener %s 127.0.0.1\npersistence true\npersistence_location %s/\nmax_queued_messages 0\nuser root\n%s\n", m.port, m.dir, strings.Join(settings, "\n"))
	if !strings.Contains(conf, "password_file") {
		conf += "allow_anonymous true\n"
	}
	if err := os.WriteFile(filepath.Join(m.dir, "conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	m.start()
	t.Cleanup(func() { m.end(os.Kill) })
	return m
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (m *mosquitto) start() {
	m.t.Helper()
	m.log, m.done = &lockedBuffer{}, make(chan struct{})
	m.cmd = exec.Command(needCommand(m.t, "mosquitto"), "-c", filepath.Join(m.dir, "conf"))
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	done := m.done
	go func() { _ = m.cmd.Wait(); close(done) }()
	eventually(m.t, "mosquitto listens: "+m.log.String(), func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+m.port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) end(s os.Signal) {
	_ = m.cmd.Process.Signal(s)
	<-m.done
}

func (m *mosquitto) sub(args ...string) []string {
	return append([]string{"-V", "mqttv5", "-h", "127.0.0.1", "-p", m.port, "-q", "1"}, args...)
}

// received is what mosquitto_sub tells of a message.
type received struct {
	Topic      string `json:"topic"`
	Retain     int    `json:"retain"`
	Payload    string `json:"payload"`
	Properties struct {
		ContentType string            `json:"content-type"`
		User        map[string]string `json:"user-properties"`
	} `json:"properties"`
}

// read gives what waits in a session of the broker, which is count messages and what comes within a second behind them.
func (m *mosquitto) read(client string, count int) (all []received) {
	m.t.Helper()
	lines := background(m.t, needCommand(m.t, "mosquitto_sub"), m.sub("-t", "#", "-c", "-i", client, "-x", "36000", "-F", "%j")...)
	patient := time.After(patience)
	for {
		wait := time.After(time.Second)
		if len(all) < count {
			wait = nil
		}
		select {
		case line := <-lines:
			var r received
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				m.t.Fatalf("%q: %v", line, err)
			}
			all = append(all, r)
		case <-wait:
			return all
		case <-patient:
			m.t.Fatalf("%d messages of %d came to %s", len(all), count, client)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// uplinkStatus is the first uplink's line of weir bridge status.
func (n *node) uplinkStatus() (s struct {
	State       string `json:"state"`
	Why         string `json:"why"`
	LastError   string `json:"last_error"`
	Lag         int64  `json:"lag_records"`
	Records     int64  `json:"records"`
	SentBytes   int64  `json:"sent_bytes"`
	DeadLetters int64  `json:"dead_letters"`
	Node        string `json:"node"`
	Down        int64  `json:"down_records"`
	DownSkipped int64  `json:"down_skipped"`
}) {
	n.t.Helper()
	var a struct{ Uplinks []json.RawMessage }
	if out, err := tryRun(n.t, "", bins.weir, "--bootstrap", n.kafka, "--json", "bridge", "status"); err != nil || json.Unmarshal([]byte(out), &a) != nil || len(a.Uplinks) == 0 {
		return s
	}
	if err := json.Unmarshal(a.Uplinks[0], &s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// carried waits until nothing is left to carry.
func (n *node) carried() {
	n.t.Helper()
	eventually(n.t, "the uplink carries everything; the node's log:\n"+n.stderr.String(), func() bool {
		s := n.uplinkStatus()
		return s.State == "idle" && s.Lag == 0
	})
}

func (n *node) publish(topic string, from, to int) {
	n.t.Helper()
	var lines strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintln(&lines, i)
	}
	run(n.t, lines.String(), needCommand(n.t, "mosquitto_pub"), "-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "d1", "-q", "1", "-t", topic, "-l")
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The centre is mosquitto, which is away, dies and comes back, as the node does: by origin everything arrives. mosquitto acknowledges before it has written, so
// that it is killed only when it has.
func TestUplinkToMosquitto(t *testing.T) {
	t.Parallel()
	needCommand(t, "mosquitto_pub")
	m := startMosquitto(t)
	run(t, "", needCommand(t, "mosquitto_sub"), m.sub("-t", "#", "-c", "-i", "centre", "-x", "36000", "-E")...)
	config := writeFile(t, fmt.Sprintf(`
node: {site: plant-7}
uplinks:
  - name: centre
    to: mqtt://127.0.0.1:%s
    topics: [telemetry]
    rename: "{site}/{mqtt.topic}"
`, m.port))
	n := startNode(t, "--config", config)
	n.publish("devices/d1/t", 0, 1000)
	n.kill() // with some on their way
	n.start()
	n.publish("devices/d1/t", 1000, 1500)
	m.end(os.Interrupt) // it writes what it has
	n.publish("devices/d1/t", 1500, 2000)
	eventually(t, "the uplink says that the broker is away", func() bool { return strings.Contains(n.uplinkStatus().Why, "connect") })
	m.start()
	n.carried()
	_ = m.cmd.Process.Signal(syscall.SIGUSR1)
	eventually(t, "mosquitto writes", func() bool { return strings.Contains(m.log.String(), "Saving in-memory database") })
	run(t, "", needCommand(t, "mosquitto_sub"), m.sub("-t", "$SYS/broker/version", "-C", "1")...) // it serves again, so it has written
	m.end(os.Kill)
	n.publish("devices/d1/t", 2000, 2500)
	n.kill()
	m.start()
	n.start()
	n.carried()

	got := map[string]string{}
	repeats := 0
	for _, r := range m.read("centre", 2500) {
		origin := r.Properties.User["weir.origin"]
		if _, again := got[origin]; again {
			repeats++
		}
		got[origin] = r.Payload
		if r.Topic != "plant-7/devices/d1/t" {
			t.Fatalf("arrived: %+v", r)
		}
	}
	var want struct {
		Partition int    `json:"partition"`
		Offset    int    `json:"offset"`
		Value     string `json:"value"`
	}
	count := 0
	for _, line := range strings.Fields(run(t, "", bins.weir, "--bootstrap", n.kafka, "--json", "consume", "telemetry", "--from", "beginning", "--count", "2500")) {
		if err := json.Unmarshal([]byte(line), &want); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		count++
		suffix := fmt.Sprintf("/telemetry/%d/%d", want.Partition, want.Offset)
		found := false
		for origin, value := range got {
			if strings.HasSuffix(origin, suffix) {
				found = value == want.Value
			}
		}
		if !found {
			t.Errorf("%s, %q, did not arrive", suffix, want.Value)
		}
	}
	if count < 2500 || len(got) != count {
		t.Errorf("%d records here, %d at the centre", count, len(got))
	}
	if s := n.uplinkStatus(); s.SentBytes == 0 {
		t.Errorf("status: %+v", s)
	}
	t.Logf("%d records, %d came again", count, repeats)
}

// Who may publish what, how large, and that text cannot be what MQTT forbids, is mosquitto's to say: what it never takes is in the dead-letter topic with its reason,
// what it does not take now waits, and both do not stop the rest.
func TestUplinkToMosquittoRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	passwords, acl := filepath.Join(dir, "passwords"), filepath.Join(dir, "acl")
	run(t, "", needCommand(t, "mosquitto_passwd"), "-b", "-c", passwords, "gateway", "secret")
	if err := os.WriteFile(acl, []byte("user gateway\ntopic write telemetry/#\ntopic read #\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := startMosquitto(t, "password_file "+passwords, "acl_file "+acl, "max_packet_size 2000")
	n := startNode(t, "--config", writeFile(t, fmt.Sprintf(`
uplinks:
  - name: centre
    to: mqtt://127.0.0.1:%s
    topics: [telemetry, secrets]
    rename: "{topic}/{mqtt.topic}"
    sasl: {user: gateway, password_file: %s}
`, m.port, writeFile(t, "secret\n"))))
	centre := background(t, needCommand(t, "mosquitto_sub"), m.sub("-u", "gateway", "-P", "secret", "-t", "#", "-i", "c", "-F", "%t %l %C")...)
	run(t, "", bins.weir, "--bootstrap", n.kafka, "topics", "create", "secrets", "--partitions", "1", "--replicas", "1")
	kcat := needCommand(t, "kcat")
	produce := func(topic, key, value string, headers ...string) {
		args := []string{"-P", "-b", n.kafka, "-t", topic, "-k", key}
		for _, h := range headers {
			args = append(args, "-H", h)
		}
		run(t, value, kcat, args...)
	}
	produce("secrets", "s", "waits")
	produce("telemetry", "large", strings.Repeat("x", 3000))
	produce("telemetry", "wild", "x", "mqtt.topic=a/#")
	produce("telemetry", "text", "x", "content-type=text/plain", "lines=a\nb")
	await(t, centre, "telemetry/telemetry/text 1 text/plain")
	dead := run(t, "", bins.weir, "--bootstrap", n.kafka, "--json", "consume", "telemetry.dlq", "--from", "beginning", "--count", "2")
	if !strings.Contains(dead, "takes 2000") || !strings.Contains(dead, "wildcard") {
		t.Errorf("the dead-letter topic: %s", dead)
	}
	eventually(t, "the topic waits", func() bool {
		s := n.uplinkStatus()
		return s.Lag == 1 && s.DeadLetters == 2 && strings.Contains(s.Why, "topic secrets, partition 0, offset 0") && strings.Contains(s.Why, "not authorized")
	})
}

// A device's session is away, the gateway dies at any moment and comes back: what was written to a topic of the centre comes to the device, and is in the topic
// here exactly once. It does not go up again, though everything does.
func TestDownFromKafka(t *testing.T) {
	t.Parallel()
	sub := needCommand(t, "mosquitto_sub")
	kcat := needCommand(t, "kcat")
	centre := startNode(t)
	n := startNode(t, "--config", writeFile(t, fmt.Sprintf(`
node: {site: plant-7}
uplinks:
  - name: centre
    to: kafka://%s
    topics: ["*"]
    down:
      - {from: commands, to: "devices/{key}/commands", start: beginning}
      - {from: manifests, to: "devices/{key}/manifest", retain: true, start: beginning}
`, centre.kafka)))
	device := []string{"-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-i", "d1", "-c", "-x", "36000", "-t", "devices/d1/commands", "-F", "%p"}
	run(t, "", sub, append(device, "-E")...)
	write := func(topic, key, value string) {
		run(t, value, kcat, "-P", "-b", centre.kafka, "-t", topic, "-k", key, "-H", "by=operator")
	}
	const count = 300
	var lines strings.Builder
	for i := range count {
		fmt.Fprintf(&lines, "d1:command %d\n", i)
		if i == 100 || i == 200 {
			run(t, lines.String(), kcat, "-P", "-b", centre.kafka, "-t", "commands", "-K", ":")
			lines.Reset()
			n.kill()
			n.start()
		}
	}
	run(t, lines.String(), kcat, "-P", "-b", centre.kafka, "-t", "commands", "-K", ":")
	write("manifests", "d1", "firmware 7")
	write("commands", "d1", "the last")
	got := background(t, sub, device...)
	next := 0
	for next < count {
		line := await(t, got, "command")
		if line != fmt.Sprintf("command %d", next) {
			t.Fatalf("command %d: the device got %q", next, line)
		}
		next++
	}
	await(t, got, "the last")
	values := run(t, "", bins.weir, "--bootstrap", n.kafka, "consume", "commands", "--from", "beginning", "--count", fmt.Sprint(count+1))
	if c := strings.Count(values, "command "); c != count {
		t.Errorf("%d commands are in the topic here, of %d", c, count)
	}
	if m := await(t, background(t, sub, "-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-i", "late", "-t", "devices/+/manifest", "-F", "%t r%r %p"), "firmware"); m != "devices/d1/manifest r1 firmware 7" {
		t.Errorf("a device that comes later gets %q", m)
	}
	n.publish("devices/d1/t", 0, 3)
	n.carried()
	if all := run(t, "", kcat, "-C", "-b", centre.kafka, "-t", "commands", "-e", "-q"); strings.Count(all, "command ") != count {
		t.Errorf("what came down went up again: the centre has %d commands", strings.Count(all, "command "))
	}
	if all := run(t, "", kcat, "-C", "-b", centre.kafka, "-t", "telemetry", "-e", "-q"); len(strings.Fields(all)) != 3 {
		t.Errorf("the centre's telemetry: %q", all)
	}
	if out, err := tryRun(t, "", bins.weir, "--bootstrap", n.kafka, "bridge", "verify", "centre"); err != nil {
		t.Errorf("what came down counts as lost on its way up: %v\n%s", err, out)
	}
}

// The same with mosquitto as the centre, which keeps the session while the gateway is away; what the gateway carries up under a topic that comes down stays there.
func TestDownFromMosquitto(t *testing.T) {
	t.Parallel()
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	m := startMosquitto(t, "log_type all")
	n := startNode(t, "--config", writeFile(t, fmt.Sprintf(`
uplinks:
  - name: centre
    to: mqtt://127.0.0.1:%s
    topics: ["*"]
    down: [{from: "cmd/#"}]
`, m.port)))
	eventually(t, "the subscription at the broker", func() bool { return strings.Contains(m.log.String(), "Sending SUBACK") })
	device := []string{"-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-i", "device", "-c", "-x", "36000", "-t", "cmd/#", "-F", "%t %p %C %P"}
	run(t, "", sub, append(device, "-E")...)
	send := func(from, to int) {
		var lines strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&lines, "command %d\n", i)
		}
		run(t, lines.String(), pub, m.sub("-t", "cmd/d1", "-l", "-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "by", "operator")...)
	}
	send(0, 200)
	n.kill()
	send(200, 400)
	n.start()
	send(400, 500)
	n.publish("cmd/from-here", 0, 5)
	n.carried()
	got := background(t, sub, device...)
	seen := map[string]int{}
	for len(seen) < 500 {
		line := await(t, got, "cmd/d1 command")
		if !strings.HasPrefix(strings.SplitN(line, " text/plain ", 2)[1], "weir.via:") || !strings.HasSuffix(line, "by:operator") {
			t.Fatalf("the device got %q", line)
		}
		seen[line]++
	}
	repeats := 0
	for _, times := range seen {
		repeats += times - 1
	}
	t.Logf("%d commands came again", repeats)
	if all := run(t, "", bins.weir, "--bootstrap", n.kafka, "consume", "commands", "--from", "beginning", "--count", "500"); strings.Contains(all, "from-here") {
		t.Error("what began here came down")
	}
	if st := n.uplinkStatus(); st.DownSkipped < 5 {
		t.Errorf("status: %+v", st)
	}
}

// Whoever takes over the flow takes each command once: the node that runs it is killed again and again while commands come.
func TestDownFromKafkaInACluster(t *testing.T) {
	t.Parallel()
	kcat := needCommand(t, "kcat")
	centre := startNode(t)
	config := writeFile(t, fmt.Sprintf("uplinks: [{name: centre, to: 'kafka://%s', down: [{from: commands, start: beginning}]}]\n", centre.kafka))
	s := &site{t: t, ring: filepath.Join(t.TempDir(), "keyring")}
	run(t, "", bins.weir, "cluster", "keygen", s.ring)
	for i := range 3 {
		extra := []string{"--expect", "3", "--config", config}
		if i > 0 {
			extra = append(extra, "--join", s.members[0].gossip)
		}
		s.make(extra...)
	}
	s.start(s.members...)
	const rounds, each = 4, 300
	asked := s.members[0]
	for round := range rounds {
		var owner *member
		eventually(t, "somebody owns the uplink", func() bool {
			st := asked.uplinkStatus()
			for i, m := range s.members {
				if st.Node == fmt.Sprintf("node%d", i+1) && st.State == "idle" {
					owner = m
				}
			}
			return owner != nil
		})
		var lines strings.Builder
		for i := range each {
			fmt.Fprintf(&lines, "d%d:command %d\n", i%5, round*each+i)
		}
		run(t, lines.String(), kcat, "-P", "-b", centre.kafka, "-t", "commands", "-K", ":")
		eventually(t, "something has come down", func() bool { return asked.uplinkStatus().Down > 0 })
		owner.kill()
		for _, m := range s.members {
			if m != owner {
				asked = m
			}
		}
		eventually(t, "another takes over", func() bool {
			st := asked.uplinkStatus()
			return st.State == "idle" && st.Node != ""
		})
		owner.start()
	}
	values := ""
	eventually(t, "everything has come down", func() bool {
		out, err := tryRun(t, "", kcat, "-C", "-b", asked.kafka, "-t", "commands", "-e", "-q")
		values = out
		return err == nil && strings.Count(out, "command ") >= rounds*each
	})
	seen := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(values), "\n") {
		seen[line]++
	}
	for i := range rounds * each {
		if n := seen[fmt.Sprintf("command %d", i)]; n != 1 {
			t.Errorf("command %d came down %d times", i, n)
		}
	}
}

// Apache Kafka as the centre: what transactions have committed comes down once each, what they have aborted does not, over kill -9 of either side.
func TestDownFromApacheKafka(t *testing.T) {
	t.Parallel()
	k := ownKafka(t)
	run(t, "", bins.weir, "--bootstrap", k.Addr, "topics", "create", "commands", "--partitions", "3", "--replicas", "1")
	n := startEdge(t, k.Addr, []string{"down: [{from: commands, start: beginning}]"})
	const count, each = 30, 20
	want := map[string]bool{}
	for i := range count {
		producer, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.TransactionalID("operator"), kgo.DefaultProduceTopic("commands"))
		if err != nil {
			t.Fatal(err)
		}
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		commit := kgo.TransactionEndTry(i%3 > 0)
		for j := range each {
			value := fmt.Sprintf("command-%d", i*each+j)
			want[value] = bool(commit)
			producer.Produce(t.Context(), &kgo.Record{Key: fmt.Appendf(nil, "d%d", j%7), Value: []byte(value)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := producer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := producer.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
		producer.Close()
		switch i {
		case 10, 25:
			n.kill()
			n.start()
		case 19: // behind a commit: Kafka that is killed right behind an abort may show what was aborted to everybody
			k.Kill()
			startAgain(t, k)
		}
	}
	var values []string
	eventually(t, "everything has come down", func() bool {
		out, err := tryRun(t, "", needCommand(t, "kcat"), "-C", "-b", n.kafka, "-t", "commands", "-e", "-q")
		values = strings.Fields(out)
		return err == nil && len(values) >= count/3*2*each
	})
	seen := map[string]int{}
	for _, v := range values {
		seen[v]++
	}
	for v, committed := range want {
		if times := seen[v]; committed && times != 1 || !committed && times > 0 {
			t.Errorf("%s, committed %v, came down %d times", v, committed, times)
		}
	}
}
