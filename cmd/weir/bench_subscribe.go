package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// idleAfter is how long a subscriber may hear nothing before what is missing counts as lost.
const idleAfter = 5 * time.Second

// subscribers are the connections that read what the load publishes.
type subscribers struct {
	l     *mqttLoad
	conns []*mqttConn
	dials []mqttDial
	wg    sync.WaitGroup
}

func (l *mqttLoad) readBuffer() int { return max(64<<10, l.cmd.Size+4096) }

func (l *mqttLoad) subscribe() (*subscribers, error) {
	s := &subscribers{l: l}
	for n := range l.cmd.Subscribers {
		d := l.dial
		d.clientID, d.clean = fmt.Sprintf("bench-sub-%s-%d", l.run, n), !l.cmd.Durable
		c, err := d.open(l.readBuffer())
		if err == nil {
			s.conns, s.dials = append(s.conns, c), append(s.dials, d)
			err = c.subscribe(l.cmd.Filter, l.cmd.QoS)
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	for n, c := range s.conns {
		s.wg.Go(func() {
			if err := l.receive(c, n); !errors.Is(err, net.ErrClosed) {
				l.fail(fmt.Errorf("subscriber %d: %w", n, err))
			}
		})
	}
	return s, nil
}

// tally tells first deliveries from repeats. It takes one number of each publisher, and more only while messages come out
// of order, which not every broker avoids when a session returns.
type tally []arrivals

type arrivals struct {
	next  uint64 // all before it came
	early map[uint64]struct{}
}

func (l *mqttLoad) newTally() tally { return make(tally, l.cmd.Connections) }

// first says whether a message is neither a repeat nor somebody else's.
func (t tally) first(payload []byte) bool {
	if len(payload) < 16 {
		return false
	}
	stamp := binary.BigEndian.Uint64(payload[8:])
	from, seq := stamp>>seqBits, stamp&(1<<seqBits-1)
	if from >= uint64(len(t)) {
		return false
	}
	a := &t[from]
	if _, repeated := a.early[seq]; repeated || seq < a.next {
		return false
	}
	if seq > a.next {
		if a.early == nil {
			a.early = map[uint64]struct{}{}
		}
		a.early[seq] = struct{}{}
		return true
	}
	a.next++
	for len(a.early) > 0 {
		if _, came := a.early[a.next]; !came {
			break
		}
		delete(a.early, a.next)
		a.next++
	}
	return true
}

// receive counts and acks messages until the connection ends, and says why it did; acks of what came together leave
// together.
func (l *mqttLoad) receive(c *mqttConn, n int) error {
	hist := l.arrivals[n%len(l.arrivals)]
	var acks []byte
	var ages []time.Duration
	seen := l.newTally()
	for {
		repeated := 0
		acks, ages = acks[:0], ages[:0]
		for len(ages)+repeated == 0 || c.buffered() {
			id, payload, err := c.readPublish()
			if err != nil {
				return err
			}
			if id > 0 {
				acks = append(acks, mqttPuback<<4, 2, byte(id>>8), byte(id))
			}
			if !seen.first(payload) {
				repeated++
				continue
			}
			ages = append(ages, time.Duration(l.now()-int64(binary.BigEndian.Uint64(payload))))
		}
		l.received.Add(int64(len(ages)))
		l.repeated.Add(int64(repeated))
		if l.measuring.Load() {
			hist.mu.Lock()
			for _, age := range ages {
				hist.recordLocked(age, 1)
			}
			hist.mu.Unlock()
		}
		if len(acks) > 0 {
			if err := c.send(acks); err != nil {
				return err
			}
		}
	}
}

// readPublish returns the next message; the payload is valid until the next read.
func (m *mqttConn) readPublish() (id uint16, payload []byte, err error) {
	for {
		first, body, err := m.read()
		if err != nil {
			return 0, nil, err
		}
		switch first >> 4 {
		case mqttPublish:
			return publishPayload(m.version, first, body)
		case mqttPingresp:
		default:
			return 0, nil, fmt.Errorf("packet type %d instead of PUBLISH", first>>4)
		}
	}
}

// finish waits for what is still to come and sums up.
func (s *subscribers) finish(res *benchMQTTResult) *deliveries {
	d := &deliveries{Subscribers: len(s.conns), Expected: res.Acked * int64(len(s.conns)), Rate: float64(s.l.arrived) / res.Seconds}
	last, since := int64(-1), time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for d.Received = s.l.received.Load(); d.Received < d.Expected && time.Since(since) < idleAfter; d.Received = s.l.received.Load() {
		if d.Received != last {
			last, since = d.Received, time.Now()
		}
		<-tick.C
	}
	d.Repeated, d.latencies = s.l.repeated.Load(), summary(s.l.arrivals...)
	return d
}

// close ends the connections and, where they were to last, the sessions.
func (s *subscribers) close() {
	for _, c := range s.conns {
		c.Close()
	}
	s.wg.Wait()
	for _, d := range s.dials {
		if !d.clean {
			discard(d)
		}
	}
	s.conns, s.dials = nil, nil
}

// visit makes a lasting session with a subscription and leaves.
func visit(d mqttDial, filter string, qos byte) error {
	c, err := d.open(4 << 10)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.subscribe(filter, qos); err != nil {
		return err
	}
	return c.send(mqttDisconnect)
}

// discard ends a lasting session.
func discard(d mqttDial) {
	d.clean = true
	if c, err := d.open(4 << 10); err == nil {
		_ = c.send(mqttDisconnect)
		c.Close()
	}
}

// welcome lets the absent session return and counts what was kept for it.
func (l *mqttLoad) welcome(d mqttDial, expected int64) (*deliveries, error) {
	defer discard(d)
	began := time.Now()
	c, err := d.open(l.readBuffer())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if !c.present {
		return nil, errors.New("server has forgotten its session")
	}
	out := &deliveries{Subscribers: 1, Expected: expected}
	ended := began
	var acks []byte
	seen := l.newTally()
	for out.Received < expected {
		acks = acks[:0]
		_ = c.SetReadDeadline(time.Now().Add(idleAfter))
		for len(acks) == 0 || c.buffered() {
			id, payload, err := c.readPublish()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return out, nil
			}
			if err != nil {
				return nil, err
			}
			if seen.first(payload) {
				out.Received++
			} else {
				out.Repeated++
			}
			acks = append(acks, mqttPuback<<4, 2, byte(id>>8), byte(id))
		}
		if l.cmd.QoS > 0 {
			if err := c.send(acks); err != nil {
				return nil, err
			}
		}
		ended = time.Now()
		out.Rate = float64(out.Received) / ended.Sub(began).Seconds()
	}
	return out, nil
}
