package mqtt

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// countingAuth lets everybody in and counts who was asked about.
type countingAuth struct {
	AllowAll
	asked *atomic.Int64
}

func (a countingAuth) Authenticate(c ClientInfo) (Identity, error) {
	a.asked.Add(1)
	return a.AllowAll.Authenticate(c)
}

// connackReasons is table 3-1 of MQTT 5.
var connackReasons = []byte{0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b,
	0x9c, 0x9d, 0x9f}

// A CONNECT that is none changes nothing: nobody is asked who the client is, the session of that name stays with
// its connection, what stands behind it is not read, and the connection ends. Only MQTT 5 is told why.
func TestBadConnectChangesNothing(t *testing.T) {
	// MQTT5 [MQTT-3.1.4-1] [MQTT-3.2.2-1] [MQTT-3.2.2-8]; MQTT3 [MQTT-3.1.2-1] [MQTT-3.1.4-1] [MQTT-3.2.2-6]
	var asked atomic.Int64
	r := startRig(t, func(c *Config) { c.Auth = countingAuth{asked: &asked} })
	owner, _ := r.v5("c", lasting(1000))
	for name, in := range map[string]string{
		"another protocol name":          "\x10\x00\x00\x04MQTX\x04\x02\x00\x3c\x00\x01c",
		"another protocol name, v5":      "\x10\x00\x00\x04mqtt\x05\x02\x00\x3c\x00\x00\x01c",
		"3.1.1: reserved flag":           "\x10\x00\x00\x04MQTT\x04\x03\x00\x3c\x00\x01c",
		"3.1.1: will QoS 3":              "\x10\x00\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01c\x00\x01w\x00\x01x",
		"3.1.1: will QoS, no will":       "\x10\x00\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01c",
		"3.1.1: password, no user name":  "\x10\x00\x00\x04MQTT\x04\x42\x00\x3c\x00\x01c\x00\x01p",
		"3.1.1: user name missing":       "\x10\x00\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c",
		"3.1.1: id not UTF-8":            "\x10\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x02c\xff",
		"3.1.1: will topic is a filter":  "\x10\x00\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x01#\x00\x01x",
		"3.1.1: bytes behind the end":    "\x10\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x01cX",
		"3.1.1: no client id":            "\x10\x00\x00\x04MQTT\x04\x02\x00\x3c",
		"5: reserved flag":               "\x10\x00\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01c",
		"5: will QoS 3":                  "\x10\x00\x00\x04MQTT\x05\x1e\x00\x3c\x00\x00\x01c\x00\x00\x01w\x00\x01x",
		"5: will retain, no will":        "\x10\x00\x00\x04MQTT\x05\x22\x00\x3c\x00\x00\x01c",
		"5: password missing":            "\x10\x00\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c",
		"5: property of another packet":  "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x03\x23\x00\x01\x00\x01c",
		"5: property twice":              "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x04\x19\x00\x19\x00\x00\x01c",
		"5: property out of range":       "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x02\x17\x02\x00\x01c",
		"5: properties past the packet":  "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x7f\x00\x01c",
		"5: user property not UTF-8":     "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x07\x26\x00\x01k\x00\x01\xff\x00\x01c",
		"5: will topic is a filter":      "\x10\x00\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x00\x00\x02a+\x00\x01x",
		"5: will response topic: filter": "\x10\x00\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x04\x08\x00\x01#\x00\x01w\x00\x01x",
		"5: no client id":                "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x00",
		"5: bytes behind the end":        "\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01cX",
	} {
		p := r.dial()
		p.say(sized(in) + "\x30\x05\x00\x01a\x00x") // and a publish behind it
		f := p.frame()
		switch {
		case in[8] == packet.V5 && in[4:8] == "MQTT":
			if len(f) != 5 || f[0] != 0x20 || f[2] != 0 || f[3] < 0x80 || !slices.Contains(connackReasons, f[3]) {
				t.Errorf("%s: % x, want a CONNACK that refuses", name, f)
				continue
			}
			p.expectEnd()
		case in[4:8] != "MQTT": // what it speaks is not known: the answer that every version understands
			if string(f) != "\x20\x02\x00\x01" {
				t.Errorf("%s: % x", name, f)
				continue
			}
			p.expectEnd()
		case f != nil:
			t.Errorf("%s: % x, want the end without a word", name, f)
		}
	}
	owner.quiet()
	if n := asked.Load(); n != 1 {
		t.Errorf("%d clients were authenticated, want 1", n)
	}
	if s := r.srv.Stats(); s.Takeovers != 0 || s.Sessions != 1 || s.Connected != 1 {
		t.Errorf("%+v", s)
	}
	if n := r.log.appended("telemetry"); n != 0 {
		t.Errorf("%d records", n)
	}
}

