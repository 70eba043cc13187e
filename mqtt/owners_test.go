package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

func passed(n *fakeNode) int64 { return n.srv.Stats().Passed }

// send publishes at QoS 1 and waits for the ack.
func (n *fakeNode) send(topic, payload string) {
	n.t.Helper()
	pub, _ := n.v5("", nil)
	pub.publish(topic, payload, 1, 1)
	pub.expect(0x40, 2, 0, 1)
	pub.write(0xe0, 0)
	pub.expectEnd()
}

func (p *peer) bye() {
	p.t.Helper()
	p.write(0xe0, 0)
	p.expectEnd()
}

// wantEnd wants a DISCONNECT with a reason and the end of the connection.
func (p *peer) wantEnd(r packet.Reason) {
	p.t.Helper()
	if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != r {
		p.t.Errorf("DISCONNECT % x, want reason %#x", f, byte(r))
	}
	p.expectEnd()
}

func TestSessionIsFoundFromEveryNode(t *testing.T) { // M11
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, ack := fc.nodes[0].v5(id, lasting(1000))
		if ack.SessionPresent {
			t.Error("session present at first")
		}
		dev.subscribe("a", 1)
		if passed(fc.nodes[0]) != 1 || fc.nodes[1].srv.Stats().DurableSessions != 1 || fc.nodes[0].srv.Stats().Sessions != 0 {
			t.Error("the session does not live at its owner")
		}
		fc.nodes[2].send("a", "online")
		dev.puback(dev.message().PacketID)
		dev.bye()
		synctest.Wait()
		if passed(fc.nodes[0]) != 0 || fc.nodes[0].srv.loop.Stats().Connections != 0 {
			t.Errorf("%+v after the client has gone", fc.nodes[0].srv.Stats())
		}
		fc.nodes[0].send("a", "away")
		for i, want := range []string{"away", "again", "more"} {
			dev, ack = fc.nodes[i].v5(id, lasting(1000))
			if !ack.SessionPresent {
				t.Errorf("node %d: no session", i)
			}
			m := dev.message()
			if string(m.Payload) != want {
				t.Errorf("node %d: %q, want %q", i, m.Payload, want)
			}
			dev.puback(m.PacketID)
			dev.bye()
			fc.nodes[0].send("a", []string{"again", "more", ""}[i])
		}
	})
}

// A session that ends with its connection lives at the front, and its client identifier is served once in the cluster.
func TestTakeoverAcrossNodes(t *testing.T) { // MQTT5 [MQTT-3.1.4-3]
	kinds := map[string]func(*packets.Connect){"local": nil, "lasting": lasting(1000)}
	for from, first := range kinds {
		for to, second := range kinds {
			t.Run(from+" to "+to, func(t *testing.T) {
				inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
					for owner := range 3 {
						id := fc.idAt(owner)
						one, _ := fc.nodes[0].v5(id, first)
						one.subscribe("a", 1)
						two, ack := fc.nodes[1].v5(id, second)
						if want := from == "lasting" && to == "lasting"; ack.SessionPresent != want {
							t.Errorf("session present %v, want %v", ack.SessionPresent, want)
						}
						one.wantEnd(packet.SessionTakenOver)
						two.quiet()
						if to == "local" && passed(fc.nodes[1]) != 0 {
							t.Error("a session that ends with its connection was passed on")
						}
						two.bye()
						synctest.Wait()
						if _, ok := fc.stored(id); ok != (to == "lasting") {
							t.Errorf("record of the session: %v", ok)
						}
						three, ack := fc.nodes[2].v5(id, lasting(1000))
						if ack.SessionPresent != (to == "lasting") {
							t.Errorf("session present %v at last", ack.SessionPresent)
						}
						three.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0) // expires at once
						three.expectEnd()
					}
				})
			})
		}
	}
}

// Without a clean start, a session that ends with its connection may find one that was there.
func TestUncleanStartWithoutExpiryFindsTheSession(t *testing.T) { // MQTT5 [MQTT-3.1.2-5]
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.bye()
		dev, ack := fc.nodes[0].v5(id, func(c *packets.Connect) { c.CleanStart = false })
		if !ack.SessionPresent {
			t.Error("the session was not found")
		}
		dev.bye()
		synctest.Wait()
		if _, ok := fc.stored(id); ok {
			t.Error("the session outlived its connection")
		}
	})
}

