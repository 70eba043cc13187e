package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// publisher is one publishing connection. Its packets are built once, one for each packet id of the window, twice over:
// any stretch of ids, wrapped or not, is then one piece of memory and one write, and a message costs the load a stamp,
// an ack's four bytes and a histogram count.
type publisher struct {
	*mqttConn
	l       *mqttLoad
	n       int
	window  int
	block   []byte
	size    int     // of one packet; all are alike
	stampAt int     // where in a packet the payload's stamp is; -1: nobody reads it
	seq     uint64  // of the next message
	sentAt  []int64 // by packet id, from 0
	hist    *histogram
}

func (l *mqttLoad) newPublisher(n int) (*publisher, error) {
	d := l.dial
	d.clientID = fmt.Sprintf("bench-pub-%s-%d", l.run, n)
	conn, err := d.open(16 << 10)
	if err != nil {
		return nil, err
	}
	p := &publisher{mqttConn: conn, l: l, n: n, window: l.cmd.Window, hist: l.acks[n%len(l.acks)], stampAt: -1}
	p.sentAt = make([]int64, p.window)
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	payload := make([]byte, l.cmd.Size)
	for i := range payload {
		payload[i] = letters[rand.IntN(len(letters))]
	}
	topic := strings.ReplaceAll(l.cmd.Topic, "%d", fmt.Sprint(n))
	for i := range 2 * p.window {
		b, at := publishFrame(d.version, topic, l.cmd.QoS, uint16(i%p.window+1), payload)
		p.block, p.size = append(p.block, b...), len(b)
		if l.cmd.Subscribers > 0 || l.cmd.Absent {
			p.stampAt = at
		}
	}
	return p, nil
}

// now is nanoseconds on the load's own monotonic clock.
func (l *mqttLoad) now() int64 { return int64(time.Since(l.base)) }

// run publishes until the load stops, and returns when everything is acked.
func (p *publisher) run() error {
	var err error
	switch {
	case p.l.cmd.Rate > 0:
		err = p.paced()
	case p.l.cmd.QoS == 0:
		err = p.flood()
	default:
		err = p.windowed()
	}
	if err == nil {
		err = p.send(mqttDisconnect)
	}
	if err == nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("publisher %d: %w", p.n, err)
}

// write publishes n messages from index first on, with one system call.
func (p *publisher) write(first, n int, now int64) error {
	for i := first; i < first+n; i++ {
		p.sentAt[i%p.window] = now
		p.stamp(i, now)
	}
	p.l.sent.Add(int64(n))
	return p.send(p.block[first*p.size : (first+n)*p.size])
}

// stamp marks the packet at index i with the time, the publisher's number and the message's among its own.
func (p *publisher) stamp(i int, now int64) {
	if p.stampAt < 0 {
		return
	}
	at := p.block[i*p.size+p.stampAt:]
	binary.BigEndian.PutUint64(at, uint64(now))
	binary.BigEndian.PutUint64(at[8:], uint64(p.n)<<seqBits|p.seq&(1<<seqBits-1))
	p.seq++
}

// seqBits is the part of a stamp that counts messages.
const seqBits = 44

// keepPace returns when subscribers have got all but the last --ahead messages, or the load stops.
func (p *publisher) keepPace() {
	l := p.l
	if l.cmd.Ahead == 0 {
		return
	}
	for !l.stopping.Load() && l.received.Load() < (l.sent.Load()-int64(l.cmd.Ahead))*int64(l.cmd.Subscribers) {
		time.Sleep(100 * time.Microsecond)
	}
}

// readAck returns the index of the acked message.
func (p *publisher) readAck() (int, error) {
	first, body, err := p.read()
	switch {
	case err != nil:
		return 0, err
	case first>>4 == 14: // DISCONNECT
		return 0, fmt.Errorf("server disconnected us: % x", body)
	case first>>4 != mqttPuback || len(body) < 2:
		return 0, fmt.Errorf("packet type %d instead of PUBACK", first>>4)
	case len(body) > 2 && body[2] >= 0x80:
		return 0, fmt.Errorf("server refused a publish with reason 0x%02x", body[2])
	}
	i := int(binary.BigEndian.Uint16(body)) - 1
	if i < 0 || i >= p.window {
		return 0, fmt.Errorf("PUBACK for packet id %d, which was not in flight", i+1)
	}
	return i, nil
}

