package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

func lasting(seconds uint32) func(*packets.Connect) {
	return func(c *packets.Connect) {
		c.CleanStart = false
		c.Properties.SessionExpiryInterval = &seconds
	}
}

// restart stops the server and starts another over what a crash would leave: the log, and the tables as they
// were at the last commit.
func (r *rig) restart(crash bool) *rig {
	r.t.Helper()
	sessions, retained := r.sessions, r.retained
	if crash {
		sessions, retained = sessions.clone(), retained.clone() // before the shutdown tidies up
	}
	r.stop()
	r.log.mu.Lock()
	r.log.watchers = nil
	r.log.mu.Unlock()
	if r.pipes != nil {
		return startAt(r.t, newPipeListener(), r.log, sessions, retained, nil)
	}
	return startOn(r.t, r.log, sessions, retained, nil)
}

func TestSessionSurvivesDisconnectAndRestart(t *testing.T) { // MQTT5 [MQTT-4.1.0-1] [MQTT-3.1.2-5]
	// MQTT5 [MQTT-3.1.2-6] [MQTT-3.1.3-2] [MQTT-3.2.2-3]; MQTT3 [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.3-2] [MQTT-3.2.2-3] [MQTT-4.1.0-1] [MQTT-4.5.0-1]
	for _, version := range []byte{packet.V311, packet.V5} {
		for _, crash := range []bool{false, true} {
			r := startRig(t, nil)
			connect := func(r *rig, present bool) *peer {
				t.Helper()
				if version == packet.V311 {
					ack := []byte{0x20, 2, 0, 0}
					if present {
						ack[2] = 1 // MQTT3 [MQTT-3.2.2-2]
					}
					return r.v311("dev", false, ack...)
				}
				p, ack := r.v5("dev", lasting(1000))
				if ack.SessionPresent != present {
					t.Errorf("session present %v", ack.SessionPresent)
				}
				return p
			}
			sub := connect(r, false)
			sub.subscribe("a/#", 1)
			pub, _ := r.v5("pub", nil)
			send := func(payload string) {
				t.Helper()
				pub.publish("a/b", payload, 1, 1)
				pub.expect(0x40, 2, 0, 1)
			}
			send("online")
			m := sub.message()
			sub.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
			sub.quiet()
			sub.write(0xe0, 0)
			sub.expectEnd()
			send("away")
			sub = connect(r, true)
			if m := sub.message(); string(m.Payload) != "away" {
				t.Fatalf("%+v", m)
			}
			sub.c.Close() // without an ack, and without a DISCONNECT
			eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
			send("later")
			r = r.restart(crash)
			pub, _ = r.v5("pub", nil)
			send("restarted")
			sub = connect(r, true)
			var got []string
			for range 3 {
				m := sub.message()
				got = append(got, string(m.Payload))
				sub.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
			}
			if want := []string{"away", "later", "restarted"}; !slices.Equal(got, want) {
				t.Errorf("version %d, crash %v: got %v, want %v", version, crash, got, want)
			}
			sub.quiet()
			r.stop()
		}
	}
}

// SUBACK of a durable session leaves after its record is committed: a crash right behind it loses nothing.
func TestSubackWaitsForTheRecord(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
		r.sessions.hold()
		p.write([]byte("\x82\x07\x00\x01\x00\x00\x01a\x01")...)
		time.Sleep(50 * time.Millisecond) // the packet is being worked on; nothing may come of it
		if f, err := p.tryFrame(50 * time.Millisecond); err == nil {
			t.Fatalf("% x before the record is committed", f)
		}
		r.sessions.release()
		p.expect(0x90, 4, 0, 1, 0, 1)
	})
}