// Connections of one client identifier at all nodes at once: one of them stays.
func TestTakeoverStormAcrossNodes(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(2)
		var peers []*peer
		for i := range 12 {
			p := fc.nodes[i%3].dial()
			flags := byte(2)
			if i%4 == 0 {
				flags = 0
			}
			p.write(append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 60, 0, byte(len(id))}, id...)...)
			peers = append(peers, p)
		}
		time.Sleep(time.Second)
		alive := 0
		for _, p := range peers {
			p.c.SetWriteDeadline(time.Now().Add(time.Second))
			p.c.Write([]byte{0xc0, 0})
			for {
				f, err := p.tryFrame(time.Second)
				if err != nil {
					break
				}
				if f[0] == 0xd0 {
					alive++
					break
				}
			}
		}
		if alive != 1 {
			t.Errorf("%d connections of one client are alive", alive)
		}
	})
}

// An owner that hears of a claim while its own node's CONNECT waits for another lets the later one win.
func TestLaterClaimWins(t *testing.T) {
	var c claims
	c.init()
	c.heard("x", 7)
	c.begin("x")
	c.heard("x", 5)
	c.heard("x", 3)
	if last := c.end("x"); last != 5 {
		t.Errorf("the last claim heard of is %d", last)
	}
	if c.heard("x", 9); len(c.open) != 0 {
		t.Error("claims are remembered for nobody")
	}
}

func TestOwnerMovesWhileConnected(t *testing.T) { // M4, M9, M11
	for _, to := range []int{0, 2} { // the front itself, and a third node
		inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
			id := fc.idAt(1)
			front := fc.nodes[0]
			dev, _ := front.v5(id, lasting(1000))
			dev.subscribe("one", 1)
			dev.subscribe("two", 2)
			front.send("one", "q1")
			dev.message()
			pub, _ := fc.nodes[2].v5("", nil)
			pub.publish("two", "q2", 2, 1)
			pub.expect(0x50, 2, 0, 1)
			pub.write(0x62, 2, 0, 1)
			pub.expect(0x70, 2, 0, 1)
			q2 := dev.message()
			dev.publish("up", "exactly once", 2, 9)
			dev.expect(0x50, 2, 0, 9)
			synctest.Wait()
			puts := fc.sessions[PartitionFor([]byte(id), fakePartitions)].count()
			fc.move(id, to)
			dev.wantEnd(packet.ServerShuttingDown)
			synctest.Wait()
			if n := fc.sessions[PartitionFor([]byte(id), fakePartitions)].count(); n != puts {
				t.Errorf("%d records put while the sessions moved", n-puts)
			}
			if fc.nodes[1].srv.Stats().DurableSessions != 0 || fc.nodes[to].srv.Stats().DurableSessions != 1 || fc.nodes[1].srv.Stats().Moved != 1 {
				t.Error("the session is not where it belongs")
			}
			front.send("one", "missed")
			dev, ack := front.v5(id, lasting(1000))
			if !ack.SessionPresent {
				t.Fatal("the session is gone")
			}
			dev.publish("up", "exactly once", 2, 9) // MQTT5 [MQTT-4.4.0-1]
			got := map[string]int{}
			for range 6 { // PUBREC, PUBCOMP, three messages, PUBREL
				f := dev.frame()
				switch packet.Type(f[0] >> 4) {
				case packet.PUBREL:
					dev.write(0x70, 2, f[2], f[3])
				case packet.PUBREC:
					dev.write(0x62, 2, 0, 9)
					got["rec"]++
				case packet.PUBLISH:
					m, err := decodePaho(f, packet.V5)
					if err != nil {
						t.Fatal(err)
					}
					got[string(m.Payload)]++
					if m.QoS == 2 {
						if m.PacketID != q2.PacketID || !m.Duplicate {
							t.Errorf("%+v, want it with id %d and DUP", m, q2.PacketID)
						}
						dev.write(0x50, 2, byte(m.PacketID>>8), byte(m.PacketID))
					} else {
						dev.puback(m.PacketID)
					}
				}
			}
			if got["q1"] != 1 || got["q2"] != 1 || got["missed"] != 1 || got["rec"] != 1 {
				t.Errorf("got %v after the move", got)
			}
			n := 0
			for _, r := range fc.log.records(t, "telemetry") {
				if string(r.Value) == "exactly once" {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d records of one QoS 2 publish", n)
			}
		})
	}
}

