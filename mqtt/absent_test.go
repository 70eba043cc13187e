package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// after is the table as a crash leaves it that lets only the first n puts through.
func (t *fakeTable) after(n int) *fakeTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := newFakeTable()
	for _, p := range t.past[:n] {
		c.past = append(c.past, p)
		if delete(c.m, p.key); !p.del {
			c.m[p.key] = p.value
		}
	}
	return c
}

func (t *fakeTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.past)
}

// restartAfter is a crash that came when n records of the sessions table were committed, and the whole log.
func (r *rig) restartAfter(n int) *rig {
	r.t.Helper()
	sessions, retained := r.sessions.after(n), r.retained.clone()
	r.log.mu.Lock()
	r.log.watchers = nil
	r.log.mu.Unlock()
	return startAt(r.t, newPipeListener(), r.log, sessions, retained, nil)
}

// The client holds back an ack, which keeps its place before the messages that came before it subscribed to them.
func TestSubscriptionDoesNotReachBackAfterACrash(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		dev, _ := r.v5("dev", lasting(1000))
		dev.subscribe("a", 1)
		pub, _ := r.v5("pub", nil)
		put := func(topic, payload string, id uint16) {
			pub.publish(topic, payload, 1, id)
			pub.expect(0x40, 2, byte(id>>8), byte(id))
		}
		put("a", "unacked", 1)
		dev.message()
		put("b", "too old", 2)
		put("c", "too old", 3)
		before := r.sessions.count()
		dev.subscribe("b", 1)
		subacked := r.sessions.count()
		put("b", "due", 4)
		dev.message()
		put("c", "too old", 5)
		dev.subscribe("c", 1) // a second moment in the same record
		dev.subscribe("b", 1) // again: the first moment stays
		all := r.sessions.count()
		put("c", "due", 6)
		dev.message()
		time.Sleep(3 * time.Second) // the stored cursor is written again
		synctest.Wait()
		last := r.sessions.count()
		r.stop()
		for n := before; n <= last; n++ {
			next := r.restartAfter(n)
			for round := range 2 { // the moment must outlive the restart after the next too
				back, ack := next.v5("dev", lasting(1000))
				if !ack.SessionPresent {
					t.Fatal("the session is gone")
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				var got []string
				for {
					f, err := back.tryFrame(time.Second)
					if err != nil {
						break
					}
					if p, err := decodePaho(f, packet.V5); err == nil {
						got = append(got, p.Topic+"="+string(p.Payload))
					}
				}
				want := []string{"a=unacked"}
				if n >= subacked {
					want = append(want, "b=due")
				}
				if n >= all {
					want = append(want, "c=due")
				}
				slices.Sort(got)
				// Between SUBSCRIBE and its SUBACK either is right.
				if loose := n > before && n < subacked || n > subacked && n < all; !slices.Equal(got, want) && !loose {
					t.Errorf("after %d of %d records, round %d: %v, want %v", n, last, round, got, want)
				}
				if slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, "too old") }) {
					t.Errorf("after %d of %d records, round %d: %v", n, last, round, got)
				}
				if round == 0 {
					again := next.restartAfter(next.sessions.count())
					next.stop()
					next = again
				}
			}
			next.stop()
		}
	})
}

// The moment of a subscription is stored as long as the session's place is before it, and not for ever.
func TestMomentIsForgottenOnceItIsPassed(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		dev, _ := r.v5("dev", atOnce(1))
		dev.subscribe("a", 1)
		pub, _ := r.v5("pub", nil)
		for id := range uint16(2) { // the second has to wait
			pub.publish("a", "x", 1, id+1)
			pub.expectType(packet.PUBACK)
		}
		m := dev.message()
		dev.subscribe("b", 1)
		if s := r.storedSession("dev"); len(s.Since) == 0 || s.Subs[1].Since == 0 {
			t.Errorf("with a message waiting the record has moments %+v, subscriptions %+v", s.Since, s.Subs)
		}
		dev.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		m = dev.message()
		dev.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		pub.publish("b", "x", 1, 2) // so that the place moves
		pub.expectType(packet.PUBACK)
		m = dev.message()
		dev.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := r.storedSession("dev"); len(s.Since) != 0 || s.Subs[0].Since != 0 || s.Subs[1].Since != 0 {
			t.Errorf("with all acknowledged the record has moments %+v, subscriptions %+v", s.Since, s.Subs)
		}
	})
}

func (r *rig) storedSession(id string) (s sessionRecord) {
	r.t.Helper()
	r.sessions.mu.Lock()
	value := r.sessions.m[id]
	r.sessions.mu.Unlock()
	if err := cbor.Unmarshal([]byte(value), &s); err != nil {
		r.t.Fatalf("record of %s: %v", id, err)
	}
	return s
}