// An identifier that cannot be served is told so, and the connection ends: only an empty one for a lasting 3.1.1
// session is, since nobody could come back to that; MQTT 5 has an identifier made up for it.
func TestRefusedIdentifier(t *testing.T) { // MQTT3 [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-4] [MQTT-3.2.2-5]
	r := startRig(t, func(c *Config) { c.Auth = namesOnly{} })
	p := r.dial()
	p.say("\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00\xc0\x00")
	p.hear("\x20\x02\x00\x02")
	p.expectEnd()
	// One that the authorizer does not take. // MQTT5 [MQTT-3.1.3-8] [MQTT-3.2.2-7]; MQTT3 [MQTT-3.1.3-9]
	for in, want := range map[string]string{
		"\x10\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil\xc0\x00":     "\x20\x02\x00\x02",
		"\x10\x00\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04evil\xc0\x00": "\x20\x03\x00\x85\x00",
	} {
		p := r.dial()
		p.say(sized(in[:len(in)-2]) + in[len(in)-2:])
		p.hear(want)
		p.expectEnd()
	}
	if s := r.srv.Stats(); s.Sessions != 0 || s.Denied != 3 {
		t.Errorf("%+v", s)
	}
}

// namesOnly refuses one client identifier.
type namesOnly struct{ AllowAll }

func (namesOnly) Authenticate(c ClientInfo) (Identity, error) {
	if c.ClientID == "evil" {
		return Identity{}, ErrClientID
	}
	return Identity{ClientID: c.ClientID}, nil
}

// CONNACK comes before everything that the session owes its client: a PUBREL, a message to send again, one that
// waited, the answers to what stands right behind the CONNECT.
func TestConnackComesFirst(t *testing.T) { // MQTT5 [MQTT-3.2.0-1] [MQTT-3.2.2-1] [MQTT-3.2.2-3]; MQTT3 [MQTT-3.2.0-1] [MQTT-3.2.2-2]
	for _, version := range []byte{packet.V311, packet.V5} {
		r := startRig(t, nil)
		connect, fresh, again := "\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03sub", "\x20\x02\x00\x00", "\x20\x02\x01\x00"
		if version == packet.V5 {
			connect = "\x10\x15\x00\x04MQTT\x05\x00\x00\x3c\x05\x11\x00\x00\x03\xe8\x00\x03sub"
			fresh, again = "", ""
		}
		p := r.dial()
		p.version = version
		p.say(connect)
		if f := p.expectType(packet.CONNACK); fresh != "" && string(f) != fresh || f[2] != 0 {
			t.Fatalf("CONNACK % x", f)
		}
		p.subscribe("a", 2)
		pub, _ := r.v5("pub", nil)
		for i := range 3 { // the first is released, the second only sent
			pub.publish("a", string(rune('1'+i)), 2, uint16(i+1))
			pub.expect(0x50, 2, 0, byte(i+1))
			if i < 2 {
				p.message()
			} else {
				p.c.Close()
			}
			if i == 0 {
				p.write(0x50, 2, 0, 1)
				p.expect(0x62, 2, 0, 1)
			}
			if i == 1 {
				p.write(0xe0, 0)
				p.expectEnd()
			}
		}
		p = r.dial()
		p.version = version
		p.say(connect + "\xc0\x00")
		all := p.until(packet.PINGRESP)
		if f := all[0]; f[0] != 0x20 || f[2] != 1 || f[3] != 0 || again != "" && string(f) != again {
			t.Errorf("version %d: the first packet is % x, want an accepting CONNACK with the session", version, f)
		}
		for len(all) < 5 { // PINGRESP may overtake what is read from the log
			all = append(all, p.frame())
		}
		var types []string
		for _, f := range all[1:] {
			types = append(types, packet.Type(f[0]>>4).String())
		}
		slices.Sort(types)
		if want := []string{"PINGRESP", "PUBLISH", "PUBLISH", "PUBREL"}; !slices.Equal(types, want) {
			t.Errorf("version %d: %v, want %v", version, types, want)
		}
		r.stop()
	}
}

