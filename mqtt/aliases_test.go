package mqtt

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// aliasing connects a lasting MQTT 5 client that takes n topic aliases.
func (r *rig) aliasing(id string, n uint16) *peer {
	p, _ := r.v5(id, func(c *packets.Connect) {
		lasting(1000)(c)
		if n > 0 {
			c.Properties.TopicAliasMaximum = &n
		}
	})
	return p
}

// named gives a message the topic of its alias, as a client does, and checks that the alias may be.
func named(t *testing.T, m *packets.Publish, known map[uint16]string, most uint16) {
	t.Helper()
	a := m.Properties.TopicAlias
	switch {
	case a == nil && m.Topic == "":
		t.Fatalf("neither topic nor alias: %+v", m)
	case a == nil:
	case *a == 0 || *a > most:
		t.Fatalf("alias %d, the client takes %d", *a, most)
	case m.Topic == "" && known[*a] == "":
		t.Fatalf("alias %d was never explained", *a)
	case m.Topic == "":
		m.Topic = known[*a]
	default:
		known[*a] = m.Topic
	}
}

// A client that takes topic aliases gets its first topics under one, whoever publishes and in whatever order, and
// can always tell the topic; one that takes none gets none.
func TestAliasesOverConnections(t *testing.T) { // MQTT5 [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11]
	r := startRig(t, nil)
	none, some, three := r.aliasing("none", 0), r.aliasing("some", 5), r.v311("three", true)
	const publishers, topics, rounds = 4, 3, 20
	var working sync.WaitGroup
	for i := range publishers {
		pub, _ := r.v5(fmt.Sprint("pub", i), nil)
		if i == 0 {
			none.subscribe("plant/#", 1)
			some.subscribe("plant/#", 2)
			three.subscribe("plant/#", 0)
		}
		working.Go(func() {
			for j := range topics * rounds {
				topic := fmt.Sprintf("plant/%d/%d", i, j%topics)
				pub.publish(topic, topic, byte(j%2), uint16(j%2)) // each payload tells its topic
				if j%2 == 1 {
					if _, err := pub.tryFrame(patience); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	receive := func(p *peer, most uint16) {
		known, bare := map[uint16]string{}, 0
		for range publishers * topics * rounds {
			m := p.message()
			if m.Properties == nil {
				m.Properties = &packets.Properties{} // 3.1.1
			}
			bareNow := m.Topic == ""
			named(t, m, known, most)
			if m.Topic != string(m.Payload) {
				t.Fatalf("%+v arrived as %q", m, m.Topic)
			}
			if bareNow {
				bare++
			}
			if m.QoS == 1 {
				p.puback(m.PacketID)
			}
		}
		if len(known) != int(most) || bare != int(most)*(rounds-1) {
			t.Errorf("%d aliases used and %d topics spared, want %d and %d", len(known), bare, most, int(most)*(rounds-1))
		}
	}
	receive(some, 5)
	receive(none, 0)
	receive(three, 0)
	working.Wait()
}

// Aliases end with their connection: what is sent again on the next one carries its topic, and the first new
// message explains its alias anew.
func TestAliasesEndWithTheConnection(t *testing.T) { // MQTT5 [MQTT-3.3.2-7] [MQTT-4.4.0-1]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub := r.aliasing("sub", 10)
		sub.subscribe("plant/1", 1)
		pub, _ := r.v5("pub", nil)
		send := func(payload string) {
			t.Helper()
			pub.publish("plant/1", payload, 1, 1)
			pub.expect(0x40, 2, 0, 1)
		}
		check := func(topic string, alias uint16, payload string, dup bool) {
			t.Helper()
			m := sub.message()
			var got uint16
			if m.Properties.TopicAlias != nil {
				got = *m.Properties.TopicAlias
			}
			if m.Topic != topic || got != alias || string(m.Payload) != payload || m.Duplicate != dup {
				t.Errorf("%+v under alias %d", m, got)
			}
		}
		send("one")
		check("plant/1", 1, "one", false)
		send("two")
		check("", 1, "two", false)
		sub.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
		send("three")
		sub = r.aliasing("sub", 10)
		check("plant/1", 0, "one", true)
		check("plant/1", 0, "two", true)
		check("plant/1", 1, "three", false)
		send("four")
		check("", 1, "four", false)
		second := r.aliasing("sub", 0) // taken over by a connection that takes none
		sub.expectType(packet.DISCONNECT)
		sub = second
		for _, payload := range []string{"one", "two", "three", "four"} {
			check("plant/1", 0, payload, true)
		}
		send("five")
		check("plant/1", 0, "five", false)
	})
}

// Retained messages and $SYS go out under aliases like any other; a server told to use none uses none.
func TestAliasesOfAllKinds(t *testing.T) {
	for _, off := range []bool{false, true} {
		r := startRig(t, func(c *Config) {
			if off {
				c.AliasesOut = -1
			}
		})
		pub, _ := r.v5("pub", nil)
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("plant/1"), Payload: []byte("x"), QoS: 1, ID: 1, Retain: true}, packet.V5)...)
		pub.expect(0x40, 2, 0, 1)
		sub := r.aliasing("sub", 100)
		known := map[uint16]string{}
		for range 2 {
			sub.subscribe("plant/1", 1)
			m := sub.message()
			named(t, m, known, 16)
			if m.Topic != "plant/1" || !m.Retain {
				t.Errorf("%+v", m)
			}
			sub.puback(m.PacketID)
			sub.subscribe("$SYS/#", 0)
			for range 9 {
				m := sub.message()
				named(t, m, known, 16)
				if !strings.HasPrefix(m.Topic, "$SYS/broker/") {
					t.Errorf("%+v", m)
				}
			}
		}
		if want := 10; !off && len(known) != want || off && len(known) != 0 {
			t.Errorf("off %v: %d aliases", off, len(known))
		}
		r.stop()
	}
}

// Response information comes only when asked for, and never is: none is configured.
func TestNoResponseInformation(t *testing.T) { // MQTT5 [MQTT-3.1.2-28]
	r := startRig(t, nil)
	for _, ask := range []byte{0, 1} {
		_, ack := r.v5("dev", func(c *packets.Connect) { c.Properties.RequestResponseInfo = &ask })
		if ack.Properties.ResponseInfo != "" {
			t.Errorf("asked %d: response information %q", ask, ack.Properties.ResponseInfo)
		}
	}
}
