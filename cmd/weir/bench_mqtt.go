package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// benchMQTTCmd is `weir bench mqtt`.
type benchMQTTCmd struct {
	Broker      string        `default:"mqtt://127.0.0.1:1883" placeholder:"URL" help:"MQTT listener (default ${default})."`
	Connections int           `short:"c" default:"64" help:"Publishing connections (default ${default})."`
	Window      int           `short:"w" default:"64" help:"Unacked publishes per connection (default ${default})."`
	QoS         byte          `name:"qos" default:"1" help:"0 or 1 (default ${default}). At QoS 0 a PINGRESP after each half window stands for the ack."`
	Size        int           `default:"256" help:"Payload bytes, 16 or more (default ${default})."`
	Duration    time.Duration `short:"d" default:"10s" help:"How long to measure (default ${default})."`
	Warmup      time.Duration `default:"500ms" help:"Run so long before measuring (default ${default})."`
	Rate        float64       `placeholder:"N" help:"Publishes per second in all, evenly spread; latency counts from when one was due (default: as fast as acks allow)."`
	Topic       string        `default:"bench/%d" help:"MQTT topic; %d is the connection's number (default ${default})."`
	MQTTVersion string        `name:"mqtt-version" default:"3.1.1" enum:"3.1.1,5" help:"3.1.1 or 5 (default ${default})."`
	Pid         int           `help:"The server's process id, for its CPU time and memory."`

	Subscribers int    `group:"Subscribers:" help:"Connections that subscribe to all of it; delivery latency is publish to receipt."`
	Filter      string `group:"Subscribers:" default:"bench/#" help:"What they subscribe to (default ${default})."`
	Ahead       int    `group:"Subscribers:" placeholder:"N" help:"Publish at most N messages more than every subscriber has got on average, so that deliveries set the pace."`
	Durable     bool   `group:"Subscribers:" help:"Their sessions outlive their connections."`
	Absent      bool   `group:"Subscribers:" help:"A lasting session is away during the load, then returns and must get every acked message."`
}

// benchMQTTResult is the JSON form.
type benchMQTTResult struct {
	Connections int     `json:"connections"`
	Window      int     `json:"window"`
	QoS         byte    `json:"qos"`
	Size        int     `json:"size"`
	TargetRate  float64 `json:"target_rate,omitempty"`
	usage
	latencies
	Acked       int64       `json:"acked"` // in the whole run, warm-up and drain included
	Deliveries  *deliveries `json:"deliveries,omitempty"`
	AbsentReply *deliveries `json:"absent,omitempty"`
}

type deliveries struct {
	Subscribers int     `json:"subscribers"`
	Expected    int64   `json:"expected"`
	Received    int64   `json:"received"` // repeats not included
	Repeated    int64   `json:"repeated"`
	Rate        float64 `json:"rate"`
	latencies
}

func (c *benchMQTTCmd) validate() error {
	switch {
	case c.Connections < 1 || c.Connections > 100_000:
		return usagef("--connections %d: want 1 to 100000", c.Connections)
	case c.Window < 1 || c.Window > 65535:
		return usagef("--window %d: want 1 to 65535", c.Window)
	case c.QoS > 1:
		return usagef("--qos %d: want 0 or 1", c.QoS)
	case c.Size < 16 || c.Size > 64<<20:
		return usagef("--size %d: want 16 to 67108864 bytes", c.Size)
	case c.Ahead < 0 || c.Ahead > 0 && c.Subscribers == 0:
		return usagef("--ahead needs --subscribers and is not negative")
	case c.Duration <= 0 || c.Warmup < 0 || c.Rate < 0 || c.Subscribers < 0:
		return usagef("--duration must be more than 0; --warmup, --rate and --subscribers not less")
	}
	return nil
}

func (c *benchMQTTCmd) dial() (mqttDial, error) { return parseMQTTDial(c.Broker, c.MQTTVersion) }

func parseMQTTDial(broker, version string) (mqttDial, error) {
	u, err := url.Parse(broker)
	if err != nil || u.Host == "" || u.Scheme != "mqtt" && u.Scheme != "tcp" {
		return mqttDial{}, usagef("--broker %s: want mqtt://HOST:PORT", broker)
	}
	d := mqttDial{addr: u.Host, user: u.User.Username(), version: 4, clean: true}
	d.password, _ = u.User.Password()
	if u.Port() == "" {
		d.addr = net.JoinHostPort(u.Hostname(), "1883")
	}
	if version == "5" {
		d.version = 5
	}
	return d, nil
}

// mqttLoad is one run.
type mqttLoad struct {
	cmd   *benchMQTTCmd
	dial  mqttDial
	run   string // part of client ids, so that runs do not meet each other's sessions
	base  time.Time
	sent  atomic.Int64
	acked atomic.Int64

	measuring atomic.Bool
	stopping  atomic.Bool
	acks      []*histogram // shards
	received  atomic.Int64 // by subscribers, repeats not included
	repeated  atomic.Int64
	arrived   int64 // of these, while measuring
	arrivals  []*histogram

	failed chan error
}

const histogramShards = 4

