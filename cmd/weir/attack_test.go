package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log/vfs"
	"github.com/weir-io/weir/mqtt"
)

// arena is a node that stops and starts again on the same ports while clients go on.
type arena struct {
	t    *testing.T
	cfg  Config
	n    *node
	stop func()
	rng  *rand.Rand // the test's own
	seed uint64
	dice atomic.Uint64
}

func newArena(t *testing.T, routes ...mqtt.Route) *arena {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	a := &arena{t: t, cfg: Defaults(), seed: seed, rng: rand.New(rand.NewPCG(seed, 0))}
	a.cfg.Node.Data, a.cfg.Routes = t.TempDir(), routes
	a.cfg.MQTT.Listen, a.cfg.MQTT.WS, a.cfg.Kafka.Listen, a.cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	a.cfg.Cluster.Gossip, a.cfg.Cluster.Raft = "", ""
	a.cfg.Log.JournalFile = 1 << 20
	a.n, a.stop = startNodeOn(t, a.cfg, vfs.OS{})
	a.cfg.MQTT.Listen, a.cfg.Kafka.Listen = a.n.addrOf("mqtt"), a.n.addrOf("kafka")
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *arena) restart() {
	a.t.Helper()
	a.stop()
	a.n, a.stop = startNodeOn(a.t, a.cfg, vfs.OS{})
}

// die gives a source of random numbers to a client: one of its own, since rand.Rand is for one goroutine.
func (a *arena) die() *rand.Rand { return rand.New(rand.NewPCG(a.seed, a.dice.Add(1))) }

// dial tries until the node is there.
func (a *arena) dial(id string, clean bool) (*handClient, error) {
	for end := time.Now().Add(time.Minute); ; {
		c, err := dialByHand(a.cfg.MQTT.Listen, id, clean)
		if err == nil || time.Now().After(end) {
			return c, err
		}
		time.Sleep(10 * time.Millisecond) // the node is starting
	}
}

// attackScale is how much larger the long run is.
func attackScale() int {
	if os.Getenv("WEIR_SOAK") != "" {
		return 20
	}
	return 1
}

// qos2Sender sends messages with QoS 2 over connections that it breaks off wherever the die says: behind PUBLISH, PUBREC,
// PUBREL. It does what the standard asks of a sender, and nothing else, to get each message through once.
func (a *arena) qos2Sender(id string, count int) error {
	type exchange struct {
		id       uint16
		payload  string
		received bool // PUBREC came
	}
	die := a.die()
	var open []*exchange
	sent, done := 0, 0
	for connections := 0; done < count; connections++ {
		c, err := a.dial(id, false)
		if err != nil {
			return err
		}
		if connections > 0 && !c.present {
			return fmt.Errorf("%s: the session is gone", id)
		}
		for _, e := range open {
			if e.received {
				err = c.ack(0x62, e.id)
			} else {
				err = c.publish(rawQoS2|rawDup, "storm/"+id, e.id, e.payload)
			}
		}
		for err == nil && done < count && die.IntN(12) > 0 {
			for err == nil && len(open) < 8 && sent < count {
				e := &exchange{id: uint16(sent%1000 + 1), payload: fmt.Sprintf("%s-%d", id, sent)}
				open, sent = append(open, e), sent+1
				err = c.publish(rawQoS2, "storm/"+id, e.id, e.payload)
			}
			var head byte
			var body []byte
			if err != nil || die.IntN(12) == 0 { // the message is under way, and nobody waits for the answer
				break
			}
			if head, body, err = c.read(); err != nil {
				break
			}
			i := slices.IndexFunc(open, func(e *exchange) bool { return e.id == idOf(body) })
			switch {
			case i < 0: // of an exchange that was repeated and has ended
			case head == 0x50:
				open[i].received = true
				if die.IntN(12) > 0 { // else PUBREC came and PUBREL does not go out
					err = c.ack(0x62, open[i].id)
				} else {
					err = io.EOF
				}
			case head == 0x70 && open[i].received:
				open, done = slices.Delete(open, i, i+1), done+1
			default:
				c.Close()
				return fmt.Errorf("%s: got %#x % x", id, head, body)
			}
		}
		c.Close()
	}
	return nil
}

