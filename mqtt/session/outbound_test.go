package session

import (
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/mqtt/packet"
)

func TestDeliveryQoS1(t *testing.T) { // MQTT5 [MQTT-4.3.2-1] to [MQTT-4.3.2-3]
	// MQTT5 [MQTT-4.4.0-2]
	x := start(t, packet.V5, nil)
	x.deliver(1, 10)
	x.deliver(1, 11)
	x.deliver(0, 12)
	x.want("PUBLISH 1 t, PUBLISH 2 t, PUBLISH 0 t")
	x.mustAck(packet.PUBACK, 2)
	x.want("done 2@11")
	x.mustAck(packet.PUBACK, 2) // a repeat has no effect
	x.want("")
	if err := x.ack(packet.PUBACK, 1, packet.ImplementationSpecificError); err != nil { // a refusal ends the exchange too
		t.Fatal(err)
	}
	x.want("done 1@10")
}

func TestDeliveryQoS2(t *testing.T) { // MQTT5 [MQTT-4.3.3-1] to [MQTT-4.3.3-7]; M9
	x := start(t, packet.V5, nil)
	x.deliver(2, 10)
	x.want("PUBLISH 1 t")
	x.mustAck(packet.PUBREC, 1)
	x.want("received 1") // PUBREL waits until that is durable
	x.mustAck(packet.PUBREC, 1)
	x.want("")
	x.s.ReceivedStored(1, true)
	x.want("PUBREL 1")
	x.mustAck(packet.PUBREC, 1) // the client did not see our PUBREL
	x.want("PUBREL 1")
	x.mustAck(packet.PUBCOMP, 1)
	x.want("done 1@10")
	x.mustAck(packet.PUBREC, 1) // MQTT5 §3.6.2.1
	x.want("PUBREL 1 0x92")
	x.deliver(2, 11)
	x.take()
	if err := x.ack(packet.PUBREC, 2, packet.NotAuthorized); err != nil { // MQTT5 [MQTT-4.3.3-3]
		t.Fatal(err)
	}
	x.want("done 2@11")
	x.deliver(2, 12)
	x.take()
	x.mustAck(packet.PUBREC, 3)
	x.take()
	if reasonOf(x.s.ReceivedStored(3, false)) != packet.ServerUnavailable {
		t.Error("PUBREL although PUBREC is not durable")
	}
	x.want("")
}

// The client's packet id 1 and ours are different exchanges (§5 trap).
func TestIDSpacesAreSeparate(t *testing.T) { // MQTT5 [MQTT-2.2.1-4]
	x := start(t, packet.V5, nil)
	x.deliver(1, 10)
	x.deliver(2, 11)
	x.mustPublish(1, 1, "a")
	x.mustPublish(2, 2, "a")
	x.take()
	x.committed(0, 1)
	x.s.Stored(x.seqs[1], packet.Success, 0)
	x.want("PUBACK 1, PUBREC 2")
	x.mustAck(packet.PUBREL, 2)
	x.s.Released(x.seqs[2], true)
	x.want("release 2, PUBCOMP 2")
	if n := x.s.Live(); n != 2 {
		t.Fatalf("%d messages wait for the client, want both", n)
	}
	x.mustAck(packet.PUBACK, 1)
	x.want("done 1@10")
}

func TestAckOfTheWrongKind(t *testing.T) {
	for _, c := range []struct {
		qos byte
		ack packet.Type
	}{{2, packet.PUBACK}, {1, packet.PUBREC}, {1, packet.PUBCOMP}, {2, packet.PUBCOMP}} {
		x := start(t, packet.V5, nil)
		x.deliver(c.qos, 1)
		if r := reasonOf(x.ack(c.ack, 1, 0)); r != packet.ProtocolError {
			t.Errorf("%s for QoS %d: %v", c.ack, c.qos, r)
		}
	}
}

