package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is one broker and how it is started; %LISTEN%, %PORT%, %LISTEN2% and %DIR% are filled in for each run.
type peer struct {
	name    string
	prepare []string // run before command, and waited for
	command []string
	conf    string // written to %DIR%/conf
	ours    bool   // its failures are errors
	lasting bool   // only for loads in which sessions outlive connections
}

// mosquitto's limits on what waits for a session are off, else it would drop what the others keep.
const mosquittoConf = `listener %PORT% 127.0.0.1
allow_anonymous true
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 0
set_tcp_nodelay true
log_dest none
`

// peers lists the brokers; the first one is what the others are compared with.
func peers(weir, built string) []peer {
	all := []peer{
		{name: "weir (fsync before ack)", ours: true, command: []string{weir, "serve", "--config", "%DIR%/conf", "--data", "%DIR%/data", "--mqtt", "%LISTEN%", "--mqtt-ws", "", "--kafka", "127.0.0.1:0", "--http", ""},
			conf: "topics: {partitions: 16}\n"},
		{name: "mochi (no persistence)", command: []string{filepath.Join(built, "mochi"), "--listen", "%LISTEN%"}},
		{name: "nats (lazy sync)", command: []string{filepath.Join(built, "nats"), "--listen", "%LISTEN%", "--data", "%DIR%"}},
		{name: "nats (sync always)", command: []string{filepath.Join(built, "nats"), "--listen", "%LISTEN%", "--data", "%DIR%", "--sync-always"}},
	}
	for _, path := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if found, err := exec.LookPath(path); err == nil {
			command := []string{found, "-c", "%DIR%/conf"}
			return append([]peer{
				{name: "mosquitto (no persistence)", command: command, conf: mosquittoConf + "persistence false\n"},
				// It writes its store whole and does not sync it: the least that lets sessions outlive a crash at all.
				{name: "mosquitto (saved every 5 s)", command: command, lasting: true,
					conf: mosquittoConf + "persistence true\npersistence_location %DIR%/\nautosave_interval 5\n"},
			}, all...)
		}
	}
	fmt.Fprintln(os.Stderr, "mosquitto is not installed (see `make clients-deps`): it is left out")
	return all
}

// figures are one run's.
type figures struct {
	Rate       float64     `json:"rate"`            // acknowledged messages per second
	P50        float64     `json:"latency_p50_ms"`  // publish to ack
	P99        float64     `json:"latency_p99_ms"`  //
	CPUMicros  float64     `json:"server_cpu_us"`   // of the broker, per message
	PeakRSS    float64     `json:"server_peak_rss"` // bytes, until the load is over
	Deliveries *deliveries `json:"deliveries"`
	Absent     *deliveries `json:"absent"`
}

type deliveries struct {
	Expected int64   `json:"expected"`
	Received int64   `json:"received"`
	Rate     float64 `json:"rate"`
	P50      float64 `json:"latency_p50_ms"`
	P99      float64 `json:"latency_p99_ms"`
}

// measure starts the broker on a fresh directory, runs the load once, and stops the broker.
func measure(p peer, weir string, args []string, d time.Duration) (f figures, err error) {
	dir, err := os.MkdirTemp(".", "peers-run-") // the working directory's disk, which is no tmpfs
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return f, err
	}
	b, err := start(p, dir)
	if err != nil {
		return f, err
	}
	defer b.stop()
	pid := b.cmd.Process.Pid
	bench := exec.Command(weir, append([]string{"bench", "mqtt", "--json", "--broker", "mqtt://" + b.listen,
		"--duration", d.String(), "--pid", strconv.Itoa(pid)}, args...)...)
	var out, errs bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &errs
	failed := bench.Run()
	// With messages missing the load fails and still prints its figures: the table tells how many.
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return f, fmt.Errorf("load: %w\n%s%s", errors.Join(failed, err), errs.Bytes(), b.said.Bytes())
	}
	f.PeakRSS, err = peakRSS(pid)
	return f, err
}

// broker is a peer that runs.
type broker struct {
	cmd    *exec.Cmd
	listen string
	said   bytes.Buffer // complete once ended
	ended  chan struct{}
}

func start(p peer, dir string) (*broker, error) {
	listen, err := freePort()
	if err != nil {
		return nil, err
	}
	second, err := freePort()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(listen)
	fill := strings.NewReplacer("%LISTEN%", listen, "%PORT%", port, "%LISTEN2%", second, "%DIR%", dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(fill.Replace(p.conf)), 0o600); err != nil {
		return nil, err
	}
	line := func(template []string) (args []string) {
		for _, a := range template {
			args = append(args, fill.Replace(a))
		}
		return args
	}
	if args := line(p.prepare); args != nil {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	args := line(p.command)
	b := &broker{cmd: exec.Command(args[0], args[1:]...), listen: listen, ended: make(chan struct{})}
	b.cmd.Stderr = &b.said
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = b.cmd.Wait(); close(b.ended) }()
	if err := b.listening(); err != nil {
		b.stop()
		return nil, fmt.Errorf("%w\n%s", err, b.said.Bytes())
	}
	return b, nil
}

func (b *broker) stop() {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.ended
	}
}

// listening waits until the broker accepts connections.
func (b *broker) listening() error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", b.listen); err == nil {
			return c.Close()
		}
		select {
		case <-b.ended:
			return errors.New("the broker ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing listens on %s", b.listen)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// peakRSS is the most memory, in bytes, that the process has had resident: what a session's return costs counts too.
func peakRSS(pid int) (float64, error) { return residentBytes(pid, "VmHWM:") }

// residentBytes is a field of the process's status.
func residentBytes(pid int, field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, ok := bytes.Cut(b, []byte(field))
	if f := bytes.Fields(after); ok && len(f) > 0 {
		kib, err := strconv.ParseFloat(string(f[0]), 64)
		return kib * 1024, err
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}
