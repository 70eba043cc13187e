// Command peers puts weir beside other brokers: one machine, one load generator (`weir bench mqtt`), the brokers in turn
// within each round so that a drift of the machine's speed hits all of them, and one table with medians and spreads.
// `make bench-peers` runs it. It listens on loopback only and writes to a directory of its own.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// peer is one broker and how it is started; %LISTEN%, %PORT% and %DIR% are filled in for each run.
type peer struct {
	name    string
	command []string
	conf    string // written to %DIR%/conf
}

func peers(weir, built string) []peer {
	all := []peer{
		{name: "weir (fsync before ack)", command: []string{weir, "serve", "--config", "%DIR%/conf", "--data", "%DIR%/data", "--mqtt", "%LISTEN%", "--mqtt-ws", "", "--kafka", "127.0.0.1:0", "--http", ""},
			conf: "topics: {partitions: 16}\n"},
		{name: "mochi (no persistence)", command: []string{filepath.Join(built, "mochi"), "--listen", "%LISTEN%"}},
		{name: "nats (lazy sync)", command: []string{filepath.Join(built, "nats"), "--listen", "%LISTEN%", "--data", "%DIR%"}},
		{name: "nats (sync always)", command: []string{filepath.Join(built, "nats"), "--listen", "%LISTEN%", "--data", "%DIR%", "--sync-always"}},
	}
	for _, path := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if found, err := exec.LookPath(path); err == nil {
			m := peer{name: "mosquitto (no persistence)", command: []string{found, "-c", "%DIR%/conf"},
				conf: "listener %PORT% 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_dest none\n"}
			return append([]peer{m}, all...)
		}
	}
	fmt.Fprintln(os.Stderr, "mosquitto is not installed (see `make clients-deps`): it is left out")
	return all
}

// load is one row of the comparison: what every broker is given.
type load struct {
	name string
	args []string
}

var loads = map[string]load{
	"fan-in":    {"QoS 1, 64 connections, window 64, 256 B", []string{"--connections", "64", "--window", "64", "--qos", "1", "--size", "256"}},
	"one":       {"QoS 1, 1 connection, window 100, 256 B", []string{"--connections", "1", "--window", "100", "--qos", "1", "--size", "256"}},
	"ping-pong": {"QoS 1, 64 connections, window 1, 256 B", []string{"--connections", "64", "--window", "1", "--qos", "1", "--size", "256"}},
	"thousand":  {"QoS 1, 1000 connections, window 1, 256 B", []string{"--connections", "1000", "--window", "1", "--qos", "1", "--size", "256"}},
	"qos0":      {"QoS 0, 64 connections, 256 B", []string{"--connections", "64", "--window", "64", "--qos", "0", "--size", "256"}},
}

// figures are one run's.
type figures struct {
	Rate        float64 `json:"rate"`            // acknowledged messages per second
	P50         float64 `json:"latency_p50_ms"`  // publish to ack
	P99         float64 `json:"latency_p99_ms"`  //
	CPUMicros   float64 `json:"server_cpu_us"`   // of the broker, per message
	PeakRSS     float64 `json:"server_peak_rss"` // bytes
	ElapsedSecs float64 `json:"seconds"`
}

func main() {
	weir := flag.String("weir", "bin/weir", "the weir binary, also the load generator")
	built := flag.String("built", "bin/peers", "directory of the peers' binaries")
	rounds := flag.Int("rounds", 7, "rounds; each runs every broker once")
	duration := flag.Duration("duration", 10*time.Second, "of one run")
	which := flag.String("loads", "fan-in,one,ping-pong", "loads, comma separated: fan-in, one, ping-pong, thousand, qos0")
	only := flag.String("only", "", "run only the brokers whose name holds this")
	flag.Parse()
	for name := range strings.SplitSeq(*which, ",") {
		l, ok := loads[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "peers: no load is called %q\n", name)
			os.Exit(2)
		}
		if err := compare(l, peers(*weir, *built), *weir, *rounds, *duration, *only); err != nil {
			fmt.Fprintln(os.Stderr, "peers:", err)
			os.Exit(1)
		}
	}
}

