package mqtt

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// atOnce connects a lasting client that takes n unacknowledged messages.
func atOnce(n uint16) func(*packets.Connect) {
	return func(c *packets.Connect) {
		lasting(1000)(c)
		c.Properties.ReceiveMaximum = &n
	}
}

// send1 publishes QoS 1 messages to "a".
func (r *rig) send1(payloads ...string) {
	r.t.Helper()
	pub, _ := r.v5("pub", nil)
	for i, payload := range payloads {
		pub.publish("a", payload, 1, uint16(i+1))
		pub.expect(0x40, 2, 0, byte(i+1))
	}
	pub.write(0xe0, 0)
	pub.expectEnd()
}

// QoS 1 messages that the client has not acknowledged come again after a restart with DUP and their packet ids, when the
// record of that second knew them, also when the node goes down once more before the client is back; what was sent after
// the record comes as new, behind them, and nothing is missing. M9
func TestQoS1KeepsItsIDOverCrash(t *testing.T) { // MQTT5 [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-2.2.1-4]
	for _, restarts := range []int{1, 2} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			sub, _ := r.v5("sub", lasting(1000))
			sub.subscribe("a", 1)
			r.send1("0", "1", "2", "3", "4")
			for i := range 5 {
				if m := sub.message(); int(m.PacketID) != i+1 || m.Duplicate {
					t.Fatalf("%+v", m)
				}
			}
			sub.puback(1)
			sub.puback(3)
			sub.quiet()
			eventually(t, "the window is stored", func() bool { return windowIDs(r, "sub") == "[2 4 5]" })
			r.sessions.refuse(errFakeDown) // from here on nothing gets into the record
			sub.puback(4)
			r.send1("5")
			if m := sub.message(); m.PacketID != 6 {
				t.Fatalf("%+v", m)
			}
			for range restarts {
				r = r.restart(true)
			}
			sub, _ = r.v5("sub", lasting(1000))
			want := []string{"1 2 true", "3 4 true", "4 5 true", "5 6 false"}
			for range want {
				m := sub.message()
				got := fmt.Sprintf("%s %d %v", m.Payload, m.PacketID, m.Duplicate)
				if i := slices.Index(want, got); i != 0 {
					t.Fatalf("got %q, want %q", got, want[0])
				}
				want = want[1:]
				sub.puback(m.PacketID)
			}
			sub.quiet()
			time.Sleep(3 * time.Second)
			if got := windowIDs(r, "sub"); got != "[]" {
				t.Errorf("stored in the end: %s", got)
			}
		})
	}
}

// A record may have a cursor that is older than its window: what the window has is not given as new besides.
func TestWindowBeyondTheCursor(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 1)
		r.send1("0", "1", "2")
		for range 3 {
			sub.message()
		}
		sub.puback(2)
		sub.say("\xa2\x06\x00\x01\x00\x00\x01b") // UNSUBSCRIBE, whose record has the cursor of the SUBSCRIBE
		sub.hear("\xb0\x04\x00\x01\x00\x11")
		if got := windowIDs(r, "sub"); got != "[1 3]" {
			t.Fatalf("stored: %s", got)
		}
		r = r.restart(true)
		sub, _ = r.v5("sub", lasting(1000))
		for _, want := range []string{"0 1 true", "2 3 true", "1 4 false"} {
			m := sub.message()
			if got := fmt.Sprintf("%s %d %v", m.Payload, m.PacketID, m.Duplicate); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		sub.quiet()
	})
}

// windowIDs lists the packet ids in a session's record.
func windowIDs(r *rig, client string) string {
	ids := []int64{}
	for _, w := range r.storedSession(client).Window {
		id := int64(0)
		for i := 0; i < len(w.Rows); i += 2 {
			id += w.Rows[i]
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return fmt.Sprint(ids)
}

// An orderly stop, and messages of several partitions: everything comes again as it was sent, in the order of sending.
func TestWindowOverStop(t *testing.T) {
	r := startOn(t, newFakeLog(t, 8), newFakeTable(), newFakeTable(), nil)
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("#", 1)
	var sent []string
	for i := range 40 { // the key, so the partition, is the client's
		pub, _ := r.v5(fmt.Sprint("pub", i), nil)
		pub.publish("a", fmt.Sprint(i), 1, 1)
		pub.expect(0x40, 2, 0, 1)
		m := sub.message()
		sent = append(sent, fmt.Sprintf("%s %d", m.Payload, m.PacketID))
	}
	r = r.restart(false)
	sub, _ = r.v5("sub", lasting(1000))
	for i := range sent {
		m := sub.message()
		if got := fmt.Sprintf("%s %d", m.Payload, m.PacketID); got != sent[i] || !m.Duplicate {
			t.Errorf("%s, DUP %v; want %s", got, m.Duplicate, sent[i])
		}
		sub.puback(m.PacketID)
	}
	sub.quiet()
}

// A client that takes fewer at once than before gets no more than that, whatever the window holds. A restored window may
// hold more than there ever was, since it has what was acknowledged in its last second.
func TestResendKeepsReceiveMaximum(t *testing.T) { // MQTT5 [MQTT-3.3.4-9]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 1)
		var payloads []string
		for i := range 20 {
			payloads = append(payloads, fmt.Sprint(i))
		}
		r.send1(payloads...)
		for range payloads {
			sub.message()
		}
		sub.c.Close()
		sub, _ = r.v5("sub", atOnce(3))
		var open []uint16
		for i := range payloads {
			m := sub.message()
			if string(m.Payload) != payloads[i] || !m.Duplicate {
				t.Fatalf("%+v, want %s", m, payloads[i])
			}
			if open = append(open, m.PacketID); len(open) == 3 {
				sub.quiet()
				sub.puback(open[0])
				open = open[1:]
			}
		}
		for _, id := range open {
			sub.puback(id)
		}
		r.send1("new")
		if m := sub.message(); string(m.Payload) != "new" {
			t.Errorf("%+v", m)
		}
	})
}

