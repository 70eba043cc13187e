package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// groupAt is a shared subscription to a filter that a node leads.
func (fc *fakeCluster) groupAt(node int, filter string) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("$share/g%d/%s", i, filter)
		fc.mu.Lock()
		leader := fc.leader[groupOf(name)]
		fc.mu.Unlock()
		if leader == node {
			return name
		}
	}
}

// groupOf is the partition of a shared subscription.
func groupOf(name string) int {
	return PartitionFor([]byte(deliver.GroupKeyPrefix+name), fakePartitions)
}

// messages reads what has come by now.
func (p *peer) messages() (got []*packets.Publish) {
	p.t.Helper()
	synctest.Wait()
	p.write(0xc0, 0)
	for {
		f := p.frame()
		if f == nil {
			p.t.Fatal("connection ended")
		}
		switch packet.Type(f[0] >> 4) {
		case packet.PINGRESP:
			return got
		case packet.PUBLISH:
			m, err := decodePaho(f, p.version)
			if err != nil {
				p.t.Fatal(err)
			}
			got = append(got, m)
		default:
			p.t.Fatalf("got % x", f)
		}
	}
}

// ledger counts how often each message came.
type ledger map[string]int

func (l ledger) add(list []*packets.Publish) int {
	for _, m := range list {
		l[string(m.Payload)]++
	}
	return len(list)
}

// want checks that messages 0 to n-1 came, each once unless again says that some may have come more often.
func (l ledger) want(t *testing.T, n int, again bool) {
	t.Helper()
	for i := range n {
		if c := l[fmt.Sprint(i)]; c == 0 || c > 1 && !again {
			t.Errorf("message %d came %d times", i, c)
		}
	}
}

func (fc *fakeCluster) sendAll(topic string, from, to int) {
	fc.t.Helper()
	for i := from; i < to; i++ {
		fc.nodes[i%len(fc.nodes)].send(topic, fmt.Sprint(i))
	}
}

// A shared subscription gives each message to one of its members, on whatever nodes they and its leader are.
func TestSharedSubscriptionAcrossNodes(t *testing.T) { // MQTT 5 §4.8.2
	kinds := map[string]func(*packets.Connect){"clean": nil, "lasting": lasting(1000)}
	for name, kind := range kinds {
		for leader := range 3 {
			for members := 2; members <= 3; members++ {
				t.Run(fmt.Sprintf("%s, %d members, led by node %d", name, members, leader), func(t *testing.T) {
					inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
						group := fc.groupAt(leader, "t")
						var peers []*peer
						for i := range members {
							p, _ := fc.nodes[i].v5(fc.idAt(i), kind)
							p.subscribe(group, 1)
							peers = append(peers, p)
						}
						synctest.Wait()
						const n = 12
						fc.sendAll("t", 0, n)
						seen := ledger{}
						for i, p := range peers {
							list := p.messages()
							if len(list) < n/members-2 || len(list) > n/members+2 { // two partitions may give to one at a time
								t.Errorf("member %d has %d of %d messages", i, len(list), n)
							}
							for _, m := range list {
								p.puback(m.PacketID)
							}
							seen.add(list)
						}
						seen.want(t, n, false)
						time.Sleep(3 * time.Second)
						stored := 0
						for p := range fakePartitions {
							if _, ok := fc.sessions[p].get(deliver.GroupKeyPrefix + group); ok {
								if stored++; p != groupOf(group) {
									t.Errorf("the group is stored in partition %d", p)
								}
							}
						}
						if stored != 1 {
							t.Errorf("the group is stored in %d partitions", stored)
						}
						for i, p := range peers { // the last one that leaves ends the group, and its cursor with it
							if ok := fc.sessions[groupOf(group)].has(deliver.GroupKeyPrefix + group); !ok {
								t.Errorf("no cursor while %d members are left", members-i)
							}
							p.unsubscribe(group)
							synctest.Wait()
						}
						if fc.sessions[groupOf(group)].has(deliver.GroupKeyPrefix + group) {
							t.Error("the cursor of a group without members is still stored")
						}
						for i, node := range fc.nodes {
							if groups := node.srv.Delivery().Groups; groups != 0 {
								t.Errorf("node %d: %d groups", i, groups)
							}
						}
					})
				})
			}
		}
	}
}