// compare runs every round of one load and prints its table.
func compare(l load, all []peer, weir string, rounds int, d time.Duration, only string) error {
	runs := map[string][]figures{}
	for round := range rounds {
		for _, p := range all {
			if !strings.Contains(p.name, only) {
				continue
			}
			fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d: %s", round+1, rounds, p.name)
			f, err := measure(p, l, weir, d)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			runs[p.name] = append(runs[p.name], f)
		}
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	base := median(runs[all[0].name], func(f figures) float64 { return f.Rate })
	fmt.Printf("%s; %d rounds of %s, median (min–max)\n", l.name, rounds, d)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "broker\tmsg/s\tratio\tCPU µs/msg\tp50 ms\tp99 ms\tpeak RSS MiB\n")
	for _, p := range all {
		rs := runs[p.name]
		if len(rs) == 0 {
			continue
		}
		col := func(pick func(figures) float64, format string) string {
			low, mid, high := spread(rs, pick)
			return fmt.Sprintf(format+" ("+format+"–"+format+")", mid, low, high)
		}
		rate := func(f figures) float64 { return f.Rate }
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%s\t%s\t%s\t%s\n", p.name, col(rate, "%.0f"), median(rs, rate)/base,
			col(func(f figures) float64 { return f.CPUMicros }, "%.2f"),
			col(func(f figures) float64 { return f.P50 }, "%.2f"), col(func(f figures) float64 { return f.P99 }, "%.2f"),
			col(func(f figures) float64 { return f.PeakRSS / (1 << 20) }, "%.0f"))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// measure starts the broker on a fresh directory, runs the load once, and stops the broker.
func measure(p peer, l load, weir string, d time.Duration) (figures, error) {
	dir, err := os.MkdirTemp(".", "peers-run-") // the working directory's disk, which is no tmpfs
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return figures{}, err
	}
	listen, err := freePort()
	if err != nil {
		return figures{}, err
	}
	_, port, _ := net.SplitHostPort(listen)
	fill := strings.NewReplacer("%LISTEN%", listen, "%PORT%", port, "%DIR%", dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(fill.Replace(p.conf)), 0o600); err != nil {
		return figures{}, err
	}
	args := make([]string, len(p.command))
	for i, a := range p.command {
		args[i] = fill.Replace(a)
	}
	broker := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	broker.Stderr = &said
	if err := broker.Start(); err != nil {
		return figures{}, err
	}
	ended := make(chan struct{})
	go func() { _ = broker.Wait(); close(ended) }()
	defer func() {
		_ = broker.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = broker.Process.Kill()
			<-ended
		}
	}()
	if err := listening(listen, ended); err != nil {
		return figures{}, fmt.Errorf("%w\n%s", err, said.Bytes())
	}
	bench := exec.Command(weir, append([]string{"bench", "mqtt", "--json", "--broker", "mqtt://" + listen,
		"--duration", d.String(), "--pid", strconv.Itoa(broker.Process.Pid)}, l.args...)...)
	var out, errs bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &errs
	if err := bench.Run(); err != nil {
		return figures{}, fmt.Errorf("load: %w\n%s%s", err, errs.Bytes(), said.Bytes())
	}
	var f figures
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return figures{}, fmt.Errorf("load printed no figures: %w", err)
	}
	return f, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// listening waits until the broker accepts connections.
func listening(addr string, ended <-chan struct{}) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return errors.New("the broker ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing listens on %s", addr)
}

func median(rs []figures, pick func(figures) float64) float64 {
	_, mid, _ := spread(rs, pick)
	return mid
}

func spread(rs []figures, pick func(figures) float64) (low, mid, high float64) {
	if len(rs) == 0 {
		return 0, 0, 0
	}
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = pick(r)
	}
	slices.Sort(v)
	return v[0], v[len(v)/2], v[len(v)-1]
}