// An owner is cut off with a record of QoS 2 on its way. The device repeats the publish to the next owner, which does not find the record, and appends it; what
// was on its way comes behind, and is refused. M4
func TestRecordOfACutOffOwnerComesTooLate(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.publish("warm", "up", 1, 1)
		dev.expect(0x40, 2, 0, 1)
		fc.log.mu.Lock()
		fc.log.far = true
		fc.log.mu.Unlock()
		dev.publish("up", "exactly once", 2, 9)
		synctest.Wait()
		fc.log.mu.Lock()
		late := len(fc.log.late)
		fc.log.far = false
		fc.log.mu.Unlock()
		if late != 1 {
			t.Fatalf("%d records are on their way", late)
		}
		fc.nodes[0].down = true // it does not hear that it owns nothing any more
		fc.move(id, 1)
		dev.c.Close()
		dev, _ = fc.nodes[1].v5(id, lasting(1000))
		dev.repeat("up", "exactly once", 9)
		dev.expect(0x50, 2, 0, 9)
		fc.log.arrive()
		synctest.Wait()
		if n := countPayload(fc.log.records(t, "telemetry"), "exactly once"); n != 1 {
			t.Errorf("%d records of one QoS 2 publish", n)
		}
	})
}

// CONNECTs come while the new owner loads, or while there is none: they wait.
func TestConnectWaitsForTheOwner(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.bye()
		fc.move(id, -1)
		for _, node := range []int{0, 1} {
			dev = fc.nodes[node].dial()
			done := make(chan *packets.Connack)
			go func() { done <- dev.connect5(id, lasting(1000)) }()
			time.Sleep(3100 * time.Millisecond) // between two looks at what waits
			if n := fc.nodes[node].srv.Stats().Waiting; n != 1 {
				t.Errorf("%d wait, want 1", n)
			}
			fc.move(id, node)
			moved := time.Now()
			if ack := <-done; !ack.SessionPresent {
				t.Error("the session was not found")
			}
			if took := time.Since(moved); took > 100*time.Millisecond {
				t.Errorf("let in %v after there was an owner", took)
			}
			dev.bye()
			fc.move(id, -1)
		}
	})
}

func TestOwnerDown(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		fc.mu.Lock()
		fc.nodes[1].down = true
		fc.mu.Unlock()
		refused := func(name string, connect func(*peer), want ...byte) {
			t.Helper()
			p := fc.nodes[0].dial()
			start := time.Now()
			connect(p)
			f, err := p.tryFrame(30 * time.Second)
			if err != nil || f[0] != 0x20 || f[2] != want[0] || f[3] != want[1] {
				t.Errorf("%s: got % x, %v, want CONNACK % x", name, f, err, want)
			}
			if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
				t.Errorf("%s: refused after %v", name, took)
			}
			p.expectEnd()
		}
		v5 := func(clean byte) func(*peer) {
			return func(p *peer) {
				b := append([]byte{0x10, byte(13 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 5, clean, 0, 60, 0, 0, byte(len(id))}, id...)
				p.write(b...)
			}
		}
		refused("v5, passed on", v5(0), 0, 0x88)
		refused("v5, claimed", v5(2), 0, 0x88)
		refused("v3.1.1", func(p *peer) {
			p.write(append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 0, 0, 60, 0, byte(len(id))}, id...)...)
		}, 0, 3)
		if s := fc.nodes[0].srv.Stats(); s.Waiting != 0 || s.OwnerErrors == 0 || s.InputBytes != 0 {
			t.Errorf("%+v", s)
		}
		// Others go on, those among them that nobody can know, and one that gives up leaves nothing.
		p := fc.nodes[0].dial()
		v5(0)(p)
		other, _ := fc.nodes[0].v5(fc.idAt(2), lasting(1000))
		other.quiet()
		start := time.Now()
		for range 2 * fakePartitions {
			unnamed, _ := fc.nodes[0].v5("", nil)
			unnamed.quiet()
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("clients without a name waited for %v", took)
		}
		p.c.Close()
		time.Sleep(21 * time.Second) // its connection is not read meanwhile
		if s := fc.nodes[0].srv.Stats(); s.Waiting != 0 || s.InputBytes != 0 {
			t.Errorf("%+v after the client has gone", s)
		}
		// An owner that hangs holds nobody for longer.
		fc.mu.Lock()
		fc.nodes[1].down, fc.nodes[1].deaf = false, true
		fc.mu.Unlock()
		refused("a silent owner", v5(2), 0, 0x88)
	})
}

