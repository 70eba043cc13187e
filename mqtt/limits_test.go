package mqtt

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

func TestSlowLorisIsClosed(t *testing.T) { // §5 trap: a deadline before CONNECT
	inBubble(t, func(c *Config) { c.ConnectTimeout = 300 * time.Millisecond }, func(t *testing.T, r *rig) {
		silent, slow := r.dial(), r.dial()
		for _, b := range []byte("\x10\x0d\x00\x04MQ") { // bytes that keep coming do not help
			slow.write(b)
			time.Sleep(10 * time.Millisecond)
		}
		silent.expectEnd()
		slow.expectEnd()
		eventually(t, "both are forgotten", func() bool { return r.srv.Stats().Connections == 0 })
	})
}

func TestFirstPackets(t *testing.T) {
	// MQTT3 [MQTT-3.1.4-1]
	r := startRig(t, nil)
	for name, in := range map[string]string{
		"not CONNECT":                "\xc0\x00", // MQTT5 [MQTT-3.1.0-1]
		"CONNECT under another type": "\xc0\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
		"garbage":                    "GET / HTTP/1.1\r\n\r\n",
		"huge before authentication": "\x10\xff\xff\x04", // §5 trap: 64 KiB
		"endless length":             "\x10\xff\xff\xff\xff\x7f",
		"not UTF-8":                  "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff", // MQTT5 [MQTT-1.5.4-1]
		"reserved flag":              "\x10\x0d\x00\x04MQTT\x04\x03\x00\x3c\x00\x01c",    // MQTT3 [MQTT-3.1.2-3]
		"CONNACK":                    "\x20\x02\x00\x00",
	} {
		p := r.dial()
		p.write([]byte(in)...)
		if f := p.frame(); f != nil {
			t.Errorf("%s: answered with % x", name, f)
		}
	}
}

// What an accepted client may not send costs it its connection, with the reason, and nobody else anything.
func TestBadPackets(t *testing.T) {
	// MQTT5 [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.1-1] [MQTT-4.13.2-1]
	r := startRig(t, func(c *Config) { c.MaxPacket = 4096; c.ReceiveMaximum = 2 })
	other, _ := r.v5("other", nil)
	for name, c := range map[string]struct {
		in   string
		want packet.Reason
	}{
		"second CONNECT":              {"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c", packet.ProtocolError}, // MQTT5 [MQTT-3.1.0-2]
		"too large":                   {"\x30\x81\x20", packet.PacketTooLarge},
		"truncated SUBSCRIBE":         {"\x82\x06\x00\x01\x00\x00\x01a", packet.MalformedPacket},            // §5 trap
		"SUBSCRIBE without filter":    {"\x82\x03\x00\x01\x00", packet.ProtocolError},                       // MQTT5 [MQTT-3.8.3-2]
		"no local on a shared one":    {"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x05", packet.ProtocolError}, // MQTT5 [MQTT-3.8.3-4]
		"AUTH":                        {"\xf0\x02\x18\x00", packet.ProtocolError},                           // MQTT5 [MQTT-4.12.0-6]
		"a server's packet":           {"\xd0\x00", packet.ProtocolError},
		"PUBLISH with a wildcard":     {"\x30\x04\x00\x01#\x00", packet.TopicNameInvalid}, // MQTT5 [MQTT-3.3.2-2]
		"unknown alias":               {"\x30\x06\x00\x00\x03\x23\x00\x01", packet.ProtocolError},
		"alias above the maximum":     {"\x30\x07\x00\x01a\x03\x23\x00\x41", packet.TopicAliasInvalid}, // MQTT5 [MQTT-3.3.2-9]
		"QoS 3":                       {"\x36\x06\x00\x01a\x00\x01\x00", packet.MalformedPacket},       // MQTT5 [MQTT-3.3.1-4]
		"PUBLISH with id 0":           {"\x32\x06\x00\x01a\x00\x00\x00", packet.ProtocolError},         // MQTT5 [MQTT-2.2.1-3]
		"expiry raised in DISCONNECT": {"\xe0\x07\x00\x05\x11\x00\x00\x00\x05", packet.ProtocolError},
	} {
		p, _ := r.v5("dev", nil)
		if name == "SUBSCRIBE without filter" || name == "no local on a shared one" || name == "truncated SUBSCRIBE" {
			b := []byte(c.in)
			b[1] = byte(len(b) - 2)
			p.write(b...)
		} else {
			b := []byte(c.in)
			if name != "too large" && name != "alias above the maximum" {
				b[1] = byte(len(b) - 2)
			} else if name == "alias above the maximum" {
				b[1] = byte(len(b) - 2)
			}
			p.write(b...)
		}
		f := p.frame()
		if len(f) < 3 || f[0] != 0xe0 || packet.Reason(f[2]) != c.want {
			t.Errorf("%s: % x, want DISCONNECT %v", name, f, c.want)
			continue
		}
		if len(f) > 4 || len(f) == 4 && f[3] != 0 { // MQTT5 [MQTT-3.14.2-2]
			t.Errorf("%s: % x has properties", name, f)
		}
		p.expectEnd()
	}
	other.quiet()
}

