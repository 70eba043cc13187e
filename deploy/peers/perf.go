package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// The loads of this file are Apache Kafka's own tools, run against weir and against Apache Kafka in turn: in each round both are started on an empty directory,
// warmed up with a topic that is not counted, and given the same. weir syncs every byte before it acks, Apache Kafka leaves it in the page cache.

// perfLoads are the steps a broker goes through, by the names that -loads knows.
var perfLoads = map[string]string{
	"kafka-produce": "kafka-producer-perf-test at full speed, acks=all",
	"kafka-consume": "kafka-consumer-perf-test, of what that wrote",
	"kafka-rate":    "kafka-producer-perf-test at -rate: latency",
	"kafka-commit":  "transactions of ten records of 100 B: commits a second",
}

// perfPlan says what is compared.
type perfPlan struct {
	steps      map[string]bool
	sizes      []int // of records
	partitions []int
	rounds     int
	bytes      int64         // of values in a run at full speed, at least
	duration   time.Duration // of a run, at least
	rate       int           // records a second of kafka-rate
	syncs      []int         // weir's log.syncs_per_second; kafka-commit goes through all, the others take the first
}

// perfFigures are those of one broker in one round.
type perfFigures struct {
	produced    sent
	produceCPU  float64 // µs per record, of the broker
	consumed    float64 // records a second
	consumeCPU  float64
	atRate      sent
	atRateCPU   float64
	commits     map[int]float64 // a second, by producers
	commitCPU   map[int]float64 // µs per commit
	resident    float64         // bytes at the end
	maxResident float64
}

// perfRow is one row of a table.
type perfRow struct {
	step, head, format string
	pick               func(perfFigures) float64
	wanted             string // of weir's figure divided by Apache Kafka's
}

func (p *perfPlan) rows(perCase bool) []perfRow {
	all := []perfRow{
		{"kafka-produce", "produce, records/s", "%.0f", func(f perfFigures) float64 { return f.produced.rate }, "≥ 1, from 1 KiB on ≥ 0.7"},
		{"kafka-produce", "produce, p99 ms at full speed", "%.0f", func(f perfFigures) float64 { return f.produced.p99 }, ""},
		{"kafka-produce", "produce, broker's CPU µs/record", "%.2f", func(f perfFigures) float64 { return f.produceCPU }, ""},
		{"kafka-consume", "consume, records/s", "%.0f", func(f perfFigures) float64 { return f.consumed }, "≥ 1"},
		{"kafka-consume", "consume, broker's CPU µs/record", "%.2f", func(f perfFigures) float64 { return f.consumeCPU }, ""},
		{"kafka-rate", fmt.Sprintf("at %d/s, p50 ms", p.rate), "%.0f", func(f perfFigures) float64 { return f.atRate.p50 }, ""},
		{"kafka-rate", fmt.Sprintf("at %d/s, p99 ms", p.rate), "%.0f", func(f perfFigures) float64 { return f.atRate.p99 }, "≤ 1"},
		{"kafka-rate", fmt.Sprintf("at %d/s, broker's CPU µs/record", p.rate), "%.2f", func(f perfFigures) float64 { return f.atRateCPU }, ""},
	}
	if !perCase {
		all = nil
		for _, n := range commitProducers {
			all = append(all,
				perfRow{"kafka-commit", fmt.Sprintf("commits/s, producers: %d", n), "%.0f", func(f perfFigures) float64 { return f.commits[n] }, "≥ 1"},
				perfRow{"kafka-commit", fmt.Sprintf("broker's CPU µs/commit, producers: %d", n), "%.0f", func(f perfFigures) float64 { return f.commitCPU[n] }, ""})
		}
	}
	all = slices.DeleteFunc(all, func(m perfRow) bool { return !p.steps[m.step] })
	return append(all,
		perfRow{"", "resident, MiB", "%.0f", func(f perfFigures) float64 { return f.resident / (1 << 20) }, ""},
		perfRow{"", "resident at most, MiB", "%.0f", func(f perfFigures) float64 { return f.maxResident / (1 << 20) }, "≤ 0.1"})
}

var commitProducers = []int{1, 16}