func TestOwnerDiesUnderAConnection(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a", 1)
		fc.nodes[1].stop()
		for f := dev.frame(); f != nil; f = dev.frame() { // what the owner still had to say
		}
		fc.mu.Lock()
		fc.nodes[1].down = true
		fc.mu.Unlock()
		fc.move(id, 2)
		dev, ack := fc.nodes[0].v5(id, lasting(1000))
		if !ack.SessionPresent {
			t.Error("the session is gone")
		}
		fc.nodes[0].send("a", "x")
		dev.message()
	})
}

// An owner that dies without a word, as with its power, is not waited for once another node has its partitions.
func TestSilentOwnerIsLeft(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a", 1)
		fc.mu.Lock()
		fc.nodes[1].down = true
		fc.mu.Unlock()
		fc.move(id, 2)
		start := time.Now()
		dev.expectEnd()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		if _, ack := fc.nodes[0].v5(id, lasting(1000)); !ack.SessionPresent {
			t.Error("the session is gone")
		}
		synctest.Wait() // the client hears of the end before the front has counted it
		if passed(fc.nodes[0]) != 1 {
			t.Errorf("%d passed on", passed(fc.nodes[0]))
		}
	})
}

func TestCleanSessionsLiveAtTheFront(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev := fc.nodes[0].v311(id, true)
		dev.subscribe("a", 1)
		fc.nodes[2].send("a", "x")
		dev.puback(dev.message().PacketID)
		if fc.nodes[1].srv.Stats().Connections != 0 || passed(fc.nodes[0]) != 0 || fc.nodes[0].srv.Stats().Sessions != 1 {
			t.Error("the session does not live at the front")
		}
		fc.move(id, 2) // does not touch it
		dev.quiet()
		fc.move(id, 0)
		dev.quiet()
		fc.move(id, 1)
		dev.quiet()
	})
}

// A client identifier that the server draws is asked of nobody, and a session that stays gets one that its node owns.
func TestAssignedIdentifiers(t *testing.T) {
	inCluster(t, 5, nil, func(t *testing.T, fc *fakeCluster) { // the fifth node owns nothing
		for i, n := range fc.nodes {
			p, _ := n.v5("", nil)
			p.quiet()
			p, ack := n.v5("", lasting(1000))
			owner := fc.leaderOf(PartitionFor([]byte(ack.Properties.AssignedClientID), fakePartitions))
			if (owner == n) != (i < 4) || passed(n) != int64(i/4) {
				t.Errorf("node %d: session of node %d, passed on %d", i, owner.id, passed(n))
			}
			p.bye()
			if i < 4 {
				if n.drops != 0 {
					t.Errorf("%d questions about identifiers that nobody can have", n.drops)
				}
			}
		}
	})
}

// The owner judges clients by where they really are.
func TestOwnerSeesTheClient(t *testing.T) {
	seen := make(chan ClientInfo, 1)
	inCluster(t, 2, func(node int, c *Config) {
		if node == 1 {
			c.Auth = authFunc(func(info ClientInfo) (Identity, error) {
				seen <- info
				if info.UserName == "bad" {
					return Identity{}, ErrBadCredentials
				}
				return Identity{ClientID: info.ClientID, Name: info.UserName}, nil
			})
		}
	}, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		fc.nodes[0].v5(id, lasting(1000))
		if info := <-seen; info.RemoteAddr != "pipe" || info.TLS != nil || info.ClientID != id {
			t.Errorf("%+v", info)
		}
		p := fc.nodes[0].dial()
		ack := p.connect5(id, func(c *packets.Connect) {
			lasting(1000)(c)
			c.UsernameFlag, c.Username = true, "bad"
		})
		if <-seen; ack.ReasonCode != byte(packet.BadUserNameOrPassword) {
			t.Errorf("%+v", ack)
		}
		p.expectEnd()
	})
}

