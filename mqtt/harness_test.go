package mqtt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// rig is a server on a loopback port over fakes.
type rig struct {
	t        testing.TB
	srv      *Server
	log      *fakeLog
	sessions *fakeTable
	retained *fakeTable
	stop     func()
	pipes    *pipeListener // in a bubble, instead of a port
}

func startRig(t testing.TB, tweak func(*Config)) *rig {
	t.Helper()
	return startOn(t, newFakeLog(t, 2), newFakeTable(), newFakeTable(), tweak)
}

func startOn(t testing.TB, l *fakeLog, sessions, retained *fakeTable, tweak func(*Config)) *rig {
	t.Helper()
	return startAt(t, mustListen(t), l, sessions, retained, tweak)
}

func startAt(t testing.TB, ln net.Listener, l *fakeLog, sessions, retained *fakeTable, tweak func(*Config)) *rig {
	t.Helper()
	router, err := NewRouter([]Route{{Match: "#", Topic: "telemetry"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Listeners: []Listener{{Net: ln}}, Sink: l, Source: l, Sessions: onePart{sessions}, Retained: deliver.Alone(retained), Router: router,
	}
	if tweak != nil {
		tweak(&cfg)
	}
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	r := &rig{t: t, srv: srv, log: l, sessions: sessions, retained: retained}
	r.pipes, _ = ln.(*pipeListener)
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(r.stop)
	return r
}

// peer is a client made of raw bytes and paho's codec, so that our own codec is not its own judge.
type peer struct {
	t       testing.TB
	c       net.Conn
	version byte
	pending []byte
	bubble  bool
}

// patience is how long something may take on the slowest machine; nothing is waited for in vain but by a test that fails.
const patience = 30 * time.Second

func (r *rig) dial() *peer {
	r.t.Helper()
	var c net.Conn
	var err error
	if r.pipes != nil {
		c, err = r.pipes.dial()
	} else {
		c, err = net.Dial("tcp", r.srv.Addrs()[0].String())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	p := &peer{t: r.t, c: c, version: packet.V5, bubble: r.pipes != nil}
	r.t.Cleanup(func() { c.Close() })
	return p
}

func (p *peer) write(b ...byte) {
	p.t.Helper()
	p.c.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.c.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func (p *peer) send(cp packets.Packet) {
	p.t.Helper()
	var b bytes.Buffer
	if _, err := cp.WriteTo(&b); err != nil {
		p.t.Fatal(err)
	}
	p.write(b.Bytes()...)
}

// frame reads one packet as bytes; nil at the end of the connection.
func (p *peer) frame() []byte {
	p.t.Helper()
	f, err := p.tryFrame(patience)
	if err != nil && err != io.EOF {
		p.t.Fatalf("read: %v", err)
	}
	return f
}

func (p *peer) tryFrame(wait time.Duration) ([]byte, error) {
	for {
		if f, err := packet.Split(p.pending, 0); err == nil {
			b := bytes.Clone(p.pending[:f.Size])
			p.pending = p.pending[f.Size:]
			return b, nil
		} else if err != packet.ErrShort {
			return nil, err
		}
		var buf [4096]byte
		p.c.SetReadDeadline(time.Now().Add(wait))
		n, err := p.c.Read(buf[:])
		p.pending = append(p.pending, buf[:n]...)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return nil, fmt.Errorf("nothing came for %v", wait)
		}
		if _, short := packet.Split(p.pending, 0); err != nil && short != nil {
			return nil, io.EOF // a reset is an end too
		}
	}
}

// expect reads one packet and compares its bytes.
func (p *peer) expect(want ...byte) {
	p.t.Helper()
	if got := p.frame(); !bytes.Equal(got, want) {
		p.t.Fatalf("got % x, want % x", got, want)
	}
}

// expectType reads one packet and returns it.
func (p *peer) expectType(t packet.Type) []byte {
	p.t.Helper()
	f := p.frame()
	if len(f) == 0 {
		p.t.Fatalf("connection ended, want %s", t)
	}
	if got := packet.Type(f[0] >> 4); got != t {
		p.t.Fatalf("got %s (% x), want %s", got, f, t)
	}
	return f
}

// expectEnd wants the connection to end without another packet.
func (p *peer) expectEnd() {
	p.t.Helper()
	if f := p.frame(); f != nil {
		p.t.Fatalf("got % x, want the end of the connection", f)
	}
}

// quiet wants nothing to come: a PINGREQ is answered before anything else. In a bubble that is certain, since all
// that the server still has to do is done first.
func (p *peer) quiet() {
	p.t.Helper()
	if p.bubble {
		synctest.Wait()
	}
	p.write(0xc0, 0)
	p.expect(0xd0, 0)
}

// v5 connects with MQTT 5 and returns the CONNACK.
func (r *rig) v5(id string, tweak func(*packets.Connect)) (*peer, *packets.Connack) {
	r.t.Helper()
	p := r.dial()
	ack := p.connect5(id, tweak)
	return p, ack
}

func (p *peer) connect5(id string, tweak func(*packets.Connect)) *packets.Connack {
	p.t.Helper()
	ack := p.tryConnect5(id, tweak)
	if ack == nil {
		p.t.Fatal("connection ended, want CONNACK")
	}
	return ack
}

// tryConnect5 is nil where the connection ends without CONNACK, as it does when the session's owner has just lost it.
func (p *peer) tryConnect5(id string, tweak func(*packets.Connect)) *packets.Connack {
	p.t.Helper()
	p.send(connectPacket(id, tweak))
	f := p.frame()
	if len(f) == 0 {
		return nil
	}
	if got := packet.Type(f[0] >> 4); got != packet.CONNACK {
		p.t.Fatalf("got %s (% x), want CONNACK", got, f)
	}
	cp, err := packets.ReadPacket(bytes.NewReader(f))
	if err != nil {
		p.t.Fatalf("CONNACK % x: %v", f, err)
	}
	return cp.Content.(*packets.Connack)
}

func connectPacket(id string, tweak func(*packets.Connect)) *packets.Connect {
	c := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: id, CleanStart: true, KeepAlive: 60, Properties: &packets.Properties{}}
	if tweak != nil {
		tweak(c)
	}
	return c
}

// v311 connects with MQTT 3.1.1 and wants the given CONNACK.
func (r *rig) v311(id string, clean bool, ack ...byte) *peer {
	r.t.Helper()
	p := r.dial()
	p.version = packet.V311
	flags := byte(0)
	if clean {
		flags = 2
	}
	b := append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 60, 0, byte(len(id))}, id...)
	p.write(b...)
	if ack == nil {
		ack = []byte{0x20, 2, 0, 0}
	}
	p.expect(ack...)
	return p
}