func TestReceiveMaximumIsEnforced(t *testing.T) { // M1; MQTT5 [MQTT-3.3.4-7]
	r := startRig(t, func(c *Config) { c.ReceiveMaximum = 2 })
	five, ack := r.v5("five", nil)
	if ack.Properties.ReceiveMaximum == nil || *ack.Properties.ReceiveMaximum != 2 {
		t.Fatalf("CONNACK %+v", ack.Properties)
	}
	three := r.v311("three", true)
	five.publish("w", "", 1, 9)
	five.expect(0x40, 2, 0, 9)
	r.log.set(nil, true)
	for id := uint16(1); id <= 3; id++ {
		five.publish("a", "x", 1, id)
		three.publish("a", "x", 1, id)
	}
	if f := five.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.ReceiveMaximumExceeded {
		t.Errorf("DISCONNECT % x", f)
	}
	eventually(t, "two of each are appended", func() bool { return r.log.appended("telemetry") == 5 })
	r.log.set(nil, false) // 3.1.1: the third waited unread
	for id := byte(1); id <= 3; id++ {
		three.expect(0x40, 2, 0, id)
	}
}

func TestKeepAlive(t *testing.T) { // MQTT5 [MQTT-3.1.2-22]
	r := startRig(t, nil)
	idle, _ := r.v5("idle", func(c *packets.Connect) { c.KeepAlive = 1 })
	free, _ := r.v5("free", func(c *packets.Connect) { c.KeepAlive = 0 })
	start := time.Now()
	if f := idle.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.KeepAliveTimeout {
		t.Errorf("DISCONNECT % x", f)
	}
	if d := time.Since(start); d < 1400*time.Millisecond || d > 3*time.Second {
		t.Errorf("closed after %v, want one and a half times the keep alive", d)
	}
	free.quiet()
}

func TestConnectionsBeyondTheMaximum(t *testing.T) {
	r := startRig(t, func(c *Config) { c.MaxConnections = 2 })
	a, _ := r.v5("a", nil)
	r.v5("b", nil)
	for range 3 {
		p := r.dial()
		p.send(&packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "c", CleanStart: true, Properties: &packets.Properties{}})
		if f := p.expectType(packet.CONNACK); packet.Reason(f[3]) != packet.ServerBusy {
			t.Errorf("CONNACK % x", f)
		}
		p.expectEnd()
	}
	if n := r.srv.Stats().OverLimit; n != 3 {
		t.Errorf("%d refused", n)
	}
	a.write(0xe0, 0)
	a.expectEnd()
	eventually(t, "there is room again", func() bool { return r.srv.Stats().Connections == 1 })
	r.v5("c", nil)
}