func (p *peer) unsubscribe(filter string) {
	p.t.Helper()
	b := append([]byte{0, 78, 0, 0, byte(len(filter))}, filter...)
	p.write(append([]byte{0xa2, byte(len(b))}, b...)...)
	if f := p.expectType(packet.UNSUBACK); f[len(f)-1] != 0 {
		p.t.Fatalf("UNSUBACK % x", f)
	}
}

// A member's node goes down: what the member had of QoS 1 and did not acknowledge goes to others, once.
func TestMembersNodeDies(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		lost, _ := fc.nodes[1].v5(fc.idAt(1), nil)
		lost.subscribe(group, 1)
		left, _ := fc.nodes[2].v5(fc.idAt(2), nil)
		left.subscribe(group, 1)
		synctest.Wait()
		fc.sendAll("t", 0, 6)
		seen := ledger{}
		list := lost.messages()
		if len(list) == 0 {
			t.Fatalf("%d messages", len(list))
		}
		lost.puback(list[0].PacketID)
		seen.add(list[:1])
		for _, m := range left.messages() {
			left.puback(m.PacketID)
			seen.add([]*packets.Publish{m})
		}
		fc.down(1)
		synctest.Wait()
		seen.add(left.messages())
		seen.want(t, 6, false)
		fc.sendAllFrom(2, "t", 6, 10)
		seen.add(left.messages())
		seen.want(t, 10, false)
		time.Sleep(20 * time.Second) // its membership ends with the session
		left.unsubscribe(group)
		synctest.Wait()
		if fc.sessions[groupOf(group)].has(deliver.GroupKeyPrefix + group) {
			t.Error("a member that died keeps the group")
		}
	})
}

// down kills a node and leaves its partitions to the next one.
func (fc *fakeCluster) down(node int) {
	fc.nodes[node].stop()
	fc.mu.Lock()
	fc.nodes[node].down = true
	fc.mu.Unlock()
	for p := range fakePartitions {
		fc.mu.Lock()
		leader := fc.leader[p]
		fc.mu.Unlock()
		if leader == node {
			fc.moveTo(p, (node+1)%len(fc.nodes))
		}
	}
}

func (fc *fakeCluster) sendAllFrom(node int, topic string, from, to int) {
	fc.t.Helper()
	for i := from; i < to; i++ {
		fc.nodes[node].send(topic, fmt.Sprint(i))
	}
}

// The leader of a group goes: its members go on with the next one. What they had not acknowledged may come twice with QoS 1;
// nothing is left out.
func TestLeaderOfAGroupChanges(t *testing.T) {
	for _, how := range []string{"moves", "dies"} {
		for next := 1; next <= 2; next++ { // a member's node, and one without members
			t.Run(fmt.Sprintf("%s to node %d", how, next), func(t *testing.T) {
				inCluster(t, 4, nil, func(t *testing.T, fc *fakeCluster) {
					group := fc.groupAt(0, "t")
					var peers []*peer
					for _, node := range []int{1, 3} {
						p, _ := fc.nodes[node].v5(fc.idAt(node), nil)
						p.subscribe(group, 1)
						peers = append(peers, p)
					}
					synctest.Wait()
					fc.sendAllFrom(1, "t", 0, 6)
					seen := ledger{}
					for _, p := range peers {
						list := p.messages()
						p.puback(list[0].PacketID)
						seen.add(list)
					}
					seen.want(t, 6, false)
					time.Sleep(2 * time.Second)
					if how == "dies" {
						fc.nodes[0].stop()
						fc.mu.Lock()
						fc.nodes[0].down = true
						fc.mu.Unlock()
					}
					fc.sendAllFrom(1, "t", 6, 8) // while nobody leads, or somebody who is about to lose it
					fc.moveTo(groupOf(group), next)
					fc.sendAllFrom(1, "t", 8, 12)
					time.Sleep(5 * time.Second)
					for _, p := range peers {
						seen.add(p.messages())
					}
					seen.want(t, 12, true)
					again := 0
					for i := range 6 {
						again += seen[fmt.Sprint(i)] - 1
					}
					if again > 4 {
						t.Errorf("%d messages came again, of which 4 were not acknowledged", again)
					}
					for _, p := range peers { // all is as before
						for id := range 20 {
							p.puback(uint16(id + 1))
						}
						p.quiet()
					}
					seen = ledger{}
					fc.sendAllFrom(2, "t", 0, 4)
					for _, p := range peers {
						if n := seen.add(p.messages()); n == 0 {
							t.Error("a member has none of 4 messages")
						}
					}
				})
			})
		}
	}
}

