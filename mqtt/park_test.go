package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// restAndMove gives a client's partition another owner as a cluster does that has time for it.
func (fc *fakeCluster) restAndMove(id string, node int) {
	p := PartitionFor([]byte(id), fakePartitions)
	fc.rest(p)
	fc.moveTo(p, node)
}

func (fc *fakeCluster) rest(partition int) {
	if n := fc.leaderOf(partition); n != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		n.srv.Rest(ctx, partition)
	}
}

// hearsNothing wants a connection on which nothing is answered.
func (p *peer) hearsNothing() {
	p.t.Helper()
	if f, err := p.tryFrame(100 * time.Millisecond); err == nil || errors.Is(err, io.EOF) {
		p.t.Errorf("got % x, %v", f, err)
	}
}

// A connection outlives the move of its session: exchanges that are under way go on where they were, in both directions, aliases hold, and nothing comes
// twice or is lost.
func TestConnectionMovesWithItsSession(t *testing.T) { // M4, M9, M11
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a/+", 2)
		fc.nodes[1].send("a/1", "unacknowledged")
		first := dev.message()
		pub, _ := fc.nodes[2].v5("", nil)
		pub.publish("a/2", "twice received, once given", 2, 1)
		pub.expect(0x50, 2, 0, 1)
		second := dev.message()
		pub.publish("a/3", "released", 2, 2)
		pub.expect(0x50, 2, 0, 2)
		third := dev.message()
		dev.write(0x50, 2, byte(third.PacketID>>8), byte(third.PacketID))
		dev.expect(0x62, 2, byte(third.PacketID>>8), byte(third.PacketID))
		alias := uint16(1)
		dev.send(&packets.Publish{Topic: "b", QoS: 1, PacketID: 9, Payload: []byte("with an alias"), Properties: &packets.Properties{TopicAlias: &alias}})
		dev.expect(0x40, 2, 0, 9)
		dev.publish("b", "not released", 2, 10)
		dev.expect(0x50, 2, 0, 10)

		pub.publish("a/0", "complete", 2, 3)
		pub.expect(0x50, 2, 0, 3)
		done := dev.message()
		dev.write(0x50, 2, byte(done.PacketID>>8), byte(done.PacketID))
		dev.expect(0x62, 2, byte(done.PacketID>>8), byte(done.PacketID))
		dev.write(0x70, 2, byte(done.PacketID>>8), byte(done.PacketID))

		fc.restAndMove(id, 1)
		synctest.Wait()
		dev.send(&packets.Publish{QoS: 1, PacketID: 11, Payload: []byte("by its alias"), Properties: &packets.Properties{TopicAlias: &alias}})
		dev.expect(0x40, 2, 0, 11)
		if n := fc.nodes[1].srv.Stats(); n.Resumed != 1 || passed(fc.nodes[0]) != 1 {
			t.Errorf("%+v at the next owner", n)
		}
		dev.write(0x62, 2, 0, 10)
		dev.expect(0x70, 2, 0, 10)
		dev.puback(first.PacketID)
		dev.write(0x70, 2, byte(third.PacketID>>8), byte(third.PacketID))
		dev.write(0x50, 2, byte(second.PacketID>>8), byte(second.PacketID))
		dev.expect(0x62, 2, byte(second.PacketID>>8), byte(second.PacketID))
		dev.write(0x70, 2, byte(second.PacketID>>8), byte(second.PacketID))
		fc.nodes[0].send("a/4", "new")
		m := dev.message()
		if ids := []uint16{first.PacketID, second.PacketID, third.PacketID}; string(m.Payload) != "new" || slices.Contains(ids, m.PacketID) {
			t.Errorf("%q under id %d, behind %v", m.Payload, m.PacketID, ids)
		}
		dev.puback(m.PacketID)
		dev.quiet()
		dev.bye()
		dev, ack := fc.nodes[2].v5(id, lasting(1000))
		if !ack.SessionPresent {
			t.Error("no session")
		}
		dev.quiet() // all was acknowledged
	})
}