// A session that is away does not hold the place of others' messages, is not written for them, and gets its own
// whenever the node is killed.
func TestAbsentSessionsMoveOn(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i := range 20 {
			dev, _ := r.v5(fmt.Sprint("dev", i), lasting(100_000))
			dev.subscribe(fmt.Sprint("mine/", i), 1)
			dev.c.Close()
		}
		pub, _ := r.v5("pub", nil)
		synctest.Wait()
		begin := r.sessions.count()
		for n := range 300 {
			pub.publish("others", "x", 1, uint16(n+1))
			pub.expectType(packet.PUBACK)
			if n%100 == 99 {
				time.Sleep(5 * time.Second)
			}
		}
		synctest.Wait()
		if n := r.sessions.count() - begin; n == 0 || n > 4 {
			t.Errorf("%d records for 20 absent sessions that got nothing in 15 s", n)
		}
		still := r.sessions.count()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := r.sessions.count() - still; n != 0 { // C6
			t.Errorf("%d records written on an idle node", n)
		}
		waiting := r.log.appended("telemetry")
		pub.publish("mine/7", "waits", 1, 301)
		pub.expectType(packet.PUBACK)
		for n := range 50 {
			pub.publish("others", "x", 1, uint16(n+1))
			pub.expectType(packet.PUBACK)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if b := r.storedSession("dev7").Behind; b.Len() != 1 {
			t.Errorf("dev7 is behind in %d partitions, want 1", b.Len())
		}
		last := r.sessions.count()
		r.stop()
		for n := begin; n <= last; n++ {
			next := r.restartAfter(n)
			synctest.Wait()
			for _, i := range []int{7, 8} {
				dev, ack := next.v5(fmt.Sprint("dev", i), lasting(1))
				if !ack.SessionPresent {
					t.Fatalf("after %d records: no session", n)
				}
				if i == 7 {
					if m := dev.message(); string(m.Payload) != "waits" {
						t.Errorf("after %d records: %q", n, m.Payload)
					}
				}
				dev.quiet()
			}
			if n == last {
				cl := next.srv.registry.find("dev9")
				cl.mu.Lock()
				var sum int
				for i := range int32(2) {
					at, _ := cl.cursor.Next(log.PartitionID{Topic: topicID("telemetry"), Index: i})
					sum += int(at)
				}
				cl.mu.Unlock()
				if sum < waiting {
					t.Errorf("dev9 begins at %d of %d records", sum, waiting)
				}
			}
			next.stop()
		}
	})
}

func topicID(name string) (id log.TopicID) {
	copy(id[:], name)
	return id
}

// Records of format 1 know nothing of the floor: it holds for none of them.
func TestFloorSparesRecordsOfFormat1(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		dev, _ := r.v5("dev", lasting(1000))
		dev.subscribe("a", 1)
		dev.c.Close()
		synctest.Wait()
		old := r.storedSession("dev")
		pub, _ := r.v5("pub", nil)
		pub.publish("a", "waits", 1, 1)
		pub.expectType(packet.PUBACK)
		time.Sleep(5 * time.Second)
		old.Format = 1
		r.sessions.Put([]byte("dev"), mustCBOR(old), func(error) {})
		floor := r.srv.hub.Ends()
		r.sessions.Put([]byte(keyFloor), mustCBOR(floorRecord{floorFormat, floor}), func(error) {})
		n := r.sessions.count()
		r.stop()
		next := r.restartAfter(n)
		back, _ := next.v5("dev", lasting(1000))
		if m := back.message(); string(m.Payload) != "waits" {
			t.Errorf("got %q", m.Payload)
		}
		next.stop()
	})
}

func TestLossesAreCountedOnce(t *testing.T) {
	id := func(i int32) log.PartitionID { return log.PartitionID{Index: i} }
	var all []deliver.Loss
	for _, l := range []deliver.Loss{
		{Partition: id(0), First: 10, Next: 20, Messages: 3},
		{Partition: id(1), First: 0, Next: 5, Messages: 5},
		{Partition: id(0), First: 10, Next: 20, Messages: 10}, // found again after a restart
		{Partition: id(0), First: 10, Next: 22, Messages: 12},
		{Partition: id(0), First: 30, Next: 40, Messages: 4},
	} {
		all = addLoss(all, l)
	}
	want := []deliver.Loss{{Partition: id(0), First: 10, Next: 40, Messages: 9}, {Partition: id(1), First: 0, Next: 5, Messages: 5}}
	if !slices.Equal(all, want) {
		t.Errorf("%+v, want %+v", all, want)
	}
	if got := restoreLosses(recordLosses(all)); !slices.Equal(got, want) {
		t.Errorf("stored and read: %+v", got)
	}
}