func TestCleanStartEndsTheOldSession(t *testing.T) { // MQTT5 [MQTT-3.1.2-4]
	// MQTT5 [MQTT-3.1.4-4] [MQTT-3.2.2-2]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.subscribe("a", 1)
		p.write(0xe0, 0)
		p.expectEnd()
		p, ack := r.v5("dev", nil)
		if ack.SessionPresent {
			t.Error("session present after a clean start")
		}
		eventually(t, "the record is gone", func() bool { return !r.sessions.has("dev") })
		pub, _ := r.v5("pub", nil)
		pub.publish("a", "x", 1, 1)
		pub.expect(0x40, 2, 0, 1)
		p.quiet()
	})
}

func TestSessionExpires(t *testing.T) { // MQTT5 [MQTT-3.1.2-23]
	// MQTT5 [MQTT-4.1.0-2]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("short", lasting(1))
		p.subscribe("a", 1)
		p.c.Close()
		stays, _ := r.v5("stays", lasting(1))
		eventually(t, "the session has expired", func() bool { return r.srv.Stats().SessionsExpired == 1 })
		eventually(t, "its record is gone", func() bool { return !r.sessions.has("short") })
		if _, ack := r.v5("short", lasting(1)); ack.SessionPresent {
			t.Error("session present after its expiry")
		}
		stays.quiet()
		// DISCONNECT may shorten it to nothing.
		p, _ = r.v5("leaver", lasting(1000))
		p.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
		p.expectEnd()
		eventually(t, "the record is gone", func() bool { return !r.sessions.has("leaver") })
	})
}

func TestTakeover(t *testing.T) { // MQTT5 [MQTT-3.1.4-3]
	// MQTT5 [MQTT-3.14.4-2]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		first, _ := r.v5("dev", lasting(1000))
		first.subscribe("a", 1)
		first.write(0xc0, 0) // answered once the subscription's retained messages are out: "kept" must not be one of them
		first.expect(0xd0, 0)
		pub, _ := r.v5("pub", nil)
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("kept"), QoS: 1, ID: 1, Retain: true}, packet.V5)...)
		pub.expect(0x40, 2, 0, 1)
		first.message()
		second, ack := r.v5("dev", lasting(1000))
		if !ack.SessionPresent {
			t.Error("the session did not survive the takeover")
		}
		if f := first.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.SessionTakenOver {
			t.Errorf("DISCONNECT % x", f)
		}
		first.expectEnd()
		m := second.message() // unacknowledged: again, with DUP // MQTT5 [MQTT-4.4.0-1]
		if !m.Duplicate || string(m.Payload) != "kept" || m.PacketID != 1 {
			t.Errorf("%+v", m)
		}
		second.write(0x40, 2, 0, 1)
		second.quiet() // and the retained message is not sent anew (§5 trap)
		three := r.v311("dev", false, 0x20, 2, 1, 0)
		second.expectType(packet.DISCONNECT)
		second.expectEnd()
		three.quiet()
	})
}

// Many connections of one client identifier at once: one of them stays, and it works.
func TestTakeoverStorm(t *testing.T) {
	// MQTT3 [MQTT-3.1.4-2]
	r := startRig(t, nil)
	const n = 20
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = r.dial()
		peers[i].write([]byte("\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev")...)
	}
	eventually(t, "all have come and one is left", func() bool {
		s := r.srv.Stats()
		return s.Accepted == n && s.Connections == 1
	})
	alive := 0
	for _, p := range peers {
		p.frame() // CONNACK, or the end
		p.c.Write([]byte{0xc0, 0})
		if f, err := p.tryFrame(200 * time.Millisecond); err == nil && f[0] == 0xd0 {
			alive++
		}
	}
	if alive != 1 {
		t.Errorf("%d connections of one client are alive", alive)
	}
}

func TestUnsubscribe(t *testing.T) { // MQTT5 [MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.11.3-2]
	// MQTT5 [MQTT-3.10.4-2] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.subscribe("a", 1)
		p.write([]byte("\xa2\x0c\x00\x02\x00\x00\x01a\x00\x01b\x00\x01c"[:])...)
		p.expect(0xb0, 6, 0, 2, 0, 0, 0x11, 0x11)
		pub, _ := r.v5("pub", nil)
		pub.publish("a", "x", 1, 1)
		pub.expect(0x40, 2, 0, 1)
		p.quiet()
	})
}

