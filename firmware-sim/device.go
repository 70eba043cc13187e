package firmwaresim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

const (
	commandsHeld  = 16  // commands waiting for the device's goroutine
	commandWindow = 8   // our receive maximum; the client library sizes a buffer by it
	sessionExpiry = 600 // seconds the server is to keep our session while we are away

	settledAfter = 5 * time.Second // a connection that lived so long starts the backoff afresh
	bootFor      = 2 * time.Second // mean time without power
)

// device is one simulated device. Its goroutine (run) owns everything outside mu.
type device struct {
	fleet *Fleet
	n     int
	id    string
	topic string
	rng   *rand.Rand
	clock clock
	log   *slog.Logger

	every time.Duration // between readings
	due   time.Time     // of the next reading
	end   time.Time     // no reading is taken from here on
	row   int           // replay: next row
	first int64         // number of the run's first reading
	fresh bool          // no session with the server that is worth resuming: first start, or power was lost

	rebootAt, halfOpenAt, burstAt time.Time // zero: never

	orders chan order
	wake   chan struct{} // an ack made room
	values []Value       // scratch

	mu      sync.Mutex
	nextSeq int64
	out     outbox
	ses     sessionState
	led     DeviceLedger
}

type outcome uint8

const (
	linkLost outcome = iota
	powerLost
	finished
)

// run is the device's life: connect, serve, and when the connection breaks try again, ever more seldom.
func (d *device) run(ctx context.Context) {
	if !pause(ctx, time.Until(d.due)-d.phase()) {
		return
	}
	defer func() { d.sample(time.Now()) }() // a sensor measures to the end, also while its device is offline
	failures := 0
	for ctx.Err() == nil && !d.isFinished() {
		began := time.Now()
		how := linkLost
		if c, l := d.connect(ctx); c != nil {
			d.fleet.connected.Add(1)
			how = d.serve(ctx, c, l)
			d.fleet.connected.Add(-1)
		}
		wait := d.fleet.cfg.backoff(failures, d.rng)
		switch {
		case how == finished:
			return
		case how == powerLost:
			failures, wait = 0, bootFor/2+time.Duration(d.rng.Int64N(int64(bootFor)))
		case time.Since(began) > settledAfter:
			failures = 0
		default:
			failures++
		}
		if !pause(ctx, wait) {
			return
		}
		if how == powerLost {
			d.boot()
		}
		d.sample(time.Now())
	}
}

// phase spreads first readings over an interval, so that a fleet does not publish in step.
func (d *device) phase() time.Duration {
	if d.fleet.cfg.Replay != nil {
		return 0
	}
	return time.Duration(noise{d.fleet.cfg.Seed}.uniform(200, int64(d.n)) * float64(d.fleet.cfg.Every))
}

// boot is what a device knows after a power loss: its flash. The MQTT session was in RAM, and time has passed.
func (d *device) boot() {
	d.mu.Lock()
	d.out.forget()
	d.led.Reboots++
	d.mu.Unlock()
	d.fresh = true
	now := time.Now()
	if d.fleet.cfg.Replay == nil {
		d.due = now.Add(d.every)
	}
	d.rebootAt = after(now, d.fleet.cfg.Faults.Reboot, d.rng)
}