// qos2Receiver reads until it has count different messages, breaking its connection off likewise. got counts how often each
// was handed over: once, says QoS 2.
func (a *arena) qos2Receiver(id, filter string, count int, subscribed chan<- struct{}) (got map[string]int, err error) {
	die := a.die()
	got = map[string]int{}
	held := map[uint16]bool{} // ids with a PUBLISH and no PUBREL yet
	for connections := 0; len(got) < count; connections++ {
		c, err := a.dial(id, false)
		if err != nil {
			return got, err
		}
		if connections == 0 {
			err = c.subscribe(filter, 2)
		} else if !c.present {
			return got, fmt.Errorf("%s: the session is gone", id)
		}
		for err == nil && len(got) < count && (connections == 0 && len(got) == 0 || die.IntN(25) > 0) {
			var head byte
			var body []byte
			if head, body, err = c.read(); err != nil {
				break
			}
			switch head >> 4 {
			case 9:
				close(subscribed)
			case 3:
				_, pid, payload := split(head, body)
				if !held[pid] {
					held[pid] = true
					got[payload]++
				}
				if die.IntN(25) > 0 {
					err = c.ack(0x50, pid)
				} else {
					err = io.EOF
				}
			case 6:
				delete(held, idOf(body))
				if die.IntN(25) > 0 {
					err = c.ack(0x70, idOf(body))
				} else {
					err = io.EOF
				}
			}
		}
		c.Close()
	}
	return got, nil
}

// QoS 2 in both directions over connections that break in every state: each message is in the log once and reaches the
// application once. // M4, M9
func TestQoS2Storm(t *testing.T) { qos2Storm(t, true, 2*attackScale()) }

// The same while the node restarts, towards the log.
func TestQoS2StormWithRestarts(t *testing.T) { qos2Storm(t, false, 2*attackScale()) }

