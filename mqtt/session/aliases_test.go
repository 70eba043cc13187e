package session

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// send delivers a message with a topic.
func (x *script) send(qos byte, topic string) {
	x.t.Helper()
	if !x.s.Deliver(delivery(qos, topic, "x")) {
		x.t.Fatalf("%s was refused", topic)
	}
}

func delivery(qos byte, topic, payload string) *Delivery {
	p := packet.Publish{Topic: []byte(topic), QoS: qos, Payload: []byte(payload)}
	if qos > 0 {
		p.ID = 9
	}
	frame := packet.AppendPublish(nil, &p, packet.V5)
	return &Delivery{Frame: frame, IDAt: 4 + len(topic), QoS: qos}
}

func taking(aliases uint16) func(*packet.Connect) {
	return func(c *packet.Connect) { c.AliasMaximum = aliases }
}

func TestAliasesOut(t *testing.T) { // MQTT5 [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-7] [MQTT-3.3.2-8] [MQTT-3.3.2-11]
	for _, c := range []struct {
		takes uint16
		want  string
	}{
		{0, "PUBLISH 0 aaaa, PUBLISH 0 bbbb, PUBLISH 1 aaaa, PUBLISH 2 cccc, PUBLISH 3 cccc, PUBLISH 4 dddd, PUBLISH 0 bbbb"},
		{1, "PUBLISH 0 aaaa #1, PUBLISH 0 bbbb, PUBLISH 1  #1, PUBLISH 2 cccc, PUBLISH 3 cccc, PUBLISH 4 dddd, PUBLISH 0 bbbb"},
		{2, "PUBLISH 0 aaaa #1, PUBLISH 0 bbbb #2, PUBLISH 1  #1, PUBLISH 2 cccc, PUBLISH 3 cccc, PUBLISH 4 dddd, PUBLISH 0  #2"},
		// Beyond the server's own limit, which is 3.
		{65535, "PUBLISH 0 aaaa #1, PUBLISH 0 bbbb #2, PUBLISH 1  #1, PUBLISH 2 cccc #3, PUBLISH 3  #3, PUBLISH 4 dddd, PUBLISH 0  #2"},
	} {
		x := start(t, packet.V5, taking(c.takes))
		for range 2 { // the second connection begins anew
			x.send(0, "aaaa")
			x.send(0, "bbbb")
			x.send(1, "aaaa")
			x.send(2, "cccc")
			x.send(1, "cccc")
			x.send(1, "dddd")
			x.send(0, "bbbb")
			x.want(c.want)
			for id := uint16(1); id <= 4; id++ {
				x.s.Drop(id)
			}
			x.s.Lost()
			x.s.out = outbound{}
			x.connect(packet.V5, true, taking(c.takes))
			x.take()
		}
		x.s.Lost()
		x.connect(packet.V5, true, nil) // and one that takes none
		x.take()
		x.send(0, "aaaa")
		x.send(0, "aaaa")
		x.want("PUBLISH 0 aaaa, PUBLISH 0 aaaa")
		if x.s.aliases != nil {
			t.Error("a client that takes no alias costs memory for them")
		}
	}
}

// Both sides count their aliases apart.
func TestAliasesOfBothSides(t *testing.T) {
	x := start(t, packet.V5, taking(2))
	if _, err := x.publish(0, 0, "theirs", 1); err != nil {
		t.Fatal(err)
	}
	x.send(0, "ours")
	x.send(0, "ours")
	if _, err := x.publish(0, 0, "", 1); err != nil {
		t.Fatal(err)
	}
	x.want("append theirs, append theirs, PUBLISH 0 ours #1, PUBLISH 0  #1")
}

// What is sent again carries its topic: the aliases of the connection that it was first sent on are gone.
func TestRepeatsCarryTheirTopic(t *testing.T) { // MQTT5 [MQTT-3.3.2-7] [MQTT-4.4.0-1]
	x := start(t, packet.V5, taking(2))
	x.send(0, "aaaa")
	x.send(1, "aaaa")
	x.send(2, "aaaa")
	x.want("PUBLISH 0 aaaa #1, PUBLISH 1  #1, PUBLISH 2  #1")
	x.s.Lost()
	x.connect(packet.V5, true, taking(2))
	x.take()
	for u := range x.s.Unacked(0) {
		x.s.Resend(u, delivery(u.QoS, "aaaa", "x"))
	}
	x.send(0, "aaaa")
	x.send(0, "aaaa")
	x.want("PUBLISH 1 aaaa DUP, PUBLISH 2 aaaa DUP, PUBLISH 0 aaaa #1, PUBLISH 0  #1")
}

// The size that the client takes holds for what is sent, and the alias decides nothing: a message that is too large
// with its topic is not sent without it either, and one that the alias would make too large has none.
func TestAliasesKeepTheMaximumPacketSize(t *testing.T) { // MQTT5 [MQTT-3.1.2-24]
	for size := 15; size < 40; size++ {
		x := start(t, packet.V5, func(c *packet.Connect) { c.AliasMaximum, c.MaxPacket = 2, 30 })
		d := delivery(1, "topic", strings.Repeat("x", size-12))
		if len(d.Frame) != size {
			t.Fatalf("%d bytes, want %d", len(d.Frame), size)
		}
		for range 2 {
			if !x.s.Deliver(d) {
				t.Fatal("refused")
			}
		}
		want := "PUBLISH 1 topic #1, PUBLISH 2  #1"
		switch {
		case size > 30:
			want = ""
		case size > 25:
			want = "PUBLISH 1 topic, PUBLISH 2 topic"
		}
		for b := x.s.Out; len(b) > 0; {
			f, err := packet.Split(b, 30)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			b = b[f.Size:]
		}
		if got := x.take(); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
}

// A short topic is no longer than its alias, and a very long one is not kept.
func TestTopicsWithoutAlias(t *testing.T) {
	x := start(t, packet.V5, taking(3))
	long := strings.Repeat("l", maxAliased+1)
	for range 2 {
		x.send(0, "abc")
		x.s.Out = append(x.s.Out, 0xd0, 0)
		d := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(long)}, packet.V5)
		if !x.s.Deliver(&Delivery{Frame: d}) {
			t.Fatal("refused")
		}
		x.want(fmt.Sprintf("PUBLISH 0 abc, PINGRESP, PUBLISH 0 %s", long))
	}
}

func TestAliasesAllocateNothing(t *testing.T) {
	x := start(t, packet.V5, taking(3))
	var ds []*Delivery
	for _, topic := range []string{"aaaa", "bbbb", "cccc", "none"} {
		d := delivery(0, topic, "x")
		ds = append(ds, d)
		x.s.Deliver(d)
	}
	out := bytes.Clone(x.s.Out)
	if n := testing.AllocsPerRun(100, func() {
		for _, d := range ds {
			x.s.Out = out[:0]
			if !x.s.Deliver(d) {
				t.Fatal("refused")
			}
		}
	}); n > 0 {
		t.Errorf("%v allocations for four messages", n)
	}
}
