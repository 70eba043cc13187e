package mqtt

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// E9: a node whose disk hangs sends its clients away, so that they go on at others: those whose sessions it owns, those that it passes on, those whose sessions end
// with the connection, and those that wait for an owner. Nothing of a session is lost, and no will is published for those that move.
func TestClientsAreTurnedAway(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		bad, good := fc.nodes[0], fc.nodes[1]
		watch, _ := good.v5("", nil)
		watch.subscribe("will", 0)
		mine, theirs := fc.idAt(0), fc.idAt(1)
		owned, _ := bad.v5(mine, func(c *packets.Connect) {
			lasting(1000)(c)
			c.WillFlag, c.WillTopic, c.WillMessage, c.WillProperties = true, "will", []byte("gone"), &packets.Properties{}
		})
		owned.subscribe("a", 1)
		linked, _ := bad.v5(theirs, lasting(1000))
		clean, _ := bad.v5("clean", nil)
		synctest.Wait()
		puts := fc.sessions[PartitionFor([]byte(mine), fakePartitions)].count()

		bad.srv.TurnAway(true)
		bad.srv.TurnAway(true)
		owned.wantEnd(packet.ServerShuttingDown)
		linked.expectEnd()
		clean.wantEnd(packet.ServerShuttingDown)
		for _, id := range []string{mine, theirs, "clean", ""} { // without CONNACK: one that refuses ends mosquitto's clients for good
			p := bad.dial()
			p.send(&packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: id, KeepAlive: 60, Properties: &packets.Properties{}})
			p.expectEnd()
		}
		waits := good.dial() // passed on to bad, and given back: it waits for the next owner
		again := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, KeepAlive: 60, Properties: &packets.Properties{}}
		for i := 0; again.ClientID == "" || PartitionFor([]byte(again.ClientID), fakePartitions) != PartitionFor([]byte(mine), fakePartitions); i++ {
			again.ClientID = fmt.Sprint("waits", i)
		}
		lasting(1000)(again)
		waits.send(again)
		synctest.Wait()
		if n := fc.sessions[PartitionFor([]byte(mine), fakePartitions)].count(); n != puts {
			t.Errorf("%d records put", n-puts)
		}

		fc.move(mine, 1)
		if f := waits.expectType(packet.CONNACK); f[3] != 0 {
			t.Errorf("CONNACK % x for a client that waited", f)
		}
		owned, ack := good.v5(mine, lasting(1000))
		if !ack.SessionPresent {
			t.Error("the session is gone")
		}
		good.send("a", "x")
		owned.puback(owned.message().PacketID)
		watch.quiet()

		fc.move(mine, 0)
		owned.wantEnd(packet.ServerShuttingDown)
		synctest.Wait()
		if bad.srv.Stats().DurableSessions != 0 {
			t.Error("it takes sessions on while its disk hangs")
		}
		bad.srv.TurnAway(false)
		if _, ack = bad.v5(mine, lasting(1000)); !ack.SessionPresent {
			t.Error("the session is not found where it is again")
		}
		bad.v5("clean", nil)
	})
}

// A server alone keeps its clients: they have nowhere else to go.
func TestAServerAloneTurnsNobodyAway(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", nil)
		r.srv.TurnAway(true)
		p.quiet()
		r.v5("other", nil)
	})
}

// The system refuses connections while a node turns clients away, so that clients with several addresses try the next one.
func TestConnectionsAreRefusedWhileAway(t *testing.T) {
	fc := newFakeCluster(t, 1, false, func(_ int, c *Config) { c.Listeners = []Listener{{Addr: "127.0.0.1:0"}} })
	defer fc.stop()
	s := fc.nodes[0].srv
	reachable := func() bool {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	if !reachable() {
		t.Fatal("nobody can connect")
	}
	s.TurnAway(true)
	if reachable() {
		t.Error("a connection is taken")
	}
	s.TurnAway(false)
	eventually(t, "connections are taken again", reachable)
}
