package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// retain publishes a retained message from a client of its own.
func (r *rig) retain(topic, payload string, qos byte) {
	r.t.Helper()
	pub, _ := r.v5("pub", nil)
	pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: 1, Retain: true}, packet.V5)...)
	if qos > 0 {
		pub.frame()
	}
	if qos == 2 {
		pub.write(0x62, 2, 0, 1)
		pub.expect(0x70, 2, 0, 1)
	}
	pub.write(0xe0, 0)
	pub.expectEnd()
}

// storedMessages counts retained messages that are stored on their way to a client.
func (r *rig) storedMessages(client string) (n int) {
	r.sessions.mu.Lock()
	defer r.sessions.mu.Unlock()
	for key := range r.sessions.m {
		if strings.HasPrefix(key, client+"\x00m") {
			n++
		}
	}
	return n
}

// A crash at each step of the exchange of a retained message: it comes again as it was, with its packet id, DUP and the
// retain flag, whatever is retained by now, or its PUBREL does; the client takes it once. M9
func TestRetainedQoS2OverCrash(t *testing.T) { // MQTT5 [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-3.3.1-8]
	for _, c := range []struct {
		name  string
		until func(r *rig, sub *peer)
		want  string
	}{
		{"message stored, its id not", func(r *rig, sub *peer) {
			r.sessions.holdDoneOf("sub\x00m")
			sub.subscribe("a", 2)
			sub.quiet()
			if r.storedMessages("sub") != 1 {
				r.t.Fatal("not stored")
			}
		}, "nothing"},
		{"id stored, PUBLISH not sent", func(r *rig, sub *peer) {
			r.sessions.holdDoneOf("sub\x00o")
			sub.subscribe("a", 2)
			sub.quiet()
			if !r.storedOutbound("sub", 1) {
				r.t.Fatal("not stored")
			}
		}, "PUBLISH"},
		{"PUBLISH sent, no PUBREC", func(r *rig, sub *peer) {
			sub.subscribe("a", 2)
			if m := sub.message(); m.PacketID != 1 || m.Duplicate || !m.Retain {
				r.t.Fatalf("%+v", m)
			}
		}, "PUBLISH"},
		{"PUBREC not stored", func(r *rig, sub *peer) {
			sub.subscribe("a", 2)
			sub.message()
			r.sessions.hold()
			sub.write(0x50, 2, 0, 1)
			sub.quiet()
		}, "PUBLISH"},
		{"PUBREL sent", func(r *rig, sub *peer) {
			sub.subscribe("a", 2)
			sub.message()
			sub.write(0x50, 2, 0, 1)
			sub.expect(0x62, 2, 0, 1)
		}, "PUBREL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.retain("a", "x", 2)
				sub, _ := r.v5("sub", lasting(1000))
				c.until(r, sub)
				r = r.restart(true)
				r.retain("a", "newer", 2) // in its place, while the client is away
				r = r.restart(true)
				sub, ack := r.v5("sub", lasting(1000))
				if !ack.SessionPresent {
					t.Fatal("the session is gone")
				}
				switch c.want {
				case "PUBLISH":
					if m := sub.message(); string(m.Payload) != "x" || m.PacketID != 1 || !m.Duplicate || m.QoS != 2 || !m.Retain {
						t.Fatalf("%+v", m)
					}
				case "PUBREL":
					sub.expect(0x62, 2, 0, 1)
				}
				m := sub.message()
				if string(m.Payload) != "newer" || c.want != "nothing" && m.PacketID != 2 || m.Duplicate || m.Retain {
					t.Fatalf("%+v", m)
				}
				switch c.want {
				case "PUBLISH":
					sub.complete(1)
				case "PUBREL":
					sub.write(0x70, 2, 0, 1)
				}
				sub.complete(m.PacketID)
				sub.quiet()
				eventually(t, "nothing of it is stored any more", func() bool {
					return !r.sessions.has("sub\x00o") && r.storedMessages("sub") == 0
				})
			})
		})
	}
}