// Messages that come while no member is connected anywhere wait, also over a change of the leader, and for members on whatever
// node.
func TestGroupWaitsForMembersOverAChangeOfItsLeader(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group, one, two := fc.groupAt(0, "t"), fc.idAt(1), fc.idAt(2)
		for _, id := range []string{one, two} {
			p, _ := fc.nodes[1].v5(id, lasting(1000))
			p.subscribe(group, 1)
			p.bye()
		}
		synctest.Wait()
		fc.sendAll("t", 0, 4)
		fc.moveTo(groupOf(group), 1)
		synctest.Wait()
		fc.sendAll("t", 4, 8)
		fc.moveTo(groupOf(group), 2)
		fc.sendAll("t", 8, 12)
		synctest.Wait()
		seen := ledger{}
		time.Sleep(3 * time.Second) // its node reaches the leader
		p, _ := fc.nodes[0].v5(one, lasting(1000))
		if n := seen.add(p.messages()); n != 12 {
			t.Errorf("%d messages for the only one that is there", n)
		}
		seen.want(t, 12, false)
	})
}

func ids(list []*packets.Publish) (out []string) {
	for _, m := range list {
		out = append(out, string(m.Payload))
	}
	slices.Sort(out)
	return out
}

func (fc *fakeCluster) sendQoS2(node int, topic string, from, to int) {
	fc.t.Helper()
	pub, _ := fc.nodes[node].v5("", nil)
	for i := from; i < to; i++ {
		id := byte(i + 1)
		pub.publish(topic, fmt.Sprint(i), 2, uint16(id))
		pub.expect(0x50, 2, 0, id)
		pub.write(0x62, 2, 0, id)
		pub.expect(0x70, 2, 0, id)
	}
	pub.bye()
}

// The leader of a group goes while messages of QoS 2 are on their way to members on other nodes, at every step: none comes
// twice, and none is left out, whichever member the next leader hears from first.
func TestQoS2OverAChangeOfTheLeader(t *testing.T) { // M9, MQTT5 [MQTT-4.8.2-4] [MQTT-4.8.2-5]
	for name, kind := range map[string]func(*packets.Connect){"clean": nil, "lasting": lasting(1000)} {
		for _, how := range []string{"moves", "dies"} {
			for next := 1; next <= 3; next++ {
				t.Run(fmt.Sprintf("%s, %s to node %d", name, how, next), func(t *testing.T) {
					inCluster(t, 4, nil, func(t *testing.T, fc *fakeCluster) {
						group := fc.groupAt(0, "t")
						var peers []*peer
						for _, node := range []int{1, 3} {
							p, _ := fc.nodes[node].v5(fc.idAt(node), kind)
							p.subscribe(group, 2)
							peers = append(peers, p)
						}
						synctest.Wait()
						fc.sendQoS2(1, "t", 0, 8)
						seen := ledger{}
						for _, p := range peers {
							list := p.messages()
							if len(list) < 2 {
								t.Fatalf("%d messages", len(list))
							}
							seen.add(list)
							p.complete(list[0].PacketID) // done
							id := list[1].PacketID       // received
							p.write(0x50, 2, byte(id>>8), byte(id))
							p.expect(0x62, 2, byte(id>>8), byte(id))
						}
						synctest.Wait() // before the cursor is stored once more
						if how == "dies" {
							fc.nodes[0].stop()
							fc.mu.Lock()
							fc.nodes[0].down = true
							fc.mu.Unlock()
						}
						fc.moveTo(groupOf(group), next)
						time.Sleep(2 * time.Second)
						fc.sendQoS2(1, "t", 8, 12)
						time.Sleep(5 * time.Second)
						for _, p := range peers {
							seen.add(p.messages())
						}
						seen.want(t, 12, false)
					})
				})
			}
		}
	}
}

