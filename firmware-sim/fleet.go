package firmwaresim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// Config describes a fleet. The zero value of a field means its default.
type Config struct {
	Broker  string // mqtt://[user:password@]host:port, or mqtts:// with the system's certificates
	Devices int    // 1 … 1,000,000; default 1
	Profile string // see ProfileNames; default thermostat. Ignored with Replay
	Format  Format // default JSON
	Seed    uint64 // everything random derives from it
	Replay  *Recording
	Speed   float64 // replay: times faster than recorded; default 1

	Every    time.Duration // between a device's readings; default 1 s
	Duration time.Duration // 0: until Run's context ends (or the recording does)
	Drain    time.Duration // after the end, for readings not yet acked; default 10 s

	Window      int           // unacked publishes per device, at most; 1 … 1000, default 32
	Buffer      int           // readings a device keeps while offline; default 10,000
	KeepAlive   time.Duration // whole seconds; default 30 s
	BackoffMin  time.Duration // first wait before reconnecting; default 500 ms
	BackoffMax  time.Duration // longest; default 30 s
	ConnectRate int           // new connections per second while the fleet starts; default 2,000
	DialTimeout time.Duration // default 10 s

	FirstSeq map[string]int64 // where a device's numbers go on, by client id; default 0
	Faults   Faults
	Logger   *slog.Logger                                // default: nowhere
	Dial     func(ctx context.Context) (net.Conn, error) // default: to Broker

	profile            *Profile
	username, password string
}