// A subscriber that never reads loses its connection or its turn, never anybody else's. M7
func TestNeverReadingClientBlocksNobody(t *testing.T) {
	r := startRig(t, func(c *Config) { c.OutputBuffer = 8 << 10 })
	dead, _ := r.v5("dead", nil)
	dead.c.(*net.TCPConn).SetReadBuffer(4096)
	dead.subscribe("#", 1)
	live, _ := r.v5("live", nil)
	live.subscribe("#", 1)
	pub, _ := r.v5("pub", nil)
	payload := string(bytes.Repeat([]byte("x"), 2000))
	const n = 3000
	published := make(chan struct{})
	go func() {
		defer close(published)
		for i := range n {
			pub.c.SetWriteDeadline(time.Now().Add(patience))
			if _, err := pub.c.Write(packet.AppendPublish(nil, &packet.Publish{
				Topic: []byte("t"), Payload: []byte(payload), QoS: 1, ID: uint16(i%60000 + 1),
			}, packet.V5)); err != nil {
				t.Error(err)
				return
			}
			if _, err := pub.tryFrame(patience); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range n {
		m := live.message()
		live.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
	}
	<-published // the last message may come before its PUBACK
}

func TestNothingBeforeConnectCounts(t *testing.T) {
	r := startRig(t, nil)
	p := r.dial()
	// CONNECT and everything behind it in one segment: read in order, all answered.
	b := []byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c")
	b = append(b, "\x82\x06\x00\x05\x00\x01a\x00\xc0\x00\x30\x04\x00\x01ahi"[:]...)
	b[len(b)-6] = 5
	p.version = packet.V311
	p.write(b...)
	p.expect(0x20, 2, 0, 0)
	p.expect(0x90, 3, 0, 5, 0)
	p.expect(0xd0, 0)
	if m := p.message(); string(m.Payload) != "hi" {
		t.Errorf("%+v", m)
	}
}

func TestTLSAndWebSocket(t *testing.T) {
	// MQTT5 [MQTT-4.2.0-1]; MQTT3 [MQTT-7.1.1-1]
	cert := selfSigned(t)
	var tlsLn, wsLn net.Listener
	r := startRig(t, func(c *Config) {
		tlsLn, wsLn = mustListen(t), mustListen(t)
		c.Listeners = append(c.Listeners,
			Listener{Net: tlsLn, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, Listener{Net: wsLn, WebSocket: true})
	})
	sub, _ := r.v5("sub", nil)
	sub.subscribe("a", 1)
	tc, err := tls.Dial("tcp", tlsLn.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	wc := dialWebSocket(t, wsLn.Addr().String())
	for i, c := range []net.Conn{tc, wc} {
		p := &peer{t: t, c: c, version: packet.V5}
		p.connect5("dev", nil)
		want := string(bytes.Repeat([]byte{'a' + byte(i)}, 100_000))
		p.publish("a", want, 1, 1)
		p.expect(0x40, 2, 0, 1)
		if m := sub.message(); string(m.Payload) != want {
			t.Errorf("%d bytes", len(m.Payload))
		}
		p.write(0xe0, 0)
		p.expectEnd()
	}
}

// A node keeps so many durable sessions: beyond that CONNECT is refused with the reason, but for those that exist and
// those that want none. // MQTT5 §3.2.2.2
func TestDurableSessionsBeyondTheMaximum(t *testing.T) {
	r := startRig(t, func(c *Config) { c.MaxSessions = 2 })
	lasting := func(id string, expiry uint32, clean bool) byte {
		p := r.dial()
		p.version = packet.V5
		p.send(&packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: id, CleanStart: clean,
			Properties: &packets.Properties{SessionExpiryInterval: &expiry}})
		f := p.expectType(packet.CONNACK)
		if f[3] == 0 {
			p.write(0xe0, 0)
		}
		p.expectEnd()
		return f[3]
	}
	for _, step := range []struct {
		id     string
		expiry uint32
		clean  bool
		want   packet.Reason
	}{
		{"a", 3600, false, 0}, {"b", 3600, false, 0},
		{"c", 3600, false, packet.QuotaExceeded},
		{"c", 0, true, 0},     // wants none
		{"a", 3600, false, 0}, // exists
		{"b", 3600, true, 0},  // takes its own place again
		{"a", 0, true, 0},     // gives its place up
	} {
		if got := lasting(step.id, step.expiry, step.clean); got != byte(step.want) {
			t.Errorf("%+v: CONNACK 0x%02x", step, got)
		}
	}
	eventually(t, "one durable session is left", func() bool { return r.srv.Stats().DurableSessions == 1 })
	r.v311("c", false)
	r.v311("d", false, 0x20, 2, 0, 3) // MQTT3 §3.2.2.3: server unavailable
	if s := r.srv.Stats(); s.SessionsRefused != 2 || s.DurableSessions != 2 {
		t.Errorf("%d refused, %d durable", s.SessionsRefused, s.DurableSessions)
	}
}

// QoS 2 publishes that wait in memory for the log share the budget of unfinished input: beyond it they stay in the
// socket, and all go through in the end.
func TestWaitingQoS2PublishesAreBounded(t *testing.T) {
	const budget = 64 << 10
	r := startRig(t, func(c *Config) { c.MemoryInFlight = budget; c.holdRetry = 20 * time.Millisecond })
	pub, _ := r.v5("pub", nil)
	pub.publish("warm", "up", 1, 1)
	pub.expect(0x40, 2, 0, 1)
	r.log.set(errFakeDown, false)
	const n = 40
	payload := string(bytes.Repeat([]byte("x"), 4000))
	go func() {
		for id := uint16(2); id < 2+n; id++ {
			pub.publish("a", payload, 2, id)
		}
	}()
	eventually(t, "much is held", func() bool { return r.srv.Stats().InputBytes > budget/2 })
	for range 20 {
		if b := r.srv.Stats().InputBytes; b > 2*budget { // what waits, and what a pause has left unread
			t.Fatalf("%d bytes wait, the budget is %d", b, budget)
		}
		time.Sleep(time.Millisecond)
	}
	r.log.set(nil, false)
	for id := byte(2); id < 2+n; id++ {
		pub.expect(0x50, 2, 0, id)
	}
	eventually(t, "nothing waits any more", func() bool { return r.srv.Stats().InputBytes == 0 })
	if got := len(r.log.records(t, "telemetry")); got != 1+n {
		t.Errorf("%d records, want %d", got, 1+n)
	}
}

// What clients have sent behind a QoS 2 publish may take all the memory there is for input. It is not given back before the publish has gone through, so that
// one record of each client may go over.
func TestQoS2GoesThroughWhenInputHasTakenAllRoom(t *testing.T) {
	const budget = 64 << 10
	r := startRig(t, func(c *Config) { c.MemoryInFlight = budget })
	r.srv.loop.MustReserve(budget)
	defer r.srv.loop.Unreserve(budget)
	pub, _ := r.v5("pub", nil)
	for id := byte(1); id < 4; id++ {
		pub.publish("a", strings.Repeat("x", 4000), 2, uint16(id))
		pub.expect(0x50, 2, 0, id)
	}
}

// The limits of the connection loop as a node has them: the rate of its configuration, and five minutes for a large packet.
func TestLimitsReachTheLoop(t *testing.T) {
	inBubble(t, func(c *Config) { c.MaxConnectRate = 100; c.MaxPacket = 1 << 20 }, func(t *testing.T, r *rig) {
		begin := time.Now()
		for range 75 {
			p, _ := r.v5("dev", func(c *packets.Connect) { c.KeepAlive = 0 })
			p.c.Close()
		}
		if d := time.Since(begin); d < 490*time.Millisecond || d > time.Second {
			t.Errorf("75 connections at 100 per second, 25 of them at once, took %v", d)
		}
		slow, _ := r.v5("slow", func(c *packets.Connect) { c.KeepAlive = 0 })
		begin = time.Now()
		slow.write(append([]byte("\x30\x80\x80\x10"), make([]byte, 16<<10)...)...)
		for {
			if _, err := slow.tryFrame(10 * time.Minute); err != nil {
				break
			}
		}
		if d := time.Since(begin); d < 5*time.Minute || d > 5*time.Minute+5*time.Second {
			t.Errorf("the beginning of a large packet was closed after %v", d)
		}
	})
}