// A member that has begun a message of QoS 2 is away, its node too, when the leader changes: nobody else gets the message, and
// the member goes on with it on another node.
func TestQoS2StaysWithAMemberThatIsAway(t *testing.T) { // MQTT5 [MQTT-4.8.2-4]
	inCluster(t, 4, nil, func(t *testing.T, fc *fakeCluster) {
		group, id := fc.groupAt(0, "t"), fc.idAt(1)
		first, _ := fc.nodes[1].v5(id, lasting(1000))
		first.subscribe(group, 2)
		synctest.Wait()
		fc.sendQoS2(1, "t", 0, 2)
		if list := first.messages(); len(list) != 2 {
			t.Fatalf("%d messages", len(list))
		}
		second, _ := fc.nodes[2].v5(fc.idAt(2), nil)
		second.subscribe(group, 2)
		synctest.Wait()
		p := PartitionFor([]byte(id), fakePartitions)
		fc.nodes[0].stop()
		fc.nodes[1].stop()
		fc.mu.Lock()
		fc.nodes[0].down, fc.nodes[1].down = true, true
		fc.mu.Unlock()
		fc.moveTo(groupOf(group), 2)
		fc.moveTo(p, -1)
		fc.sendQoS2(2, "t", 2, 4)
		if list := second.messages(); len(list) != 0 {
			t.Errorf("%v before the other member was heard of", ids(list))
		}
		fc.moveTo(p, 3)
		synctest.Wait()
		if got := fmt.Sprint(ids(second.messages())); got != "[2 3]" {
			t.Errorf("the second has %v", got)
		}
		first, ack := fc.nodes[3].v5(id, lasting(1000))
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		list := first.messages()
		if got := fmt.Sprint(ids(list)); got != "[0 1]" || !list[0].Duplicate {
			t.Errorf("the first goes on with %v", got)
		}
	})
}

// A session that ends with its connection ends with its node: what it has begun of QoS 2 is nobody's then, and holds up
// nothing.
func TestQoS2EndsWithItsNode(t *testing.T) { // MQTT5 [MQTT-4.8.2-5]
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		lost, _ := fc.nodes[1].v5("lost", nil)
		lost.subscribe(group, 2)
		left, _ := fc.nodes[2].v5("left", nil)
		left.subscribe(group, 2)
		synctest.Wait()
		fc.sendQoS2(0, "t", 0, 4)
		seen := ledger{}
		seen.add(lost.messages())
		for _, m := range left.messages() {
			seen.add([]*packets.Publish{m})
			left.complete(m.PacketID)
		}
		seen.want(t, 4, false)
		fc.down(1)
		for range 4 {
			time.Sleep(10 * time.Second)
			seen.add(left.messages())
		}
		seen.want(t, 4, false)
		ends := fc.nodes[0].srv.hub.Ends()
		value, _ := fc.sessions[groupOf(group)].get(deliver.GroupKeyPrefix + group)
		if want := fmt.Sprintf("%x", mustCBOR(ends)); !strings.Contains(fmt.Sprintf("%x", value), want) {
			t.Errorf("the group's record is %x, and its cursor should be %s", value, want)
		}
		fc.moveTo(groupOf(group), 2)
		time.Sleep(3 * time.Second)
		seen.add(left.messages())
		seen.want(t, 4, false)
	})
}