type authFunc func(ClientInfo) (Identity, error)

func (f authFunc) Authenticate(c ClientInfo) (Identity, error) { return f(c) }
func (authFunc) Allow(Identity, Action, []byte) bool           { return true }

func TestOrigin(t *testing.T) {
	cert := selfSigned(t).Certificate[0]
	in := origin{Addr: "192.0.2.7:1234", Listener: overTLS | overWebSocket, TLS: &originTLS{Version: tls.VersionTLS13, ServerName: "x", Certificate: cert}}
	b := append(in.append(nil), "rest"...)
	for n := range len(b) - 4 {
		if _, size, err := readOrigin(b[:n]); size != 0 || err != nil {
			t.Fatalf("%d bytes: %d, %v", n, size, err)
		}
	}
	out, size, err := readOrigin(b)
	if err != nil || string(b[size:]) != "rest" || out.Addr != in.Addr || out.Listener != in.Listener {
		t.Fatalf("%+v, %d, %v", out, size, err)
	}
	if st := out.tlsState(); st.Version != tls.VersionTLS13 || len(st.PeerCertificates) != 1 || st.VerifiedChains != nil {
		t.Errorf("%+v", st)
	}
	for _, bad := range []string{"\x10", "wmp\x03\x00\x00", "wmp\x02\x00\x01\xa0", "wmp\x01\xff\xff", "wmp\x01\x00\x02\xff\xff", "wmp\x01\x00\x01\x80"} {
		if _, _, err := readOrigin([]byte(bad)); !errors.Is(err, errOrigin) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add((&origin{Addr: "a", TLS: &originTLS{Certificate: []byte{1}}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, size, err := readOrigin(b); err == nil && size > 0 {
			o.tlsState()
			if size > len(b) {
				t.Errorf("%d of %d bytes", size, len(b))
			}
		}
	})
}

func TestGarbageFromAnotherNode(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		near, far := newPipe(t, fc.nodes[0].rig)
		fc.nodes[0].srv.Passed(far)
		near.write([]byte("GET / HTTP/1.1\r\n")...)
		near.expectEnd()
		// A CONNECT whose session lives elsewhere is given back, and so is one that no owner is needed for.
		for _, flags := range []byte{0, 2} {
			near, far = newPipe(t, fc.nodes[0].rig)
			fc.nodes[0].srv.Passed(far)
			id := fc.idAt(1 - int(flags)/2)
			near.write((&origin{Addr: "a"}).append(nil)...)
			near.write(append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 60, 0, byte(len(id))}, id...)...)
			var b [2]byte
			near.c.SetReadDeadline(time.Now().Add(time.Second))
			if n, _ := near.c.Read(b[:]); n != 1 || b[0] != notTaken {
				t.Errorf("% x", b[:n])
			}
		}
		// One that says nothing is closed in time.
		near, far = newPipe(t, fc.nodes[0].rig)
		fc.nodes[0].srv.Passed(far)
		near.write('w', 'm')
		if _, err := near.tryFrame(30 * time.Second); err != io.EOF {
			t.Errorf("not closed: %v", err)
		}
	})
}