// What is not read when the session moves is read at the next owner, in order.
func TestWhatIsUnreadMovesToo(t *testing.T) { // M2
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		p := PartitionFor([]byte(id), fakePartitions)
		fc.rest(p)
		go func() { // a pipe takes nothing that is not read
			for i := range uint16(20) {
				dev.publish("a", "x", 1+byte(i%2), i+1)
			}
		}()
		dev.hearsNothing()
		fc.moveTo(p, 1)
		next := map[byte]byte{0x40: 1, 0x50: 2} // acks come in order for each QoS
		for range 20 {
			f := dev.frame()
			if len(f) != 4 || f[3] != next[f[0]] {
				t.Fatalf("got % x, want id %d", f, next[f[0]])
			}
			next[f[0]] += 2
		}
	})
}

// An owner that rests in vain goes on, with those that have come meanwhile.
func TestRestInVain(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a", 1)
		fc.rest(PartitionFor([]byte(id), fakePartitions))
		fc.nodes[1].send("a", "meanwhile")
		dev.publish("b", "x", 1, 1)
		dev.hearsNothing()
		time.Sleep(parkHold)
		var got []packet.Type
		for range 2 {
			got = append(got, packet.Type(dev.frame()[0]>>4))
		}
		slices.Sort(got)
		if st := fc.nodes[0].srv.Stats(); !slices.Equal(got, []packet.Type{packet.PUBLISH, packet.PUBACK}) || st.Resumed != 1 || st.Connected != 1 {
			t.Errorf("%v, %+v", got, st)
		}
	})
}

// A client that is lost while its connection waits has its will published; one that connects anew meanwhile has the session, and the old connection ends.
func TestWhoWaitsMayGo(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		watch, _ := fc.nodes[1].v5("", nil)
		watch.subscribe("will", 1)
		id := fc.idAt(0)
		willing := func(c *packets.Connect) {
			lasting(1000)(c)
			c.WillFlag, c.WillTopic, c.WillMessage, c.WillProperties = true, "will", []byte("gone"), &packets.Properties{}
		}
		dev, _ := fc.nodes[0].v5(id, willing)
		p := PartitionFor([]byte(id), fakePartitions)
		fc.rest(p)
		dev.c.Close()
		if m := watch.message(); string(m.Payload) != "gone" {
			t.Errorf("%q", m.Payload)
		}
		time.Sleep(2 * parkHold)
		old, _ := fc.nodes[0].v5(id, willing)
		fc.rest(p)
		fresh := fc.nodes[1].dial()
		fresh.send(connectPacket(id, willing))
		synctest.Wait()
		fc.moveTo(p, 1)
		if f, err := fresh.tryFrame(time.Second); err != nil || packet.Type(f[0]>>4) != packet.CONNACK {
			t.Fatalf("% x, %v", f, err)
		}
		for { // it may have been given the session for a moment
			if _, err := old.tryFrame(time.Second); err != nil {
				break
			}
		}
		fresh.quiet()
		watch.quiet()
	})
}

// What a connection has beside its session moves as far as nodes can say it in one breath, and in a form that nodes of earlier builds refuse at once.
func TestWhatGoesWithAConnectionIsBounded(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		alias := uint16(64)
		dev.send(&packets.Publish{Topic: strings.Repeat("t", originMax), QoS: 1, PacketID: 1, Properties: &packets.Properties{TopicAlias: &alias}})
		dev.expect(0x40, 2, 0, 1)
		fc.restAndMove(id, 1)
		dev.wantEnd(packet.ServerShuttingDown)
	})
	if b := (&origin{Resume: &originResume{Client: "c", Mark: 1}}).append(nil); !strings.HasPrefix(string(b), "wmp\x02") {
		t.Errorf("it begins with %q", b[:4])
	}
	if b := (&origin{Link: 1}).append(nil); !strings.HasPrefix(string(b), "wmp\x01") {
		t.Errorf("one that earlier builds take begins with %q", b[:4])
	}
}

// Messages that only this node can go on with keep a connection from moving: its client connects again, as it does where nobody rested.
func TestWhoIsNotCalmConnectsAgain(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("$share/g/a", 1)
		fc.nodes[0].send("a", "shared")
		m := dev.message()
		fc.restAndMove(id, 1)
		dev.wantEnd(packet.ServerShuttingDown)
		dev, _ = fc.nodes[1].v5(id, lasting(1000))
		if again := dev.message(); string(again.Payload) != string(m.Payload) {
			t.Errorf("%q", again.Payload)
		}
	})
}