// The quota comes from the window and returns with every kind of ending: a burst never stalls a subscriber for
// good (§5 trap: 2727 of 5677 delivered).
func TestQuotaNeverLeaks(t *testing.T) { // MQTT5 [MQTT-4.9.0-1] to [MQTT-4.9.0-3] [MQTT-3.3.4-9]
	rapid.Check(t, func(rt *rapid.T) {
		x := start(t, packet.V5, func(c *packet.Connect) { c.ReceiveMaximum = 3 })
		open := map[uint16]byte{}
		next, offset := uint16(1), int64(0)
		for range rapid.IntRange(1, 300).Draw(rt, "steps") {
			qos := byte(rapid.IntRange(1, 2).Draw(rt, "qos"))
			if x.deliver(qos, offset) {
				open[next] = qos
				next++
				offset++
			} else if len(open) < 3 {
				rt.Fatalf("refused with %d of 3 in flight", len(open))
			}
			if len(open) > 3 {
				rt.Fatalf("%d in flight, the client takes 3", len(open))
			}
			if rapid.Bool().Draw(rt, "ack") {
				for id, q := range open {
					r := rapid.SampledFrom([]packet.Reason{0, packet.QuotaExceeded}).Draw(rt, "reason")
					switch {
					case q == 1:
						x.ack(packet.PUBACK, id, r)
					case r != 0:
						x.ack(packet.PUBREC, id, r)
					default:
						x.ack(packet.PUBREC, id, 0)
						x.s.ReceivedStored(id, true)
						x.ack(packet.PUBCOMP, id, 0)
					}
					delete(open, id)
					break
				}
			}
			x.s.Out, x.out = nil, nil
			if x.s.Live() != len(open) {
				rt.Fatalf("%d live, want %d", x.s.Live(), len(open))
			}
		}
	})
}

func TestReadyFollowsRefusal(t *testing.T) {
	x := start(t, packet.V5, nil) // MaxInflight 4
	for i := range int64(4) {
		x.deliver(1, i)
	}
	if x.deliver(1, 4) {
		t.Fatal("a fifth message fits into a window of four")
	}
	x.take()
	x.mustAck(packet.PUBACK, 2)
	x.want("done 2@1, ready")
	x.mustAck(packet.PUBACK, 1)
	x.want("done 1@0") // nothing is owed any more
	// Output that is full refuses as well, QoS 0 included, until it has been taken.
	x = start(t, packet.V5, nil)
	big := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), Payload: make([]byte, 2000)}, packet.V5)
	if !x.s.Deliver(&Delivery{Frame: big}) || x.s.Deliver(&Delivery{Frame: big}) {
		t.Fatal("want one message to fit and the next not to")
	}
	x.s.Out = nil
	x.s.Drained()
	x.want("ready")
	// A client that acknowledges while nothing was refused wakes nobody.
	x.deliver(1, 1)
	x.take()
	x.mustAck(packet.PUBACK, 1)
	x.want("done 1@1")
}

func TestClientMaximumPacketSize(t *testing.T) { // MQTT5 [MQTT-3.1.2-24] [MQTT-3.1.2-25]
	of := func(size int) []byte { // the smallest such packet has 8 bytes
		return packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), QoS: 1, ID: 1, Payload: make([]byte, size-8)}, packet.V5)
	}
	x := start(t, packet.V5, func(c *packet.Connect) { c.MaxPacket = 20 })
	if !x.s.Deliver(&Delivery{Frame: of(21), IDAt: 5, QoS: 1}) {
		t.Fatal("a message that is too large counts as delivered")
	}
	x.want("")
	if x.s.Live() != 0 {
		t.Error("it occupies the window")
	}
	x.s.Deliver(&Delivery{Frame: of(20), IDAt: 5, QoS: 1})
	x.want("PUBLISH 1 t")
}

func TestResendInOriginalOrder(t *testing.T) { // MQTT5 [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1]; §5 trap
	// MQTT3 [MQTT-2.3.1-4] [MQTT-3.3.1-1] [MQTT-4.4.0-1]
	x := start(t, packet.V311, nil)
	x.deliver(1, 10)
	x.deliver(2, 11)
	x.deliver(2, 12)
	x.deliver(1, 13)
	x.mustAck(packet.PUBREC, 2)
	x.s.ReceivedStored(2, true)
	x.mustAck(packet.PUBACK, 1)
	x.take()
	x.s.Lost()
	if x.deliver(1, 14) {
		t.Fatal("delivered without a connection")
	}
	x.connect(packet.V311, true, nil)
	x.take()
	for u := range x.s.Unacked(0) {
		frame := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), QoS: u.QoS, ID: 9}, packet.V311)
		x.s.Resend(u, &Delivery{Frame: frame, IDAt: 5})
	}
	x.want("PUBREL 2, PUBLISH 3 t DUP, PUBLISH 4 t DUP")
	x.deliver(1, 14)
	x.want("PUBLISH 5 t")
}