// comparePerf goes through all cases, with a table for each. It leaves nothing behind when ctx ends either.
func comparePerf(ctx context.Context, p perfPlan, weir, jars string) error {
	j, err := findJVM(jars)
	if err != nil {
		return err
	}
	if weir, err = filepath.Abs(weir); err != nil {
		return err
	}
	c := perfComparison{ctx: ctx, perfPlan: p, jvm: j, weir: weir, out: os.Stdout}
	if p.steps["kafka-produce"] || p.steps["kafka-consume"] || p.steps["kafka-rate"] {
		for _, size := range p.sizes {
			for _, partitions := range p.partitions {
				name := fmt.Sprintf("records of %d B, partitions: %d, acks=all", size, partitions)
				if err := c.rounds(name, p.syncs[0], p.rows(true), func(t *perfTool, say func(string)) (perfFigures, error) { return c.records(t, size, partitions, say) }); err != nil {
					return err
				}
			}
		}
	}
	if p.steps["kafka-commit"] {
		for _, syncs := range p.syncs {
			name := fmt.Sprintf("transactions of ten records of 100 B, one after the other; weir with log.syncs_per_second: %d", syncs)
			if err := c.rounds(name, syncs, p.rows(false), c.transactions); err != nil {
				return err
			}
		}
	}
	return nil
}

type perfComparison struct {
	ctx context.Context
	perfPlan
	jvm  jvm
	weir string
	out  io.Writer
}

// rounds runs both peers in each round, the one first in the odd rounds and the other in the even ones.
func (c *perfComparison) rounds(name string, syncs int, rows []perfRow, once func(*perfTool, func(string)) (perfFigures, error)) error {
	peers := c.jvm.kafkaPeers(c.weir, syncs)
	all := make([][]perfFigures, len(peers))
	fmt.Fprintf(c.out, "%s\n", name)
	for round := range c.perfPlan.rounds {
		order := []int{0, 1}
		if round%2 == 1 {
			order = []int{1, 0}
		}
		for _, i := range order {
			p := peers[i]
			say := func(step string) {
				fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d, %s: %s", round+1, c.perfPlan.rounds, p.name, step)
			}
			say("start")
			f, err := c.once(p, say, once)
			if err != nil {
				fmt.Fprintln(os.Stderr)
				return fmt.Errorf("%s: %w", p.name, err)
			}
			all[i] = append(all[i], f)
		}
		fmt.Fprint(os.Stderr, "\r\033[K")
		fmt.Fprintf(c.out, "round %d", round+1)
		for _, m := range rows {
			ours, theirs := m.pick(all[0][round]), m.pick(all[1][round])
			fmt.Fprintf(c.out, "; %s "+m.format+" / "+m.format+" = %.2f", m.head, ours, theirs, ours/theirs)
		}
		fmt.Fprintln(c.out)
	}
	return c.table(peers, rows, all)
}

// table prints medians and, for each figure, the ratios of the rounds: within one, both had the same machine.
func (c *perfComparison) table(peers []peer, rows []perfRow, all [][]perfFigures) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "median (min–max)\t%s\t%s\tratio\twanted\n", peers[0].name, peers[1].name)
	for _, m := range rows {
		fmt.Fprint(w, m.head)
		for _, rounds := range all {
			fmt.Fprint(w, "\t", cell(rounds, m.format, m.pick))
		}
		pairs := make([][2]perfFigures, len(all[0]))
		for i := range pairs {
			pairs[i] = [2]perfFigures{all[0][i], all[1][i]}
		}
		ratio := func(p [2]perfFigures) float64 { return m.pick(p[0]) / m.pick(p[1]) }
		fmt.Fprintf(w, "\t%s\t%s\n", cell(pairs, "%.2f", ratio), m.wanted)
	}
	fmt.Fprintln(w)
	return w.Flush()
}

func cell[T any](rs []T, format string, pick func(T) float64) string {
	low, mid, high := spread(rs, pick)
	return fmt.Sprintf(format+" ("+format+"–"+format+")", mid, low, high)
}

// once starts a broker, has it work, and stops it.
func (c *perfComparison) once(p peer, say func(string), work func(*perfTool, func(string)) (perfFigures, error)) (f perfFigures, err error) {
	err = withKafka(p, c.weir, func(l *kafkaLoad) error {
		t := &perfTool{ctx: c.ctx, broker: l.broker, jvm: c.jvm, weir: c.weir, dir: l.dir}
		if f, err = work(t, say); err != nil {
			return err
		}
		pid := l.cmd.Process.Pid
		if f.resident, err = residentBytes(pid, "VmRSS:"); err == nil {
			f.maxResident, err = peakRSS(pid)
		}
		return err
	})
	return f, err
}

const (
	warmShare = 4   // this part of a run is run before it, to warm up
	warmed    = 1.2 // how much faster a run may be than that, and is to last all the same

	rateWarm = 3 * time.Second // of a run at a rate, not counted at least
)

