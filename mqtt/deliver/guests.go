package deliver

import (
	"errors"
	"sync"

	"github.com/weir-io/weir/log"
)

// GuestStream leads to another node, whose sessions are members of groups that this node leads. Its methods never block and
// may be called under any lock of the hub.
type GuestStream interface {
	// Give sends a message to a member. false: nothing more fits for now; Guests.Drained says when something does.
	Give(number uint64, qos byte, m *Message) bool
	// Others says whether more than one member of a group is connected.
	Others(group string, others bool)
	// Passed says what the stored cursor of a group is.
	Passed(group string, cur Cursor)
}

// ErrNotLeader is the answer about a group that this node does not lead.
var ErrNotLeader = errors.New("this node does not lead the shared subscription")

// Guests are the members on one other node. Member, Gone and End wait for deliveries that are under way and are called one
// after the other; the rest never blocks.
type Guests struct {
	h      *Hub
	stream GuestStream
	op     sync.Mutex // before the groups' op
	ended  bool

	mu      sync.Mutex // after p.mu and session.catchUp; before the stream's
	all     map[uint64]*guest
	refused bool // for want of room in the stream
}

// guest is one of them, as its group's target.
type guest struct {
	to     *Guests
	number uint64
	g      *Group
	s      *session

	// under to.mu
	window   int  // how many may be
	full     bool // it has refused one
	left     bool // it is no member any more, and answers for what it has
	inFlight int  // given and not acknowledged
	refused  bool // for that reason
}

// How many unacknowledged messages a guest has at most. Its client may take fewer, which shows when it refuses one: then half
// as many, and one more with each acknowledgement.
const (
	firstWindow = 64
	guestWindow = 1024
)

// NewGuests makes the guests of a stream, none at first.
func (h *Hub) NewGuests(stream GuestStream) *Guests {
	return &Guests{h: h, stream: stream, all: map[uint64]*guest{}}
}

// Member takes up a member as its node says it is now. Errors are the node's fault, or ErrNotLeader.
func (x *Guests) Member(ms Membership) error {
	group, filter, err := ParseFilter(ms.Group)
	if err != nil || group == "" || ms.QoS > 2 {
		return errors.New("not a shared subscription")
	}
	x.op.Lock()
	defer x.op.Unlock()
	if x.ended {
		return nil
	}
	x.h.starting.RLock()
	defer x.h.starting.RUnlock()
	x.mu.Lock()
	t := x.all[ms.Number]
	x.mu.Unlock()
	if t == nil {
		t = &guest{to: x, number: ms.Number, window: firstWindow, s: x.h.newSession(ms.Client)}
	}
	t.s.durable.Store(ms.Stays)
	g := x.h.lockGroup(ms.Group, ms.Begin)
	defer g.op.Unlock()
	if !g.led {
		if len(g.members) == 0 { // it was only looked for
			g.end()
		}
		return ErrNotLeader
	}
	if t.g != nil && (t.g != g || !g.has(t.s)) {
		return nil // it is on another node already
	}
	var open map[delivery]byte
	if t.g == nil { // else what it has is known better here
		open = map[delivery]byte{}
		g.mu.Lock()
		deliveries(ms.Held, func(d delivery) { g.holdLocked(d, ms.Client) })
		g.mu.Unlock()
		deliveries(ms.Open1, func(d delivery) { open[d] = 1 })
		deliveries(ms.Open2, func(d delivery) { open[d] = 2 })
	}
	t.g = g
	x.mu.Lock()
	x.all[ms.Number] = t
	t.full, t.inFlight = false, t.inFlight+len(open)
	x.mu.Unlock()
	if ms.Online {
		target := Target(t)
		t.s.target.Store(&target)
	} else {
		t.s.target.Store(nil)
	}
	g.joinLocked(&member{s: t.s, number: ms.Number, term: ms.Term, qos: ms.QoS, rap: true, begin: ms.Begin, guest: t}, filter, open)
	if !ms.Online {
		g.leftLocked()
	}
	x.stream.Others(g.name, g.severalOnline())
	return nil
}

func (g *Group) has(s *session) bool {
	for _, m := range g.members {
		if m.s == s {
			return true
		}
	}
	return false
}

// Gone ends a membership, of a client of which nothing else may be known.
func (x *Guests) Gone(group, clientID string, number uint64, how Leaving) {
	x.op.Lock()
	defer x.op.Unlock()
	x.mu.Lock()
	t := x.all[number]
	if t != nil {
		t.left = true
	}
	if t == nil || how != Unsubscribes || t.inFlight == 0 {
		delete(x.all, number)
	}
	x.mu.Unlock()
	if t != nil {
		t.leave(how)
		return
	}
	if how == Moves || x.ended {
		return
	}
	if v, ok := x.h.shares.Load(group); ok { // it ended while the stream was down
		g := v.(*Group)
		g.op.Lock()
		defer g.op.Unlock()
		g.mu.Lock()
		members := g.members
		g.foundLocked(clientID)
		g.mu.Unlock()
		for _, m := range members {
			if m.s.id == clientID && !m.lost.IsZero() {
				g.mu.Lock()
				g.takeBackLocked(m.s, Ends)
				g.mu.Unlock()
				g.removeLocked(m.s, Ends)
			}
		}
	}
}

