package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
)

// Inbound QoS 2 over a crash at each of its steps: one record in the end, whatever the client repeats. M4
func TestQoS2InboundOverCrash(t *testing.T) { // MQTT5 [MQTT-4.3.3-8] to [MQTT-4.3.3-12]
	for _, c := range []struct {
		name  string
		until func(r *rig, p *peer) // brings the exchange to where the crash comes
		late  bool                  // the next leader has what was appended, and commits it after the client has come back
	}{
		{"intent not committed", func(r *rig, p *peer) {
			r.sessions.hold()
			p.publish("a", "x", 2, 7)
			p.quietOrHeld()
		}, false},
		{"intent committed, record not appended", func(r *rig, p *peer) {
			r.log.set(errFakeDown, false)
			p.publish("a", "x", 2, 7)
			eventually(r.t, "the intent is stored", func() bool { return r.sessions.has("dev\x00i") })
		}, false},
		{"record appended, not committed", func(r *rig, p *peer) {
			r.log.set(nil, true)
			p.publish("a", "x", 2, 7)
			eventually(r.t, "the record is appended", func() bool { return r.log.appended("telemetry") == 2 })
		}, false},
		{"record appended, committed late", func(r *rig, p *peer) {
			r.log.set(nil, true)
			p.publish("a", "x", 2, 7)
			eventually(r.t, "the record is appended", func() bool { return r.log.appended("telemetry") == 2 })
		}, true},
		{"PUBREC sent", func(r *rig, p *peer) {
			p.publish("a", "x", 2, 7)
			p.expect(0x50, 2, 0, 7)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRig(t, nil)
			p, _ := r.v5("dev", lasting(1000))
			p.publish("warm", "up", 1, 1)
			p.expect(0x40, 2, 0, 1)
			eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
			c.until(r, p)
			sessions, retained := r.sessions.clone(), r.retained.clone()
			p.c.Close()
			r.log.set(errFakeDown, true) // the crash: nothing more gets into the log
			r.stop()
			if !c.late {
				r.log.commit(errFakeDown) // what was not committed is gone
			}
			r.log.mu.Lock()
			r.log.watchers = nil
			r.log.mu.Unlock()
			r.log.set(nil, c.late)

			r = startOn(t, r.log, sessions, retained, nil)
			p, ack := r.v5("dev", lasting(1000))
			if !ack.SessionPresent {
				t.Fatal("the session is gone")
			}
			for range 2 { // the client repeats, and repeats again
				p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Dup: true}, packet.V5)...)
				if c.late {
					eventually(t, "the record is searched for, or there twice", func() bool { return r.log.settling("telemetry") > 0 || r.log.appended("telemetry") > 2 })
					r.log.set(nil, false)
					c.late = false
				}
				p.expect(0x50, 2, 0, 7)
			}
			p.write(0x62, 2, 0, 7)
			p.expect(0x70, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
				t.Errorf("%d records, want 1", n)
			}
			eventually(t, "the intent is gone", func() bool { return !r.sessions.has("dev\x00i") })
			p.write(0x62, 2, 0, 7) // after PUBCOMP the exchange is over
			p.expect(0x70, 3, 0, 7, 0x92)
			p.publish("a", "x", 2, 7) // and the same packet id is a new message
			p.expect(0x50, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 2 {
				t.Errorf("%d records, want 2", n)
			}
		})
	}
}

// quietOrHeld gives the server time to read what was sent.
func (p *peer) quietOrHeld() { p.quiet() }

// A QoS 2 publish that the log does not take in time ends the connection; its exchange goes on with the next
// one, as one record. M8 M4
func TestQoS2HeldTooLong(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason packet.Reason
	}{{errFakeDown, packet.ServerUnavailable}, {log.ErrDiskFull, packet.QuotaExceeded}} {
		inBubble(t, func(c *Config) { c.AckTimeout = 300 * time.Millisecond }, func(t *testing.T, r *rig) {
			p, _ := r.v5("dev", lasting(1000))
			p.publish("warm", "up", 1, 1)
			p.expect(0x40, 2, 0, 1)
			r.log.set(c.err, false)
			p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Retain: true}, packet.V5)...)
			if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != c.reason {
				t.Errorf("DISCONNECT % x, want %v", f, c.reason)
			}
			p.expectEnd()
			r.log.set(nil, false)
			p, _ = r.v5("dev", lasting(1000))
			p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Retain: true, Dup: true}, packet.V5)...)
			p.expect(0x50, 2, 0, 7)
			p.write(0x62, 2, 0, 7)
			p.expect(0x70, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
				t.Errorf("%d records, want 1", n)
			}
			sub, _ := r.v5("sub", nil)
			sub.subscribe("a", 2)
			if m := sub.message(); string(m.Payload) != "x" || !m.Retain {
				t.Errorf("%+v", m)
			}
		})
	}
}