// A will is the owner's: not published because the session moved, but when the client does not come back.
func TestWillsMoveWithTheSession(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		watch, _ := fc.nodes[0].v5("", nil)
		watch.subscribe("will", 0)
		id := fc.idAt(1)
		connect := func() *peer {
			p, _ := fc.nodes[0].v5(id, func(c *packets.Connect) {
				lasting(1000)(c)
				c.WillFlag, c.WillTopic, c.WillMessage, c.WillProperties = true, "will", []byte("gone"), &packets.Properties{}
			})
			return p
		}
		dev := connect()
		synctest.Wait()
		fc.move(id, 2)
		dev.wantEnd(packet.ServerShuttingDown)
		time.Sleep(2 * time.Second)
		dev = connect()
		time.Sleep(30 * time.Second)
		watch.quiet()
		fc.move(id, 1)
		dev.wantEnd(packet.ServerShuttingDown)
		time.Sleep(handoverGrace + time.Second)
		if m := watch.message(); string(m.Payload) != "gone" {
			t.Errorf("%+v", m)
		}
		watch.quiet()
		dev = connect()
		dev.c.Close() // not by DISCONNECT
		if m := watch.message(); string(m.Payload) != "gone" {
			t.Errorf("%+v", m)
		}
	})
}

func TestSessionExpiresAtItsOwner(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(60))
		dev.bye()
		synctest.Wait()
		fc.move(id, 0)
		time.Sleep(50 * time.Second)
		if _, ok := fc.stored(id); !ok {
			t.Fatal("expired early")
		}
		time.Sleep(11 * time.Second)
		if _, ok := fc.stored(id); ok || fc.nodes[0].srv.Stats().SessionsExpired != 1 || fc.nodes[1].srv.Stats().SessionsExpired != 0 {
			t.Error("not expired where it belongs")
		}
	})
}

// A subscriber is due what was acknowledged before it subscribed, by whatever node. M6
func TestRetainedBarrier(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		fc.nodes[1].fallBehind()
		pub, _ := fc.nodes[0].v5("", nil)
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("kept"), QoS: 1, ID: 1, Retain: true}, packet.V5)...)
		pub.expect(0x40, 2, 0, 1)
		sub, _ := fc.nodes[1].v5("", nil)
		sub.write([]byte("\x82\x07\x00\x01\x00\x00\x01a\x01")...)
		if f, err := sub.tryFrame(5 * time.Second); err == nil {
			t.Fatalf("% x before the node knows what is retained", f)
		}
		fc.nodes[1].catchUp()
		sub.expect(0x90, 4, 0, 1, 0, 1)
		if m := sub.message(); string(m.Payload) != "kept" || !m.Retain {
			t.Errorf("%+v", m)
		}
		// Who wants none does not wait; who waits for too long is told to try again.
		fc.nodes[1].fallBehind()
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), QoS: 1, ID: 2, Retain: true}, packet.V5)...)
		pub.expect(0x40, 2, 0, 2)
		none, _ := fc.nodes[1].v5("", nil)
		none.write([]byte("\x82\x07\x00\x01\x00\x00\x01a\x21")...)
		none.expect(0x90, 4, 0, 1, 0, 1)
		late, _ := fc.nodes[1].v5("", nil)
		late.write([]byte("\x82\x07\x00\x01\x00\x00\x01a\x01")...)
		f, err := late.tryFrame(time.Minute)
		if err != nil || packet.Type(f[0]>>4) != packet.DISCONNECT || packet.Reason(f[2]) != packet.ServerUnavailable {
			t.Errorf("% x, %v", f, err)
		}
	})
}

// Cursors of sessions that are away go with the partition, and each partition has its floor.
func TestFloorsMoveWithTheirPartition(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		var ids []string
		for node := range 2 {
			id := fc.idAt(node)
			ids = append(ids, id)
			dev, _ := fc.nodes[0].v5(id, lasting(1000))
			dev.subscribe(id, 1)
			dev.bye()
		}
		for i := range 20 {
			fc.nodes[0].send("other", fmt.Sprint(i))
		}
		time.Sleep(5 * time.Second)
		for _, id := range ids {
			if _, ok := fc.sessions[PartitionFor([]byte(id), fakePartitions)].get(keyFloor); !ok {
				t.Errorf("partition of %s has no floor", id)
			}
		}
		fc.nodes[0].send(ids[1], "waits")
		time.Sleep(5 * time.Second)
		fc.move(ids[1], 0)
		fc.move(ids[0], 1)
		synctest.Wait()
		for i, id := range ids {
			p := PartitionFor([]byte(id), fakePartitions)
			value, _ := fc.sessions[p].get(keyFloor)
			before, now := floorAt(fc.nodes[i], p), floorAt(fc.nodes[1-i], p)
			if before != nil || now == nil || string(mustCBOR(&floorRecord{floorFormat, *now})) != value {
				t.Errorf("the owner before has floor %v, the next one %v", before, now)
			}
		}
		fc.nodes[0].send(ids[0], "waits too")
		for i, want := range []string{"waits too", "waits"} {
			dev, _ := fc.nodes[i].v5(ids[i], lasting(1000))
			if m := dev.message(); string(m.Payload) != want {
				t.Errorf("%q, want %q", m.Payload, want)
			}
			dev.quiet()
		}
	})
}