func TestDroppedEntryLeavesNoTrace(t *testing.T) {
	x := start(t, packet.V5, nil)
	x.deliver(1, 10)
	x.deliver(1, 11)
	x.s.Drop(1)
	x.take()
	var left []uint16
	for u := range x.s.Unacked(0) {
		left = append(left, u.ID)
	}
	if len(left) != 1 || left[0] != 2 {
		t.Errorf("window %v", left)
	}
	x.mustAck(packet.PUBACK, 1)
	x.want("")
}

// A session that comes back begins with another id: a client may have kept a copy of a message under one that it had. // M9
func TestRestoredSessionGoesOnWithOtherIDs(t *testing.T) {
	for _, next := range []uint16{1, 77, 65535} {
		x := start(t, packet.V5, nil)
		x.s.Restore(nil, next)
		x.deliver(1, 10)
		x.deliver(2, 11)
		x.want(fmt.Sprintf("PUBLISH %d t, PUBLISH %d t", next, next%65535+1))
		x.mustAck(packet.PUBACK, next)
		x.want(fmt.Sprintf("done %d@10", next))
	}
}

// After a restart the window is what was stored, in the order of first sending, also where the ids have passed 65535;
// new ids come behind it. // M9; MQTT5 [MQTT-2.2.1-4] [MQTT-4.4.0-1]
func TestRestoredWindow(t *testing.T) {
	x := start(t, packet.V5, nil) // MaxInflight 4
	x.s.Restore([]Exchange{
		{ID: 2, QoS: 2, Ref: Ref{Offset: 7}}, {ID: 65534, QoS: 2, Ref: Ref{Offset: 5}}, {ID: 0}, {ID: 2, QoS: 1},
		{ID: 65535, QoS: 2, Released: true, Ref: Ref{Offset: 6}}, {ID: 3, QoS: 1, Ref: Ref{Offset: 9}},
	}, 77)
	if n := x.s.Live(); n != 4 {
		t.Fatalf("%d in the window, want 4", n)
	}
	for u := range x.s.Unacked(0) {
		if u.N >= x.s.WindowEnd() || u.Unstored {
			t.Errorf("%+v", u)
		}
		frame := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), QoS: u.QoS, ID: 9}, packet.V5)
		x.s.Resend(u, &Delivery{Frame: frame, IDAt: 5})
	}
	x.want("PUBLISH 65534 t DUP, PUBREL 65535, PUBLISH 2 t DUP, PUBLISH 3 t DUP")
	if x.deliver(1, 10) {
		t.Error("what was restored does not count in the window of four")
	}
	x.mustAck(packet.PUBREC, 65534)
	x.want("received 65534")
	x.s.ReceivedStored(65534, true)
	x.want("PUBREL 65534")
	x.mustAck(packet.PUBACK, 3)
	for _, id := range []uint16{65535, 65534} {
		x.mustAck(packet.PUBCOMP, id)
	}
	x.want("done 3@9, ready, done 65535@6, done 65534@5")
	x.deliver(1, 10)
	x.want("PUBLISH 4 t")
	if err := x.ack(packet.PUBREC, 2, packet.NotAuthorized); err != nil {
		t.Fatal(err)
	}
	x.want("done 2@7")
}