// PUBREC waits for the commit, PUBCOMP for the durable end of the exchange. M1 M4
func TestQoS2AcksFollowCommits(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.publish("a", "warm", 2, 1)
		p.expect(0x50, 2, 0, 1)
		p.write(0x62, 2, 0, 1)
		p.expect(0x70, 2, 0, 1)
		r.log.set(nil, true)
		p.publish("a", "x", 2, 2)
		eventually(t, "the record is appended", func() bool { return r.log.appended("telemetry") == 2 })
		p.quiet()
		r.log.set(nil, false)
		p.expect(0x50, 2, 0, 2)
		r.sessions.hold()
		p.write(0x62, 2, 0, 2)
		p.quiet()
		r.sessions.release()
		p.expect(0x70, 2, 0, 2)
	})
}

// Outbound QoS 2 over restarts: what the client has said PUBREC to is released, never sent as new. M9
func TestQoS2OutboundOverCrash(t *testing.T) {
	r := startRig(t, nil)
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("a", 2)
	pub, _ := r.v5("pub", nil)
	for i, payload := range []string{"done", "received", "sent"} {
		pub.publish("a", payload, 2, uint16(i+1))
		pub.expect(0x50, 2, 0, byte(i+1))
		pub.write(0x62, 2, 0, byte(i+1))
		pub.expect(0x70, 2, 0, byte(i+1))
		if m := sub.message(); string(m.Payload) != payload || m.QoS != 2 {
			t.Fatalf("%+v", m)
		}
	}
	sub.write(0x50, 2, 0, 1)
	sub.expect(0x62, 2, 0, 1)
	sub.write(0x70, 2, 0, 1)
	r.sessions.hold()
	sub.write(0x50, 2, 0, 2)
	sub.quiet() // no PUBREL before the PUBREC is durable
	r.sessions.release()
	sub.expect(0x62, 2, 0, 2)
	r = r.restart(true)
	sub, _ = r.v5("sub", lasting(1000))
	sub.expect(0x62, 2, 0, 2) // MQTT5 [MQTT-4.4.0-1]
	m := sub.message()
	if string(m.Payload) != "sent" {
		t.Fatalf("%+v", m)
	}
	sub.write(0x70, 2, 0, 2)
	sub.write(0x50, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.expect(0x62, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.write(0x70, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.quiet()
}

// A crash at each step of an outbound QoS 2 exchange, behind one that is complete: the message comes again with its old
// packet id and DUP, or its PUBREL does, so that a client that keeps the ids it holds takes it once; and the next message
// has an id of its own. M9
func TestQoS2OutboundKeepsItsIDOverCrash(t *testing.T) { // MQTT5 [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-2.2.1-4]
	for _, c := range []struct {
		name  string
		until func(r *rig, sub *peer) // brings the exchange with packet id 2 to where the crash comes
		want  string                  // what the client gets first afterwards
	}{
		{"id stored, PUBLISH not sent", func(r *rig, sub *peer) {
			r.sessions.holdDone()
			r.send("x")
			eventually(r.t, "the id is stored", func() bool { return r.storedOutbound("sub", 2) })
			sub.quiet()
		}, "PUBLISH"},
		{"PUBLISH sent, no PUBREC", func(r *rig, sub *peer) {
			r.send("x")
			if m := sub.message(); m.PacketID != 2 || m.Duplicate {
				r.t.Fatalf("%+v", m)
			}
		}, "PUBLISH"},
		{"PUBREC not stored", func(r *rig, sub *peer) {
			r.send("x")
			sub.message()
			r.sessions.hold()
			sub.write(0x50, 2, 0, 2)
			sub.quiet()
		}, "PUBLISH"},
		{"PUBREC stored, PUBREL not sent", func(r *rig, sub *peer) {
			r.send("x")
			sub.message()
			r.sessions.holdDone()
			puts := r.sessions.putCount()
			sub.write(0x50, 2, 0, 2)
			eventually(r.t, "PUBREC is stored", func() bool { return r.sessions.putCount() > puts })
			sub.quiet()
		}, "PUBREL"},
		{"PUBREL sent", func(r *rig, sub *peer) {
			r.send("x")
			sub.message()
			sub.write(0x50, 2, 0, 2)
			sub.expect(0x62, 2, 0, 2)
		}, "PUBREL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				sub, _ := r.v5("sub", lasting(1000))
				sub.subscribe("a", 2)
				r.send("done")
				sub.message()
				sub.write(0x50, 2, 0, 1)
				sub.expect(0x62, 2, 0, 1)
				sub.write(0x70, 2, 0, 1)
				sub.quiet()
				c.until(r, sub)
				for range 2 { // and the node goes down once more before the client is back
					r = r.restart(true)
				}
				sub, ack := r.v5("sub", lasting(1000))
				if !ack.SessionPresent {
					t.Fatal("the session is gone")
				}
				if c.want == "PUBLISH" {
					if m := sub.message(); string(m.Payload) != "x" || m.PacketID != 2 || !m.Duplicate || m.QoS != 2 {
						t.Fatalf("%+v", m)
					}
					sub.write(0x50, 2, 0, 2)
				}
				sub.expect(0x62, 2, 0, 2)
				r.send("next") // while the client holds id 2
				if m := sub.message(); string(m.Payload) != "next" || m.PacketID != 3 || m.Duplicate {
					t.Fatalf("%+v", m)
				}
				sub.write(0x70, 2, 0, 2)
				sub.write(0x50, 2, 0, 3)
				sub.expect(0x62, 2, 0, 3)
				sub.write(0x70, 2, 0, 3)
				sub.quiet()
				eventually(t, "nothing of it is stored any more", func() bool { return !r.sessions.has("sub\x00o") })
			})
		})
	}
}