// A QoS 1 message whose packet id has gone to a QoS 2 exchange since the record was written comes anew: the client may
// hold the id for that exchange. M9
func TestQoS1GivesWayToAnExchange(t *testing.T) {
	for _, stale := range []bool{false, true} { // whether the record's cursor stands before the message
		inBubble(t, nil, func(t *testing.T, r *rig) { givesWay(t, r, stale) })
	}
}

func givesWay(t *testing.T, r *rig, stale bool) {
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("a", 2)
	r.send1("one")
	sub.message()
	if stale {
		sub.say("\xa2\x06\x00\x01\x00\x00\x01b") // as in TestWindowBeyondTheCursor
		sub.hear("\xb0\x04\x00\x01\x00\x11")
	}
	eventually(t, "the window is stored", func() bool { return windowIDs(r, "sub") == "[1]" })
	r.send("two")
	if m := sub.message(); m.PacketID != 2 {
		t.Fatalf("%+v", m)
	}
	value, _ := r.sessions.get("sub\x00o")
	rec, err := decodeOutbound([]byte(value))
	if err != nil {
		t.Fatal(err)
	}
	rec.Partitions[0].Rows[0].ID = 1 // as if 65,535 messages had passed
	r.sessions.Put(keyOutbound("sub"), mustCBOR(&rec), func(error) {})
	r.sessions.refuse(errFakeDown)
	r = r.restart(true)
	sub, _ = r.v5("sub", lasting(1000))
	if m := sub.message(); string(m.Payload) != "two" || m.PacketID != 1 || !m.Duplicate || m.QoS != 2 {
		t.Errorf("%+v", m)
	}
	if m := sub.message(); string(m.Payload) != "one" || m.PacketID != 2 || m.Duplicate || m.QoS != 1 {
		t.Errorf("%+v", m)
	}
	sub.quiet()
}

// Records of the table are input like any other.
func TestWindowRecordsAreChecked(t *testing.T) {
	topic := make([]byte, 16)
	for _, w := range []windowRows{
		{Topic: topic[:3]}, {Topic: topic, Rows: []int64{1}}, {Topic: topic, Rows: []int64{0, 1}}, {Topic: topic, Rows: []int64{65536, 1}},
		{Topic: topic, Rows: []int64{1, -1}}, {Topic: topic, Rows: []int64{2, 5, -2, 1}},
	} {
		cl := &client{}
		if err := cl.restoreWindow([]windowRows{w}); err == nil {
			t.Errorf("%+v is taken", w)
		}
	}
	good := messageRecord{Version: 4, IDs: []uint32{1}, Frame: []byte("\x30\x03\x00\x01a")}
	if err := (&client{}).restoreMessage("65535", mustCBOR(good)); err != nil {
		t.Error(err)
	}
	if err := (&client{}).restoreMessage("65536", mustCBOR(good)); err == nil {
		t.Error("a packet id of 65536 is taken")
	}
	for _, bad := range []string{"", "\x83\x04\xf6\x40", string(mustCBOR(messageRecord{Version: 7, Frame: good.Frame})),
		string(mustCBOR(messageRecord{Version: 5, Frame: good.Frame})), string(mustCBOR(messageRecord{Version: 4, Frame: []byte("\xc0\x00")})),
		string(mustCBOR(messageRecord{Version: 4, Frame: append(good.Frame, 0)}))} {
		if err := (&client{}).restoreMessage("1", []byte(bad)); err == nil {
			t.Errorf("% x is taken", bad)
		}
	}
}

// A window that is larger than its record may be stays in front of the cursor with what the record cannot hold.
func TestLargeWindowsRecord(t *testing.T) {
	r := startRig(t, func(c *Config) { c.MaxInflight = 2 * maxWindowRows })
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("a", 1)
	const n = maxWindowRows + 10
	pub, _ := r.v5("pub", nil)
	for i := range n {
		pub.publish("a", fmt.Sprint(i), 1, uint16(i+1))
		pub.expect(0x40, 2, byte((i+1)>>8), byte(i+1))
		sub.message()
	}
	r = r.restart(false)
	sub, _ = r.v5("sub", lasting(1000))
	for i := range n {
		m := sub.message()
		if string(m.Payload) != fmt.Sprint(i) || int(m.PacketID) != i+1 || m.Duplicate != (i < maxWindowRows) {
			t.Fatalf("message %d: %s with id %d, DUP %v", i, m.Payload, m.PacketID, m.Duplicate)
		}
		sub.puback(m.PacketID)
	}
	sub.quiet()
}