// Run loads the server and prints one row.
func (c *benchMQTTCmd) Run(g *Globals) error {
	if err := c.validate(); err != nil {
		return err
	}
	dial, err := c.dial()
	if err != nil {
		return err
	}
	l := &mqttLoad{cmd: c, dial: dial, run: fmt.Sprintf("%d-%x", os.Getpid(), rand.Uint32()), base: time.Now(), failed: make(chan error, 1)}
	for range histogramShards {
		l.acks, l.arrivals = append(l.acks, newHistogram()), append(l.arrivals, newHistogram())
	}
	res, err := l.all(g)
	if err != nil {
		if g.Ctx.Err() != nil {
			return failf("bench mqtt: interrupted")
		}
		return fail("bench mqtt", err)
	}
	return res.print(g)
}

func (l *mqttLoad) all(g *Globals) (*benchMQTTResult, error) {
	c := l.cmd
	var absent mqttDial
	if c.Absent {
		absent = l.dial
		absent.clientID, absent.clean = "bench-absent-"+l.run, false
		if err := visit(absent, c.Filter, c.QoS); err != nil {
			return nil, fmt.Errorf("absent subscriber: %w", err)
		}
	}
	subs, err := l.subscribe()
	if err != nil {
		return nil, fmt.Errorf("subscriber: %w", err)
	}
	defer subs.close()
	res, err := l.publish(g)
	if err != nil {
		return nil, err
	}
	res.Acked = l.acked.Load()
	if c.Subscribers > 0 {
		res.Deliveries = subs.finish(res)
	}
	if c.Absent {
		if res.AbsentReply, err = l.welcome(absent, res.Acked); err != nil {
			return nil, fmt.Errorf("absent subscriber: %w", err)
		}
	}
	return res, nil
}

// publish opens the publishers, runs warm-up, measurement and drain, and closes them.
func (l *mqttLoad) publish(g *Globals) (*benchMQTTResult, error) {
	c := l.cmd
	pubs := make([]*publisher, c.Connections)
	defer func() {
		for _, p := range pubs {
			if p != nil {
				p.Close()
			}
		}
	}()
	bar := newProgress(g, "bench mqtt", int64((c.Warmup + c.Duration).Milliseconds()))
	defer bar.finish()
	for i := range pubs {
		if g.Ctx.Err() != nil {
			return nil, g.Ctx.Err()
		}
		var err error
		if pubs[i], err = l.newPublisher(i); err != nil {
			return nil, fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	var wg sync.WaitGroup
	for _, p := range pubs {
		wg.Go(func() {
			if err := p.run(); err != nil {
				l.fail(err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()

	hold := func(d time.Duration) error {
		const step = 100 * time.Millisecond
		for until := time.Now().Add(d); time.Now().Before(until); bar.add(step.Milliseconds()) {
			select {
			case <-time.After(min(step, time.Until(until))):
			case err := <-l.failed:
				return err
			case <-g.Ctx.Done():
				return g.Ctx.Err()
			}
		}
		return nil
	}
	err := hold(c.Warmup)
	var u usage
	if err == nil {
		var m *meter
		if m, err = startMeter(c.Pid); err == nil {
			before, arrived := l.acked.Load(), l.received.Load()
			l.measuring.Store(true)
			err = hold(c.Duration)
			l.measuring.Store(false)
			n := l.acked.Load() - before
			l.arrived = l.received.Load() - arrived
			var e error
			u, e = m.stop(n, n*int64(c.Size))
			err = cmp.Or(err, e)
		}
	}
	l.stopping.Store(true)
	until := time.Now().Add(mqttTimeout)
	if err != nil {
		until = time.Now()
	}
	for _, p := range pubs {
		_ = p.SetDeadline(until)
	}
	<-ended
	select {
	case e := <-l.failed:
		err = cmp.Or(err, fmt.Errorf("waiting for the last acks: %w", e))
	default:
	}
	if err != nil {
		return nil, err
	}
	return &benchMQTTResult{Connections: c.Connections, Window: c.Window, QoS: c.QoS, Size: c.Size, TargetRate: c.Rate, usage: u, latencies: summary(l.acks...)}, nil
}

func (l *mqttLoad) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

func (r *benchMQTTResult) print(g *Globals) error {
	var t columns
	t.add("CONNS", "%d", r.Connections)
	t.add("WINDOW", "%d", r.Window)
	t.add("QOS", "%d", r.QoS)
	t.add("SIZE", "%d", r.Size)
	t.usage(r.usage)
	t.latencies(r.latencies)
	if d := r.Deliveries; d != nil {
		t.add("DELIVERED", "%d", d.Received)
		t.add("DELIVERED/S", "%.0f", d.Rate)
		t.add("e2e p50 ms", "%.2f", d.P50)
		t.add("e2e p99 ms", "%.2f", d.P99)
	}
	if d := r.AbsentReply; d != nil {
		t.add("REPLAYED", "%d", d.Received)
		t.add("REPLAYED/S", "%.0f", d.Rate)
	}
	if err := g.emit(r, t.table()); err != nil {
		return err
	}
	var lost []error
	for name, d := range map[string]*deliveries{"subscribers": r.Deliveries, "the absent subscriber": r.AbsentReply} {
		if d != nil && r.QoS > 0 && d.Received < d.Expected {
			lost = append(lost, failf("%s got %d of %d messages", name, d.Received, d.Expected))
		}
	}
	return errors.Join(lost...)
}