// send publishes to "a" with QoS 2 from a client of its own.
func (r *rig) send(payload string) {
	r.t.Helper()
	r.sendTo("a", payload)
}

func (r *rig) sendTo(topic, payload string) {
	r.t.Helper()
	pub, _ := r.v5("pub", nil)
	pub.publish(topic, payload, 2, 1)
	pub.expect(0x50, 2, 0, 1)
	pub.write(0xe0, 0)
	pub.expectEnd()
}

// What is to be sent again cannot be read yet on a node that has just taken over: it is waited for, and neither ended nor passed over. In the end it waits
// for the next connection, and others do not wait with it. M9
func TestResentOnceItCanBeRead(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			sub, _ := r.v5("sub", lasting(1000))
			sub.subscribe("+", qos)
			r.sendTo("a", "first")
			first := sub.message()
			time.Sleep(3 * time.Second) // QoS 1 is recorded by then
			r = r.restart(true)
			r.log.behind.Store(true)
			again := func(then func()) {
				t.Helper()
				if sub, _ = r.v5("sub", lasting(1000)); sub == nil {
					t.Fatal("no connection")
				}
				sub.quiet()
				then()
				r.log.behind.Store(false)
				time.Sleep(time.Second)
			}
			again(func() { time.Sleep(10 * time.Second); sub.quiet() })
			if m := sub.message(); string(m.Payload) != "first" || !m.Duplicate || m.PacketID != first.PacketID {
				t.Errorf("QoS %d: %+v", qos, m)
			}
			r.log.behind.Store(true)
			again(func() { time.Sleep(time.Minute); sub.quiet() })
			r.sendTo("b", "second")
			if m := sub.message(); string(m.Payload) != "second" || m.Duplicate {
				t.Errorf("QoS %d: %+v", qos, m)
			}
			sub.quiet()
			sub, _ = r.v5("sub", lasting(1000))
			if m := sub.message(); string(m.Payload) != "first" || !m.Duplicate || m.PacketID != first.PacketID {
				t.Errorf("QoS %d: %+v", qos, m)
			}
		})
	}
}

// The ids of a session that comes back with nothing on its way begin elsewhere each time: a client may have kept a copy of a message under one that it had.
func TestIDsOfARestoredSessionBeginElsewhere(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 2)
		var ids []uint16
		for range 3 {
			r = r.restart(true)
			sub, _ = r.v5("sub", lasting(1000))
			r.sendTo("a", "x")
			ids = append(ids, sub.message().PacketID)
			sub.complete(ids[len(ids)-1])
			sub.quiet()
			time.Sleep(3 * time.Second) // the cursor is stored, and has passed it
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) == 1 {
			t.Errorf("always %d", ids[0])
		}
	})
}

// storedOutbound tells whether the exchange is in the session's record.
func (r *rig) storedOutbound(client string, id uint16) bool {
	value, ok := r.sessions.get(client + "\x00o")
	if !ok {
		return false
	}
	rec, err := decodeOutbound([]byte(value))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range rec.Partitions {
		if slices.ContainsFunc(p.Rows, func(row outboundRow) bool { return row.ID == id }) {
			return true
		}
	}
	return false
}

