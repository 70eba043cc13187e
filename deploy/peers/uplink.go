package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"
)

// The load uplink has weir carry a backlog to Apache Kafka, and kafka-producer-perf-test write the same there, with the same payloads, compression and acks. It also has
// kafka-producer-perf-test write to weir while the target of its uplink is away, and while there is no uplink.

// uplinkPlan says how.
type uplinkPlan struct {
	rounds int
	bytes  int64 // of values in the backlog
}

const (
	uplinkLoad       = "uplink"
	uplinkRecord     = 256 // bytes of a value
	uplinkPartitions = 4
	uplinkPayloads   = 10_000
)

// uplinkFigures are those of a round.
type uplinkFigures struct {
	carried, sent   float64 // records a second that reached Apache Kafka
	alone, away     float64 // records a second that reached weir, without an uplink and with one whose target is away
	carriedCPU      float64 // µs of weir's for each record carried
	residentBefore  float64 // bytes, of weir before it carries
	residentCarried float64 // and at most meanwhile
}

// compareUplink prints a line for each round, and the medians.
func compareUplink(ctx context.Context, p uplinkPlan, weir, jars string) error {
	j, err := findJVM(jars)
	if err != nil {
		return err
	}
	if weir, err = filepath.Abs(weir); err != nil {
		return err
	}
	var all []uplinkFigures
	for round := range p.rounds {
		say := func(step string) { fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d: %s", round+1, p.rounds, step) }
		c := uplinkComparison{ctx: ctx, uplinkPlan: p, jvm: j, weir: weir, say: say}
		if err := c.round(round%2 == 1); err != nil {
			fmt.Fprintln(os.Stderr)
			return err
		}
		all = append(all, c.figures)
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d records of %d B, zstd, %d partitions\tmedian (min–max)\twanted\n", p.records(), uplinkRecord, uplinkPartitions)
	for _, m := range []struct {
		head, format string
		pick         func(uplinkFigures) float64
		wanted       string
	}{
		{"carried to Apache Kafka, records/s", "%.0f", func(f uplinkFigures) float64 { return f.carried }, ""},
		{"kafka-producer-perf-test to Apache Kafka, records/s", "%.0f", func(f uplinkFigures) float64 { return f.sent }, ""},
		{"ratio", "%.2f", func(f uplinkFigures) float64 { return f.carried / f.sent }, "≥ 0.8"},
		{"weir's CPU µs/record carried", "%.2f", func(f uplinkFigures) float64 { return f.carriedCPU }, ""},
		{"weir resident more while it carries, at most, MiB", "%.1f", func(f uplinkFigures) float64 { return (f.residentCarried - f.residentBefore) / (1 << 20) }, "≤ 32"},
		{"written to weir, no uplink, records/s", "%.0f", func(f uplinkFigures) float64 { return f.alone }, ""},
		{"written to weir, the uplink's target away, records/s", "%.0f", func(f uplinkFigures) float64 { return f.away }, ""},
		{"ratio", "%.2f", func(f uplinkFigures) float64 { return f.away / f.alone }, "> 0.95"},
	} {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.head, cell(all, m.format, m.pick), m.wanted)
	}
	return w.Flush()
}

func (p uplinkPlan) records() int64 { return p.bytes / uplinkRecord }

type uplinkComparison struct {
	ctx context.Context
	uplinkPlan
	jvm     jvm
	weir    string
	say     func(string)
	figures uplinkFigures
}

func (c *uplinkComparison) round(directFirst bool) error {
	kafka := c.jvm.kafkaPeers(c.weir, 400)[1]
	for i := range 2 {
		with := (i == 1) == directFirst
		err := withKafka(c.node(with), c.weir, func(l *kafkaLoad) (err error) {
			t, err := c.tool(l, "backlog")
			if err != nil {
				return err
			}
			if with {
				c.say("write to weir, the target of its uplink away")
				c.figures.away, err = t.payloads("backlog", c.bytes/4)
			} else {
				c.say("write to weir, no uplink")
				c.figures.alone, err = t.payloads("backlog", c.bytes/4)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return withKafka(kafka, c.weir, func(target *kafkaLoad) error {
		direct := func() error {
			t, err := c.tool(target, "direct")
			if err == nil {
				c.say("write to Apache Kafka")
				c.figures.sent, err = t.payloads("direct", c.bytes)
			}
			return err
		}
		if directFirst {
			if err := direct(); err != nil {
				return err
			}
		}
		node := c.node(true)
		node.conf = fmt.Sprintf(uplinkConf, target.listen)
		if err := withKafka(node, c.weir, func(l *kafkaLoad) error { return c.carry(l) }); err != nil || directFirst {
			return err
		}
		return direct()
	})
}

const uplinkConf = "uplinks:\n  - {name: drain, to: \"kafka://%s\", topics: [backlog], compression: zstd}\n"

// node is weir with an uplink to where nobody listens, or without.
func (c *uplinkComparison) node(uplink bool) peer {
	p := c.jvm.kafkaPeers(c.weir, 400)[0]
	if p.conf = ""; uplink {
		p.conf = fmt.Sprintf(uplinkConf, "127.0.0.1:1")
	}
	return p
}

func (c *uplinkComparison) tool(l *kafkaLoad, topic string) (*perfTool, error) {
	t := &perfTool{ctx: c.ctx, broker: l.broker, jvm: c.jvm, weir: c.weir, dir: l.dir}
	return t, t.topic(topic, uplinkPartitions)
}

// carry makes a backlog and has it carried.
func (c *uplinkComparison) carry(l *kafkaLoad) error {
	t, err := c.tool(l, "backlog")
	if err != nil {
		return err
	}
	if _, err := t.run([]string{c.weir, "bridge", "pause", "drain", "--bootstrap", l.listen}); err != nil {
		return err
	}
	c.say("make a backlog")
	if _, err := t.payloads("backlog", c.bytes); err != nil {
		return err
	}
	pid := l.cmd.Process.Pid
	// What it had at most until now is forgotten, see proc(5).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return err
	}
	if c.figures.residentBefore, err = residentBytes(pid, "VmRSS:"); err != nil {
		return err
	}
	c.say("carry it to Apache Kafka")
	c.figures.carriedCPU, err = t.cpuPer(func() (float64, error) {
		began := time.Now()
		if _, err := t.run([]string{c.weir, "bridge", "resume", "drain", "--bootstrap", l.listen}); err != nil {
			return 0, err
		}
		n := float64(c.records())
		err := t.carried()
		c.figures.carried = n / time.Since(began).Seconds()
		return n, err
	})
	if err == nil {
		c.figures.residentCarried, err = peakRSS(pid)
	}
	return err
}

// carried returns once nothing waits any more.
func (t *perfTool) carried() error {
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		out, err := exec.CommandContext(t.ctx, t.weir, "bridge", "status", "--json", "--bootstrap", t.listen).Output()
		if err != nil {
			return err
		}
		var s struct {
			Uplinks []struct {
				State, Why string
				Lag        int64 `json:"lag_records"`
			}
		}
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		if len(s.Uplinks) != 1 {
			return fmt.Errorf("%d uplinks: %s", len(s.Uplinks), out)
		}
		switch u := s.Uplinks[0]; {
		case u.Lag == 0:
			return nil
		case u.State == "failing", u.State == "stopped":
			return errors.New("the uplink: " + u.Why)
		}
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

// payloads sends so many bytes of made-up telemetry, as kafka-producer-perf-test does with a file of payloads, and returns how many records a second.
func (t *perfTool) payloads(topic string, bytes int64) (float64, error) {
	file := filepath.Join(t.dir, "payloads")
	if err := os.WriteFile(file, telemetry(), 0o600); err != nil {
		return 0, err
	}
	out, err := t.run(t.command(toolHeap, "org.apache.kafka.tools.ProducerPerformance", "--bootstrap-server", t.listen, "--topic", topic,
		"--num-records", strconv.FormatInt(bytes/uplinkRecord, 10), "--payload-file", file, "--throughput", "-1", "--reporting-interval", "3600000",
		"--command-property", "acks=all", "--command-property", "compression.type=zstd"))
	if err != nil {
		return 0, err
	}
	s, err := parseSent(out, false)
	return s.rate, err
}

// telemetry is a file of payloads, one a line, of uplinkRecord bytes each.
func telemetry() (b []byte) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range uplinkPayloads {
		line := fmt.Appendf(nil, `{"device":"sensor-%04d","seq":%d,"temperature":%.2f,"humidity":%.1f,"pressure":%.1f,"battery":%.2f,"noise":"`,
			rng.IntN(500), rng.IntN(1e6), 15+10*rng.Float64(), 30+40*rng.Float64(), 990+40*rng.Float64(), 3+rng.Float64())
		for len(line) < uplinkRecord-2 {
			line = append(line, "0123456789abcdef"[rng.IntN(16)])
		}
		b = append(append(b, line...), "\"}\n"...)
	}
	return b
}