func qos2Storm(t *testing.T, receive bool, restarts int) {
	a := newArena(t)
	const senders = 6
	each := 60 * attackScale()
	subscribed := make(chan struct{})
	var all sync.WaitGroup
	var got map[string]int
	if receive {
		all.Go(func() {
			var err error
			if got, err = a.qos2Receiver("receiver", "storm/#", senders*each, subscribed); err != nil {
				t.Errorf("receiver: %v", err)
			}
		})
		<-subscribed
	}
	var sending sync.WaitGroup
	for i := range senders {
		id := fmt.Sprint("sender", i)
		sending.Go(func() {
			if err := a.qos2Sender(id, each); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	for range restarts {
		time.Sleep(time.Duration(50+a.rng.IntN(200)) * time.Millisecond) // some moment, chosen by the die
		a.restart()
	}
	sending.Wait()
	stored, err := readWithKafka(t, a.cfg.Kafka.Listen, defaultTopic)
	if err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if len(stored) != senders*each {
		t.Errorf("%d different messages are in the log, %d were sent", len(stored), senders*each)
	}
	for payload, n := range stored {
		if n != 1 {
			t.Errorf("%s is in the log %d times", payload, n)
		}
		if receive && got[payload] != 1 {
			t.Errorf("%s was handed over %d times", payload, got[payload])
		}
	}
}

// sendQoS1 publishes until stop is closed or count is reached, sends again what was not acknowledged when a connection ends,
// and returns the payloads that were.
func (a *arena) sendQoS1(id, topic string, count int, stop <-chan struct{}, onAck func()) (acked map[string]bool, err error) {
	acked = map[string]bool{}
	for next := 0; next < count; {
		c, err := a.dial(id, true)
		if err != nil {
			return acked, err
		}
		for err == nil && next < count {
			select {
			case <-stop:
				c.Close()
				return acked, nil
			default:
			}
			payload := fmt.Sprintf("%s-%d", id, next)
			pid := uint16(next%1000 + 1)
			if err = c.publish(rawQoS1, topic, pid, payload); err != nil {
				break
			}
			var head byte
			var body []byte
			if head, body, err = c.read(); err == nil && (head != 0x40 || idOf(body) != pid) {
				c.Close()
				return acked, fmt.Errorf("%s: got %#x % x", id, head, body)
			}
			if err == nil {
				acked[payload] = true
				next++
				onAck()
			}
		}
		c.Close()
	}
	return acked, nil
}

// Members of a shared subscription die under load with messages in their hands, for a while or for good: what was published
// reaches one that acknowledges it. // MQTT 5 §4.8.2
func TestSharedSubscriptionUnderAttack(t *testing.T) {
	a := newArena(t)
	const members, senders = 4, 3
	each := 150 * attackScale()
	var mu sync.Mutex
	taken := map[string]bool{} // acknowledged by a member
	complete := make(chan struct{})
	finish := sync.OnceFunc(func() { close(complete) })
	var ready, all sync.WaitGroup
	for i := range members {
		ready.Add(1)
		subscribed := sync.OnceFunc(ready.Done)
		id, clean, die := fmt.Sprint("member", i), i%2 == 0, a.die()
		lives, last := 1<<30, -1
		if i == 1 { // dies for good with this message in its hands: only another member can get it now
			lives, last = 1, die.IntN(10)
		}
		all.Go(func() {
			defer subscribed() // where it gave up
			for range lives {
				c, err := a.dial(id, clean)
				if err == nil {
					err = c.subscribe("$share/g/load/#", 1)
				}
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				over := make(chan struct{})
				go func() { // the end of the test ends a read that waits
					select {
					case <-complete:
					case <-over:
					}
					c.Close()
				}()
				for i < 2 || die.IntN(20) > 0 {
					head, body, err := c.read()
					if err != nil {
						break
					}
					if head>>4 == 9 {
						subscribed()
					}
					if head>>4 != 3 {
						continue
					}
					_, pid, payload := split(head, body)
					if i > 1 && die.IntN(20) == 0 || last == 0 {
						break // dies with the message in its hands
					}
					last--
					if c.ack(0x40, pid) != nil {
						break
					}
					mu.Lock()
					taken[payload] = true
					if len(taken) == senders*each {
						finish()
					}
					mu.Unlock()
				}
				close(over)
				select {
				case <-complete:
					return
				default:
				}
			}
		})
	}
	ready.Wait()
	for i := range senders {
		all.Go(func() {
			if acked, err := a.sendQoS1(fmt.Sprint("sender", i), "load/x", each, nil, func() {}); err != nil || len(acked) != each {
				t.Errorf("sender %d: %d acknowledged, %v", i, len(acked), err)
			}
		})
	}
	select {
	case <-complete:
	case <-time.After(2 * time.Minute):
		mu.Lock()
		t.Errorf("%d of %d messages reached a member", len(taken), senders*each)
		mu.Unlock()
		finish()
	}
	all.Wait()
}

// Retained messages are set at full speed while the node restarts: each topic then has the last one that was acknowledged, or
// one sent after it. // M6
func TestRetainedUnderLoadAndRestart(t *testing.T) {
	a := newArena(t)
	const clients, topics = 4, 25
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	acked, sent := map[string]int{}, map[string]int{}
	for i := range clients {
		die := a.die()
		all.Go(func() {
			for number := 1; ; {
				c, err := a.dial(fmt.Sprint("setter", i), true)
				if err != nil {
					t.Errorf("setter %d: %v", i, err)
					return
				}
				for {
					select {
					case <-stop:
						c.Close()
						return
					default:
					}
					topic := fmt.Sprintf("state/%d/%d", i, die.IntN(topics))
					number++
					mu.Lock()
					sent[topic] = number
					mu.Unlock()
					if c.publish(rawQoS1|rawRetain, topic, 1, strconv.Itoa(number)) != nil {
						break
					}
					if head, _, err := c.read(); err != nil || head != 0x40 {
						break
					}
					mu.Lock()
					acked[topic] = number
					mu.Unlock()
				}
				c.Close()
			}
		})
	}
	for range 3 * attackScale() {
		time.Sleep(time.Duration(100+a.rng.IntN(300)) * time.Millisecond) // some moment, chosen by the die
		a.restart()
	}
	close(stop)
	all.Wait()
	a.restart()
	c, err := a.dial("reader", true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.subscribe("state/#", 0); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for len(got) < len(acked) {
		head, body, err := c.read()
		if err != nil {
			t.Fatalf("after %d of %d retained messages: %v", len(got), len(acked), err)
		}
		if head>>4 != 3 {
			continue
		}
		topic, _, payload := split(head, body)
		if got[topic], err = strconv.Atoi(payload); err != nil || head&rawRetain == 0 {
			t.Fatalf("%s: %q, flags %#x", topic, payload, head)
		}
	}
	for topic, n := range acked {
		if got[topic] < n || got[topic] > sent[topic] {
			t.Errorf("%s: %d is retained, %d was acknowledged, %d sent last", topic, got[topic], n, sent[topic])
		}
	}
	t.Logf("%d topics, %d retained messages sent", len(acked), func() (n int) {
		for i := range clients { // each numbers its own
			last := 0
			for topic, number := range sent {
				if len(topic) > 6 && topic[6] == byte('0'+i) {
					last = max(last, number)
				}
			}
			n += last
		}
		return n
	}())
}

// A topic is made and deleted over and over by a Kafka admin while devices publish to it and to another: the other loses
// nothing, the node stays up, and in the end the deleted topic comes back for whoever publishes.
func TestTopicDeletedWhilePublishedTo(t *testing.T) {
	a := newArena(t, mqtt.Route{Match: "gone/#", Topic: "victim"}, mqtt.Route{Match: "#", Topic: "stays"})
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.cfg.Kafka.Listen))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	kept, lost := map[string]bool{}, map[string]bool{}
	var counts [2]atomic.Int64
	for i := range 6 {
		topic, into := "stay/x", kept
		if i%2 == 1 {
			topic, into = "gone/x", lost
		}
		all.Go(func() {
			acked, err := a.sendQoS1(fmt.Sprint("dev", i), topic, 1<<30, stop, func() { counts[i%2].Add(1) })
			if err != nil {
				t.Errorf("dev%d to %s: %v", i, topic, err)
			}
			mu.Lock()
			maps.Copy(into, acked)
			mu.Unlock()
		})
	}
	for i := 0; i < 25*attackScale() || counts[0].Load() == 0 || counts[1].Load() == 0; i++ {
		if _, err := admin.DeleteTopic(ctx, "victim"); ctx.Err() != nil {
			t.Fatalf("round %d: delete: %v", i, err)
		}
		if i%3 > 0 { // else the next publish makes it
			if _, err := admin.CreateTopic(ctx, int32(1+i%5), 1, nil, "victim"); ctx.Err() != nil {
				t.Fatalf("round %d: create: %v", i, err)
			}
		}
		time.Sleep(time.Duration(a.rng.IntN(20)) * time.Millisecond) // some moment, chosen by the die
	}
	close(stop)
	all.Wait()
	stored, err := readWithKafka(t, a.cfg.Kafka.Listen, "stays")
	if err != nil {
		t.Fatal(err)
	}
	for payload := range kept {
		if stored[payload] == 0 {
			t.Errorf("%s was acknowledged and is not in the log", payload)
		}
	}
	last, err := a.sendQoS1("last", "gone/x", 1, nil, func() {})
	if err != nil || !last["last-0"] {
		t.Fatalf("publish to the topic that was deleted: %v", err)
	}
	if stored, err = readWithKafka(t, a.cfg.Kafka.Listen, "victim"); err != nil || stored["last-0"] == 0 {
		t.Errorf("the message behind the last deletion: %v, %v", stored["last-0"], err)
	}
	t.Logf("%d messages acknowledged for the topic that stays, %d for the other", len(kept), len(lost))
}
