package mqtt

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/mqtt/packet"
)

// worker is a client that works on the messages of a shared subscription, as devices do: it keeps what it has begun of QoS 2
// over connections.
type worker struct {
	fc    *fakeCluster
	die   *rand.Rand
	id    string
	qos   byte
	p     *peer
	begun map[uint16]string // QoS 2: PUBREC sent, no PUBREL yet
	got   ledger            // new messages, of all workers
	group string
	lasts bool // its session does
	done  ledger
}

// connect goes to some node until one lets it in.
func (w *worker) connect() {
	for {
		p := w.fc.nodes[w.die.IntN(len(w.fc.nodes))].dial()
		c := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: w.id, CleanStart: true, KeepAlive: 600, Properties: &packets.Properties{}}
		if w.lasts {
			lasting(100000)(c)
		}
		p.send(c)
		f, err := p.tryFrame(patience)
		if err != nil || f == nil || f[3] != 0 {
			continue // the owner changes right now
		}
		if w.p = p; f[2] == 0 {
			clear(w.begun)
			if w.group != "" && !w.lasts {
				b := append([]byte{0, 77, 0, 0, byte(len(w.group))}, w.group...)
				p.write(append(append([]byte{0x82, byte(len(b) + 1)}, b...), w.qos)...) // a message may come before SUBACK
			}
		}
		return
	}
}

// work takes what has come and acknowledges it, but for one in lazy.
func (w *worker) work(lazy int) {
	if w.p == nil {
		return
	}
	write := func(b ...byte) {
		if w.p != nil {
			w.p.c.SetWriteDeadline(time.Now().Add(time.Second))
			w.p.c.Write(b) //nolint:errcheck // the next read says so
		}
	}
	write(0xc0, 0)
	for {
		f, err := w.p.tryFrame(time.Second)
		if err != nil || f == nil {
			w.p.c.Close()
			w.p = nil
			return
		}
		skip := lazy > 0 && w.die.IntN(lazy) == 0
		switch packet.Type(f[0] >> 4) {
		case packet.PINGRESP:
			return
		case packet.PUBREL:
			id := uint16(f[2])<<8 | uint16(f[3])
			if !skip {
				delete(w.begun, id)
				write(0x70, 2, f[2], f[3])
			}
		case packet.PUBLISH:
			m, err := decodePaho(f, packet.V5)
			if err != nil {
				w.fc.t.Error(err)
				return
			}
			payload := string(m.Payload)
			hi, lo := byte(m.PacketID>>8), byte(m.PacketID)
			if m.QoS == 1 {
				if w.got[payload]++; !skip {
					w.done[payload]++
					write(0x40, 2, hi, lo)
				}
				continue
			}
			if was, ok := w.begun[m.PacketID]; ok && was != payload {
				w.fc.t.Errorf("%s: packet id %d was of %q and is of %q", w.id, m.PacketID, was, payload)
			} else if !ok {
				w.got[payload]++
				w.done[payload]++
				w.begun[m.PacketID] = payload
			}
			if !skip {
				write(0x50, 2, hi, lo)
			}
		}
	}
}

// Members of a group come, go, stall and change their nodes, and so do the leaders of the group and the owners of the members'
// sessions: every message is for somebody, and none of QoS 2 comes twice.
func TestSharedSubscriptionUnderMoves(t *testing.T) { // M9, MQTT 5 §4.8.2
	seeds := 30
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("QoS %d, seed %d", qos, seed), func(t *testing.T) {
				inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) { groupUnderMoves(t, fc, qos, uint64(seed)) })
			})
		}
	}
}

// cutShares cuts all streams about shared subscriptions.
func (fc *fakeCluster) cutShares() {
	for _, n := range fc.nodes {
		for i := range n.srv.holdings.homes {
			hm := &n.srv.holdings.homes[i]
			hm.mu.Lock()
			for x := range hm.hosts {
				x.c.Close(io.ErrUnexpectedEOF)
			}
			hm.mu.Unlock()
		}
	}
}

func groupUnderMoves(t *testing.T, fc *fakeCluster, qos byte, seed uint64) {
	die := rand.New(rand.NewPCG(seed, 7))
	group := fc.groupAt(die.IntN(3), "t")
	got, done := ledger{}, ledger{}
	var workers []*worker
	for i := range 4 {
		w := &worker{fc: fc, die: die, id: fmt.Sprint("worker", seed, i), qos: qos, begun: map[uint16]string{}, got: got, done: done}
		w.lasts = qos == 2 || i > 0
		w.connect()
		w.p.subscribe(group, qos)
		w.group = group
		workers = append(workers, w)
	}
	n := 0
	for range 25 {
		node, k := die.IntN(3), 1+die.IntN(4)
		if n+k < 250 {
			if qos == 2 {
				fc.sendQoS2(node, "t", n, n+k)
			} else {
				fc.sendAllFrom(node, "t", n, n+k)
			}
			n += k
		}
		if die.IntN(2) == 0 {
			synctest.Wait()
		}
		w := workers[die.IntN(len(workers))]
		switch die.IntN(7) {
		case 6:
			fc.cutShares()
		case 0:
			fc.moveTo(groupOf(group), die.IntN(3))
		case 1:
			fc.move(w.id, die.IntN(3))
		case 2:
			if w.p != nil {
				w.p.c.Close()
				w.p = nil
			}
		case 3:
			time.Sleep(time.Duration(die.IntN(1500)) * time.Millisecond)
		default:
			w.work(3)
		}
		for _, w := range workers {
			if w.p == nil && die.IntN(3) == 0 {
				w.connect()
			}
		}
	}
	for _, w := range workers { // what was not acknowledged comes again to a new connection
		if w.p != nil {
			w.p.c.Close()
			w.p = nil
		}
	}
	for range 8 { // and all comes to rest
		for _, w := range workers {
			if w.p == nil {
				w.connect()
			}
			synctest.Wait()
			w.work(0)
		}
		time.Sleep(5 * time.Second)
	}
	for i := range n {
		payload := fmt.Sprint(i)
		if done[payload] == 0 {
			t.Errorf("message %s is nobody's", payload)
		}
		if qos == 2 && got[payload] != 1 {
			t.Errorf("message %s of QoS 2 came %d times", payload, got[payload])
		}
	}
}
