package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
)

// reads takes what has been written for a client that has not read so far, and wants these messages, each once and in order.
func (p *peer) reads(want ...string) {
	p.t.Helper()
	var got []string
	for {
		f, err := p.tryFrame(time.Second)
		if err != nil {
			break
		}
		if packet.Type(f[0]>>4) != packet.PUBLISH {
			continue
		}
		var m packet.Publish
		split, _ := packet.Split(f, 0)
		if err := m.Decode(split, packet.V5); err != nil {
			p.t.Fatal(err)
		}
		got = append(got, string(m.Payload[:3]))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Errorf("got %v, want %v", got, want)
	}
}

// unreading is a client that reads nothing while n messages are written for it.
func (fc *fakeCluster) unreading(n int) (id string, dev *peer, sent []string) {
	id = fc.idAt(0)
	dev, _ = fc.nodes[0].v5(id, lasting(1000))
	dev.subscribe("a", 1)
	for i := range n {
		sent = append(sent, fmt.Sprintf("%03d", i))
		fc.nodes[1].send("a", sent[i]+strings.Repeat("x", 12000))
		synctest.Wait() // their partitions have no order among them
	}
	return id, dev, sent
}

// What an owner has written for a client that does not read comes before what the next one writes, be it more than a link holds.
func TestWhatIsWrittenComesBeforeTheNextOwner(t *testing.T) {
	for _, n := range []int{10, 20} { // what the socket does not take is less than linkBuffer, and more
		inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
			id, dev, sent := fc.unreading(n)
			fc.restAndMove(id, 1)
			synctest.Wait()
			if got := fc.nodes[1].srv.Stats().Resumed; got != 1 || passed(fc.nodes[0]) != 1 {
				t.Fatalf("%d went on at the next owner", got)
			}
			fc.nodes[2].send("a", "new")
			synctest.Wait()
			dev.reads(append(sent, "new")...)
		})
	}
}

// Nor is it lost where the session stays, with the client's socket full all the while.
func TestWhatIsWrittenComesWhereTheSessionStays(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id, dev, sent := fc.unreading(20)
		fc.rest(PartitionFor([]byte(id), fakePartitions))
		time.Sleep(2 * parkHold)
		synctest.Wait()
		if got := fc.nodes[0].srv.Stats().Resumed; got != 1 {
			t.Fatalf("%d went on", got)
		}
		fc.nodes[1].send("a", "new")
		synctest.Wait()
		dev.reads(append(sent, "new")...)
		dev.publish("b", "x", 1, 1)
		dev.expect(0x40, 2, 0, 1)
	})
}

// forgetful adopts nobody any more once it is told so.
type forgetful struct {
	AllowAll
	all *atomic.Bool
}

func (a forgetful) Adopt(id Identity) (Identity, error) {
	if a.all.Load() {
		return Identity{}, ErrNotAuthorized
	}
	return id, nil
}

// A client whose connection waits for another owner in vain, and cannot go on where it was, is lost as any other: its will is published, its expiry begins.
func TestWhoWaitsInVainIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		front int
		end   func(fc *fakeCluster, dev *peer)
	}{
		"not known any more":                  {0, nil},
		"not known any more, through a front": {1, nil},
		"released to a front that does not collect": {1, func(fc *fakeCluster, dev *peer) {
			s := fc.nodes[0].srv
			s.handed.mu.Lock()
			var link uint64
			for link = range s.handed.parked {
			}
			s.handed.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if _, err := s.Release(ctx, link); err != nil {
				fc.t.Error(err)
			}
			dev.c.Close()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			all := new(atomic.Bool)
			fc := newFakeCluster(t, 2, true, func(_ int, c *Config) { c.Auth = forgetful{all: all} })
			watch, _ := fc.nodes[1].v5("", nil)
			watch.subscribe("will", 1)
			id := fc.idAt(0)
			dev, _ := fc.nodes[c.front].v5(id, func(c *packets.Connect) {
				lasting(1000)(c)
				c.WillFlag, c.WillTopic, c.WillMessage, c.WillProperties = true, "will", []byte("gone"), &packets.Properties{}
			})
			fc.rest(PartitionFor([]byte(id), fakePartitions))
			if c.end == nil {
				all.Store(true)
			} else {
				c.end(fc, dev)
			}
			if f, err := watch.tryFrame(2*followTime + patience); err != nil || packet.Type(f[0]>>4) != packet.PUBLISH {
				t.Errorf("no will: % x, %v", f, err)
			}
			cl := fc.nodes[0].srv.registry.find(id)
			cl.mu.Lock()
			defer cl.mu.Unlock()
			if cl.s == nil || cl.c != nil || cl.closedAt == 0 {
				t.Errorf("session %v, connection %v, closed at %d", cl.s != nil, cl.c != nil, cl.closedAt)
			}
		})
	}
}

// A rest whose time is over stores nothing more and has nobody wait.
func TestRestEndsWithItsTime(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		dev, _ := fc.nodes[0].v5(id, lasting(1000))
		dev.subscribe("a", 1)
		synctest.Wait()
		before, _ := fc.stored(id)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		fc.nodes[0].srv.Rest(ctx, PartitionFor([]byte(id), fakePartitions))
		synctest.Wait()
		if after, _ := fc.stored(id); before != after {
			t.Error("a record is written after its time")
		}
		cl := fc.nodes[0].srv.registry.find(id)
		if cl.storeForNext(ctx) {
			t.Error("it is stored after its time")
		}
		synctest.Wait()
		if after, _ := fc.stored(id); before != after {
			t.Error("a record is written after its time, of a client that was about to be parked")
		}
		dev.publish("b", "x", 1, 1)
		dev.expect(0x40, 2, 0, 1)
	})
}

