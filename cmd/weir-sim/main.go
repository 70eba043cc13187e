// Command weir-sim runs a fleet of simulated devices against an MQTT broker. Package firmwaresim does the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

type cli struct {
	Broker   string        `default:"mqtt://127.0.0.1:1883" placeholder:"URL" help:"MQTT 5 broker: mqtt://[user:password@]host:port or mqtts://… (default ${default})."`
	Devices  int           `default:"100" help:"Devices, each its own MQTT session (default ${default})."`
	Profile  string        `default:"thermostat" help:"What they are: ${profiles} (default ${default})."`
	Format   string        `default:"json" enum:"json,cbor" help:"Payload encoding: json or cbor (default ${default})."`
	Rate     string        `default:"1/s" help:"Readings per device, per second, minute or hour: 10/s, 30/m, 2/h (default ${default})."`
	Duration time.Duration `help:"How long to take readings; 0 runs until interrupted (default ${default})." default:"0"`
	Seed     uint64        `default:"1" help:"The same seed gives the same readings (default ${default})."`

	Replay string `placeholder:"FILE.csv" help:"Publish a recording (columns timestamp,value) with its own timestamps instead; every device publishes all of it."`
	Speed  string `default:"1x" help:"With --replay: times faster than recorded (default ${default})."`

	Report string `placeholder:"FILE" help:"Write the ledger as JSON; weir audit --ledger FILE compares the log with it."`
	Resume string `placeholder:"FILE" help:"Continue the sequence numbers of an earlier report, so that none is used twice in a topic."`
	JSON   bool   `name:"json" help:"Print the ledger as JSON instead of a table."`
	Quiet  bool   `short:"q" help:"Print totals only."`
	Debug  bool   `help:"Log every connection attempt."`

	Window      int           `default:"32" help:"Unacked publishes per device (default ${default})."`
	Buffer      int           `default:"10000" help:"Readings a device keeps while offline (default ${default})."`
	KeepAlive   time.Duration `name:"keepalive" default:"30s" help:"MQTT keepalive, whole seconds (default ${default})."`
	BackoffMin  time.Duration `default:"500ms" help:"First wait before reconnecting (default ${default})."`
	BackoffMax  time.Duration `default:"30s" help:"Longest wait before reconnecting (default ${default})."`
	ConnectRate int           `default:"2000" help:"New connections per second at the start (default ${default})."`
	Drain       time.Duration `default:"10s" help:"How long to wait for the last acks (default ${default})."`

	Duplicates string        `group:"Misbehaviour (jittered, per device):" default:"0" placeholder:"SHARE" help:"Publish this share of readings twice: 0.01 or 1%."`
	HalfOpen   time.Duration `group:"Misbehaviour (jittered, per device):" placeholder:"TIME" help:"Mean time until a connection silently goes dead."`
	Reboot     time.Duration `group:"Misbehaviour (jittered, per device):" placeholder:"TIME" help:"Mean time between power losses."`
	ClockSkew  time.Duration `group:"Misbehaviour (jittered, per device):" placeholder:"TIME" help:"Device clocks are off by up to this."`
	ClockDrift float64       `group:"Misbehaviour (jittered, per device):" placeholder:"PPM" help:"Device clocks run fast or slow by up to this many parts per million."`
	Burst      time.Duration `group:"Misbehaviour (jittered, per device):" placeholder:"TIME" help:"Mean time between bursts of extra readings."`
	BurstSize  int           `group:"Misbehaviour (jittered, per device):" default:"50" help:"Extra readings in a burst (default ${default})."`
}

// Exit codes as in weir: 1 the run failed, 2 usage.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var c cli
	exited := -1
	parser := kong.Must(&c, kong.Name("weir-sim"), kong.Description("Simulates a fleet of devices that publish telemetry over MQTT 5."),
		kong.Vars{"profiles": strings.Join(firmwaresim.ProfileNames(), ", ")}, kong.Writers(out, errOut), kong.Exit(func(code int) { exited = code }))
	_, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	var cfg firmwaresim.Config
	if err == nil {
		cfg, err = c.config(errOut)
	}
	var fleet *firmwaresim.Fleet
	if err == nil {
		fleet, err = firmwaresim.New(cfg)
	}
	if err != nil {
		fmt.Fprintln(errOut, "weir-sim:", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitUsage
	}
	progress := watch(fleet, errOut)
	led := fleet.Run(ctx)
	progress()
	if err := c.report(led, out); err != nil {
		fmt.Fprintln(errOut, "weir-sim:", err)
		return exitFailed
	}
	if tot := led.Totals(); tot.Connects == 0 && tot.LastSeq >= 0 {
		fmt.Fprintf(errOut, "weir-sim: no device could connect to %s; start a node with `weir serve`, or name a broker with --broker\n", led.Broker)
		return exitFailed
	}
	return 0
}

