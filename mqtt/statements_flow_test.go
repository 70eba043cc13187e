package mqtt

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// A whole conversation of two 3.1.1 clients by the letter of the standard: every packet, byte for byte, and no
// extension anywhere.
func TestConversationOf311(t *testing.T) {
	// MQTT3 [MQTT-2.3.1-4] [MQTT-2.3.1-5] [MQTT-2.3.1-6] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-7.0.0-2]
	r := startRig(t, nil)
	sub, pub := r.dial(), r.dial()
	talk := func(p *peer, lines ...string) {
		t.Helper()
		for _, l := range lines {
			if l[0] == '>' {
				p.say(l[1:])
			} else {
				p.hear(l[1:])
			}
		}
	}
	const hello = "<\x20\x02\x00\x00"
	talk(sub, ">\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03sub", hello, ">\x82\x06\x00\x01\x00\x01a\x02", "<\x90\x03\x00\x01\x02")
	talk(pub, ">\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03pub", hello)

	talk(pub, ">\x30\x04\x00\x01a0", ">\x32\x06\x00\x01a\x00\x091", "<\x40\x02\x00\x09")
	talk(sub, "<\x30\x04\x00\x01a0", "<\x32\x06\x00\x01a\x00\x011", ">\x40\x02\x00\x01", ">\xc0\x00", "<\xd0\x00")

	// QoS 2 in: until PUBREL a repeat is answered and no second message; then PUBCOMP, and the identifier is free.
	talk(pub, ">\x34\x06\x00\x01a\x00\x092", "<\x50\x02\x00\x09", ">\x3c\x06\x00\x01a\x00\x092", "<\x50\x02\x00\x09",
		">\x62\x02\x00\x09", "<\x70\x02\x00\x09", ">\x62\x02\x00\x09", "<\x70\x02\x00\x09", ">\x34\x06\x00\x01a\x00\x093", "<\x50\x02\x00\x09")
	// QoS 2 out: a fresh identifier each, without DUP; PUBREL answers PUBREC as often as that comes; after PUBCOMP it is over.
	talk(sub, "<\x34\x06\x00\x01a\x00\x022", "<\x34\x06\x00\x01a\x00\x033", ">\x50\x02\x00\x02", "<\x62\x02\x00\x02", ">\x50\x02\x00\x02",
		"<\x62\x02\x00\x02", ">\xc0\x00", "<\xd0\x00", ">\x70\x02\x00\x02", ">\x50\x02\x00\x03", "<\x62\x02\x00\x03")
	talk(pub, ">\x32\x06\x00\x01a\x00\x0a4", "<\x40\x02\x00\x0a")
	talk(sub, "<\x32\x06\x00\x01a\x00\x044")
	sub.c.Close()
	eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
	// What is open is open still: PUBREL and not PUBLISH for 3, PUBLISH with DUP for 4, nothing for what ended.
	sub = r.dial()
	talk(sub, ">\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03sub", "<\x20\x02\x01\x00", "<\x62\x02\x00\x03", "<\x3a\x06\x00\x01a\x00\x044",
		">\x40\x02\x00\x04", ">\x70\x02\x00\x03", ">\xc0\x00", "<\xd0\x00", ">\xa2\x05\x00\x02\x00\x01a", "<\xb0\x02\x00\x02", ">\xe0\x00")
	sub.expectEnd()
	talk(pub, ">\xe0\x00")
	pub.expectEnd()
	sub = r.dial()
	talk(sub, ">\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03sub", "<\x20\x02\x01\x00", ">\xc0\x00", "<\xd0\x00")
	if got := payloads(r, "a"); got != "0 1 2 3 4" {
		t.Errorf("recorded %s", got)
	}
}

func payloads(r *rig, topic string) string {
	var all []string
	for _, rec := range r.log.records(r.t, "telemetry") {
		if string(rec.Headers[0].Value) == topic {
			all = append(all, string(rec.Value))
		}
	}
	return strings.Join(all, " ")
}

// Messages of one publisher, topic and QoS reach a subscriber in the order they were sent, all of them, and what
// is repeated is repeated in that order: through a small window, with others publishing, over lost connections.
func TestOrderIsKept(t *testing.T) {
	// MQTT5 [MQTT-3.3.1-1] [MQTT-4.6.0-1] [MQTT-4.6.0-5] [MQTT-4.6.0-6]; MQTT3 [MQTT-3.3.1-1] [MQTT-4.6.0-1] [MQTT-4.6.0-5] [MQTT-4.6.0-6]
	for _, version := range []byte{packet.V311, packet.V5} {
		r := startRig(t, func(c *Config) { c.MaxInflight = 5 })
		connect := func() *peer {
			if version == packet.V5 {
				p, _ := r.v5("sub", lasting(1000))
				return p
			}
			p := r.dial()
			p.version = version
			p.say("\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03sub")
			p.expectType(packet.CONNACK)
			return p
		}
		sub := connect()
		sub.subscribe("t/#", 2)
		const publishers, n = 3, 120
		var publishing sync.WaitGroup
		for i := range publishers {
			pub, _ := r.v5(fmt.Sprint("pub", i), nil)
			publishing.Go(func() {
				for j := range n {
					qos := byte(j%2 + 1)
					pub.publish(fmt.Sprintf("t/%d", j%3), fmt.Sprintf("%d %d %d", i, qos, j), qos, uint16(j+1))
					if f, err := pub.tryFrame(patience); err != nil || f[0]>>4 != 3+qos {
						t.Errorf("publish %d: % x, %v", j, f, err)
						return
					}
				}
			})
		}
		seen := map[string]bool{}
		last := map[string]int{} // newest number of a publisher, topic and QoS
		open := [][]byte{}       // sent on this connection and not acknowledged
		var repeats [][]byte     // what the new connection has to begin with
		for round := 0; len(seen) < publishers*n; {
			f := sub.frame()
			if packet.Type(f[0]>>4) == packet.PUBREL {
				sub.write(0x70, 2, f[2], f[3])
				continue
			}
			m, err := decodePaho(f, version)
			if err != nil {
				t.Fatal(err)
			}
			if len(repeats) > 0 {
				want := bytes.Clone(repeats[0])
				want[0] |= 8
				if !bytes.Equal(f, want) {
					t.Fatalf("version %d: % x, want % x again", version, f, want)
				}
				repeats = repeats[1:]
			} else if m.Duplicate {
				t.Fatalf("version %d: % x has DUP and was never sent", version, f)
			}
			var by, qos, number int
			fmt.Sscanf(string(m.Payload), "%d %d %d", &by, &qos, &number)
			stream := fmt.Sprint(by, m.Topic, qos)
			if !seen[string(m.Payload)] {
				if before, ok := last[stream]; ok && number <= before {
					t.Fatalf("version %d: %s of %s came behind %d", version, m.Payload, m.Topic, before)
				}
				last[stream] = number
				seen[string(m.Payload)] = true
			}
			f[0] &^= 8
			open = append(open, f)
			if len(open) < 5 && len(seen) < publishers*n {
				continue
			}
			if round++; round%10 == 0 { // lost with all that is open
				sub.c.Close()
				sub = connect()
				repeats, open = open, nil
				continue
			}
			for _, o := range open {
				id := packetID(o)
				if o[0]&6 == 4 {
					sub.write(0x50, 2, byte(id>>8), byte(id))
				} else {
					sub.puback(id)
				}
			}
			open = nil
		}
		publishing.Wait()
		r.stop()
	}
}