// connect returns nil if it did not come to a session.
func (d *device) connect(ctx context.Context) (*paho.Client, *link) {
	cfg := &d.fleet.cfg
	conn, err := d.fleet.dial(ctx)
	if err != nil {
		d.log.Debug("dial", "err", err)
		return nil, nil
	}
	l := &link{Conn: conn}
	c := paho.NewClient(paho.ClientConfig{
		ClientID: d.id,
		Conn:     l,
		Session:  &d.ses,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			d.receive(p.Packet)
			return true, nil
		}},
		OnServerDisconnect: func(p *paho.Disconnect) { d.log.Info("server disconnected us", "reason", p.ReasonCode) },
	})
	ack, err := c.Connect(ctx, &paho.Connect{
		ClientID: d.id, KeepAlive: uint16(cfg.KeepAlive / time.Second), CleanStart: d.fresh,
		Username: cfg.username, UsernameFlag: cfg.username != "", Password: []byte(cfg.password), PasswordFlag: cfg.password != "",
		Properties: &paho.ConnectProperties{SessionExpiryInterval: new(uint32(sessionExpiry)), ReceiveMaximum: new(uint16(commandWindow))},
	})
	if err != nil {
		d.log.Debug("connect", "err", err)
		l.Close()
		return nil, nil
	}
	d.fresh = false
	d.mu.Lock()
	d.led.Connects++
	d.mu.Unlock()
	d.halfOpenAt = after(time.Now(), cfg.Faults.HalfOpen, d.rng)
	if !ack.SessionPresent {
		_, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "devices/" + d.id + "/commands", QoS: 1}}})
		if err != nil { // telemetry matters more: go on without commands
			d.log.Warn("subscribe to commands", "err", err)
		}
	}
	return c, l
}

// receive runs in the connection's goroutine.
func (d *device) receive(p *paho.Publish) {
	o := order{topic: "devices/" + d.id + "/responses", payload: p.Payload}
	if p.Properties != nil {
		o.correlation = p.Properties.CorrelationData
		if p.Properties.ResponseTopic != "" {
			o.topic = p.Properties.ResponseTopic
		}
	}
	select {
	case d.orders <- o:
	default:
		d.log.Warn("command dropped: too many are waiting", "held", commandsHeld)
	}
}

