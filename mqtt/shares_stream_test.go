package mqtt

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
)

func TestShareFrames(t *testing.T) {
	id := log.PartitionID{Topic: log.TopicID{1, 2}, Index: 3}
	in := deliver.Membership{
		Number: 7, Group: "$share/g/t", Client: "c", Term: 9, QoS: 2, Online: true, Stays: true,
		Held: []deliver.Held{{ID: id, Offsets: []log.Offset{4, 6}}}, Open1: []deliver.Held{{ID: id, Offsets: []log.Offset{7}}},
	}
	in.Begin.Set(id, 4)
	var f frames
	f.control(frameMember, toWire(&in))
	f.number(frameDone, 7, placeBytes(id, 8))
	b := f.take().B
	for n := range 20 {
		if _, _, size, err := cutFrame(b[:n]); size != 0 || err != nil {
			t.Fatalf("%d bytes: %d, %v", n, size, err)
		}
	}
	kind, body, size, err := cutFrame(b)
	var m shareMember
	if err != nil || kind != frameMember || decodeFrame(body, &m) != nil {
		t.Fatalf("%c, %v", kind, err)
	}
	if out, err := m.membership(); err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
		t.Errorf("%+v, %v", out, err)
	}
	kind, body, _, err = cutFrame(b[size:])
	number, rest, err2 := cutNumber(body)
	at, offset, ok := deliver.CutPlace(rest)
	if err != nil || err2 != nil || kind != frameDone || number != 7 || at != id || offset != 8 || !ok {
		t.Errorf("%c %d %v %d", kind, number, at, offset)
	}
}

// frame is one as another node would send it.
func frame(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))) + string(kind) + body
}

var badFrames = []string{
	"\x00\x00\x00\x00K", "\xff\xff\xff\xffG", frame('?', ""), frame(frameMember, "\xff"), frame(frameMember, ""), frame(frameGone, "\x80"),
	frame(frameDone, "1234"), frame(frameDone, "12345678"), frame(frameBack, "12345678901234"), frame(frameRoom, ""), frame(frameMember, "\xa0"),
	frame(frameGive, "12345678"), frame(frameGive, "12345678\x03"), frame(frameGive, "12345678\x01"+strings.Repeat("\xff", 60)), frame(frameOthers, ""),
	frame(framePassed, "\xff"), frame(frameMember, string(mustCBOR(&shareMember{Group: "t"}))), "GET / HTTP/1.1\r\n",
	frame(frameMember, string(mustCBOR(&shareMember{Held: []shareHeld{{Topic: []byte{1}}}}))),
}

// What is no frame ends a stream, on the leader's side too, and nothing else.
func TestGarbageOnAStreamOfShares(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		p, _ := fc.nodes[0].v5(fc.idAt(0), nil)
		p.subscribe(group, 1)
		hello := (&origin{Shares: &originShares{shareVersion, groupOf(group)}}).append(nil)
		for _, bad := range badFrames {
			near, far := newPipe(t, fc.nodes[0].rig)
			fc.nodes[0].srv.Passed(far)
			near.write(hello...)
			var b [1]byte
			if _, err := io.ReadFull(near.c, b[:]); err != nil || b[0] != taken {
				t.Fatalf("%d, %v", b[0], err)
			}
			near.write([]byte(bad)...)
			near.c.SetReadDeadline(time.Now().Add(time.Second))
			if rest, err := io.ReadAll(near.c); err != nil {
				t.Errorf("%q: %d bytes, %v", bad, len(rest), err)
			}
		}
		for _, o := range []originShares{{shareVersion + 1, groupOf(group)}, {shareVersion, -1}, {shareVersion, fakePartitions}, {shareVersion, 1}} {
			near, far := newPipe(t, fc.nodes[0].rig)
			fc.nodes[0].srv.Passed(far)
			near.write((&origin{Shares: &o}).append(nil)...)
			near.c.SetReadDeadline(time.Now().Add(time.Second))
			if b, err := io.ReadAll(near.c); err != nil || len(b) > 0 && b[0] == taken {
				t.Errorf("%+v: % x, %v", o, b, err)
			}
		}
		fc.nodes[1].send("t", "x")
		if list := p.messages(); len(list) != 1 {
			t.Errorf("%d messages", len(list))
		}
	})
}

// badLeader is a cluster whose leaders of groups say something wrong, once each.
type badLeader struct {
	*fakeNode
	says chan string
}

func (b badLeader) Dial(ctx context.Context, partition int) (net.Conn, int32, error) {
	select {
	case say := <-b.says:
		near, far := net.Pipe()
		go func() {
			io.ReadFull(far, make([]byte, originHead)) //nolint:errcheck // the test fails otherwise
			far.Write([]byte(say))                     //nolint:errcheck // likewise
			io.Copy(io.Discard, far)                   //nolint:errcheck // likewise
			far.Close()
		}()
		return near, 0, nil
	default:
		return b.fakeNode.Dial(ctx, partition)
	}
}