// publish sends a PUBLISH.
func (p *peer) publish(topic, payload string, qos byte, id uint16) {
	p.t.Helper()
	p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id}, p.version)...)
}

// subscribe subscribes to one filter and checks the granted QoS. Messages may come before SUBACK (MQTT 5 3.8.4): they are
// read by whoever reads next.
func (p *peer) subscribe(filter string, qos byte) {
	p.t.Helper()
	b := []byte{0, 77}
	if p.version == packet.V5 {
		b = append(b, 0)
	}
	b = append(b, 0, byte(len(filter)))
	b = append(append(b, filter...), qos)
	p.write(append([]byte{0x82, byte(len(b))}, b...)...)
	all := p.until(packet.SUBACK)
	f := all[len(all)-1]
	var early []byte
	for _, m := range all[:len(all)-1] {
		if packet.Type(m[0]>>4) != packet.PUBLISH {
			p.t.Fatalf("got % x, want SUBACK", m)
		}
		early = append(early, m...)
	}
	p.pending = append(early, p.pending...)
	if got := f[len(f)-1]; got != qos {
		p.t.Fatalf("SUBACK % x: granted %d, want %d", f, got, qos)
	}
}

// message reads one PUBLISH.
func (p *peer) message() *packets.Publish {
	p.t.Helper()
	f := p.expectType(packet.PUBLISH)
	pub, err := decodePaho(f, p.version)
	if err != nil {
		p.t.Fatalf("PUBLISH % x: %v", f, err)
	}
	return pub
}

func decodePaho(f []byte, version byte) (*packets.Publish, error) {
	if version == packet.V5 {
		cp, err := packets.ReadPacket(bytes.NewReader(f))
		if err != nil {
			return nil, err
		}
		return cp.Content.(*packets.Publish), nil
	}
	fr, err := packet.Split(f, 0)
	if err != nil {
		return nil, err
	}
	var q packet.Publish
	if err := q.Decode(fr, version); err != nil {
		return nil, err
	}
	return &packets.Publish{Topic: string(q.Topic), Payload: q.Payload, QoS: q.QoS, PacketID: q.ID, Retain: q.Retain, Duplicate: q.Dup}, nil
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// say and hear are write and expect for packets written as strings.
func (p *peer) say(s string) {
	p.t.Helper()
	p.write([]byte(s)...)
}

func (p *peer) hear(s string) {
	p.t.Helper()
	p.expect([]byte(s)...)
}

// until reads packets up to and including the first of type last, and returns them.
func (p *peer) until(last packet.Type) (all [][]byte) {
	p.t.Helper()
	for {
		f := p.frame()
		if f == nil {
			p.t.Fatalf("connection ended after % x, want %s", all, last)
		}
		if all = append(all, f); packet.Type(f[0]>>4) == last {
			return all
		}
	}
}

// puback acknowledges a QoS 1 message.
func (p *peer) puback(id uint16) { p.write(0x40, 2, byte(id>>8), byte(id)) }

// sized sets the remaining length of a short packet.
func sized(s string) string { return s[:1] + string([]byte{byte(len(s) - 2)}) + s[2:] }