// Defaults fills in what is not set.
func (c *Config) Defaults() {
	set(&c.Devices, 1)
	set(&c.Profile, "thermostat")
	set(&c.Speed, 1)
	set(&c.Every, time.Second)
	set(&c.Drain, 10*time.Second)
	set(&c.Window, 32)
	set(&c.Buffer, 10_000)
	set(&c.KeepAlive, 30*time.Second)
	set(&c.BackoffMin, 500*time.Millisecond)
	set(&c.BackoffMax, 30*time.Second)
	set(&c.ConnectRate, 2000)
	set(&c.DialTimeout, 10*time.Second)
	if c.Replay != nil {
		c.Profile = "replay"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// Validate returns all faults at once.
func (c *Config) Validate() error {
	errs := c.Faults.validate()
	bound := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s %d: want %d to %d", name, v, lo, hi))
		}
	}
	bound("devices", c.Devices, 1, 1_000_000)
	bound("window", c.Window, 1, 1000)
	bound("buffer", c.Buffer, 1, 10_000_000)
	bound("connect rate", c.ConnectRate, 1, 1_000_000)
	if c.KeepAlive < time.Second || c.KeepAlive > 65535*time.Second {
		errs = append(errs, fmt.Errorf("keepalive %v: want 1s to 65535s", c.KeepAlive))
	}
	if c.Every < time.Microsecond || c.Duration < 0 || c.Drain < 0 || c.DialTimeout < 0 {
		errs = append(errs, errors.New("rate, duration, drain and dial timeout must not be negative"))
	}
	if !(c.Speed > 0) {
		errs = append(errs, fmt.Errorf("speed %v: want more than 0", c.Speed))
	}
	if c.BackoffMin <= 0 || c.BackoffMax < c.BackoffMin {
		errs = append(errs, fmt.Errorf("backoff %v to %v: want 0 < min <= max", c.BackoffMin, c.BackoffMax))
	}
	if c.Replay == nil {
		var err error
		if c.profile, err = ParseProfile(c.Profile); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Dial == nil {
		if err := c.parseBroker(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Config) parseBroker() error {
	u, err := url.Parse(c.Broker)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("broker %q: want mqtt://host:port or mqtts://host:port", c.Broker)
	}
	port := map[string]string{"mqtt": "1883", "tcp": "1883", "mqtts": "8883", "ssl": "8883"}[u.Scheme]
	if port == "" {
		return fmt.Errorf("broker %q: scheme %q is not mqtt or mqtts", c.Broker, u.Scheme)
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	c.username = u.User.Username()
	c.password, _ = u.User.Password()
	d := &net.Dialer{}
	if port == "8883" {
		t := &tls.Dialer{NetDialer: d}
		c.Dial = func(ctx context.Context) (net.Conn, error) { return t.DialContext(ctx, "tcp", addr) }
		return nil
	}
	c.Dial = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	return nil
}

// backoff is the wait after a number of failures in a row: exponential, with the upper half left to chance, so that a
// fleet cut off together does not come back together.
func (c *Config) backoff(failures int, rng *rand.Rand) time.Duration {
	w := c.BackoffMax
	if failures < 20 {
		w = min(c.BackoffMax, c.BackoffMin<<failures)
	}
	return w/2 + time.Duration(rng.Int64N(int64(w/2)+1))
}

// Stats are live figures of the whole fleet.
type Stats struct{ Devices, Connected, Sent, Acked, Refused int64 }

// Fleet is a set of devices. Make it with New, run it once.
type Fleet struct {
	cfg     Config
	devices []*device
	stop    chan struct{} // closed when sampling ends, for whatever reason,
	stopped time.Time     // at this time

	connected, sent, acked, refused atomic.Int64
}

// New checks the configuration and prepares the devices.
func New(cfg Config) (*Fleet, error) {
	cfg.Defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Fleet{cfg: cfg, stop: make(chan struct{})}, nil
}

// Stats may be called at any time.
func (f *Fleet) Stats() Stats {
	return Stats{int64(f.cfg.Devices), f.connected.Load(), f.sent.Load(), f.acked.Load(), f.refused.Load()}
}

// Run runs the fleet until its duration or recording is over, or ctx ends; then the devices have Config.Drain to get
// their last readings acked. It returns the ledger when every device has stopped.
func (f *Fleet) Run(ctx context.Context) *Ledger {
	started := time.Now()
	led := &Ledger{Broker: redacted(f.cfg.Broker), Profile: f.cfg.Profile, Format: f.cfg.Format.String(), Seed: f.cfg.Seed, Started: started.UTC()}
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var wg sync.WaitGroup
	for n := range f.cfg.Devices {
		d := f.newDevice(n, started)
		f.devices = append(f.devices, d)
		wg.Go(func() { d.run(life) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	over := make(<-chan time.Time)
	if f.cfg.Duration > 0 {
		t := time.NewTimer(f.cfg.Duration)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-over:
	}
	f.stopped = time.Now()
	close(f.stop)
	drain := time.AfterFunc(f.cfg.Drain, kill)
	<-done
	drain.Stop()

	led.Ended = time.Now().UTC()
	for _, d := range f.devices {
		d.led.Pending = int64(d.out.len())
		for _, e := range d.out.flying() {
			if e.done {
				d.led.Pending--
			}
		}
		led.Devices = append(led.Devices, d.led)
	}
	return led
}

func (f *Fleet) newDevice(n int, started time.Time) *device {
	id := fmt.Sprintf("sim-%s-%d", f.cfg.Profile, n)
	d := &device{
		fleet: f, n: n, id: id, topic: "devices/" + id + "/telemetry",
		rng:    rand.New(rand.NewPCG(f.cfg.Seed, uint64(n))),
		log:    f.cfg.Logger.With("device", id),
		every:  f.cfg.Every,
		first:  f.cfg.FirstSeq[id],
		fresh:  true,
		orders: make(chan order, commandsHeld),
		wake:   make(chan struct{}, 1),
		out:    outbox{max: f.cfg.Buffer},
		led:    DeviceLedger{Device: id, LastSeq: f.cfg.FirstSeq[id] - 1},
	}
	d.nextSeq = d.first
	d.ses = sessionState{d: d, extra: map[uint16]chan<- packets.ControlPacket{}}
	d.clock = newClock(started, &f.cfg.Faults, d.rng)
	d.due = started.Add(time.Duration(float64(n) / float64(f.cfg.ConnectRate) * float64(time.Second))).Add(d.phase())
	d.end = started.Add(100 * 365 * 24 * time.Hour)
	if f.cfg.Duration > 0 {
		d.end = started.Add(f.cfg.Duration)
	}
	d.rebootAt = after(d.due, f.cfg.Faults.Reboot, d.rng)
	d.burstAt = after(d.due, f.cfg.Faults.Burst, d.rng)
	return d
}

func (f *Fleet) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.DialTimeout)
	defer cancel()
	return f.cfg.Dial(ctx)
}

// redacted keeps passwords out of reports.
func redacted(broker string) string {
	u, err := url.Parse(broker)
	if err != nil {
		return ""
	}
	return u.Redacted()
}