// A rest whose time ends while as many connections as there is room for have something under way returns then.
func TestRestOfManyEndsWithItsTime(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		p := PartitionFor([]byte(fc.idAt(0)), fakePartitions)
		var devs []*peer
		for i := 0; len(devs) < 2*parkCrew; i++ {
			if id := fmt.Sprint("many", i); PartitionFor([]byte(id), fakePartitions) == p {
				dev, _ := fc.nodes[0].v5(id, lasting(1000))
				devs = append(devs, dev)
			}
		}
		fc.log.set(nil, true)
		for _, dev := range devs {
			dev.publish("a", "under way", 1, 1)
		}
		synctest.Wait()
		rested := make(chan struct{})
		go func() {
			fc.rest(p)
			close(rested)
		}()
		select {
		case <-rested:
		case <-time.After(parkHold):
			panic("it goes on") // nothing else would end this test: the server waits for it
		}
		fc.log.set(nil, false)
		for _, dev := range devs {
			dev.expect(0x40, 2, 0, 1)
		}
	})
}

// A Release whose time ends before all is on its way to the client gives the connection up at once, and the session has lost its client: nobody comes for it.
func TestReleaseThatFailsIsTheEnd(t *testing.T) {
	fc := newFakeCluster(t, 2, true, nil)
	id := fc.idAt(0)
	dev, _ := fc.nodes[1].v5(id, lasting(1000))
	fc.rest(PartitionFor([]byte(id), fakePartitions))
	s := fc.nodes[0].srv
	s.handed.mu.Lock()
	var link uint64
	for link = range s.handed.parked {
	}
	s.handed.mu.Unlock()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Release(ended, link); !errors.Is(err, errNotParked) {
		t.Errorf("it is released: %v", err)
	}
	s.handed.mu.Lock()
	left := len(s.handed.leaves)
	s.handed.mu.Unlock()
	cl := s.registry.find(id)
	cl.mu.Lock()
	closedAt := cl.closedAt
	cl.mu.Unlock()
	if left != 0 || closedAt == 0 {
		t.Errorf("%d connections to be collected, the client was lost at %d", left, closedAt)
	}
	dev.expectEnd()
}

// What a former owner has not read counts as input of his, up to a bound, until it is collected or given up.
func TestUnreadOfAParkedConnectionIsCounted(t *testing.T) {
	const budget = 1 << 20
	r := startRig(t, func(c *Config) { c.MemoryInFlight = budget })
	f := &handed{loop: r.srv.loop, done: make(chan struct{})}
	if err := f.take(make([]byte, unreadMax)); err != nil {
		t.Fatal(err)
	}
	if n := r.srv.Stats().InputBytes; n != unreadMax {
		t.Errorf("%d bytes are counted, want %d", n, unreadMax)
	}
	if err := f.take([]byte{0}); !errors.Is(err, errUnread) {
		t.Errorf("beyond its bound: %v", err)
	}
	r.srv.loop.MustReserve(budget - unreadMax)
	if err := (&handed{loop: r.srv.loop}).take([]byte{0}); !errors.Is(err, conn.ErrInput) {
		t.Errorf("beyond the budget: %v", err)
	}
	r.srv.loop.Unreserve(budget - unreadMax)
	r.srv.handed.leaves[1] = f
	f.ended(errMoved)
	if _, err := r.srv.Collect(context.Background(), 1); err == nil {
		t.Error("it is collected though its end was not the front's")
	}
	if n := r.srv.Stats().InputBytes; n != 0 {
		t.Errorf("%d bytes are counted at the end", n)
	}
	if err := f.take([]byte{0}); !errors.Is(err, errNotParked) {
		t.Errorf("behind its end: %v", err)
	}
}

// A front counts what it has collected until the next owner has it, or the client is gone; where there is no room for it, the connection ends.
func TestUnreadOfAMovingConnectionIsCounted(t *testing.T) {
	const budget = 1 << 20
	r := startRig(t, func(c *Config) { c.MemoryInFlight = budget })
	s := r.srv
	counted := func(want int64) {
		t.Helper()
		if n := s.Stats().InputBytes; n != want {
			t.Errorf("%d bytes are counted, want %d", n, want)
		}
	}
	link := func() *link {
		l := &link{home: &home{srv: s}}
		_, far := newPipe(t, r)
		s.loop.Join(far, func(c *conn.Conn) conn.Handler {
			l.c = [2]*conn.Conn{c, c}
			return (*ownerEnd)(l)
		})
		return l
	}
	l := link()
	if !l.receive(make([]byte, 1000)) {
		t.Fatal("not received")
	}
	counted(1000)
	l.shut(clientSide)
	counted(0)
	if l.receive(make([]byte, 1000)) {
		t.Error("received without a client")
	}
	counted(0)
	s.loop.MustReserve(budget)
	if link().receive(make([]byte, 1000)) {
		t.Error("received without room")
	}
	s.loop.Unreserve(budget)
	s.loop.MustReserve(1000)
	h := &handshake{srv: s, parked: true, unread: make([]byte, 1000)}
	h.Closed(nil, errMoved)
	counted(0)
}