// No retained message of QoS 2 leaves a durable session before it and its id are committed; those that come while others
// are stored leave behind them. M9
func TestRetainedQoS2WaitsForItsRecord(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		const n = 20
		for i := range n {
			r.retain(fmt.Sprint("a/", i), "x", 2)
		}
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("live", 2)
		sub.write([]byte("\x82\x09\x00\x01\x00\x00\x03a/#\x02")...)
		sub.expectType(packet.SUBACK)
		seen := map[string]uint16{}
		for range n {
			m := sub.message()
			seen[m.Topic] = m.PacketID
			value, ok := r.sessions.get(fmt.Sprint("sub\x00m", m.PacketID))
			if !ok || !strings.Contains(value, m.Topic) || !r.storedOutbound("sub", m.PacketID) {
				t.Errorf("%s with id %d is sent and not stored", m.Topic, m.PacketID)
			}
		}
		if len(seen) != n {
			t.Errorf("%d topics, want %d", len(seen), n)
		}
		// What comes while messages are stored waits, whatever else is stored meanwhile.
		for _, topic := range []string{"b", "c", "d", "e"} {
			r.retain(topic, "x", 2)
		}
		r.sessions.holdOf("sub\x00m")
		sub.subscribe("b", 2)
		sub.quiet()
		sub.subscribe("c", 2)
		sub.quiet()
		r.sessions.release()
		id := uint16(n)
		next := func(topic string) {
			t.Helper()
			id++
			if m := sub.message(); m.Topic != topic || m.PacketID != id {
				t.Errorf("%+v, want %s with id %d", m, topic, id)
			}
		}
		next("b")
		next("c")
		r.sessions.holdOf("sub\x00m")
		sub.subscribe("d", 2)
		sub.quiet()
		sub.complete(uint16(id))
		r.sendTo("live", "x")
		sub.quiet()
		r.sessions.release()
		next("d")
		next("live")
		sub.quiet()

		// Where it cannot be stored it does not leave, and comes once it can.
		r.sessions.refuseOf("sub\x00m", errFakeDown)
		sub.subscribe("e", 2)
		if f := sub.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.ServerUnavailable {
			t.Errorf("DISCONNECT % x", f)
		}
		r.sessions.refuse(nil)
		sub, _ = r.v5("sub", lasting(1000))
		for m := sub.message(); m.Topic != "e"; m = sub.message() {
			if !m.Duplicate {
				t.Errorf("%+v", m)
			}
		}
	})
}

// Retained messages of QoS 1 that were due when the node went down are sent again, acknowledged or not, sent or not; once
// all are acknowledged nothing is due any more. M9
func TestRetainedQoS1OverCrash(t *testing.T) {
	for _, room := range []uint16{1, 100} { // one at a time, or all at once
		inBubble(t, nil, func(t *testing.T, r *rig) {
			var all []string
			for i := range 5 {
				all = append(all, fmt.Sprint("a/", i))
				r.retain(all[i], "x", 1)
			}
			r.retain("a/at most once", "x", 0)
			r.retain("b", "x", 1)
			sub, _ := r.v5("sub", atOnce(room))
			sub.subscribe("b", 1)
			m := sub.message()
			sub.puback(m.PacketID)
			sub.quiet()
			time.Sleep(3 * time.Second) // by now the record knows that this is done
			sub.subscribe("a/#", 1)
			for m := sub.message(); m.QoS != 1; m = sub.message() { // one is sent
			}
			time.Sleep(3 * time.Second) // and the record is written again
			for range 2 {
				r = r.restart(true)
			}
			sub, _ = r.v5("sub", atOnce(room))
			var got []string
			for range all {
				m := sub.message()
				if m.QoS != 1 || !m.Retain {
					t.Fatalf("%+v", m)
				}
				got = append(got, m.Topic)
				sub.puback(m.PacketID)
			}
			slices.Sort(got)
			if !slices.Equal(got, all) {
				t.Errorf("got %v, want %v", got, all)
			}
			sub.quiet()
			time.Sleep(3 * time.Second)
			r = r.restart(true)
			sub, _ = r.v5("sub", atOnce(room))
			sub.quiet()
		})
	}
}