// No PUBLISH of QoS 2 leaves a durable session before its id is committed; deliveries meanwhile share the next commit;
// and a connection that ends in between gets the messages on the next one, once. M9
func TestQoS2PublishWaitsForItsRecord(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 2)
		pub, _ := r.v5("pub", nil)
		send := func(payload string) {
			pub.publish("a", payload, 2, 1)
			pub.expect(0x50, 2, 0, 1)
			pub.write(0x62, 2, 0, 1)
			pub.expect(0x70, 2, 0, 1)
		}
		r.sessions.hold()
		send("0")
		sub.quiet()
		puts := r.sessions.putCount()
		for i := 1; i < 20; i++ {
			send(fmt.Sprint(i))
		}
		sub.quiet()
		if n := r.sessions.putCount() - puts; n > 1 { // the cursor may be one
			t.Errorf("%d records put while one is under way", n)
		}
		r.sessions.release()
		for i := range 20 {
			if m := sub.message(); string(m.Payload) != fmt.Sprint(i) || int(m.PacketID) != i+1 || m.Duplicate {
				t.Fatalf("message %d: %+v", i, m)
			}
		}
		if n := r.sessions.putCount() - puts; n > 4 {
			t.Errorf("%d records put for nineteen messages", n)
		}
		for i := range byte(20) {
			sub.write(0x50, 2, 0, i+1)
			sub.expect(0x62, 2, 0, i+1)
			sub.write(0x70, 2, 0, i+1)
		}
		sub.quiet()

		r.sessions.hold()
		send("late")
		sub.quiet()
		sub.c.Close()
		sub, _ = r.v5("sub", lasting(1000))
		sub.quiet()
		r.sessions.release()
		if m := sub.message(); string(m.Payload) != "late" || m.PacketID != 21 || m.Duplicate {
			t.Fatalf("%+v", m)
		}
		sub.quiet()
	})
}

// Where ids cannot be stored nothing leaves and the connection ends; once they can, the message comes. M9
func TestQoS2PublishWhoseIDIsNotStored(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 2)
		r.sessions.refuse(errFakeDown)
		pub, _ := r.v5("pub", nil)
		pub.publish("a", "x", 2, 1)
		pub.expect(0x50, 2, 0, 1)
		if f := sub.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.ServerUnavailable {
			t.Errorf("DISCONNECT % x", f)
		}
		sub.expectEnd()
		r.sessions.refuse(nil)
		sub, _ = r.v5("sub", lasting(1000))
		if m := sub.message(); string(m.Payload) != "x" || m.PacketID != 1 || m.Duplicate {
			t.Fatalf("%+v", m)
		}
		sub.quiet()
	})
}

// The record of earlier builds has messages with a PUBREC only. M9
func TestOutboundRecordOfFormat1(t *testing.T) {
	topic := make([]byte, 16)
	list := []receivedRecord{{ID: 7, Topic: topic, Index: 1, Offset: 5}, {ID: 0, Topic: topic, Index: 1, Offset: 4}}
	sessions := newFakeTable()
	sessions.Put([]byte("sub"), mustCBOR(sessionRecord{Format: 2, Version: packet.V5, Expiry: 1000, ClosedAt: time.Now().UnixMilli()}), func(error) {})
	sessions.Put(keyOutbound("sub"), mustCBOR(list), func(error) {})
	r := startOn(t, newFakeLog(t, 2), sessions, newFakeTable(), nil)
	sub, _ := r.v5("sub", lasting(1000))
	sub.expect(0x62, 2, 0, 7)
	sub.subscribe("a", 2)
	r.send("x")
	if m := sub.message(); m.PacketID != 8 {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"", "\xa0", "\xa1\x01\x04", "\x81\x80", "\xa2\x01\x02\x02\x81\x83\x40"} {
		if _, err := decodeOutbound([]byte(bad)); err == nil {
			t.Errorf("% x is taken for a record", bad)
		}
	}
}

// A message of a shared subscription that went out before a crash comes again from the session that had it; the group,
// which gives it once more, is told so and goes on. M9
func TestQoS2SharedOverCrash(t *testing.T) { // MQTT5 [MQTT-4.8.2-5]
	r := startRig(t, nil)
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("$share/g/a", 2)
	r.send("x")
	if m := sub.message(); m.PacketID != 1 {
		t.Fatalf("%+v", m)
	}
	r = r.restart(true)
	sub, _ = r.v5("sub", lasting(1000))
	if m := sub.message(); string(m.Payload) != "x" || m.PacketID != 1 || !m.Duplicate {
		t.Fatalf("%+v", m)
	}
	sub.write(0x50, 2, 0, 1)
	sub.expect(0x62, 2, 0, 1)
	sub.write(0x70, 2, 0, 1)
	r.send("y")
	if m := sub.message(); string(m.Payload) != "y" || m.PacketID != 2 || m.Duplicate {
		t.Fatalf("%+v", m)
	}
	sub.quiet()
}
