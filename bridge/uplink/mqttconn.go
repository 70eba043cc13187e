package uplink

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// mqttConn is a connection to an MQTT 5 broker. paho's packets are the codec; what is around it is our own, since the window, its acknowledgements and the
// time at which something is written belong to who carries records. It holds two goroutines, which have ended when close returns.
type mqttConn struct {
	net     net.Conn
	in      *bufio.Reader
	receive func(*packets.ControlPacket) error // on the reader's goroutine; an error ends the connection
	heard   atomic.Bool                        // something, since the last look

	writing sync.Mutex
	out     *bufio.Writer
	sender  context.Context // of what is being written
	written *atomic.Int64

	ended chan struct{} // closed when it is of no use any more; then err says why
	once  sync.Once
	err   error
	work  sync.WaitGroup

	// What the broker said of itself.
	window    int  // publishes that may be unacknowledged
	maxPacket int  // bytes
	retains   bool // it keeps retained messages
	resumed   bool // it had the session
	keepAlive time.Duration
	extra     time.Duration // of its session
}

// mqttSession says who connects.
type mqttSession struct {
	clientID string
	keep     bool          // the broker keeps the session while the client is away
	window   uint16        // publishes that the broker may have unacknowledged
	extra    time.Duration // of patience, see there: a packet may take so much longer
}

const (
	keepAlive     = time.Minute
	mqttBuffer    = 64 << 10
	mqttMaxPacket = 268435455 + 5 // what the protocol can say
	mqttMaxIn     = 16 << 20      // of one packet from the broker, announced to it
	// maxWindow is how many publishes wait for their acknowledgement at most, whatever the broker allows: 40 ms of round trip at 100,000 records a second.
	maxWindow = 4096
)

// dialMQTT connects. written counts the bytes that leave, TLS and TCP not included.
func dialMQTT(ctx context.Context, cfg *Config, dialer dialer, s mqttSession, written *atomic.Int64, receive func(*packets.ControlPacket) error) (*mqttConn, error) {
	hello, err := connectPacket(cfg, s)
	if err != nil {
		return nil, err
	}
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := dialer(dial, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &mqttConn{
		net: nc, in: bufio.NewReader(nc), written: written, receive: receive, ended: make(chan struct{}),
		window: maxWindow, maxPacket: mqttMaxPacket, retains: true, keepAlive: keepAlive, extra: s.extra,
	}
	c.out = bufio.NewWriterSize(connWriter{c}, mqttBuffer)
	if err := c.hello(dial, hello); err != nil {
		c.fail(err)
		return nil, fmt.Errorf("connect to %s: %w", cfg.To, err)
	}
	c.work.Go(c.read)
	c.work.Go(c.ping)
	return c, nil
}

// dialer makes the connection underneath: dialTarget, but in tests.
type dialer func(context.Context, *Config) (net.Conn, error)

func dialTarget(ctx context.Context, cfg *Config) (net.Conn, error) {
	if !cfg.secure {
		return new(net.Dialer).DialContext(ctx, "tcp", cfg.to[0])
	}
	conf, err := cfg.TLS.open()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", cfg.to[0])
}

func connectPacket(cfg *Config, s mqttSession) (*packets.Connect, error) {
	p := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: s.clientID, CleanStart: !s.keep, KeepAlive: uint16((keepAlive + s.extra) / time.Second), Properties: &packets.Properties{},
	}
	most := uint32(mqttMaxIn)
	p.Properties.MaximumPacketSize = &most
	if s.window > 0 {
		p.Properties.ReceiveMaximum = &s.window
	}
	if s.keep {
		forever := ^uint32(0)
		p.Properties.SessionExpiryInterval = &forever
	}
	if u := cfg.SASL; u.User != "" {
		text, err := os.ReadFile(u.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("sasl.password_file: %w", err)
		}
		p.UsernameFlag, p.Username, p.PasswordFlag, p.Password = true, u.User, true, bytes.TrimRight(text, "\r\n")
	}
	return p, nil
}