// A packet id is durable before its PUBLISH leaves, and what was delivered behind it stays behind it. // M9, M3
func TestPublishWaitsForItsID(t *testing.T) {
	x := start(t, packet.V5, nil)
	stored := func(qos byte, offset int64) bool {
		p := packet.Publish{Topic: []byte("t"), QoS: qos, ID: 1}
		return x.s.Deliver(&Delivery{Frame: packet.AppendPublish(nil, &p, x.s.version), IDAt: 5, QoS: qos, Ref: Ref{Offset: offset}, Store: true})
	}
	x.deliver(1, 10)
	stored(2, 11)
	end := x.s.WindowEnd()
	x.deliver(0, 12)
	x.deliver(1, 13)
	stored(2, 14)
	x.want("PUBLISH 1 t")
	if x.s.Held() == 0 {
		t.Error("what waits does not count as output")
	}
	x.mustAck(packet.PUBREC, 2) // of a message that never went out
	x.want("PUBREL 2 0x92")
	x.mustAck(packet.PUBACK, 3)
	x.want("")
	x.s.IDsStored(end, true)
	x.want("PUBLISH 2 t, PUBLISH 0 t, PUBLISH 3 t")
	if err := x.s.IDsStored(x.s.WindowEnd(), false); reasonOf(err) != packet.ServerUnavailable {
		t.Errorf("%v for an id that is not durable", err)
	}
	x.want("")
	x.s.Lost()
	x.connect(packet.V5, true, nil)
	x.take()
	x.s.IDsStored(end, true) // the fourth is not among them
	resend := func() {
		for u := range x.s.Unacked(0) {
			if u.Unstored {
				break
			}
			frame := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), QoS: u.QoS, ID: 9}, packet.V5)
			x.s.Resend(u, &Delivery{Frame: frame, IDAt: 5})
		}
	}
	resend()
	x.want("PUBLISH 1 t DUP, PUBLISH 2 t DUP, PUBLISH 3 t DUP")
	x.mustAck(packet.PUBACK, 1)
	x.mustAck(packet.PUBACK, 3)
	x.take()
	x.s.IDsStored(x.s.WindowEnd(), true) // the connection that had its message has gone
	x.want("")
	resend()
	x.want("PUBLISH 2 t DUP, PUBLISH 4 t") // no DUP on what never left // MQTT5 [MQTT-3.3.1-1]
	if x.s.Held() != 0 {
		t.Error("a message is held though none waits")
	}
}

// A QoS 2 message that retention took before it was sent again: its id must be free at the client before it is used anew.
func TestAbandonedMessageFreesItsID(t *testing.T) { // M9
	x := start(t, packet.V5, nil)
	x.deliver(2, 10)
	x.deliver(1, 11)
	x.take()
	x.s.Abandon(1)
	x.s.Abandon(2)
	x.want("PUBREL 1")
	if n := x.s.Live(); n != 1 {
		t.Errorf("%d in the window, want the release", n)
	}
	x.mustAck(packet.PUBCOMP, 1)
	x.want("done 1@10")
}

// Packet ids run through the whole space, skip none but 0, and never meet one in flight, also with a message
// that the client leaves unacknowledged for ever.
func TestPacketIDsWrap(t *testing.T) { // MQTT5 [MQTT-2.2.1-4]
	x := start(t, packet.V5, nil)
	last := uint16(0)
	for i := range int64(2*packetIDs + 10) {
		if !x.deliver(1, i) {
			t.Fatalf("message %d refused", i)
		}
		id := last%packetIDs + 1
		if sent := binary.BigEndian.Uint16(x.s.Out[5:]); sent != id {
			t.Fatalf("message %d went out with id %d, want %d", i, sent, id)
		}
		x.s.Out = nil
		x.mustAck(packet.PUBACK, id)
		if x.s.Live() != 0 {
			t.Fatalf("message %d did not have id %d", i, id)
		}
		x.out = nil
		last = id
	}
	x.deliver(1, 0) // stays
	sent := 0
	for i := int64(1); x.deliver(1, i); i++ {
		x.s.Out = nil
		x.mustAck(packet.PUBACK, last%packetIDs+1+uint16(i))
		x.out = nil
		sent++
	}
	if want := maxSpan - 1; sent != want {
		t.Errorf("%d messages passed a stuck one, want %d: the window with its holes is bounded", sent, want)
	}
}

// A member of a shared subscription loses its connection with one message unacknowledged, the oldest of a burst: it is dropped
// from the window while that is walked, and the window with it.
func TestWindowEndsWhileItIsWalked(t *testing.T) {
	limits := testLimits
	limits.MaxInflight, limits.OutputMax = burstRing, 1<<20
	x := &script{t: t}
	x.s = New(x, &limits, 1)
	x.connect(packet.V5, false, nil)
	for i := range burstRing {
		x.deliver(1, int64(i))
	}
	for id := range uint16(burstRing - 1) {
		x.mustAck(packet.PUBACK, id+2)
	}
	n := 0
	for u := range x.s.Unacked(0) {
		x.s.Drop(u.ID)
		n++
	}
	if n != 1 || x.s.Live() != 0 {
		t.Errorf("%d entries walked, %d live", n, x.s.Live())
	}
}
