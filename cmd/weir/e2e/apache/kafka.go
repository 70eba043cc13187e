// Package apache runs Apache Kafka, the other end of uplinks in the end-to-end tests: one process that is broker and controller, as its quick start has it.
package apache

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka is one broker with its data.
type Kafka struct {
	Addr string   // what clients dial
	Dir  string   // of its configuration and data
	Jars string   // where .ci/clients-deps has put Apache Kafka
	More []string // lines of server.properties

	// Wrap makes the command that runs a command elsewhere, in another network namespace; nil: here.
	Wrap func(name string, args ...string) *exec.Cmd
	// SASL is where clients have to be one of Users, by PLAIN or SCRAM-SHA-256; empty: nowhere.
	SASL  string
	Users map[string]string // their passwords
	// Others are more listeners.
	Others []Listener

	controller string
	cmd        *exec.Cmd
	exited     chan struct{}
	said       output
}

// Listener is one that clients are told to dial elsewhere, as behind a proxy, or that speaks another protocol.
type Listener struct {
	Name       string
	Bind, Dial string // host:port
	Protocol   string // PLAINTEXT, SSL: its ssl.… lines are More's
}

// Found says whether Apache Kafka is there to be run.
func Found(jars string) bool {
	found, _ := filepath.Glob(filepath.Join(jars, "kafka_*.jar"))
	_, err := exec.LookPath("java")
	return len(found) > 0 && err == nil
}

const properties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s%[4]s
advertised.listeners=PLAINTEXT://%[1]s%[5]s
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT%[6]s
log.dirs=%[3]s/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
`

const saslProperties = `sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required%s;
`

// options keep the JVM small and quick to start: tests wait for it.
var options = []string{"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}

// Format makes an empty data directory: what was there before is gone.
func (k *Kafka) Format(controller string) error {
	k.controller = controller
	if err := os.RemoveAll(filepath.Join(k.Dir, "data")); err != nil {
		return err
	}
	listener, conf, scram := "", properties, []string(nil)
	if k.SASL != "" {
		var plain strings.Builder
		for name, password := range k.Users {
			fmt.Fprintf(&plain, " user_%s=%q", name, password)
			scram = append(scram, "--add-scram", fmt.Sprintf("SCRAM-SHA-256=[name=%s,password=%s]", name, password))
		}
		listener, conf = ",SASL_PLAINTEXT://"+k.SASL, conf+fmt.Sprintf(saslProperties, plain.String())
	}
	told, protocols := listener, ""
	for _, o := range k.Others {
		listener += fmt.Sprintf(",%s://%s", o.Name, o.Bind)
		told += fmt.Sprintf(",%s://%s", o.Name, o.Dial)
		protocols += fmt.Sprintf(",%s:%s", o.Name, o.Protocol)
	}
	conf = fmt.Sprintf(conf, k.Addr, controller, k.Dir, listener, told, protocols) + strings.Join(k.More, "\n") + "\n"
	if err := os.WriteFile(k.conf(), []byte(conf), 0o600); err != nil {
		return err
	}
	format := k.command(append([]string{"kafka.tools.StorageTool", "format", "-t", "weir-uplink-tests-AAAA", "-c", k.conf()}, scram...)...)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format: %w\n%s", err, out)
	}
	return nil
}

func (k *Kafka) conf() string { return filepath.Join(k.Dir, "server.properties") }

func (k *Kafka) command(args ...string) *exec.Cmd {
	args = append(append(options[:len(options):len(options)], "-cp", filepath.Join(k.Jars, "*")), args...)
	if k.Wrap != nil {
		return k.Wrap("java", args...)
	}
	return exec.Command("java", args...)
}

// Start runs the broker on what it has, and returns when it answers.
func (k *Kafka) Start(ctx context.Context) error {
	k.cmd = k.command("kafka.Kafka", k.conf())
	k.cmd.Stdout, k.cmd.Stderr = &k.said, &k.said
	if err := k.cmd.Start(); err != nil {
		return err
	}
	k.exited = make(chan struct{})
	go func() { _ = k.cmd.Wait(); close(k.exited) }()
	for {
		err := k.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-k.exited:
			return fmt.Errorf("it has ended:\n%s", k.Said())
		case <-ctx.Done():
			k.Kill()
			return fmt.Errorf("it does not answer: %w\n%s", err, k.Said())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// answers asks for metadata: with that a broker is not fenced any more.
func (k *Kafka) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Addr))
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Ping(ctx)
}

// Kill is kill -9.
func (k *Kafka) Kill() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Signal(syscall.SIGCONT)
	_ = k.cmd.Process.Kill()
	<-k.exited
}

// Pause stops the process where it is, as a machine that hangs; Resume lets it go on.
func (k *Kafka) Pause() error { return k.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume is the other half of Pause.
func (k *Kafka) Resume() error { return k.cmd.Process.Signal(syscall.SIGCONT) }

// Transactions is what it knows of those that are open, and of what waits for them: for the log of a test that failed.
func (k *Kafka) Transactions(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Addr))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	admin := kadm.NewClient(c)
	var text strings.Builder
	all, err := admin.DescribeTransactions(ctx)
	for _, t := range all.Sorted() {
		fmt.Fprintf(&text, "%s: %s, producer %d epoch %d, partitions %v\n", t.TxnID, t.State, t.ProducerID, t.ProducerEpoch, t.Topics)
	}
	fmt.Fprintf(&text, "transactions: %v\n", err)
	producers, err := admin.DescribeProducers(ctx, nil)
	producers.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 {
			fmt.Fprintf(&text, "%s/%d: producer %d epoch %d open since offset %d\n", p.Topic, p.Partition, p.ProducerID, p.ProducerEpoch, p.CurrentTxnStartOffset)
		}
	})
	fmt.Fprintf(&text, "producers: %v\n", err)
	ends, err := admin.ListEndOffsets(ctx)
	committed, err2 := admin.ListCommittedOffsets(ctx)
	ends.Each(func(o kadm.ListedOffset) {
		if at, ok := committed.Lookup(o.Topic, o.Partition); ok && at.Offset != o.Offset {
			fmt.Fprintf(&text, "%s/%d: readable up to %d of %d\n", o.Topic, o.Partition, at.Offset, o.Offset)
		}
	})
	fmt.Fprintf(&text, "offsets: %v %v\n", err, err2)
	return text.String()
}

// Said is the end of what it has logged.
func (k *Kafka) Said() string { return k.said.String() }

// output keeps the last of what was written to it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxOutput = 64 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len()+len(p) > maxOutput {
		o.buf.Next(o.buf.Len() / 2)
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
