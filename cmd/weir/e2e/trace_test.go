package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

// recorder stands between clients and a node, passes every byte on as it is, and notes what is asked. Clients stay with it because
// the node advertises its address.
type recorder struct {
	net.Listener
	node string

	mu     sync.Mutex
	client string // whose connections come now
	asked  []asked
	conns  int
	wg     sync.WaitGroup
}

// asked is a request.
type asked struct {
	client       string
	conn         int
	key, version int16
	fetch        *kmsg.FetchRequest // decoded
	transaction  bool               // of Produce: it has a transactional id
	software     string             // of ApiVersions
}

// record starts a node behind a recorder.
func record(t *testing.T, extra ...string) (*recorder, string) {
	t.Helper()
	const advertised = "127.0.0.2" // all of 127/8 is this machine on Linux
	n := startNode(t, append(extra, "--advertise", advertised)...)
	_, port, err := net.SplitHostPort(n.kafka)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(advertised, port))
	if err != nil && runtime.GOOS != "linux" {
		t.Skipf("no second loopback address to advertise: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Listener: ln, node: net.JoinHostPort("127.0.0.1", port)}
	r.wg.Go(r.accept)
	t.Cleanup(func() { ln.Close(); r.wg.Wait() })
	return r, ln.Addr().String()
}

func (r *recorder) accept() {
	for {
		c, err := r.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		client, conn := r.client, r.conns
		r.conns++
		r.mu.Unlock()
		r.wg.Go(func() { r.relay(c, client, conn) })
	}
}

// relay ends when either side does.
func (r *recorder) relay(near net.Conn, client string, conn int) {
	defer near.Close()
	far, err := net.Dial("tcp", r.node)
	if err != nil {
		return
	}
	defer far.Close()
	r.wg.Go(func() {
		_, _ = io.Copy(near, far)
		near.Close()
		far.Close()
	})
	for in := bufio.NewReader(near); ; {
		var frame bytes.Buffer
		size, err := in.Peek(4)
		if err != nil {
			return
		}
		if _, err := io.CopyN(&frame, in, 4+int64(binary.BigEndian.Uint32(size))); err != nil {
			return
		}
		if a, ok := parseAsked(frame.Bytes()[4:]); ok {
			a.client, a.conn = client, conn
			r.mu.Lock()
			r.asked = append(r.asked, a)
			r.mu.Unlock()
		}
		if _, err := far.Write(frame.Bytes()); err != nil {
			return
		}
	}
}

func parseAsked(b []byte) (a asked, ok bool) {
	if len(b) < 10 {
		return a, false
	}
	a.key, a.version = int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:]))
	switch kmsg.Key(a.key) {
	case kmsg.Fetch:
		a.fetch = kmsg.NewPtrFetchRequest()
		return a, readBody(a.fetch, a.version, b)
	case kmsg.Produce:
		req := kmsg.NewPtrProduceRequest()
		ok := readBody(req, a.version, b)
		a.transaction = req.TransactionID != nil
		return a, ok
	case kmsg.ApiVersions:
		req := kmsg.NewPtrApiVersionsRequest()
		ok := readBody(req, a.version, b)
		a.software = req.ClientSoftwareName + " " + req.ClientSoftwareVersion
		return a, ok
	}
	return a, true
}

// readBody decodes what stands behind a request's header.
func readBody(req kmsg.Request, version int16, b []byte) bool {
	req.SetVersion(version)
	id := max(int(int16(binary.BigEndian.Uint16(b[8:]))), 0)
	if req.IsFlexible() {
		id++ // no tags in the header
	}
	return len(b) >= 10+id && req.ReadFrom(b[10+id:]) == nil
}

// of is what one client has asked, in order; connections one after the other.
func (r *recorder) of(client string) []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := slices.DeleteFunc(slices.Clone(r.asked), func(a asked) bool { return a.client != client })
	slices.SortStableFunc(own, func(a, b asked) int { return a.conn - b.conn })
	return own
}

// newest is the highest version of each key that a client has asked with.
func (r *recorder) newest(client string) map[int16]int16 {
	newest := make(map[int16]int16)
	for _, a := range r.of(client) {
		newest[a.key] = max(newest[a.key], a.version)
	}
	return newest
}

// software is how a client calls itself.
func (r *recorder) software(client string) (name string) {
	for _, a := range r.of(client) {
		name = max(name, a.software)
	}
	return name
}

func (r *recorder) run(client string, use func()) {
	r.mu.Lock()
	r.client = client
	r.mu.Unlock()
	use()
}

