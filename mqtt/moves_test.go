package mqtt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// roamer is a client with a QoS 2 session that connects again, anywhere, whenever its connection ends.
type roamer struct {
	fc   *fakeCluster
	id   string
	stop atomic.Bool

	mu   sync.Mutex
	got  map[string]int
	held map[[2]byte]bool // packet ids between PUBLISH and PUBREL
	ends int
}

func (r *roamer) run() {
	for !r.stop.Load() {
		r.visit(r.fc.nodes[rand.IntN(len(r.fc.nodes))].srv.Addrs()[0].String())
		r.mu.Lock()
		r.ends++
		r.mu.Unlock()
	}
}

func (r *roamer) visit(addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	c.Write(append([]byte{0x10, byte(12 + len(r.id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 0, 0, 60, 0, byte(len(r.id))}, r.id...))
	filter := append([]byte{0, byte(len(r.id))}, r.id...)
	c.Write(append([]byte{0x82, byte(3 + len(filter)), 0, 77}, append(filter, 2)...))
	var buf []byte
	for !r.stop.Load() {
		f, err := packet.Split(buf, 0)
		if err == packet.ErrShort {
			var b [4096]byte
			c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, err := c.Read(b[:])
			if ne, ok := err.(net.Error); err != nil && (!ok || !ne.Timeout()) {
				return
			}
			buf = append(buf, b[:n]...)
			continue
		}
		if err != nil {
			return
		}
		if answer := r.take(f); answer != nil {
			c.Write(answer)
		}
		buf = buf[f.Size:]
	}
}

func (r *roamer) take(f packet.Frame) (answer []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch f.Type() {
	case packet.PUBLISH:
		var p packet.Publish
		if p.Decode(f, packet.V311) != nil {
			return nil
		}
		id := [2]byte{byte(p.ID >> 8), byte(p.ID)}
		if !r.held[id] {
			r.held[id] = true
			r.got[string(p.Payload)]++
		}
		return []byte{0x50, 2, id[0], id[1]}
	case packet.PUBREL:
		delete(r.held, [2]byte(f.Body))
		return []byte{0x70, 2, f.Body[0], f.Body[1]}
	}
	return nil
}

func (r *roamer) missing(n int) (missing, doubled []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		switch r.got[fmt.Sprint(i)] {
		case 0:
			missing = append(missing, i)
		case 1:
		default:
			doubled = append(doubled, i)
		}
	}
	return missing, doubled
}

// Partitions move all the time under clients that roam: each message of QoS 2 comes to each of them once.
func TestMessagesComeOnceWhilePartitionsMove(t *testing.T) { // M9, M11
	fc := newFakeCluster(t, 3, true, nil)
	var running sync.WaitGroup
	var all []*roamer
	for i := range 6 {
		r := &roamer{fc: fc, id: fmt.Sprint("roamer", i), got: map[string]int{}, held: map[[2]byte]bool{}}
		all = append(all, r)
		running.Go(r.run)
	}
	defer running.Wait()
	defer func() {
		for _, r := range all {
			r.stop.Store(true)
		}
	}()
	subscribed := func(id string) bool {
		value, ok := fc.stored(id)
		return ok && bytes.Contains([]byte(value), append([]byte{byte(0x60 + len(id))}, id...))
	}
	for _, r := range all {
		eventually(t, "it has subscribed", func() bool { return subscribed(r.id) })
	}
	pub, _ := fc.nodes[0].v5("", nil)
	const rounds, perRound = 30, 5
	for round := range rounds {
		for i := range perRound {
			for _, r := range all {
				n := round*perRound + i
				pub.publish(r.id, fmt.Sprint(n), 2, 1)
				pub.expect(0x50, 2, 0, 1)
				pub.write(0x62, 2, 0, 1)
				pub.expect(0x70, 2, 0, 1)
			}
		}
		p := rand.IntN(fakePartitions)
		if round%3 > 0 {
			fc.rest(p)
		}
		fc.moveTo(p, rand.IntN(3))
	}
	for _, r := range all {
		for end := time.Now().Add(2 * patience); ; time.Sleep(10 * time.Millisecond) {
			missing, doubled := r.missing(rounds * perRound)
			if len(doubled) > 0 {
				t.Errorf("%s: came twice: %v", r.id, doubled)
			}
			if len(missing) == 0 || len(doubled) > 0 {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%s: did not come: %v", r.id, missing)
				break
			}
		}
	}
	moved := int64(0)
	for _, n := range fc.nodes {
		moved += n.srv.Stats().Moved
	}
	if moved == 0 {
		t.Error("no connection moved")
	}
}