// leave ends the membership of a guest, which may have been replaced.
func (t *guest) leave(how Leaving) {
	t.s.target.Store(nil)
	t.g.op.Lock()
	defer t.g.op.Unlock()
	t.g.leftLocked() // nothing is on its way to it
	if how != Unsubscribes {
		t.g.mu.Lock()
		t.g.takeBackLocked(t.s, how)
		t.g.mu.Unlock()
	}
	t.g.removeLocked(t.s, how)
}

// End says that the stream is gone: what its members have of QoS 1 goes to others, and QoS 2 waits for their sessions to
// come back.
func (x *Guests) End() {
	x.op.Lock()
	defer x.op.Unlock()
	x.ended = true
	x.mu.Lock()
	all := x.all
	x.all = nil
	x.mu.Unlock()
	for _, t := range all {
		t.leave(Moves)
	}
}

// Deliver implements Target.
func (t *guest) Deliver(m *Message, qos byte, _ bool, _ []uint32) bool {
	t.to.mu.Lock()
	defer t.to.mu.Unlock()
	switch {
	case t.full || t.to.all == nil:
		return false
	case qos > 0 && t.inFlight >= t.window:
		t.refused = true
		return false
	case !t.to.stream.Give(t.number, qos, m):
		t.to.refused = true
		return false
	}
	if qos > 0 {
		t.inFlight++
	}
	return true
}

// answered finds a guest that has answered for a message.
func (x *Guests) answered(number uint64, full bool) *guest {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.all[number]
	if t == nil {
		return nil
	}
	if t.inFlight = max(t.inFlight-1, 0); t.left && t.inFlight == 0 {
		delete(x.all, number)
	}
	switch {
	case !full:
		t.window = min(t.window+1, guestWindow)
	case !t.full:
		t.full, t.window = true, max(t.window/2, 1)
	}
	if t.refused && t.inFlight <= t.window*3/4 {
		t.refused = false
		defer t.g.session().room()
	}
	return t
}

// Done says that a guest is done with a message, as Group.Ack does.
func (x *Guests) Done(number uint64, id log.PartitionID, offset log.Offset) {
	x.settle(number, false, delivery{id, offset}, func(t *guest, d delivery, qos byte) {
		if qos == 2 {
			t.g.holdLocked(d, t.s.id)
		}
	})
}

// Back says that a message is for another member; with full, because this one has no room.
func (x *Guests) Back(number uint64, id log.PartitionID, offset log.Offset, full bool) {
	x.settle(number, full, delivery{id, offset}, func(t *guest, d delivery, _ byte) { t.g.giveBackLocked(d) })
}

// settle takes a message off a guest that has it; then says what becomes of it, under the group's mu.
func (x *Guests) settle(number uint64, full bool, d delivery, then func(*guest, delivery, byte)) {
	t := x.answered(number, full)
	if t == nil {
		return
	}
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	if o, ok := t.g.out[d]; ok && o.s == t.s {
		delete(t.g.out, d)
		then(t, d, o.qos)
	}
}

// Room says that a guest takes messages again.
func (x *Guests) Room(number uint64) {
	x.mu.Lock()
	t := x.all[number]
	if t != nil {
		t.full = false
	}
	x.mu.Unlock()
	if t != nil {
		t.g.session().room()
	}
}

// Drained says that the stream takes messages again.
func (x *Guests) Drained() {
	x.mu.Lock()
	var all []*guest
	if x.refused {
		x.refused = false
		for _, t := range x.all {
			all = append(all, t)
		}
	}
	x.mu.Unlock()
	for _, t := range all {
		t.g.session().room()
	}
}

// severalOnline says whether more than one member is connected; op must be held.
func (g *Group) severalOnline() bool {
	n := 0
	for _, m := range g.members {
		if m.s.online() != nil {
			n++
		}
	}
	return n > 1
}

// tellOthers tells the nodes of the guests, when it has changed, whether somebody else could take what a member loses; op
// must be held.
func (g *Group) tellOthers() {
	if !g.h.clustered() {
		return
	}
	several := g.severalOnline()
	g.mu.Lock()
	same := g.others == several
	g.others = several
	members := g.members
	g.mu.Unlock()
	if same {
		return
	}
	told := map[GuestStream]bool{}
	for _, m := range members {
		if m.guest != nil && !told[m.guest.to.stream] {
			told[m.guest.to.stream] = true
			m.guest.to.stream.Others(g.name, several)
		}
	}
}