// Clean session throws a 3.1.1 session away, and leaves none behind.
func TestCleanSessionOf311(t *testing.T) { // MQTT3 [MQTT-3.1.2-6] [MQTT-3.1.4-3] [MQTT-3.2.2-1] [MQTT-3.2.2-3]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		pub, _ := r.v5("pub", nil)
		leave := func(p *peer) {
			t.Helper()
			p.write(0xe0, 0)
			p.expectEnd()
		}
		p := r.v311("dev", false)
		p.subscribe("a", 1)
		leave(p)
		pub.publish("a", "x", 1, 1)
		pub.expect(0x40, 2, 0, 1)
		p = r.v311("dev", true) // flag 0: nothing is present
		p.quiet()               // and nothing of the old one comes
		p.subscribe("b", 1)
		leave(p)
		eventually(t, "the session is gone", func() bool { return r.srv.Stats().Sessions == 1 && !r.sessions.has("dev") })
		p = r.v311("dev", false) // nor of the clean one
		pub.publish("b", "y", 1, 1)
		pub.expect(0x40, 2, 0, 1)
		p.quiet()
	})
}

// While its connection stands a session keeps everything, however short it may outlast that.
func TestSessionLastsAsLongAsItsConnection(t *testing.T) { // MQTT3 [MQTT-4.1.0-2]; MQTT5 [MQTT-4.1.0-1]
	inBubble(t, func(c *Config) { c.ExpiryMax = time.Second }, func(t *testing.T, r *rig) {
		three := r.dial()
		three.version = packet.V311
		three.say("\x10\x0f\x00\x04MQTT\x04\x00\x00\x00\x00\x03dev")
		three.expect(0x20, 2, 0, 0)
		five, _ := r.v5("five", func(c *packets.Connect) { lasting(1)(c); c.KeepAlive = 0 })
		for _, p := range []*peer{three, five} {
			p.subscribe("a", 1)
			p.publish("b", "x", 2, 7) // stays open
			p.expect(0x50, 2, 0, 7)
		}
		pub, _ := r.v5("pub", func(c *packets.Connect) { c.KeepAlive = 0 })
		time.Sleep(10 * time.Minute)
		pub.publish("a", "late", 1, 1)
		pub.expect(0x40, 2, 0, 1)
		for _, p := range []*peer{three, five} {
			if m := p.message(); string(m.Payload) != "late" {
				t.Errorf("%+v", m)
			}
			p.publish("b", "x", 2, 7)
			p.expect(0x50, 2, 0, 7)
			p.write(0x62, 2, 0, 7)
			p.expect(0x70, 2, 0, 7)
		}
		if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 2 {
			t.Errorf("%d records, want one each", n)
		}
	})
}

// One and a half keep alives of silence, not less, end a connection of either version.
func TestSilenceEndsTheConnection(t *testing.T) { // MQTT5 [MQTT-3.1.2-22]; MQTT3 [MQTT-3.1.2-24]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for _, version := range []byte{packet.V311, packet.V5} {
			p := r.connectAs(version, "dev") // keep alive 60
			for range 3 {
				time.Sleep(89 * time.Second)
				p.quiet()
			}
			p.c.SetReadDeadline(time.Time{})
			start := time.Now()
			var b [16]byte
			n, err := p.c.Read(b[:])
			if version == packet.V5 {
				if string(b[:n]) != "\xe0\x02\x8d\x00" && string(b[:n]) != "\xe0\x01\x8d" {
					t.Errorf("% x, want DISCONNECT 0x8d", b[:n])
				}
				_, err = p.c.Read(b[:])
			} else if n > 0 {
				t.Errorf("% x", b[:n])
			}
			if d := time.Since(start); err == nil || d < 90*time.Second || d > 91*time.Second {
				t.Errorf("version %d: ended after %v (%v), want 90 s", version, d, err)
			}
		}
	})
}
