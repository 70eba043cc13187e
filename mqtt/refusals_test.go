package mqtt

import (
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// Who is not let in, and what is not allowed, is counted once, the one apart from the other.
func TestRefusalsAreCounted(t *testing.T) {
	auth := mustAuth(t, "users: [{name: u, password: \"HASH\", publish: [mine], subscribe: [mine]}]")
	r := startRig(t, func(c *Config) { c.Auth = auth })
	as := func(password, will string) func(*packets.Connect) {
		return func(c *packets.Connect) {
			c.UsernameFlag, c.Username, c.PasswordFlag, c.Password = true, "u", true, []byte(password)
			if will != "" {
				c.WillFlag, c.WillTopic, c.WillMessage = true, will, []byte("w")
			}
		}
	}
	want := func(what string, unauthenticated, unauthorized int64) {
		t.Helper()
		if s := r.srv.Stats(); s.Unauthenticated != unauthenticated || s.Unauthorized != unauthorized {
			t.Errorf("%s: %d not authenticated, %d not authorized, want %d and %d", what, s.Unauthenticated, s.Unauthorized, unauthenticated, unauthorized)
		}
	}
	connect := func(tweak func(*packets.Connect), code packet.Reason) *peer {
		t.Helper()
		p := r.dial()
		if ack := p.tryConnect5("c", tweak); packet.Reason(ack.ReasonCode) != code {
			t.Fatalf("CONNACK %#x, want %#x", ack.ReasonCode, code)
		}
		return p
	}
	connect(as("wrong", ""), packet.BadUserNameOrPassword)
	want("a wrong password", 1, 0)
	connect(as("secret", "theirs"), packet.NotAuthorized)
	want("a will", 1, 1)
	p := connect(as("secret", "mine"), packet.Success)
	p.publish("mine", "x", 1, 1)
	p.expectType(packet.PUBACK)
	p.subscribe("mine", 1)
	want("what is allowed", 1, 1)
	p.publish("theirs", "x", 1, 2)
	if f := p.expectType(packet.PUBACK); packet.Reason(f[4]) != packet.NotAuthorized {
		t.Errorf("PUBACK % x", f)
	}
	want("a publish", 1, 2)
	p.send(&packets.Subscribe{PacketID: 3, Subscriptions: []packets.SubOptions{{Topic: "theirs", QoS: 1}, {Topic: "mine", QoS: 1}}})
	p.expectType(packet.SUBACK)
	want("a subscription", 1, 3)
}