// What a client sends while its owner brings things to an end is for the next one, or the end would never come.
func TestWhatComesMeanwhileWaits(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		fc.log.set(nil, true)
		dev.publish("a", "before", 1, 1)
		synctest.Wait()
		p, rested := PartitionFor([]byte(id), fakePartitions), make(chan struct{})
		go func() {
			fc.rest(p)
			close(rested)
		}()
		synctest.Wait()
		dev.publish("a", "meanwhile", 1, 2)
		synctest.Wait()
		fc.log.set(nil, false)
		dev.expect(0x40, 2, 0, 1)
		<-rested
		dev.hearsNothing()
		fc.moveTo(p, 1)
		dev.expect(0x40, 2, 0, 2)
		if n := fc.nodes[1].srv.Stats().Published; n != 1 {
			t.Errorf("%d publishes at the next owner, want 1", n)
		}
	})
}

// A connection goes on with the session that it left, and with no later state of it.
func TestOnlyTheMarkedConnectionGoesOn(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		fc.rest(PartitionFor([]byte(id), fakePartitions))
		mark := fc.nodes[0].srv.homeOf(id).handovers.markOf(id)
		time.Sleep(2 * parkHold)
		dev.bye() // its connection has gone on, and ended
		synctest.Wait()
		for _, m := range []uint64{mark, mark + 1, 0} {
			p, far := newPipe(t, fc.nodes[0].rig)
			fc.nodes[0].srv.Passed(far)
			p.write((&origin{Resume: &originResume{Client: id, Mark: m, Version: packet.V5, Receive: 10, Granted: [3]uint32{1, 1, 1}}}).append(nil)...)
			var b [1]byte
			for range 2 {
				p.c.SetReadDeadline(time.Now().Add(patience))
				if _, err := p.c.Read(b[:]); err != nil {
					break
				}
				p.c.Write([]byte{0xc0, 0}) // answered by a session
			}
			if b[0]>>4 == byte(packet.PINGRESP) {
				t.Errorf("mark %d: it goes on", m)
			}
		}
		if st := fc.nodes[0].srv.Stats(); st.Resumed != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A front keeps its client through moves of the session from one owner to the next, to itself and away again, whatever the client sends meanwhile.
func TestFrontKeepsItsClient(t *testing.T) { // M2, M11
	fc := newFakeCluster(t, 3, true, nil)
	id := fc.idAt(0)
	dev, _ := fc.nodes[1].v5(id, lasting(1000))
	dev.subscribe("a", 1)
	pub, _ := fc.nodes[2].v5("", nil)
	p := PartitionFor([]byte(id), fakePartitions)
	sent, acked, got := 0, 0, 0
	talk := func() {
		for range 10 {
			sent++
			dev.publish("b", strings.Repeat("x", 1000), 1, uint16(sent))
		}
	}
	hear := func(acks, messages int) {
		t.Helper()
		for acks+messages > 0 {
			f := dev.frame()
			if len(f) == 0 {
				t.Fatal("the connection has ended")
			}
			switch packet.Type(f[0] >> 4) {
			case packet.PUBACK:
				acks--
				if acked++; int(f[2])<<8|int(f[3]) != acked {
					t.Fatalf("PUBACK % x, want id %d", f, acked)
				}
			case packet.PUBLISH:
				messages--
				var m packet.Publish
				split, _ := packet.Split(f, 0)
				if err := m.Decode(split, packet.V5); err != nil || string(m.Payload) != fmt.Sprint(got) || m.Dup {
					t.Fatalf("%q, %v, want %d", m.Payload, err, got)
				}
				got++
				dev.puback(m.ID)
			default:
				t.Fatalf("got % x", f)
			}
		}
	}
	for round, to := range []int{2, 1, 0, 2, 0, 1, 2} {
		talk()
		fc.rest(p)
		talk()
		pub.publish("a", fmt.Sprint(round), 1, 1)
		pub.expect(0x40, 2, 0, 1)
		fc.moveTo(p, to)
		talk()
		hear(30, 1)
	}
	dev.quiet()
	var resumed, moved int64
	for _, n := range fc.nodes {
		resumed, moved = resumed+n.srv.Stats().Resumed, moved+n.srv.Stats().Moved
		if st := n.srv.Stats(); st.Passed < 0 {
			t.Errorf("%+v", st)
		}
		eventually(t, "no input is left", func() bool { return n.srv.Stats().InputBytes == 0 })
	}
	if resumed != 7 || moved != 0 {
		t.Errorf("%d times it went on, %d times it was ended", resumed, moved)
	}
}