// serve runs one connection to its end.
func (d *device) serve(ctx context.Context, c *paho.Client, l *link) outcome {
	timer := time.NewTimer(0)
	defer timer.Stop()
	hangUp := func() { l.Close(); <-c.Done() }
	stop := d.fleet.stop
	for {
		now := time.Now()
		if passed(d.rebootAt, now) {
			hangUp()
			return powerLost
		}
		if passed(d.halfOpenAt, now) {
			d.halfOpenAt = time.Time{}
			l.dead.Store(true)
		}
		d.sample(now)
		d.pump(ctx, c)
		if d.isFinished() {
			// The run is over for good: the server need not keep the session.
			_ = c.Disconnect(&paho.Disconnect{Properties: &paho.DisconnectProperties{SessionExpiryInterval: new(uint32(0))}})
			return finished
		}
		timer.Reset(time.Until(d.nextEvent()))
		select {
		case <-ctx.Done():
			hangUp()
			return finished
		case <-c.Done():
			return linkLost
		case o := <-d.orders:
			answer, reboot := d.obey(o)
			d.send(ctx, c, answer)
			d.mu.Lock()
			d.led.Commands++
			d.mu.Unlock()
			if reboot {
				hangUp()
				return powerLost
			}
		case <-stop:
			stop = nil
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// sample takes every reading that is due, with the time it was due at. Replay waits for room in the outbox; a live
// sensor cannot.
func (d *device) sample(now time.Time) {
	select {
	case <-d.fleet.stop:
		if d.fleet.stopped.Before(d.end) {
			d.end = d.fleet.stopped
		}
	default:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.fleet.cfg.Replay; r != nil {
		for d.row < r.Len() && !d.due.After(now) && d.due.Before(d.end) {
			ts, _ := r.At(d.row)
			if !d.take(ts) {
				return
			}
			if d.row++; d.row < r.Len() {
				d.due = d.due.Add(time.Duration(float64(r.Gap(d.row)) / d.fleet.cfg.Speed))
			}
		}
		return
	}
	for !d.due.After(now) && d.due.Before(d.end) {
		if !d.take(d.clock.ms(d.due)) {
			d.led.Skipped++
		}
		d.due = d.due.Add(d.every)
	}
	if passed(d.burstAt, now) {
		d.burstAt = after(now, d.fleet.cfg.Faults.Burst, d.rng)
		for i := 0; i < d.fleet.cfg.Faults.BurstSize && now.Before(d.end); i++ {
			if !d.take(d.clock.ms(now)) {
				d.led.Skipped++
			}
		}
	}
}

// take gives the next number to a reading and buffers it.
func (d *device) take(ts int64) bool {
	if !d.out.put(d.nextSeq, ts) {
		return false
	}
	d.led.LastSeq = d.nextSeq
	d.nextSeq++
	return true
}

// pump publishes buffered readings while the window has room. An error means the connection is going; serve sees that.
func (d *device) pump(ctx context.Context, c *paho.Client) {
	for {
		d.mu.Lock()
		e := d.out.next()
		if e == nil || d.out.inflight >= d.ses.window {
			d.mu.Unlock()
			return
		}
		p := d.publish(*e)
		d.ses.launching = launchReading
		d.mu.Unlock()
		_, err := c.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
		if err != nil {
			return
		}
		if share := d.fleet.cfg.Faults.Duplicates; share > 0 && d.rng.Float64() < share {
			d.mu.Lock()
			d.led.Duplicates++
			d.mu.Unlock()
			d.send(ctx, c, p)
		}
	}
}

// send publishes something that the outbox does not hold.
func (d *device) send(ctx context.Context, c *paho.Client, p *paho.Publish) {
	d.mu.Lock()
	d.ses.launching = launchExtra
	d.mu.Unlock()
	if _, err := c.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend}); err != nil {
		d.log.Debug("publish", "topic", p.Topic, "err", err)
	}
}

// publish builds a reading's message.
func (d *device) publish(e entry) *paho.Publish {
	cfg := &d.fleet.cfg
	d.values = d.values[:0]
	if cfg.Replay != nil {
		_, v := cfg.Replay.At(int(e.seq - d.first))
		d.values = append(d.values, Value{Name: "value", Number: v, Decimals: -1})
	} else {
		d.values = cfg.profile.Read(d.values, cfg.Seed, d.n, e.seq)
	}
	return &paho.Publish{QoS: 1, Topic: d.topic, Payload: AppendPayload(make([]byte, 0, 192), cfg.Format, e.seq, e.ts, d.values),
		Properties: &paho.PublishProperties{ContentType: cfg.Format.ContentType()}}
}

// launched and acked keep the ledger. launched is called with mu held.
func (d *device) launched(id uint16) {
	if d.out.launched(id) {
		d.led.Resent++
		return
	}
	d.led.Sent++
	d.fleet.sent.Add(1)
}

func (d *device) acked(id uint16, reason byte) {
	d.mu.Lock()
	e, ok := d.out.settle(id)
	switch {
	case !ok:
		delete(d.ses.extra, id)
	case reason >= 0x80:
		d.led.Refused++
		d.fleet.refused.Add(1)
	default:
		d.led.Acked++
		d.led.AckedSeqs.Add(e.seq)
		d.fleet.acked.Add(1)
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// isFinished reports that no reading is to come and none is left.
func (d *device) isFinished() bool {
	over := !d.due.Before(d.end)
	if r := d.fleet.cfg.Replay; r != nil {
		over = over || d.row == r.Len()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return over && d.out.len() == 0
}

// nextEvent is when serve has to look again if nothing happens before.
func (d *device) nextEvent() time.Time {
	next := time.Now().Add(time.Hour)
	if d.due.Before(d.end) {
		d.mu.Lock()
		full := d.out.len() >= d.out.max
		d.mu.Unlock()
		done := d.fleet.cfg.Replay != nil && (full || d.row == d.fleet.cfg.Replay.Len())
		if !done && d.due.Before(next) {
			next = d.due
		}
	} else if d.end.Before(next) && d.end.After(time.Now()) {
		next = d.end
	}
	for _, t := range []time.Time{d.rebootAt, d.halfOpenAt, d.burstAt} {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return next
}

func passed(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// pause waits for w; false if ctx ended first.
func pause(ctx context.Context, w time.Duration) bool {
	if w <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(w)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
