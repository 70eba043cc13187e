package mqtt

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// leave has a node take leave of its clients.
func (fc *fakeCluster) leave(node int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return fc.nodes[node].srv.Leave(ctx)
}

// silence has a node answer nobody, or go on.
func (fc *fakeCluster) silence(node int, down bool) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	fc.nodes[node].down = down
}

// The clients of a node that stops are told so by those who own their sessions, behind what they have earned; the clients of others notice nothing.
func TestClientsOfANodeThatStopsAreTold(t *testing.T) { // M1
	fc := newFakeCluster(t, 3, true, nil)
	id := fc.idAt(0)
	watch, _ := fc.nodes[2].v5("", nil)
	watch.subscribe("will", 1)
	dev, _ := fc.nodes[1].v5(id, func(c *packets.Connect) {
		lasting(1000)(c)
		c.WillFlag, c.WillTopic, c.WillMessage, c.WillProperties = true, "will", []byte("gone"), &packets.Properties{}
	})
	elsewhere, _ := fc.nodes[2].v5(fc.idAt(0)+"x", lasting(1000))
	fc.log.set(nil, true)
	dev.publish("a", "taken", 1, 1)
	eventually(t, "it is taken", func() bool { return fc.nodes[0].srv.Stats().Published == 1 })
	left := make(chan error, 1)
	go func() { left <- fc.leave(1) }()
	eventually(t, "nothing more is read", func() bool {
		cl := fc.nodes[0].srv.registry.find(id)
		cl.mu.Lock()
		defer cl.mu.Unlock()
		return cl.stopped
	})
	dev.publish("a", "not taken", 1, 2)
	fc.log.set(nil, false)
	dev.expect(0x40, 2, 0, 1)
	dev.wantEnd(packet.ServerShuttingDown)
	if err := <-left; err != nil {
		t.Error(err)
	}
	if n := passed(fc.nodes[1]); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if n := fc.nodes[0].srv.Stats().Published; n != 1 {
		t.Errorf("%d publishes were taken, want 1", n)
	}
	elsewhere.publish("a", "x", 1, 1)
	elsewhere.expect(0x40, 2, 0, 1)
	again, ack := fc.nodes[2].v5(id, lasting(1000))
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	again.publish("a", "not taken", 1, 2)
	again.expect(0x40, 2, 0, 2)
	watch.quiet() // the client is back
}

// A node that stops waits for the sessions that are on their way, and for nobody whose owner does not answer.
func TestLeaveWaitsForSessionsOnly(t *testing.T) {
	fc := newFakeCluster(t, 2, true, nil)
	id := fc.idAt(0)
	dev, _ := fc.nodes[0].v5(id, lasting(1000))
	p := PartitionFor([]byte(id), fakePartitions)
	fc.rest(p)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := fc.nodes[0].srv.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a session on its way: %v", err)
	}
	fc.moveTo(p, 1)
	if err := fc.leave(0); err != nil {
		t.Error(err)
	}
	dev.wantEnd(packet.ServerShuttingDown)
	if n := fc.nodes[1].srv.Stats().Resumed; n != 1 {
		t.Errorf("%d sessions came with their connections, want 1", n)
	}

	other, _ := fc.nodes[0].v5(id, lasting(1000))
	fc.silence(1, true)
	began := time.Now()
	if err := fc.leave(0); err == nil || time.Since(began) > patience {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	fc.silence(1, false)
	other.publish("a", "x", 1, 1)
	other.expect(0x40, 2, 0, 1)
}