func TestGarbageFromALeader(t *testing.T) {
	says := make(chan string, 2*len(badFrames))
	inCluster(t, 2, func(node int, c *Config) {
		if node == 1 {
			c.Owners = badLeader{c.Owners.(*fakeNode), says}
		}
	}, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		for _, bad := range badFrames {
			says <- string(taken) + bad
		}
		says <- string(notTaken)
		p, _ := fc.nodes[1].v5(fc.idAt(1), nil)
		p.subscribe(group, 1)
		for range 4 {
			time.Sleep(30 * time.Second)
			p.quiet()
		}
		if len(says) > 0 {
			t.Fatalf("%d answers are left", len(says))
		}
		fc.nodes[0].send("t", "x")
		if list := p.messages(); len(list) != 1 {
			t.Errorf("%d messages", len(list))
		}
	})
}

func FuzzShareFrames(f *testing.F) {
	for _, bad := range badFrames {
		f.Add([]byte(bad))
	}
	r := startRig(f, nil)
	hm := &r.srv.holdings.homes[0]
	l, x := &hm.shares, &shareHost{home: hm, guests: r.srv.hub.NewGuests(nil)}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, size, err := cutFrame(b)
		if err != nil || size == 0 {
			return
		}
		if size > len(b) {
			t.Fatalf("%d of %d bytes", size, len(b))
		}
		l.frame(kind, body)  //nolint:errcheck // it must not panic
		x.frame(kind, body)  //nolint:errcheck // likewise
		x.change(kind, body) //nolint:errcheck // likewise
	})
}

// A member that does not acknowledge, and one that does not read, hold up nobody: what they have no room for goes to others,
// on their nodes too.
func TestSlowMembersHoldUpNobody(t *testing.T) { // M7
	inCluster(t, 3, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		slow, _ := fc.nodes[1].v5(fc.idAt(1), func(c *packets.Connect) {
			n := uint16(2)
			c.Properties.ReceiveMaximum = &n
		})
		slow.subscribe(group, 1)
		deaf, _ := fc.nodes[1].v5("deaf", nil)
		deaf.subscribe(group, 1)
		brisk, _ := fc.nodes[1].v5("brisk", nil)
		brisk.subscribe(group, 1)
		synctest.Wait()
		big := strings.Repeat("x", 32<<10)
		seen, n := 0, 100
		for range n {
			fc.nodes[2].send("t", big)
			for _, m := range brisk.messages() {
				brisk.puback(m.PacketID)
				seen++
			}
		}
		for i := 0; i < 3; i++ {
			for _, m := range brisk.messages() {
				brisk.puback(m.PacketID)
				seen++
			}
		}
		if len(slow.messages()) != 2 {
			t.Error("the slow member has more than it takes, or less")
		}
		if seen < n-2-20 { // what the deaf one's output holds
			t.Errorf("%d of %d messages", seen, n)
		}
		for i := range fc.nodes[0].srv.holdings.homes {
			hm := &fc.nodes[0].srv.holdings.homes[i]
			hm.mu.Lock()
			for x := range hm.hosts {
				if x.out.len() > shareBuffer+64<<10 {
					t.Errorf("%d bytes wait for a stream", x.out.len())
				}
			}
			hm.mu.Unlock()
		}
	})
}

// A node that takes nothing any more costs its leader what fits into the buffer of its stream, and its members nothing but
// what they had; members elsewhere go on at once.
func TestStalledNodeHoldsUpNobody(t *testing.T) { // M7
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		group := fc.groupAt(0, "t")
		far, passedOn := newPipe(t, fc.nodes[0].rig)
		fc.nodes[0].srv.Passed(passedOn)
		far.write((&origin{Shares: &originShares{shareVersion, groupOf(group)}}).append(nil)...)
		var f frames
		for n := range uint64(2) {
			f.control(frameMember, &shareMember{Number: n + 1, Group: group, Client: fmt.Sprint("far", n), QoS: 1, Online: true})
		}
		go far.c.Write(f.take().B)          //nolint:errcheck // it reads nothing
		io.ReadFull(far.c, make([]byte, 1)) //nolint:errcheck // taken
		synctest.Wait()
		near, _ := fc.nodes[1].v5("near", nil)
		near.subscribe(group, 1)
		synctest.Wait()
		big := strings.Repeat("x", 32<<10)
		seen, n := 0, 60
		for range n {
			fc.nodes[1].send("t", big)
			for _, m := range near.messages() {
				near.puback(m.PacketID)
				seen++
			}
		}
		if max := shareBuffer/len(big) + 4; seen < n-max {
			t.Errorf("%d of %d messages; the other node may hold up %d", seen, n, max)
		}
		time.Sleep(30 * time.Second) // it is given up, and with it what it had
		for _, m := range near.messages() {
			near.puback(m.PacketID)
			seen++
		}
		if seen != n {
			t.Errorf("%d of %d messages once the node is given up", seen, n)
		}
	})
}

var _ conn.Handler = (*shareHost)(nil)