// floorAt is the floor of a partition as a node goes on from it, nil where it does not.
func floorAt(n *fakeNode, partition int) *deliver.Cursor {
	a := &n.srv.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.floors[partition]
}

// A floor is of the sessions that a node had when it was taken: where the partition has gone and come back since, others may have left
// messages for it below.
func TestFloorOfAnEarlierTermIsNotPut(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		p, s := PartitionFor([]byte(id), fakePartitions), fc.nodes[0].srv
		fc.nodes[1].send("a", "x")
		hold := func() {
			s.absent.mu.Lock()
			defer s.absent.mu.Unlock()
			s.absent.holders = slices.Clone(s.absent.floors)
		}
		hold()
		if s.absent.raise(s, p, s.hub.Ends()); fc.sessions[p].count() != 1 {
			t.Fatal("the floor was not put")
		}
		hold()
		fc.nodes[1].send("a", "y")
		floor := s.hub.Ends()
		fc.move(id, 1)
		synctest.Wait()
		fc.move(id, 0)
		synctest.Wait()
		if s.absent.raise(s, p, floor); fc.sessions[p].count() != 1 {
			t.Error("a floor of the term before was put")
		}
	})
}

// A partition is given up once what a node has begun for its clients is done: until then what it stores for them is still in order.
func TestOwnerEndsItsWorkFirst(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		hm := fc.nodes[1].srv.homeOf(id)
		if !hm.serve() {
			t.Fatal("it does not own the session")
		}
		fc.move(id, 0)
		dev.quiet()
		if hm.serve() {
			t.Error("it begins more")
		}
		hm.served()
		dev.wantEnd(packet.ServerShuttingDown)
	})
}

// Many sessions of a partition come and go while it moves: none is lost, none is served twice.
func TestPartitionMovesUnderLoad(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		const n = 12
		id := func(i int) string { return fmt.Sprintf("many%d", i) }
		sent, got := make([]int, n), make([]map[string]int, n)
		devs := make([]*peer, n)
		connect := func(i int) {
			for {
				p := fc.nodes[i%3].dial()
				if ack := p.tryConnect5(id(i), lasting(1000)); ack != nil && ack.ReasonCode == 0 {
					devs[i] = p
					return
				}
			}
		}
		receive := func(i int) {
			for {
				f, err := devs[i].tryFrame(time.Second)
				if err != nil {
					return
				}
				if packet.Type(f[0]>>4) == packet.PUBLISH {
					m, err := decodePaho(f, packet.V5)
					if err != nil {
						t.Fatal(err)
					}
					got[i][string(m.Payload)]++
					devs[i].c.SetWriteDeadline(time.Now().Add(time.Second))
					devs[i].c.Write([]byte{0x40, 2, byte(m.PacketID >> 8), byte(m.PacketID)})
				}
			}
		}
		for i := range n {
			got[i] = map[string]int{}
			connect(i)
			devs[i].subscribe(id(i), 1)
		}
		for round := range 6 {
			for i := range n {
				fc.nodes[round%3].send(id(i), fmt.Sprint(sent[i]))
				sent[i]++
			}
			for i := range n {
				if i%2 == 0 {
					receive(i)
				}
			}
			for p := range fakePartitions {
				fc.moveTo(p, (p+round)%3)
			}
			for i := range n {
				devs[i].c.Close()
				connect(i)
			}
		}
		for i := range n {
			receive(i)
			var missing []int
			for m := range sent[i] {
				if got[i][fmt.Sprint(m)] == 0 {
					missing = append(missing, m)
				}
			}
			if len(missing) > 0 {
				t.Errorf("%s misses %v", id(i), missing)
			}
		}
		total := int64(0)
		for _, node := range fc.nodes {
			total += node.srv.Stats().DurableSessions
		}
		if total != n {
			t.Errorf("%d sessions, want %d", total, n)
		}
	})
}

