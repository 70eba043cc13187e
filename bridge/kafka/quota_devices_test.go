package kafka

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// MQTT clients are held to producer_byte_rate by user and client identifier as Kafka clients are, each with meters of his own.
func TestDevicesAreHeldToQuotas(t *testing.T) {
	s, addr := startServer(t, Config{})
	adm, _ := admin(t, addr)
	owes := func(user, client string, bytes int, want time.Duration) {
		t.Helper()
		if got := s.DevicePublished(user, client, bytes); got > want || got < want-time.Second && want < time.Hour {
			t.Errorf("%s %s: owes %v after %d bytes, want %v", user, client, got, bytes, want)
		}
	}
	owes("", "dev", 1e9, 0)
	for _, q := range []struct {
		e    kadm.ClientQuotaEntity
		rate float64
	}{
		{entity("client-id", ""), 100},          // ten seconds' worth at once: 1000 bytes
		{entity("client-id", "camera"), 10_000}, // one has more
		{entity("user", "plant"), 200},          // one for all devices of the user
		{entity("user", "ANONYMOUS", "client-id", "stranger"), 10},
	} {
		setQuota(t, adm, q.e, "producer_byte_rate", q.rate)
	}
	setQuota(t, adm, entity("user", ""), "consumer_byte_rate", 1) // not of what is published
	owes("", "a", 1000, 0)
	owes("", "a", 1000, 10*time.Second)
	owes("", "a", 0, 10*time.Second) // asking costs nothing
	owes("", "b", 1000, 0)
	owes("", "camera", 100_000, 0)
	owes("plant", "a", 2000, 0)
	owes("plant", "b", 1000, 5*time.Second)
	owes("", "stranger", 200, 10*time.Second)
	if c := (&conn{s: s, clientID: "a", who: anonymous("127.0.0.1:1")}); c.charge(quotaProduce, 1) != 0 {
		t.Error("a Kafka client pays for a device of its name")
	}
	for i := range maxMeters + 10 { // a fleet is larger than Kafka's table
		s.DevicePublished("", fmt.Sprint("fleet-", i), 1000)
	}
	owes("", fmt.Sprint("fleet-", maxMeters+9), 0, 0)
	if n := testing.AllocsPerRun(100, func() { s.DevicePublished("plant", "a", 1) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	setQuota(t, adm, entity("client-id", ""), "producer_byte_rate", 0)
	owes("", "a", 0, 0)
}