// windowed keeps the window full: whatever was acked together is published again together. It does not wait to gather
// more acks: a server that lets Nagle's algorithm hold them back would then wait for us, and we for it.
func (p *publisher) windowed() error {
	acks := make([]int, 0, p.window)
	if err := p.write(0, p.window, p.l.now()); err != nil {
		return err
	}
	for flying := p.window; flying > 0; {
		acks = acks[:0]
		for len(acks) == 0 || len(acks) < p.window && p.buffered() {
			i, err := p.readAck()
			if err != nil {
				return err
			}
			acks = append(acks, i)
		}
		now := p.l.now()
		p.count(acks, now)
		if p.l.stopping.Load() {
			flying -= len(acks)
			continue
		}
		if p.keepPace(); p.l.cmd.Ahead > 0 {
			now = p.l.now()
		}
		for len(acks) > 0 { // acks come in publish order, so that this is one round
			n := 1
			for n < len(acks) && acks[n] == (acks[0]+n)%p.window {
				n++
			}
			if err := p.write(acks[0], n, now); err != nil {
				return err
			}
			acks = acks[n:]
		}
	}
	return nil
}

// count records acks; neighbours that were sent together cost one histogram update.
func (p *publisher) count(acks []int, now int64) {
	p.l.acked.Add(int64(len(acks)))
	if !p.l.measuring.Load() {
		return
	}
	p.hist.mu.Lock()
	defer p.hist.mu.Unlock()
	for i := 0; i < len(acks); {
		sent, n := p.sentAt[acks[i]], int64(0)
		for ; i < len(acks) && p.sentAt[acks[i]] == sent; i++ {
			n++
		}
		p.hist.recordLocked(time.Duration(now-sent), n)
	}
}

// flood publishes at QoS 0. Nothing acks that, so a PINGREQ follows each half window and at most two are unanswered: the
// figures are of messages the server has read.
func (p *publisher) flood() error {
	half := max(1, p.window/2)
	var sent [2]int64
	put := func(k int) error {
		sent[k] = p.l.now()
		for i := range half {
			p.stamp(i, sent[k])
		}
		p.l.sent.Add(int64(half))
		return p.send(p.block)
	}
	p.block = append(p.block[:half*p.size:half*p.size], mqttPingreq...)
	flying := 0
	for ; flying < len(sent); flying++ {
		if err := put(flying); err != nil {
			return err
		}
	}
	for k := 0; flying > 0; k = (k + 1) % len(sent) {
		first, _, err := p.read()
		if err != nil {
			return err
		}
		if first>>4 != mqttPingresp {
			return fmt.Errorf("packet type %d instead of PINGRESP", first>>4)
		}
		p.l.acked.Add(int64(half))
		if p.l.measuring.Load() {
			p.hist.record(time.Duration(p.l.now()-sent[k]), int64(half))
		}
		if p.l.stopping.Load() {
			flying--
			continue
		}
		p.keepPace()
		if err := put(k); err != nil {
			return err
		}
	}
	return nil
}

// paced publishes at the connection's share of --rate. Latency counts from when a message was due, so that a server that
// holds up the sender does not look faster for it.
func (p *publisher) paced() error {
	every := time.Duration(float64(time.Second) * float64(p.l.cmd.Connections) / p.l.cmd.Rate)
	due := p.l.now() + rand.Int64N(int64(every)+1)
	type ack struct {
		i   int
		at  int64
		err error
	}
	acks := make(chan ack, p.window)
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		for p.l.cmd.QoS > 0 {
			i, err := p.readAck()
			select {
			case acks <- ack{i, p.l.now(), err}:
			case <-gone:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	free := make([]int, p.window)
	for i := range free {
		free[i] = i
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	const look = 100 * time.Millisecond // how often to see whether to stop
	for {
		stopping := p.l.stopping.Load()
		if stopping && len(free) == p.window {
			return nil
		}
		for !stopping && len(free) > 0 && due <= p.l.now() {
			if err := p.write(free[0], 1, due); err != nil {
				return err
			}
			if p.l.cmd.QoS == 0 {
				p.count(free[:1], p.l.now())
			} else {
				free = free[1:]
			}
			due += int64(every)
		}
		timer.Reset(min(look, max(0, time.Duration(due-p.l.now()))))
		if len(free) == 0 || stopping {
			timer.Reset(look)
		}
		select {
		case <-timer.C:
		case a := <-acks:
			if a.err != nil {
				return a.err
			}
			p.count([]int{a.i}, a.at)
			free = append(free, a.i)
		}
	}
}
