package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/mqtt/packet"
)

// A quota that a Kafka client sets holds a device: what it has published is acknowledged, and then it is not read.
func TestQuotaHoldsADevice(t *testing.T) {
	n := testNode(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka.Addrs()[0].String()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	device := "dev"
	got, err := kadm.NewClient(cl).AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{
		Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &device}}, Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 100}},
	}})
	if err != nil || got[0].Err != nil {
		t.Fatal(err, got)
	}
	for i, client := range []string{"other", device} {
		c, err := net.Dial("tcp", n.mqtt.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		hello := append([]byte{0x10, byte(12 + len(client)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, byte(len(client))}, client...)
		hello = packet.AppendPublish(hello, &packet.Publish{Topic: []byte("a"), Payload: make([]byte, 5000), QoS: 1, ID: 1}, packet.V311)
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4+4)); err != nil { // CONNACK, PUBACK
			t.Fatal(err)
		}
		if got := n.mqtt.Stats().Throttled; got != int64(i) {
			t.Errorf("after %s: throttled %d times, want %d", client, got, i)
		}
	}
}