// The place of a shared subscription goes with its members: what was acknowledged does not come again.
func TestSharedSubscriptionMovesWithItsMember(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("$share/g/a", 1)
		for i := range 5 {
			fc.nodes[0].send("a", fmt.Sprint(i))
			dev.puback(dev.message().PacketID)
		}
		time.Sleep(3 * time.Second)
		fc.move(id, 2)
		dev.wantEnd(packet.ServerShuttingDown)
		synctest.Wait() // whoever passes a client on knows the owner by then
		fc.nodes[0].send("a", "missed")
		dev, _ = fc.nodes[0].v5(id, lasting(1000))
		if m := dev.message(); string(m.Payload) != "missed" {
			t.Errorf("%q came again", m.Payload)
		}
		dev.quiet()
	})
}

// The floor that earlier builds kept for all partitions together holds for one until it has its own, wherever that is led.
func TestFloorOfEarlierBuilds(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a", 1)
		dev.bye()
		synctest.Wait()
		for i := range 10 {
			fc.nodes[0].send("a", fmt.Sprint(i)) // of which the record knows nothing yet
		}
		p := PartitionFor([]byte(id), fakePartitions)
		value, _ := fc.stored(id)
		fc.sessions[PartitionFor(nil, fakePartitions)].Put([]byte(keyFloorOfAll), mustCBOR(floorRecord{floorFormat, fc.nodes[0].srv.hub.Ends()}), func(error) {})
		fc.sessions[p] = newFakeTable()
		fc.sessions[p].Put([]byte(id), []byte(value), func(error) {})
		fc.nodes[0].srv.holdings.floorKnown = false // as after a start
		fc.move(id, 0)
		synctest.Wait()
		fc.nodes[0].send("a", "new")
		dev, _ = fc.nodes[0].v5(id, lasting(1000))
		if m := dev.message(); string(m.Payload) != "new" {
			t.Errorf("%q, which lies below the floor", m.Payload)
		}
	})
}

// A partition that cannot be read is tried again; its clients wait.
func TestLoadIsTriedAgain(t *testing.T) {
	fail := make(chan error, 3)
	inCluster(t, 2, func(node int, c *Config) {
		if node == 0 {
			c.Sessions = failingTable{c.Sessions, fail}
		}
	}, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(1)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.bye()
		fail <- errFakeDown
		fail <- errFakeDown
		fc.move(id, 0)
		if _, ack := fc.nodes[1].v5(id, lasting(1000)); !ack.SessionPresent {
			t.Error("the session was not found")
		}
		if len(fail) != 0 {
			t.Error("loaded without being read")
		}
	})
}

type failingTable struct {
	Table
	fail chan error
}

func (t failingTable) Load(p int, fn func(key, value []byte) error) error {
	select {
	case err := <-t.fail:
		return err
	default:
		return t.Table.Load(p, fn)
	}
}

// A node that is letting a client in hears that another has claimed it later: the client is dropped as soon as it is in.
func TestClientIsDroppedWhileItConnects(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		for owner, clean := range []bool{true, false} { // claimed from the owner, and by it
			n, id := fc.nodes[owner], fc.idAt(1)
			hold := make(chan struct{})
			fc.mu.Lock()
			fc.nodes[1-owner].hold = hold
			fc.mu.Unlock()
			dev := n.dial()
			flags := byte(0)
			if clean {
				flags = 2
			}
			dev.write(append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 60, 0, byte(len(id))}, id...)...)
			synctest.Wait()
			n.srv.Drop(id, 9<<32)
			fc.mu.Lock()
			fc.nodes[1-owner].hold = nil
			fc.mu.Unlock()
			close(hold)
			dev.expect(0x20, 2, 0, 0)
			dev.expectEnd()
		}
	})
}