// The clients of the trace, with the versions that .ci/clients-deps and go.mod pin. kcat is Debian's and not among those whose versions are frozen.
const (
	javaClient   = "kafka-clients"
	pythonClient = "confluent-kafka"
	goClient     = "franz-go"
	kcatClient   = "kcat"
)

// The newest version of each request that weir advertises is one that somebody uses: the trace of what real clients ask says who. It is kept in
// testdata/kafka_trace.txt, from which deploy/docs/kafka-protocol.md is made.
func TestClientsUseTheNewestVersions(t *testing.T) {
	kcat, java, javac := needCommand(t, "kcat"), needCommand(t, "java"), needCommand(t, "javac")
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "confluent-kafka (Python)")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/Trace.java", "java/TraceSecurity.java")

	r, addr := record(t)
	r.run(javaClient, func() {
		out := run(t, "", java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "Trace", addr, "by-java")
		if !strings.Contains(out, "traced") {
			t.Fatalf("the client said:\n%s", out)
		}
	})
	r.run(pythonClient, func() { run(t, "", python, "python/trace.py", addr, "by-python") })
	r.run(kcatClient, func() {
		run(t, "a:1\n", kcat, "-b", addr, "-P", "-t", "by-kcat", "-K:")
		run(t, "", kcat, "-b", addr, "-C", "-t", "by-kcat", "-e", "-q")
	})
	var advertised []kmsg.ApiVersionsResponseApiKey
	r.run(goClient, func() {
		advertised = goRoundTrip(t, addr, "by-go", func() bool { return r.newest(goClient)[int16(kmsg.Heartbeat)] > 0 })
	})

	traceSecurity(t, r, classPath, python)
	fetchSessionsOf(t, r.of(javaClient))
	for client, version := range map[string]int{javaClient: 2, goClient: 2, pythonClient: 1} {
		transactionsOf(t, client, r.of(client), version)
	}
	newest := make(map[string]map[int16]int16)
	for _, client := range []string{javaClient, pythonClient, goClient, kcatClient} {
		newest[client] = r.newest(client)
	}
	must := []kmsg.Key{kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets, kmsg.Metadata, kmsg.ApiVersions}
	for _, k := range advertised {
		by := slices.Sorted(maps.Keys(newest))
		by = slices.DeleteFunc(by, func(client string) bool { return newest[client][k.ApiKey] != k.MaxVersion })
		if len(by) == 0 && slices.Contains(must, kmsg.Key(k.ApiKey)) {
			t.Errorf("nobody asks for version %d of %s: %v", k.MaxVersion, kmsg.NameForKey(k.ApiKey), newest)
		}
	}
	t.Logf("kcat (%s) asks for %v", r.software(kcatClient), newest[kcatClient])
	compareTrace(t, r)
}

// traceSecurity adds to r what clients ask of a node that asks them who they are.
func traceSecurity(t *testing.T, r *recorder, classPath, python string) {
	t.Helper()
	users, _ := operatorFile(t)
	secure, addr := record(t, "--auth-file", users, "--kafka-sasl")
	secure.run(javaClient, func() {
		out := run(t, "", needCommand(t, "java"), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "TraceSecurity", addr, "operator", "root-secret")
		if !strings.Contains(out, "producer_byte_rate=1.0E9") || !strings.Contains(out, "deleted 1") || !strings.Contains(out, "traced") {
			t.Fatalf("the client said:\n%s", out)
		}
	})
	secure.run(pythonClient, func() { run(t, "", python, "python/trace_scram.py", addr, "by-java", "java-secret") })
	secure.run(goClient, func() {
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.SASL(scram.Auth{User: "by-java", Pass: "java-secret"}.AsSha512Mechanism()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := cl.Ping(ctx); err != nil {
			t.Error(err)
		}
	})
	secure.mu.Lock()
	defer secure.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range secure.asked {
		if a.key != int16(kmsg.Fetch) {
			r.asked = append(r.asked, a)
		}
	}
}

// compareTrace holds the trace against the one in testdata.
func compareTrace(t *testing.T, r *recorder) {
	t.Helper()
	var lines, names []string
	for _, client := range []string{javaClient, pythonClient, goClient} {
		versions := r.newest(client)
		names = append(names, client+" ("+r.software(client)+")")
		for key, version := range versions {
			lines = append(lines, fmt.Sprintf("%2d %-26s %-15s %2d\n", key, kmsg.NameForKey(key), client, version))
		}
	}
	slices.Sort(lines)
	got := "# clients: " + strings.Join(names, ", ") + "\n# key, name, client, highest version that it asked with\n" + strings.Join(lines, "")
	const golden = "testdata/kafka_trace.txt"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("clients ask for other versions than %s says (go test -update rewrites it):\n%s", golden, got)
	}
}