func TestMessageProperties(t *testing.T) { // MQTT5 [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
	// MQTT5 [MQTT-3.3.2-18] [MQTT-3.3.4-3]
	r := startRig(t, nil)
	sub, _ := r.v5("sub", nil)
	sub.write([]byte("\x82\x09\x00\x01\x02\x0b\x2a\x00\x01a\x01")...) // subscription identifier 42
	sub.expect(0x90, 4, 0, 1, 0, 1)
	old := r.v311("old", true)
	old.subscribe("a", 1)
	pub, _ := r.v5("pub", nil)
	in := packet.Publish{
		Topic: []byte("a"), Payload: []byte("x"), QoS: 1, ID: 1, PayloadFormat: 1, HasExpiry: true, Expiry: 100, ContentType: []byte("text/plain"),
		ResponseTopic: []byte("r"), Correlation: []byte{0, 1},
		User: []packet.UserProperty{{Name: []byte("k"), Value: []byte("1")}, {Name: []byte("k"), Value: []byte("2")}, {Name: []byte("mqtt.qos"), Value: []byte("0")}},
	}
	pub.write(packet.AppendPublish(nil, &in, packet.V5)...)
	pub.expect(0x40, 2, 0, 1)
	m := sub.message()
	p := m.Properties
	if *p.PayloadFormat != 1 || p.ContentType != "text/plain" || p.ResponseTopic != "r" || string(p.CorrelationData) != "\x00\x01" ||
		*p.MessageExpiry > 100 || *p.MessageExpiry < 95 || p.SubscriptionIdentifier == nil || *p.SubscriptionIdentifier != 42 {
		t.Errorf("%+v", p)
	}
	var user []string
	for _, u := range p.User {
		user = append(user, u.Key+"="+u.Value)
	}
	if want := []string{"k=1", "k=2", "mqtt.qos=0"}; !slices.Equal(user, want) {
		t.Errorf("user properties %v, want %v: in order, and none taken for ours", user, want)
	}
	if m := old.message(); string(m.Payload) != "x" {
		t.Errorf("%+v", m)
	}
	var names []string
	for _, h := range r.log.records(t, "telemetry")[0].Headers {
		names = append(names, string(h.Key))
	}
	want := []string{"mqtt.topic", "mqtt.client", "content-type", "mqtt.response-topic", "mqtt.correlation-data", "mqtt.payload-format",
		"mqtt.expiry", "mqtt.qos", "k", "k", "mqtt.qos"}
	if !slices.Equal(names, want) {
		t.Errorf("headers %v, want %v", names, want)
	}
}

func TestMessageExpiry(t *testing.T) { // MQTT5 [MQTT-3.3.2-5]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 1)
		sub.write(0xe0, 0)
		sub.expectEnd()
		pub, _ := r.v5("pub", nil)
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("short"), QoS: 1, ID: 1, HasExpiry: true, Expiry: 1}, packet.V5)...)
		pub.expect(0x40, 2, 0, 1)
		pub.publish("a", "kept", 1, 2)
		pub.expect(0x40, 2, 0, 2)
		time.Sleep(1100 * time.Millisecond)
		sub, _ = r.v5("sub", lasting(1000))
		if m := sub.message(); string(m.Payload) != "kept" {
			t.Errorf("%+v", m)
		}
	})
}

func TestSharedSubscription(t *testing.T) { // MQTT5 §4.8.2; §5 trap
	inBubble(t, nil, func(t *testing.T, r *rig) {
		a, _ := r.v5("a", nil)
		b, _ := r.v5("b", nil)
		a.subscribe("$share/g/t", 1)
		b.subscribe("$share/g/t", 1)
		pub, _ := r.v5("pub", nil)
		const n = 10
		for i := range n {
			pub.publish("t", fmt.Sprint(i), 1, uint16(i+1))
		}
		got := map[string]int{}
		ofA := 0
		for { // a takes some and acknowledges none
			f, err := a.tryFrame(300 * time.Millisecond)
			if err != nil {
				break
			}
			if f[0]>>4 == 3 {
				ofA++
			}
		}
		a.c.Close()
		for len(got) < n { // so b gets all
			m := b.message()
			got[string(m.Payload)]++
			b.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		}
		if ofA == 0 {
			t.Error("the group served one member only")
		}
		for k, v := range got {
			if v != 1 {
				t.Errorf("message %s came %d times", k, v)
			}
		}
	})
}

