package mqtt

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
)

// shareHost is a stream that another node has opened to this one, which leads the groups of a partition: the members there
// are guests of the hub here.
type shareHost struct {
	home   *home
	guests *deliver.Guests

	mu   sync.Mutex // leaf
	c    *conn.Conn
	out  frames
	gone bool
}

var errShareMoved = errors.New("another node leads the shared subscriptions now")

// shareIdle is how long a stream may be silent; shareAlive how often something is said.
const (
	shareIdle  = 15 * time.Second
	shareAlive = 5 // seconds
)

// hostShares has a fresh stream from another node served, if this node leads the groups it is about.
func (h *handshake) hostShares(c *conn.Conn, o *originShares) error {
	s := h.srv
	if o.Version != shareVersion || o.Partition < 0 || o.Partition >= s.holdings.n {
		return fmt.Errorf("%w: version %d, partition %d", errShareFrame, o.Version, o.Partition)
	}
	host := &shareHost{home: &s.holdings.homes[o.Partition], c: c}
	host.guests = s.hub.NewGuests(host)
	if !host.home.addHost(host) {
		h.answer(notTaken)
		return errNotTaken
	}
	b := conn.Get(1)
	b.B = append(b.B, taken)
	host.out.buf = b
	c.SetDeadline(0)
	c.SetIdle(shareIdle)
	c.SetHandler(host)
	c.Wake()
	return nil
}

// addHost takes up a stream while the node owns the partition.
func (hm *home) addHost(x *shareHost) bool {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if hm.state != owned || !hm.srv.running.Load() {
		return false
	}
	if hm.hosts == nil {
		hm.hosts = map[*shareHost]struct{}{}
	}
	hm.hosts[x] = struct{}{}
	return true
}

// closeHosts ends the streams to a node that leads the partition's groups no more.
func (hm *home) closeHosts() {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	for x := range hm.hosts {
		x.c.Close(errShareMoved)
	}
}

// Data implements conn.Handler.
func (x *shareHost) Data(c *conn.Conn, b []byte) (used int, err error) {
	for {
		kind, body, size, err := cutFrame(b[used:])
		if err != nil || size == 0 {
			return used, err
		}
		used += size
		switch kind {
		case frameMember, frameGone: // they wait for deliveries that are under way
			f, err := x.change(kind, body)
			if err != nil {
				return used, err
			}
			c.Pause()
			x.home.srv.loop.Go(func() {
				if err := f(); err != nil {
					c.Close(err)
				}
				c.Resume()
			})
			return used, nil
		}
		if err := x.frame(kind, body); err != nil {
			return used, err
		}
	}
}

// change decodes a frame about who is a member.
func (x *shareHost) change(kind byte, body []byte) (func() error, error) {
	if kind == frameGone {
		var g shareGone
		if err := decodeFrame(body, &g); err != nil {
			return nil, err
		}
		return func() error { x.guests.Gone(g.Group, g.Client, g.Number, g.How); return nil }, nil
	}
	var m shareMember
	if err := decodeFrame(body, &m); err != nil {
		return nil, err
	}
	ms, err := m.membership()
	if err != nil {
		return nil, err
	}
	if x.home.srv.groupPartition(ms.Group) != x.home.index {
		return nil, fmt.Errorf("%w: %q is not of partition %d", errShareFrame, ms.Group, x.home.index)
	}
	return func() error { return x.guests.Member(ms) }, nil
}

// frame takes up a frame about a message.
func (x *shareHost) frame(kind byte, body []byte) error {
	if kind == frameAlive {
		return nil
	}
	number, rest, err := cutNumber(body)
	if err != nil {
		return err
	}
	if kind == frameRoom {
		x.guests.Room(number)
		return nil
	}
	id, offset, ok := deliver.CutPlace(rest)
	switch {
	case !ok:
		return fmt.Errorf("%w: a place of %d bytes", errShareFrame, len(rest))
	case kind == frameDone:
		x.guests.Done(number, id, offset)
	case kind == frameBack, kind == frameFull:
		x.guests.Back(number, id, offset, kind == frameFull)
	default:
		return fmt.Errorf("%w: kind %q", errShareFrame, kind)
	}
	return nil
}

// Wake implements conn.Handler.
func (x *shareHost) Wake(*conn.Conn) error { return nil }

// Output implements conn.Handler.
func (x *shareHost) Output(*conn.Conn) *conn.Buffer {
	x.mu.Lock()
	b := x.out.take()
	x.mu.Unlock()
	if b != nil {
		x.guests.Drained()
	}
	return b
}

// Closing implements conn.Handler.
func (x *shareHost) Closing(*conn.Conn, error) {}

// Closed implements conn.Handler.
func (x *shareHost) Closed(_ *conn.Conn, err error) {
	x.mu.Lock()
	x.gone = true
	if b := x.out.take(); b != nil {
		conn.Put(b)
	}
	x.mu.Unlock()
	hm := x.home
	hm.mu.Lock()
	delete(hm.hosts, x)
	hm.mu.Unlock()
	if err != io.EOF && !errors.Is(err, errShareMoved) && !errors.Is(err, deliver.ErrNotLeader) && !errors.Is(err, conn.ErrStopped) {
		hm.srv.cfg.Logger.Warn("stream of shared subscriptions from another node ended", "partition", hm.index, "why", err)
	}
	hm.srv.loop.Go(x.guests.End)
}

// send appends a frame.
func (x *shareHost) send(f func(*frames)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.gone {
		f(&x.out)
		x.c.Wake()
	}
}

// Give implements deliver.GuestStream.
func (x *shareHost) Give(number uint64, qos byte, m *deliver.Message) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	size := m.RecordSize()
	if x.gone || x.out.len() > shareBuffer {
		return false
	}
	if size > frameMax-frameHead-9 {
		x.home.srv.cfg.Logger.Warn("message too large for members of a shared subscription on other nodes", "bytes", size,
			"most", frameMax, "offset", m.Offset)
		return false
	}
	at := x.out.begin(frameGive, size+9)
	b := append(appendNumber(x.out.buf.B, number), qos)
	x.out.buf.B = m.AppendRecord(b)
	x.out.end(at)
	x.c.Wake()
	return true
}

// Others implements deliver.GuestStream.
func (x *shareHost) Others(group string, others bool) {
	x.send(func(f *frames) {
		at := f.begin(frameOthers, 1+len(group))
		said := byte(0)
		if others {
			said = 1
		}
		f.buf.B = append(append(f.buf.B, said), group...)
		f.end(at)
	})
}

// Passed implements deliver.GuestStream.
func (x *shareHost) Passed(group string, cur deliver.Cursor) {
	x.send(func(f *frames) { f.control(framePassed, sharePassed{group, cur}) })
}

// placeBytes is a message as the frames name it.
func placeBytes(id log.PartitionID, offset log.Offset) []byte {
	return deliver.AppendPlace(nil, id, offset)
}
