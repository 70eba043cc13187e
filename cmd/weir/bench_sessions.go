package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// openers is how many connections are opened at the same time.
const openers = 64

// each calls fn for 0 … n-1 from a few goroutines until one fails or ctx ends; it returns the first error.
func each(ctx context.Context, n int, fn func(i int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(openers, n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					stop(fmt.Errorf("session %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// benchIdleCmd is `weir bench idle`.
type benchIdleCmd struct {
	Broker      string        `default:"mqtt://127.0.0.1:1883" placeholder:"URL" help:"MQTT listener (default ${default})."`
	Connections int           `short:"c" default:"10000" help:"Connections (default ${default})."`
	Waves       int           `default:"3" help:"How often all of them come and go (default ${default})."`
	Hold        time.Duration `default:"3s" help:"How long the server rests before the first wave, and a wave stays, before it is measured (default ${default})."`
	MQTTVersion string        `name:"mqtt-version" default:"3.1.1" enum:"3.1.1,5" help:"3.1.1 or 5 (default ${default})."`
	Pid         int           `help:"The server's process id, for its memory."`
}

type idleWave struct {
	Wave          int      `json:"wave"`
	Connections   int      `json:"connections"`
	ConnectRate   float64  `json:"connects_per_s"`
	RSSBefore     *int64   `json:"rss_before,omitempty"` // bytes
	RSS           *int64   `json:"rss,omitempty"`
	PerConnection *float64 `json:"bytes_per_connection,omitempty"` // against before the first wave
}

// Run opens and closes the waves and prints one row for each.
func (c *benchIdleCmd) Run(g *Globals) error {
	dial, err := parseMQTTDial(c.Broker, c.MQTTVersion)
	if err != nil {
		return err
	}
	if c.Connections < 1 || c.Connections > 1_000_000 || c.Waves < 1 || c.Hold < 0 {
		return usagef("want --connections 1 to 1000000, --waves 1 or more, --hold not negative")
	}
	dial.keepAlive = 600
	waves, t := []idleWave{}, newTable("WAVE", "CONNS", "CONNECTS/S", "RSS BEFORE KiB", "RSS KiB", "BYTES/CONN")
	var first int64
	for n := range c.Waves {
		w := idleWave{Wave: n + 1, Connections: c.Connections}
		if n == 0 { // what a load before this left behind is no connection's: the server is to be at rest
			select {
			case <-time.After(c.Hold):
			case <-g.Ctx.Done():
			}
		}
		before, err := c.rss()
		if err == nil {
			if n == 0 {
				first = before
			}
			err = c.wave(g, dial, &w, before, first)
		}
		if g.Ctx.Err() != nil {
			return failf("bench idle: interrupted")
		}
		if err != nil {
			return fail("bench idle", err)
		}
		waves = append(waves, w)
		row := []any{w.Wave, w.Connections, fmt.Sprintf("%.0f", w.ConnectRate), "-", "-", "-"}
		if c.Pid != 0 {
			row[3], row[4], row[5] = *w.RSSBefore>>10, *w.RSS>>10, fmt.Sprintf("%.0f", *w.PerConnection)
		}
		t.add(row...)
	}
	return g.emit(waves, t)
}

func (c *benchIdleCmd) rss() (int64, error) {
	if c.Pid == 0 {
		return 0, nil
	}
	return procRSS(c.Pid)
}

func (c *benchIdleCmd) wave(g *Globals, dial mqttDial, w *idleWave, before, first int64) error {
	run := rand.Uint32()
	conns := make([]*mqttConn, c.Connections)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.send(mqttDisconnect)
				conn.Close()
			}
		}
	}()
	began := time.Now()
	err := each(g.Ctx, c.Connections, func(i int) (err error) {
		d := dial
		d.clientID = fmt.Sprintf("bench-idle-%x-%d", run, i)
		conns[i], err = d.open(64)
		return err
	})
	if err != nil {
		return err
	}
	w.ConnectRate = float64(c.Connections) / time.Since(began).Seconds()
	select {
	case <-time.After(c.Hold):
	case <-g.Ctx.Done():
		return g.Ctx.Err()
	}
	for i, conn := range conns { // a server that dropped them holds nothing
		if err := conn.ping(); err != nil {
			return fmt.Errorf("connection %d did not last: %w", i, err)
		}
	}
	if c.Pid == 0 {
		return nil
	}
	rss, err := c.rss()
	per := float64(rss-first) / float64(c.Connections)
	w.RSSBefore, w.RSS, w.PerConnection = &before, &rss, &per
	return err
}

// ping waits for the PINGRESP; no message may be on its way.
func (m *mqttConn) ping() error {
	if err := m.send(mqttPingreq); err != nil {
		return err
	}
	_ = m.SetReadDeadline(time.Now().Add(mqttTimeout))
	first, _, err := m.read()
	if err != nil {
		return err
	}
	if first>>4 != mqttPingresp {
		return fmt.Errorf("packet type %d instead of PINGRESP", first>>4)
	}
	return nil
}

// benchAbsentCmd is `weir bench absent`.
type benchAbsentCmd struct {
	Broker      string        `default:"mqtt://127.0.0.1:1883" placeholder:"URL" help:"MQTT listener (default ${default})."`
	Sessions    int           `default:"10000" help:"Lasting sessions with one narrow filter each (default ${default})."`
	Messages    int           `default:"3" help:"Messages for each while it is away (default ${default})."`
	Traffic     int64         `default:"1073741824" placeholder:"BYTES" help:"Payload that nobody of them wants (default ${default})."`
	Size        int           `default:"256" help:"Payload bytes of a message (default ${default})."`
	MQTTVersion string        `name:"mqtt-version" default:"3.1.1" enum:"3.1.1,5" help:"3.1.1 or 5 (default ${default})."`
	Timeout     time.Duration `default:"2m" help:"How long a returning session may wait for its messages (default ${default})."`
}

type benchAbsentResult struct {
	Sessions   int     `json:"sessions"`
	Expected   int64   `json:"expected"`
	Received   int64   `json:"received"` // repeats not included
	Repeated   int64   `json:"repeated"`
	Missing    int64   `json:"missing"`
	Foreign    int64   `json:"foreign"` // messages of others' topics
	Traffic    int64   `json:"traffic_bytes"`
	ReturnSecs float64 `json:"return_s"` // from the first return to the last message
}

// Run fails if a session misses a message or gets one of another's.
func (c *benchAbsentCmd) Run(g *Globals) error {
	dial, err := parseMQTTDial(c.Broker, c.MQTTVersion)
	if err != nil {
		return err
	}
	if c.Sessions < 1 || c.Sessions > 1_000_000 || c.Messages < 1 || c.Messages > 1000 || c.Size < 16 || c.Size > 1<<20 || c.Traffic < 0 || c.Timeout <= 0 {
		return usagef("want --sessions 1 to 1000000, --messages 1 to 1000, --size 16 to 1048576, --traffic not negative, --timeout more than 0")
	}
	res, err := c.run(g, dial)
	if g.Ctx.Err() != nil {
		return failf("bench absent: interrupted")
	}
	if err != nil {
		return fail("bench absent", err)
	}
	t := newTable("SESSIONS", "EXPECTED", "RECEIVED", "REPEATED", "MISSING", "FOREIGN", "TRAFFIC MiB", "RETURN s")
	t.add(res.Sessions, res.Expected, res.Received, res.Repeated, res.Missing, res.Foreign, res.Traffic>>20, fmt.Sprintf("%.2f", res.ReturnSecs))
	if err := g.emit(res, t); err != nil {
		return err
	}
	if res.Missing+res.Foreign > 0 {
		return failf("bench absent: %d messages missing, %d of others' topics delivered", res.Missing, res.Foreign)
	}
	return nil
}

func (c *benchAbsentCmd) run(g *Globals, dial mqttDial) (*benchAbsentResult, error) {
	run := fmt.Sprintf("%d-%x", os.Getpid(), rand.Uint32())
	session := func(i int) mqttDial {
		d := dial
		d.clientID, d.clean = fmt.Sprintf("bench-away-%s-%d", run, i), false
		return d
	}
	topic := func(i int) string { return fmt.Sprintf("bench/away/%s/%d", run, i) }
	defer func() {
		_ = each(context.WithoutCancel(g.Ctx), c.Sessions, func(i int) error { discard(session(i)); return nil })
	}()
	if err := each(g.Ctx, c.Sessions, func(i int) error { return visit(session(i), topic(i), 1) }); err != nil {
		return nil, err
	}
	if err := c.publish(g, dial, run, topic); err != nil {
		return nil, err
	}
	res := &benchAbsentResult{Sessions: c.Sessions, Expected: int64(c.Sessions) * int64(c.Messages), Traffic: c.Traffic}
	var mu sync.Mutex
	began := time.Now()
	last := began
	err := each(g.Ctx, c.Sessions, func(i int) error {
		got, err := c.comeBack(session(i), topic(i))
		mu.Lock()
		defer mu.Unlock()
		res.Received += got.Received
		res.Repeated += got.Repeated
		res.Foreign += got.Foreign
		if got.last.After(last) {
			last = got.last
		}
		return err
	})
	res.Missing, res.ReturnSecs = res.Expected-res.Received, last.Sub(began).Seconds()
	return res, err
}

// publish sends the others' traffic, with the sessions' messages spread through it.
func (c *benchAbsentCmd) publish(g *Globals, dial mqttDial, run string, topic func(int) string) error {
	bar := newProgress(g, "bench absent", c.Traffic)
	defer bar.finish()
	const writers, burst = 8, 64
	mine := c.Sessions * c.Messages
	others := c.Traffic / int64(c.Size)
	return each(g.Ctx, writers, func(w int) error {
		d := dial
		d.clientID = fmt.Sprintf("bench-away-pub-%s-%d", run, w)
		conn, err := d.open(16 << 10)
		if err != nil {
			return err
		}
		defer conn.Close()
		noise, sent := randomBytes(c.Size), 0
		var out []byte
		flush := func() error {
			if err := conn.send(out); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
			for ; sent > 0; sent-- {
				first, body, err := conn.read()
				if err != nil {
					return err
				}
				if first>>4 != mqttPuback || len(body) > 2 && body[2] >= 0x80 {
					return fmt.Errorf("packet % x instead of a PUBACK", append([]byte{first}, body...))
				}
			}
			out = out[:0]
			return nil
		}
		put := func(topic string, payload []byte) error {
			sent++
			b, _ := publishFrame(d.version, topic, 1, uint16(sent), payload)
			if out = append(out, b...); sent < burst {
				return nil
			}
			return flush()
		}
		var done int64 // of the others' messages
		pour := func(upTo int64) error {
			for ; done < upTo; done++ {
				if g.Ctx.Err() != nil {
					return g.Ctx.Err()
				}
				if err := put(fmt.Sprintf("bench/others/%d", w), noise); err != nil {
					return err
				}
				bar.add(int64(c.Size))
			}
			return nil
		}
		for m := w; m < mine; m += writers {
			// Message m/sessions of session m%sessions, said in its payload.
			payload := append(fmt.Appendf(nil, "%08d", m/c.Sessions), noise[8:]...)
			if err := put(topic(m%c.Sessions), payload); err != nil {
				return err
			}
			if err := pour(others * int64(m+1) / int64(mine) / writers); err != nil {
				return err
			}
		}
		if err := pour(others / writers); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		return conn.send(mqttDisconnect)
	})
}

// comeback is what one session got.
type comeback struct {
	Received, Repeated, Foreign int64
	last                        time.Time
}

// comeBack resumes a session and reads its messages, then, to see that nothing else comes, up to the answer of a ping.
func (c *benchAbsentCmd) comeBack(d mqttDial, topic string) (got comeback, err error) {
	conn, err := d.open(c.Size + 4096)
	if err != nil {
		return got, err
	}
	defer conn.Close()
	if !conn.present {
		return got, errors.New("server has forgotten it")
	}
	_ = conn.SetReadDeadline(time.Now().Add(c.Timeout))
	seen := make(map[string]bool, c.Messages)
	pinged := false
	for {
		if len(seen) == c.Messages && !pinged {
			pinged = true
			if err := conn.send(mqttPingreq); err != nil {
				return got, err
			}
		}
		first, body, err := conn.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got, nil // what is missing is counted
		}
		if err != nil {
			return got, err
		}
		if first>>4 == mqttPingresp {
			return got, conn.send(mqttDisconnect)
		}
		if first>>4 != mqttPublish {
			return got, fmt.Errorf("packet type %d instead of PUBLISH", first>>4)
		}
		id, payload, err := publishPayload(d.version, first, body)
		if err != nil {
			return got, err
		}
		if err := conn.send([]byte{mqttPuback << 4, 2, byte(id >> 8), byte(id)}); err != nil {
			return got, err
		}
		which := string(payload[:min(8, len(payload))])
		switch {
		case len(body) < 2+len(topic) || string(body[2:2+len(topic)]) != topic:
			got.Foreign++
		case seen[which]:
			got.Repeated++
		default:
			seen[which] = true
			got.Received, got.last = got.Received+1, time.Now()
		}
	}
}