func TestSysTopics(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", nil)
		p.write([]byte("\x82\x0c\x00\x01\x00\x00\x06$SYS/#\x00")...)
		p.expect(0x90, 4, 0, 1, 0, 0)
		seen := map[string]bool{}
		for range 9 {
			seen[p.message().Topic] = true
		}
		if !seen["$SYS/broker/uptime"] || !seen["$SYS/broker/clients/connected"] {
			t.Errorf("%v", seen)
		}
		all, _ := r.v5("all", nil)
		all.subscribe("#", 0)
		r.srv.sys.publish(r.srv)
		p.message()
		all.quiet() // MQTT5 [MQTT-4.7.2-1]
		if n := len(r.log.records(t, "telemetry")); n != 0 {
			t.Errorf("%d records of $SYS", n)
		}
	})
}

func TestMatchTopic(t *testing.T) { // MQTT5 [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-4]
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/+", "a/b", true}, {"a/+", "a", false}, {"a/#", "a", true}, {"a/#", "a/b/c", true},
		{"#", "a", true}, {"+/b", "a/b", true}, {"+", "a/b", false}, {"a/b", "a/b/c", false}, {"a/b/c", "a/b", false}, {"a/+/c", "a//c", true},
	} {
		if got := matchTopic(c.filter, c.topic); got != c.want {
			t.Errorf("%s %s: %v", c.filter, c.topic, got)
		}
	}
}

func TestRecordsOfTheFuture(t *testing.T) {
	l, sessions := newFakeLog(t, 1), newFakeTable()
	sessions.Put([]byte("dev"), mustCBOR(sessionRecord{Format: recordFormat + 1, Expiry: 9}), func(error) {})
	router, err := NewRouter([]Route{{Match: "#", Topic: "telemetry"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewServer(Config{
		Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Sink: l, Source: l, Sessions: onePart{sessions}, Retained: deliver.Alone(newFakeTable()), Router: router,
	})
	if want := `mqtt: load sessions: client "dev": session record has format 4, this version reads 1 to 3`; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// A table gives older values and deletions too until it is compacted: sessions that ended stay ended.
func TestEndedSessionsStayEnded(t *testing.T) {
	r := startRig(t, nil)
	for range 2 {
		p, _ := r.v5("ended", lasting(1000))
		p.subscribe("a", 2)
		p.publish("a", "x", 2, 1)
		p.frame() // the message and the PUBREC, in any order
		p.frame()
		p.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
		p.expectEnd()
		eventually(t, "its records are gone", func() bool { return !r.sessions.has("ended") && !r.sessions.has("ended\x00i") })
	}
	p, _ := r.v5("lasting", lasting(1000))
	p.subscribe("a", 1)
	p.subscribe("b", 1)
	p.c.Close()
	for range 2 {
		r = r.restart(true)
		if n := r.srv.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions after the restart, want 1", n)
		}
	}
	if _, ack := r.v5("ended", lasting(1000)); ack.SessionPresent {
		t.Error("a session that ended is back")
	}
	if p, ack := r.v5("lasting", lasting(1000)); !ack.SessionPresent {
		t.Error("the lasting session is gone")
	} else {
		pub, _ := r.v5("pub", nil)
		pub.publish("b", "y", 1, 1)
		for m := p.message(); string(m.Payload) != "y"; m = p.message() {
			p.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		}
	}
}

func countPayload(recs []log.Record, payload string) (n int) {
	for _, r := range recs {
		if string(r.Value) == payload {
			n++
		}
	}
	return n
}