// The same when none could be sent yet, since another message has the only place that the client has.
func TestRetainedQoS1WaitsOverCrash(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.retain("a", "x", 1)
		sub, _ := r.v5("sub", atOnce(1))
		sub.subscribe("live", 1)
		r.sendTo("live", "first")
		first := sub.message()
		sub.subscribe("a", 1)
		time.Sleep(3 * time.Second)
		sub.subscribe("other", 1) // the record is written once more, now that the message is queued
		sub.quiet()
		r = r.restart(true)
		sub, _ = r.v5("sub", atOnce(1))
		got := map[string]bool{}
		for range 2 {
			m := sub.message()
			got[fmt.Sprint(m.Topic, " ", string(m.Payload), " ", m.Retain)] = true
			sub.puback(m.PacketID)
		}
		if !got["a x true"] || !got["live first false"] {
			t.Errorf("got %v, and %s was sent before", got, first.Topic)
		}
		sub.quiet()
	})
}

// A crash right behind SUBACK, before the hub has queued what is retained.
func TestRetainedQoS1DueAtSuback(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.retain("a", "x", 1)
		sub, _ := r.v5("sub", lasting(1000))
		sub.quiet()
		r.sessions.holdDone() // the record is written, and nobody hears of it
		sub.write([]byte("\x82\x07\x00\x01\x00\x00\x01a\x01")...)
		synctest.Wait()
		r = r.restart(true)
		sub, _ = r.v5("sub", lasting(1000))
		if m := sub.message(); string(m.Payload) != "x" || !m.Retain {
			t.Errorf("%+v", m)
		}
	})
}

// A retained message that is sent again goes out in the protocol version of the connection at hand, whichever it was
// made for, with or without a restart in between.
func TestRetainedResendInAnotherVersion(t *testing.T) {
	for _, c := range []struct{ restart, identified bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			r.retain("a", "x", 2)
			sub, _ := r.v5("sub", lasting(1000))
			if c.identified {
				sub.write([]byte("\x82\x09\x00\x01\x02\x0b\x2a\x00\x01a\x02")...) // subscription identifier 42
				sub.expectType(packet.SUBACK)
			} else {
				sub.subscribe("a", 2)
			}
			if m := sub.message(); (m.Properties.SubscriptionIdentifier != nil) != c.identified {
				t.Fatalf("%+v", m)
			}
			if c.restart {
				r = r.restart(true)
			} else {
				sub.c.Close()
			}
			old := r.v311("sub", false, 0x20, 2, 1, 0)
			old.expect([]byte("\x3d\x06\x00\x01a\x00\x01x")...)
			old.c.Close()
			sub, _ = r.v5("sub", lasting(1000))
			m := sub.message()
			if string(m.Payload) != "x" || !m.Duplicate || (m.Properties.SubscriptionIdentifier != nil) != c.identified {
				t.Fatalf("%+v", m)
			}
			if c.identified && *m.Properties.SubscriptionIdentifier != 42 {
				t.Errorf("subscription identifier %d", *m.Properties.SubscriptionIdentifier)
			}
		})
	}
}

// With the session goes what was stored of messages on their way.
func TestRetainedQoS2EndsWithItsSession(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			r.retain("a", "x", 2)
			sub, _ := r.v5("sub", lasting(1000))
			sub.subscribe("a", 2)
			sub.message()
			if n := r.storedMessages("sub"); n != 1 {
				t.Errorf("%d messages stored, want 1", n)
			}
			if restart {
				r = r.restart(true)
			}
			sub, _ = r.v5("sub", nil)
			sub.quiet()
			eventually(t, "its records are gone", func() bool { return r.storedMessages("sub") == 0 && !r.sessions.has("sub\x00o") })
		})
	}
}
