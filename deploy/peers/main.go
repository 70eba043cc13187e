// Command peers puts weir beside other brokers: one machine, one load generator (`weir bench mqtt`), the brokers in turn
// within each round so that a drift of the machine's speed hits all of them, and one table per load with medians and
// spreads. `make bench-peers` runs it; PEERS holds its flags, as in `make bench-peers PEERS='-loads fan-in -rounds 3'`.
// With -loads apache it puts weir beside Apache Kafka instead, with that one's own tools; deploy/docs/apache-kafka.md says how.
// It listens on loopback only and writes to a directory of its own.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	weir := flag.String("weir", "bin/weir", "the weir binary, also the load generator")
	built := flag.String("built", "bin/peers", "directory of the peers' binaries")
	rounds := flag.Int("rounds", 0, "rounds; each runs every broker once (default 7; of the loads of apache 3)")
	duration := flag.Duration("duration", 0, "of one run (default 10s; of the loads of apache at least, default 4s)")
	names := strings.Join(slices.Sorted(maps.Keys(loads)), ", ")
	perfNames := strings.Join(slices.Sorted(maps.Keys(perfLoads)), ", ")
	which := flag.String("loads", "ingress,one,ping-pong", "loads, comma separated: kafka, uplink, "+names+"; apache, which is "+perfNames)
	only := flag.String("only", "", "run only the brokers whose names hold one of these, comma separated")
	jars := flag.String("jars", ".cache/kafka", "directory of Apache Kafka's jars")
	size := flag.String("size", "256MiB", "loads of apache, and uplink: of the values in one run at full speed, at least")
	records := flag.String("record-sizes", "100,1024", "loads of apache: bytes of a record's value, comma separated")
	partitions := flag.String("partitions", "1,64", "loads of apache: of the topic, comma separated")
	rate := flag.Int("rate", 20000, "load kafka-rate: records a second")
	syncs := flag.String("syncs", "400,4000", "loads of apache: weir's log.syncs_per_second; kafka-commit is run with each of them, the others with the first")
	full := flag.Bool("full", false, "loads of apache: the runs that count, of 60s and 4GiB at least; takes hours")
	flag.Parse()
	steps, others := perfSteps(strings.Split(*which, ","))
	if len(steps) > 0 {
		if *full {
			*size, *duration = "4GiB", 60*time.Second
		}
		p := perfPlan{steps: steps, rounds: cmp.Or(*rounds, 3), duration: cmp.Or(*duration, 4*time.Second), rate: *rate}
		var errs [4]error
		p.bytes, errs[0] = parseBytes(*size)
		p.sizes, errs[1] = parseInts(*records)
		p.partitions, errs[2] = parseInts(*partitions)
		p.syncs, errs[3] = parseInts(*syncs)
		err := errors.Join(errs[:]...)
		if err == nil {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			err = comparePerf(ctx, p, *weir, *jars)
			stop()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "peers:", err)
			os.Exit(1)
		}
	}
	*rounds, *duration = cmp.Or(*rounds, 7), cmp.Or(*duration, 10*time.Second)
	for _, name := range others {
		if name == uplinkLoad {
			n, err := parseBytes(*size)
			if err == nil {
				ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
				err = compareUplink(ctx, uplinkPlan{rounds: *rounds, bytes: n}, *weir, *jars)
				stop()
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "peers:", err)
				os.Exit(1)
			}
			continue
		}
		if name == "kafka" {
			if err := compareKafka(*weir, *built, *rounds, *duration); err != nil {
				fmt.Fprintln(os.Stderr, "peers:", err)
				os.Exit(1)
			}
			continue
		}
		l, ok := loads[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "peers: no load is called %q; there are kafka, uplink, %s, and apache, which is %s\n", name, names, perfNames)
			os.Exit(2)
		}
		c := comparison{load: l, weir: *weir, rounds: *rounds, duration: *duration}
		for _, p := range peers(*weir, *built) {
			wanted := func(part string) bool { return strings.Contains(p.name, part) }
			if (l.lasting || !p.lasting) && slices.ContainsFunc(strings.Split(*only, ","), wanted) {
				c.peers = append(c.peers, p)
			}
		}
		if err := c.run(); err != nil {
			fmt.Fprintln(os.Stderr, "peers:", err)
			os.Exit(1)
		}
	}
}

// comparison is one load for all brokers.
type comparison struct {
	load
	weir     string
	peers    []peer
	rounds   int
	duration time.Duration
}

// run goes through the rounds and prints the table.
func (c *comparison) run() error {
	runs, failed := make([][]run, len(c.peers)), []string{}
	for round := range c.rounds {
		for i, p := range c.peers {
			fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d: %s", round+1, c.rounds, p.name)
			r, err := c.once(p)
			switch {
			case err == nil:
				runs[i] = append(runs[i], r)
			case p.ours:
				return fmt.Errorf("%s: %w", p.name, err)
			default: // that another broker does not stand a load is a result too
				failed = append(failed, fmt.Sprintf("%s failed in round %d: %v", p.name, round+1, err))
			}
		}
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	c.print(runs)
	for _, f := range failed {
		fmt.Println(f)
	}
	return nil
}

func (c *comparison) print(runs [][]run) {
	fmt.Printf("%s; %d rounds of %s, median (min–max)\n", c.name, c.rounds, c.duration)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "broker")
	for i, col := range c.columns {
		if fmt.Fprintf(w, "\t%s", col.head); i == 0 {
			fmt.Fprint(w, "\tratio")
		}
	}
	fmt.Fprintln(w)
	for k, p := range c.peers {
		fmt.Fprint(w, p.name)
		for i, col := range c.columns {
			low, mid, high := spread(runs[k], col.pick)
			fmt.Fprintf(w, "\t"+col.format, mid)
			if low < high {
				fmt.Fprintf(w, " ("+col.format+"–"+col.format+")", low, high)
			}
			if i == 0 {
				_, base, _ := spread(runs[0], col.pick)
				fmt.Fprintf(w, "\t%.2f", mid/base)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	_ = w.Flush()
}

// once is one broker's part of a round.
func (c *comparison) once(p peer) (r run, err error) {
	if c.without != nil {
		f, err := measure(p, c.weir, c.without, c.duration)
		if err != nil {
			return r, err
		}
		r.without = &f
	}
	r.figures, err = measure(p, c.weir, c.args, c.duration)
	return r, err
}

// spread is NaN without runs.
func spread[T any](rs []T, pick func(T) float64) (low, mid, high float64) {
	if len(rs) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = pick(r)
	}
	slices.Sort(v)
	return v[0], v[len(v)/2], v[len(v)-1]
}