// hello exchanges CONNECT and CONNACK, and reads from the latter what the broker takes.
func (c *mqttConn) hello(ctx context.Context, p *packets.Connect) error {
	stop := context.AfterFunc(ctx, func() { c.net.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.send(ctx, p, true); err != nil {
		return err
	}
	got, err := c.packet()
	if err != nil {
		return err
	}
	ack, is := got.Content.(*packets.Connack)
	switch {
	case !is:
		return fmt.Errorf("the broker answers CONNECT with %s", got.PacketType())
	case ack.ReasonCode != packets.ConnackSuccess:
		return &mqttReason{"refuses the connection", ack.ReasonCode, ack.Properties.ReasonString}
	}
	c.resumed = ack.SessionPresent
	a := ack.Properties
	if a.ReceiveMaximum != nil {
		if *a.ReceiveMaximum == 0 {
			return errors.New("the broker's receive maximum is 0, which MQTT forbids")
		}
		c.window = min(int(*a.ReceiveMaximum), maxWindow)
	}
	if a.MaximumPacketSize != nil {
		c.maxPacket = min(int(*a.MaximumPacketSize), mqttMaxPacket)
	}
	c.retains = a.RetainAvailable == nil || *a.RetainAvailable == 1
	if a.ServerKeepAlive != nil && *a.ServerKeepAlive > 0 {
		c.keepAlive = time.Duration(*a.ServerKeepAlive) * time.Second
	}
	if a.MaximumQOS != nil && *a.MaximumQOS == 0 {
		return errors.New("the broker takes messages of QoS 0 only, of which nobody knows whether they have arrived")
	}
	return nil
}

// send writes a packet, which leaves with the next flush at the latest.
func (c *mqttConn) send(ctx context.Context, p io.WriterTo, flush bool) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.sender = ctx
	_, err := p.WriteTo(c.out)
	if err == nil && flush {
		err = c.out.Flush()
	}
	if err != nil {
		c.fail(err)
		return c.cause()
	}
	return nil
}

// flush sends what was written.
func (c *mqttConn) flush(ctx context.Context) error { return c.send(ctx, nothing{}, true) }

type nothing struct{}

func (nothing) WriteTo(io.Writer) (int64, error) { return 0, nil }

// read hands over what comes, until the connection ends.
func (c *mqttConn) read() {
	for {
		_ = c.net.SetReadDeadline(time.Now().Add(2*c.keepAlive + dialTimeout))
		p, err := c.packet()
		if err == nil {
			c.heard.Store(true)
			switch d := p.Content.(type) {
			case *packets.Pingresp:
			case *packets.Disconnect:
				err = &mqttReason{"ends the connection", d.ReasonCode, d.Properties.ReasonString}
			default:
				err = c.receive(p)
			}
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// packet reads one. The length is looked at first: the codec makes room for whatever the other side says.
func (c *mqttConn) packet() (*packets.ControlPacket, error) {
	kind, err := c.in.ReadByte()
	if err != nil {
		return nil, fmt.Errorf("the connection ended: %w", err)
	}
	frame, length := []byte{kind}, 0
	for shift := 0; ; shift += 7 {
		b, err := c.in.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("the connection ended inside of a packet: %w", err)
		}
		frame = append(frame, b)
		length |= int(b&0x7f) << shift
		if b < 0x80 {
			break
		}
		if shift == 21 {
			return nil, errors.New("what the broker sends is not MQTT")
		}
	}
	if length > mqttMaxIn {
		return nil, fmt.Errorf("the broker sends a packet of %d bytes, and was told to keep to %d", length, mqttMaxIn)
	}
	head := len(frame)
	frame = append(frame, make([]byte, length)...)
	if _, err := io.ReadFull(c.in, frame[head:]); err != nil {
		return nil, fmt.Errorf("the connection ended inside of a packet: %w", err)
	}
	p, err := packets.ReadPacket(bytes.NewReader(frame))
	if err != nil {
		return nil, fmt.Errorf("what the broker sends is not MQTT 5: %w", err)
	}
	return p, nil
}

// ping asks when nothing was heard for a while. That also has something sent before the broker's patience ends.
func (c *mqttConn) ping() {
	tick := time.NewTicker(c.keepAlive / 2)
	defer tick.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-tick.C:
			if !c.heard.Swap(false) {
				_ = c.send(context.Background(), &packets.Pingreq{}, true)
			}
		}
	}
}

// fail ends the connection; the first reason stays.
func (c *mqttConn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.ended)
		c.net.Close()
	})
}

// cause is why the connection ended, after it has.
func (c *mqttConn) cause() error {
	<-c.ended
	return c.err
}

// close says goodbye and waits for the goroutines.
func (c *mqttConn) close() {
	select {
	case <-c.ended:
	default:
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = c.send(ctx, &packets.Disconnect{Properties: &packets.Properties{}}, true)
		cancel()
	}
	c.fail(net.ErrClosed)
	c.work.Wait()
}

// connWriter is the connection under the buffer.
type connWriter struct{ c *mqttConn }

// Write gives up when the sender's context ends, or after deliveryTimeout and what a large record gets on top.
func (w connWriter) Write(b []byte) (int, error) {
	c := w.c
	ctx := c.sender
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()
	_ = c.net.SetWriteDeadline(time.Now().Add(deliveryTimeout + c.extra))
	n, err := c.net.Write(b)
	c.written.Add(int64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %w", errLate, err)
	}
	return n, err
}

// mqttReason is an answer that is no success.
type mqttReason struct {
	what string
	code byte
	text string // the broker's own words
}

func (e *mqttReason) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the broker %s: 0x%02X", e.what, e.code)
	if name := mqttReasons[e.code]; name != "" {
		b.WriteString(" " + name)
	}
	if e.text != "" {
		fmt.Fprintf(&b, " (%.200q)", e.text)
	}
	return b.String()
}

// mqttReasons are those of MQTT 5 that a client of ours can meet (§2.4).
var mqttReasons = map[byte]string{
	0x00: "normal disconnection", 0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x83: "implementation specific error", 0x84: "unsupported protocol version",
	0x85: "client identifier not valid", 0x86: "bad user name or password", 0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy", 0x8A: "banned",
	0x8B: "server shutting down", 0x8D: "keep alive timeout", 0x8E: "session taken over", 0x8F: "topic filter invalid", 0x90: "topic name invalid", 0x91: "packet identifier in use",
	0x93: "receive maximum exceeded", 0x95: "packet too large", 0x96: "message rate too high", 0x97: "quota exceeded", 0x98: "administrative action", 0x99: "payload format invalid",
	0x9A: "retain not supported", 0x9B: "QoS not supported", 0x9C: "use another server", 0x9D: "server moved", 0x9E: "shared subscriptions not supported",
	0x9F: "connection rate exceeded", 0xA1: "subscription identifiers not supported", 0xA2: "wildcard subscriptions not supported",
}