// A member comes back on another node: there it is the same member, and what it had not acknowledged is for it or others.
func TestMemberChangesItsNode(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group, id := fc.groupAt(0, "t"), fc.idAt(1)
		for _, kind := range []func(*packets.Connect){nil, lasting(1000)} {
			one, _ := fc.nodes[1].v5(id, kind)
			one.subscribe(group, 1)
			other, _ := fc.nodes[2].v5("other", nil)
			other.subscribe(group, 1)
			synctest.Wait()
			fc.sendAll("t", 0, 6)
			if n := len(one.messages()); n < 2 {
				t.Fatalf("%d messages", n)
			}
			fc.move(id, 2)
			one, ack := fc.nodes[2].v5(id, kind)
			if !ack.SessionPresent {
				one.subscribe(group, 1)
			}
			synctest.Wait()
			seen := ledger{}
			for range 2 {
				for _, p := range []*peer{one, other} {
					list := p.messages()
					seen.add(list)
					for _, m := range list {
						p.puback(m.PacketID)
					}
				}
			}
			seen.want(t, 6, true)
			fc.sendAll("t", 6, 10)
			for _, p := range []*peer{one, other} {
				if n := len(p.messages()); n == 0 {
					t.Error("a member has none of 4 messages")
				}
			}
			if n := len(fc.nodes[0].srv.holdings.homes[groupOf(group)].hosts); n > 2 {
				t.Errorf("%d streams", n)
			}
			one.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
			one.expectEnd()
			other.messages()
			other.bye()
			synctest.Wait()
			fc.move(id, 1)
			synctest.Wait()
		}
	})
}

// Of two members that subscribe on two nodes the leader may hear of the later one first: the group begins with the earlier.
func TestGroupBeginsWithTheFirstMember(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		fc.nodes[0].send("t", "before") // so that the partitions are there
		fc.mu.Lock()
		fc.nodes[1].mute = true
		fc.mu.Unlock()
		first, _ := fc.nodes[1].v5("first", nil)
		first.subscribe(group, 1)
		synctest.Wait()
		fc.sendAll("t", 0, 4)
		fc.nodes[0].send("other", "x")
		second, _ := fc.nodes[2].v5("second", nil)
		second.subscribe(group, 1)
		synctest.Wait()
		fc.sendAll("t", 4, 8)
		seen := ledger{}
		seen.add(second.messages())
		fc.mu.Lock()
		fc.nodes[1].mute = false
		fc.mu.Unlock()
		time.Sleep(5 * time.Second)
		for range 2 {
			for _, p := range []*peer{first, second} {
				list := p.messages()
				seen.add(list)
				for _, m := range list {
					p.puback(m.PacketID)
				}
			}
		}
		seen.want(t, 8, false)
		if len(seen) != 8 {
			t.Errorf("%v", seen)
		}
	})
}

// Earlier builds stored a group's cursor with its members: it is read wherever it is, and once the group is stored in its own
// partition nothing of it stays elsewhere.
func TestGroupOfEarlierBuilds(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		group, id := fc.groupAt(0, "t"), fc.idAt(1)
		key := []byte(deliver.GroupKeyPrefix + group)
		fc.nodes[0].send("t", "old")
		dev, _ := fc.nodes[1].v5(id, lasting(1000))
		dev.bye()
		synctest.Wait()
		cur := mustCBOR(fc.nodes[0].srv.hub.Ends())
		fc.nodes[0].send("t", "new")
		p := PartitionFor([]byte(id), fakePartitions)
		fc.sessions[p].Put(key, cur, func(error) {})
		fc.move(id, 0)
		synctest.Wait()
		fc.move(id, 1)
		synctest.Wait()
		dev, _ = fc.nodes[1].v5(id, lasting(1000))
		dev.subscribe(group, 1)
		time.Sleep(time.Second)
		if got := fmt.Sprint(ids(dev.messages())); got != "[new]" {
			t.Errorf("%v, want what lies behind the stored cursor", got)
		}
		time.Sleep(3 * time.Second)
		if fc.sessions[p].has(string(key)) || !fc.sessions[groupOf(group)].has(string(key)) {
			t.Error("the group is stored in the wrong partition")
		}
	})
}