func (c *cli) config(errOut io.Writer) (firmwaresim.Config, error) {
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	cfg := firmwaresim.Config{
		Broker: c.Broker, Devices: c.Devices, Profile: c.Profile, Seed: c.Seed, Duration: c.Duration, Drain: c.Drain,
		Window: c.Window, Buffer: c.Buffer, KeepAlive: c.KeepAlive, BackoffMin: c.BackoffMin, BackoffMax: c.BackoffMax, ConnectRate: c.ConnectRate,
		Faults: firmwaresim.Faults{HalfOpen: c.HalfOpen, Reboot: c.Reboot, ClockSkew: c.ClockSkew, ClockDrift: c.ClockDrift, Burst: c.Burst, BurstSize: c.BurstSize},
		Logger: slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level})),
	}
	var errs []error
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	cfg.Format, err = firmwaresim.ParseFormat(c.Format)
	keep(err)
	cfg.Every, err = firmwaresim.ParseRate(c.Rate)
	keep(err)
	cfg.Faults.Duplicates, err = parseShare(c.Duplicates)
	keep(err)
	cfg.Speed, err = parseSpeed(c.Speed)
	keep(err)
	if c.Devices < 1 {
		keep(fmt.Errorf("--devices %d: want 1 or more", c.Devices))
	}
	if c.Replay != "" {
		cfg.Replay, err = firmwaresim.OpenRecording(c.Replay)
		keep(err)
	}
	if c.Resume != "" {
		before, err := firmwaresim.ReadLedger(c.Resume)
		keep(err)
		if err == nil {
			cfg.FirstSeq = make(map[string]int64, len(before.Devices))
			for _, d := range before.Devices {
				cfg.FirstSeq[d.Device] = d.LastSeq + 1
			}
		}
	}
	return cfg, errors.Join(errs...)
}

func parseShare(s string) (float64, error) {
	n, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(n, 64)
	if err != nil || math.IsNaN(v) {
		return 0, fmt.Errorf("--duplicates %s: want a share, as in 0.01 or 1%%", s)
	}
	if percent {
		v /= 100
	}
	return v, nil
}

func parseSpeed(s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || !(v > 0) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("--speed %s: want a factor, as in 1000x", s)
	}
	return v, nil
}

// watch shows a live line on a terminal; the returned func ends it.
func watch(f *firmwaresim.Fleet, w io.Writer) (stop func()) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		last := int64(0)
		for {
			select {
			case <-end:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
				s := f.Stats()
				fmt.Fprintf(w, "\r\x1b[K%d/%d connected  %d sent  %d acked  %d acks/s", s.Connected, s.Devices, s.Sent, s.Acked, s.Acked-last)
				last = s.Acked
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (c *cli) report(led *firmwaresim.Ledger, out io.Writer) error {
	if c.Report != "" {
		if err := led.WriteFile(c.Report); err != nil {
			return err
		}
	}
	if c.JSON {
		b, err := led.Encode()
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	tot := led.Totals()
	rows := led.Devices
	if c.Quiet {
		rows = nil
	}
	width := len(tot.Device)
	for _, d := range rows {
		width = max(width, len(d.Device))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s  %9s  %9s  %9s  %8s  %8s  %8s\n", width, "DEVICE", "SENT", "ACKED", "LAST SEQ", "RESENT", "SKIPPED", "PENDING")
	for _, d := range append(rows[:len(rows):len(rows)], tot) {
		fmt.Fprintf(&b, "%-*s  %9d  %9d  %9d  %8d  %8d  %8d\n", width, d.Device, d.Sent, d.Acked, d.LastSeq, d.Resent, d.Skipped, d.Pending)
	}
	if tot.Refused > 0 {
		fmt.Fprintf(&b, "%d readings were refused by the broker\n", tot.Refused)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
