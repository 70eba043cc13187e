package uplink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
)

// mqttTarget is an MQTT 5 broker. Every record is a message of QoS 1; as many as the broker takes are on their way at once. The broker keeps no cursors, so that
// what was acknowledged and is not stored here yet arrives again after a crash: at least once.
type mqttTarget struct {
	cfg     *Config
	cluster string
	shard   int
	rename  topicTemplate
	dial    dialer

	conn     *mqttConn
	patience *patience
	message  message
	next     uint16 // the last packet identifier
	warned   bool   // that the broker keeps no retained messages
	warn     func(msg string, args ...any)

	written atomic.Int64
	acked   chan struct{} // holds a token after an acknowledgement has come

	mu       sync.Mutex
	inFlight map[uint16]place
	judged   []verdict
	held     map[*part]verdict // a record of it was not taken for now: nothing of it is sent until the next commit
}

// place is where a record stands.
type place struct {
	from   *part
	offset log.Offset
}

func newMQTTTarget(cfg *Config, cluster, site string, shard int, warn func(string, ...any)) *mqttTarget {
	return &mqttTarget{
		cfg: cfg, cluster: cluster, shard: shard, patience: &patience{}, rename: parseTemplate(cfg.Rename, site, cluster), warn: warn, dial: dialTarget,
		acked: make(chan struct{}, 1), inFlight: map[uint16]place{}, held: map[*part]verdict{},
	}
}

// clientID is the same for whoever owns the shard: the broker ends the connection of the owner before. A session is not kept: what is on its way is in the log.
func (t *mqttTarget) clientID() string {
	return fmt.Sprintf("weir-uplink-%s-%s-%d", t.cluster, t.cfg.Name, t.shard)
}

func (t *mqttTarget) open(ctx context.Context) (_ map[log.PartitionID]progress, err error) {
	t.conn, err = dialMQTT(ctx, t.cfg, t.dial, mqttSession{clientID: t.clientID(), extra: t.patience.extra}, &t.written, t.receive)
	return nil, err
}

// add sends a record when the window has room. What can be known to be refused before is not sent.
func (t *mqttTarget) add(ctx context.Context, r *outgoing) error {
	if t.holds(r) {
		return nil
	}
	p, err := t.message.build(t.rename, r, time.Now())
	if err == nil {
		if size := t.message.size(t.conn.maxPacket); size > t.conn.maxPacket {
			err = fmt.Errorf("as an MQTT packet it has %d bytes, and the broker takes %d", size, t.conn.maxPacket)
		}
	}
	if err != nil {
		t.judge(verdict{place{r.from, r.Offset}, err, true})
		return nil
	}
	if p.Retain && !t.conn.retains {
		p.Retain = false
		if !t.warned {
			t.warned = true
			t.warn("the broker keeps no retained messages: those that devices retain are carried as others are")
		}
	}
	if err := t.wait(ctx, t.conn.window-1); err != nil {
		return err
	}
	if t.holds(r) { // since then
		return nil
	}
	p.PacketID = t.take(place{r.from, r.Offset})
	if err := t.conn.send(ctx, p, false); err != nil {
		return t.blameEnd(err)
	}
	return nil
}

// take notes what a packet identifier stands for. There are more of them than the window is wide.
func (t *mqttTarget) take(at place) uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.next++; t.next == 0 || t.inFlight[t.next].from != nil; t.next++ {
	}
	t.inFlight[t.next] = at
	return t.next
}

// wait returns when no more than most are on their way. As long as acknowledgements come it is patient.
func (t *mqttTarget) wait(ctx context.Context, most int) error {
	var patience *time.Timer
	limit := deliveryTimeout + t.patience.extra
	for {
		t.mu.Lock()
		n := len(t.inFlight)
		t.mu.Unlock()
		if n <= most {
			return nil
		}
		if patience == nil {
			if err := t.conn.flush(ctx); err != nil {
				return t.blameEnd(err)
			}
			patience = time.NewTimer(limit)
			defer patience.Stop()
		}
		select {
		case <-t.acked:
			patience.Reset(limit)
		case <-t.conn.ended:
			return t.blameEnd(t.conn.cause())
		case <-patience.C:
			return fmt.Errorf("%w: the broker has acknowledged nothing for %s, and %d messages wait", errLate, limit, n)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// blameEnd says whose fault it is that the broker has ended the connection: with these reasons it is some message's.
func (t *mqttTarget) blameEnd(err error) error {
	if r, is := errors.AsType[*mqttReason](err); is {
		switch r.code {
		case 0x81, 0x82, 0x90, 0x95, 0x99:
			return &refusedError{err}
		}
	}
	return err
}

// receive is called by the connection's reader.
func (t *mqttTarget) receive(p *packets.ControlPacket) error {
	ack, is := p.Content.(*packets.Puback)
	if !is {
		return fmt.Errorf("the broker sends %s, for which nobody has asked", p.PacketType())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at, there := t.inFlight[ack.PacketID]
	if !there {
		return fmt.Errorf("the broker acknowledges the message %d, which is not on its way", ack.PacketID)
	}
	if ack.ReasonCode >= 0x80 {
		why := &mqttReason{"refuses a message", ack.ReasonCode, ack.Properties.ReasonString}
		switch ack.ReasonCode {
		case 0x90, 0x95, 0x99:
			t.judged = append(t.judged, verdict{at, why, true})
		case 0x87, 0x97:
			t.hold(verdict{at, why, false})
		default:
			return why
		}
	}
	delete(t.inFlight, ack.PacketID)
	select {
	case t.acked <- struct{}{}:
	default:
	}
	return nil
}

func (t *mqttTarget) judge(v verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.judged = append(t.judged, v)
}

// hold has a partition wait at the lowest of its records that was not taken. Under mu.
func (t *mqttTarget) hold(v verdict) {
	if first, there := t.held[v.from]; there {
		v.err, v.offset = first.err, min(first.offset, v.offset)
	}
	t.held[v.from] = v
}

// holds says whether a record is to be left out, since another of its partition was not taken.
func (t *mqttTarget) holds(r *outgoing) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, held := t.held[r.from]
	if held {
		t.hold(verdict{place: place{r.from, r.Offset}})
	}
	return held
}

// ended is why the connection is no more, nil while it is.
func (t *mqttTarget) ended() error {
	select {
	case <-t.conn.ended:
		return t.conn.cause()
	default:
		return nil
	}
}

// announce has nothing to do: there is no place for it at the broker. The node's log and figures tell.
func (t *mqttTarget) announce(context.Context, *part, Span) error { return nil }

func (t *mqttTarget) commit(ctx context.Context, _ map[log.PartitionID]progress) error {
	return t.wait(ctx, 0)
}

func (t *mqttTarget) verdicts() []verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.judged
	for _, v := range t.held {
		all = append(all, v)
	}
	t.judged = nil
	clear(t.held)
	return all
}

func (t *mqttTarget) trip() time.Duration { return 0 }

func (t *mqttTarget) wire() int64 { return t.written.Load() }

func (t *mqttTarget) close() {
	if t.conn != nil {
		t.conn.close()
		t.conn = nil
	}
}

// isMQTT says whether an uplink goes to a broker of MQTT.
func (c *Config) isMQTT() bool {
	return strings.HasPrefix(c.To, "mqtt://") || strings.HasPrefix(c.To, "mqtts://")
}