// records is a broker's part of a round in producing and consuming.
func (c *perfComparison) records(t *perfTool, size, partitions int, say func(string)) (f perfFigures, err error) {
	wanted := int(c.bytes / int64(size))
	for _, name := range []string{"warm", "counted"} {
		if err := t.topic(name, partitions); err != nil {
			return f, err
		}
	}
	few := max(wanted/warmShare, 1000)
	say(fmt.Sprintf("warm up with %d records", few))
	warm, err := t.produce("warm", few, size, 0, 0)
	if err != nil {
		return f, err
	}
	if c.steps["kafka-consume"] {
		if _, err = t.consume("warm", few); err != nil {
			return f, err
		}
	}
	n := max(wanted, int(math.Ceil(warm.rate*c.duration.Seconds()*warmed)))
	if c.steps["kafka-produce"] || c.steps["kafka-consume"] {
		say(fmt.Sprintf("produce %d records", n))
		f.produceCPU, err = t.cpuPer(func() (float64, error) {
			f.produced, err = t.produce("counted", n, size, 0, 0)
			return float64(n), err
		})
		if err != nil {
			return f, err
		}
	}
	if c.steps["kafka-consume"] {
		say(fmt.Sprintf("consume %d records", n))
		f.consumeCPU, err = t.cpuPer(func() (float64, error) {
			f.consumed, err = t.consume("counted", n)
			return float64(n), err
		})
		if err != nil {
			return f, err
		}
	}
	if c.steps["kafka-rate"] {
		few := int(float64(c.rate) * max(c.duration/warmShare, rateWarm).Seconds())
		n := few + int(float64(c.rate)*c.duration.Seconds())
		say(fmt.Sprintf("produce %d records at %d/s", n, c.rate))
		f.atRateCPU, err = t.cpuPer(func() (float64, error) {
			f.atRate, err = t.produce("counted", n, size, c.rate, few)
			return float64(n), err
		})
	}
	return f, err
}

// transactions is a broker's part of a round in committing.
func (c *perfComparison) transactions(t *perfTool, say func(string)) (f perfFigures, err error) {
	f.commits, f.commitCPU = map[int]float64{}, map[int]float64{}
	if err := t.topic("warm", 1); err != nil {
		return f, err
	}
	say("warm up with transactions")
	if _, _, err = t.commits("warm", slices.Max(commitProducers), c.duration/warmShare); err != nil {
		return f, err
	}
	for _, producers := range commitProducers {
		topic := "counted-" + strconv.Itoa(producers)
		if err = t.topic(topic, 1); err != nil {
			return f, err
		}
		say(fmt.Sprintf("commit transactions, producers: %d", producers))
		f.commitCPU[producers], err = t.cpuPer(func() (float64, error) {
			rate, all, err := t.commits(topic, producers, c.duration)
			f.commits[producers] = rate
			return all, err
		})
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// cpuPer is the broker's processor time in µs for each of what work did.
func (t *perfTool) cpuPer(work func() (float64, error)) (float64, error) {
	before, err := cpuMicros(t.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	n, err := work()
	if err != nil {
		return 0, err
	}
	after, err := cpuMicros(t.cmd.Process.Pid)
	return (after - before) / max(n, 1), err
}

// cpuMicros is the processor time that the process has used.
func cpuMicros(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), ") ") // behind the name, which may hold anything
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	ticks, err := numbers(fields[11:13]) // of user and system, at 100 a second on every Linux
	if err != nil {
		return 0, err
	}
	return (ticks[0] + ticks[1]) * 1e4, nil
}

// perfSteps takes names of perfLoads, and "apache" for all of them, out of a list.
func perfSteps(names []string) (steps map[string]bool, rest []string) {
	steps = map[string]bool{}
	for _, name := range names {
		switch _, ok := perfLoads[name]; {
		case name == "apache":
			for step := range maps.Keys(perfLoads) {
				steps[step] = true
			}
		case ok:
			steps[name] = true
		default:
			rest = append(rest, name)
		}
	}
	return steps, rest
}

// parseBytes reads a size such as 256MiB.
func parseBytes(text string) (int64, error) {
	for unit, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			v, err := strconv.ParseInt(n, 10, 32)
			if err == nil && v > 0 {
				return v * bytes, nil
			}
		}
	}
	return 0, fmt.Errorf("size %q: want a number and KiB, MiB or GiB, as in 256MiB", text)
}

func parseInts(text string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("%q: want numbers above 0, comma separated", text)
		}
		all = append(all, n)
	}
	return all, nil
}