// fetchSessionsOf checks that a consumer fetches all once, and then only what has changed: KIP-227.
func fetchSessionsOf(t *testing.T, all []asked) {
	t.Helper()
	var last *kmsg.FetchRequest
	conn, consumers, incremental, empty := -1, 0, 0, 0
	for _, a := range all {
		switch {
		case a.fetch == nil:
			continue
		case a.conn != conn:
			if a.fetch.SessionID != 0 || a.fetch.SessionEpoch != 0 || len(a.fetch.Topics) == 0 {
				t.Errorf("the first fetch is of session %d epoch %d, with %d topics", a.fetch.SessionID, a.fetch.SessionEpoch, len(a.fetch.Topics))
			}
			consumers++
		case a.fetch.SessionEpoch == -1: // the last
			if a.fetch.SessionID != last.SessionID {
				t.Errorf("session %d is closed, not %d", a.fetch.SessionID, last.SessionID)
			}
		default:
			if a.fetch.SessionID == 0 || a.fetch.SessionEpoch != last.SessionEpoch+1 || last.SessionID != 0 && a.fetch.SessionID != last.SessionID {
				t.Errorf("a fetch of session %d epoch %d came after one of session %d epoch %d", a.fetch.SessionID, a.fetch.SessionEpoch, last.SessionID, last.SessionEpoch)
			}
			incremental++
			if len(a.fetch.Topics) == 0 {
				empty++
			}
		}
		conn, last = a.conn, a.fetch
	}
	if consumers != 3 || incremental < 4 || empty < 2 {
		t.Errorf("%d consumers sent %d incremental fetches, %d of them without a topic", consumers, incremental, empty)
	}
}

// transactionsOf checks that a client has had transactions of a version of Kafka's feature transaction.version: of 2, partitions and groups become part of them without a
// request of their own (KIP-890).
func transactionsOf(t *testing.T, client string, all []asked, version int) {
	t.Helper()
	batches, ends, adds := 0, 0, 0
	for _, a := range all {
		switch kmsg.Key(a.key) {
		case kmsg.Produce:
			if a.transaction && a.version >= 12 != (version == 2) {
				t.Errorf("%s produces in a transaction with version %d", client, a.version)
			}
			if a.transaction {
				batches++
			}
		case kmsg.EndTxn:
			if a.version >= 5 != (version == 2) {
				t.Errorf("%s ends a transaction with version %d", client, a.version)
			}
			ends++
		case kmsg.TxnOffsetCommit:
			if a.version >= 5 != (version == 2) {
				t.Errorf("%s commits offsets in a transaction with version %d", client, a.version)
			}
		case kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn:
			adds++
		}
	}
	if batches == 0 || ends == 0 || adds > 0 != (version == 1) {
		t.Errorf("%s has had %d batches in transactions, %d ends, and has added to transactions %d times", client, batches, ends, adds)
	}
}

// goClientVersion is that of go.mod: a test binary does not know it.
func goClientVersion(t *testing.T) string {
	t.Helper()
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "github.com/twmb/franz-go" {
			return f[1]
		}
	}
	t.Fatal("go.mod does not name franz-go")
	return ""
}

// goRoundTrip writes and reads with franz-go, in this process, until done, and asks what the node advertises.
func goRoundTrip(t *testing.T, addr, topic string, done func() bool) []kmsg.ApiVersionsResponseApiKey {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.ConsumeTopics(topic), kgo.ConsumerGroup("trace-"+topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond), kgo.HeartbeatInterval(100*time.Millisecond), kgo.DisableAutoCommit(),
		kgo.SoftwareNameAndVersion("kgo", goClientVersion(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	if _, err := admin.CreateTopic(ctx, 2, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint("v", i))).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < 10 || !done(); {
		poll, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := cl.PollFetches(poll)
		cancel()
		if err := fetches.Err(); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			t.Fatal(err)
		}
		n += fetches.NumRecords()
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ListEndOffsets(ctx, topic); err != nil {
		t.Fatal(err)
	}
	tx, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.TransactionalID("trace-"+topic), kgo.SoftwareNameAndVersion("kgo", goClientVersion(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := errors.Join(tx.BeginTransaction(), tx.ProduceSync(ctx, kgo.StringRecord("in a transaction")).FirstErr(), tx.EndTransaction(ctx, end)); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ApiKeys
}
