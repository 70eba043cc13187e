package mqtt

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
)

// This file is how open connections leave a session whose owner is about to change: doc.go, "Moving with open connections".

// handovers is what a home keeps of sessions whose connections wait for the next owner. Its mu comes last.
type handovers struct {
	mu    sync.Mutex
	calm  map[*client]chan struct{} // closed once nothing is under way for the client
	marks map[string]uint64         // by client identifier: of the connection that may go on with the session as it is
	links map[*client]uint64        // names of connections from fronts
	off   map[*client]chan struct{} // closed once the connection waits for the next owner, or has ended
}

// parkState is how far a connection has come on its way. Owned by the client's mu.
type parkState uint8

const (
	notParking parkState = iota
	calming              // what is under way ends; nothing new begins
	sealed               // nothing is read any more
	parkNow              // the connection's next turn takes it off
)

// linkFlags is what else there is to know of a client's connection. Owned by the client's mu.
type linkFlags uint8

const (
	subscribing linkFlags = 1 << iota // a SUBSCRIBE or UNSUBSCRIBE is not answered yet
	fromFront                         // another node has the socket
	muted                             // nothing is read until its quota has made up for what was published
)

const (
	// parkCrew is how many connections are parked at once: each waits for a commit or two.
	parkCrew = 256
	// parkHold is how long the connections of a partition wait for another owner; then they go on here.
	parkHold = time.Second
)

// Rest has the connections of sessions in a partition that is about to get another owner wait for that, with nothing under way and the sessions as they are
// stored; those with which this does not come to pass before ctx ends are left as they are. It returns when that is done. The owner may stay the same after all.
func (s *Server) Rest(ctx context.Context, partition int) {
	if partition < 0 || partition >= len(s.holdings.homes) || !s.far.join() {
		return
	}
	defer s.far.leave()
	hm := &s.holdings.homes[partition]
	rest, ok := hm.beginRest()
	if !ok {
		return
	}
	var parking sync.WaitGroup
	slots := make(chan struct{}, parkCrew)
	for _, cl := range s.registry.all() {
		if s.partitionFor(cl.id) != partition || cl.live.Load() == nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		parking.Go(func() {
			defer func() { <-slots }()
			cl.park(ctx, hm)
		})
	}
	parking.Wait()
	time.AfterFunc(parkHold, func() { hm.endRest(rest) })
}

// beginRest has CONNECTs wait; false where the node does not own the partition, or it rests already.
func (hm *home) beginRest() (rest int, ok bool) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if hm.state != owned || hm.resting {
		return 0, false
	}
	hm.resting = true
	hm.rests++
	return hm.rests, true
}

// endRest has everything go on that waits, wherever the partition is owned by now.
func (hm *home) endRest(rest int) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if hm.resting && hm.rests == rest {
		hm.resting = false
		hm.kickLocked()
	}
}

// calmNow says whether nothing is under way that the next owner would not find in what is stored; under mu.
func (cl *client) calmNow() bool {
	if cl.link&subscribing != 0 || cl.resending || cl.resendWait || !cl.s.Settled() || cl.s.Live() > maxWindowRows {
		return false
	}
	if q := cl.q2; q != nil && (q.file.writing || q.holds()) {
		return false
	}
	if o := cl.o2; o != nil && (o.file.writing || o.asked || o.resume != nil) {
		return false
	}
	for u := range cl.s.Unacked(0) {
		if u.Extra != nil { // shared subscriptions and retained messages: soon the client has acknowledged them
			return false
		}
	}
	return true
}

// becameCalm tells who waits for it; under mu.
func (cl *client) becameCalm() {
	if !cl.calmNow() {
		return
	}
	h := &cl.srv.homeOf(cl.id).handovers
	h.mu.Lock()
	defer h.mu.Unlock()
	if calm := h.calm[cl]; calm != nil {
		close(calm)
		delete(h.calm, cl)
	}
}

// parkable says whether the client's connection may go on elsewhere; under mu.
func (cl *client) parkable() bool {
	if cl.s == nil || cl.c == nil || !cl.durable || cl.local || cl.leaving || cl.ending || cl.stopped || cl.polite || cl.parking != notParking {
		return false
	}
	if cl.link&fromFront != 0 && (cl.srv.homeOf(cl.id).handovers.linkOf(cl) == 0 || !cl.c.CanEndOutput()) {
		return false
	}
	if cl.s.Carry().Size()+len(cl.id)+2*len(cl.identity.Name)+len(cl.identity.Host) > originMax/2 {
		return false
	}
	_, adopts := cl.srv.cfg.Auth.(Adopter)
	return adopts || cl.srv.cfg.Auth == nil
}

// park takes the client's connection off its session once nothing is under way and the session is stored as it is.
func (cl *client) park(ctx context.Context, hm *home) {
	cl.lock()
	if !cl.parkable() {
		cl.unlock()
		return
	}
	c := cl.c
	cl.parking = calming
	cl.unlock()
	if !cl.seal(ctx, hm) || !cl.storeForNext(ctx) {
		cl.unpark(c)
		return
	}
	cl.lock()
	if cl.c != c || cl.s == nil || cl.parking != sealed {
		cl.unlock()
		return // it has ended meanwhile
	}
	cl.parking = parkNow
	off := hm.handovers.awaitOff(cl)
	cl.unlock()
	c.Wake()
	select {
	case <-off:
	case <-ctx.Done():
	}
}

func (h *handovers) awaitOff(cl *client) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off == nil {
		h.off = map[*client]chan struct{}{}
	}
	h.off[cl] = make(chan struct{})
	return h.off[cl]
}

// isOff tells who waits for it.
func (h *handovers) isOff(cl *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if off := h.off[cl]; off != nil {
		close(off)
		delete(h.off, cl)
	}
}

// seal waits until the client is calm, and has nothing more be read then.
func (cl *client) seal(ctx context.Context, hm *home) bool {
	for {
		calm := make(chan struct{})
		cl.lock()
		if cl.c == nil || cl.s == nil || cl.parking != calming {
			cl.unlock()
			return false
		}
		if cl.calmNow() {
			cl.parking = sealed
			cl.unlock()
			return true
		}
		hm.handovers.mu.Lock()
		if hm.handovers.calm == nil {
			hm.handovers.calm = map[*client]chan struct{}{}
		}
		hm.handovers.calm[cl] = calm
		hm.handovers.mu.Unlock()
		cl.unlock()
		select {
		case <-calm:
		case <-ctx.Done():
			hm.handovers.mu.Lock()
			delete(hm.handovers.calm, cl)
			hm.handovers.mu.Unlock()
			return false
		}
	}
}

// storeForNext writes what the next owner makes the session of: all of it, and at one place in the log.
func (cl *client) storeForNext(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	cl.detach()
	stored := make(chan error, 2)
	left := 1
	cl.lock()
	if o := cl.o2; o != nil && cl.s != nil {
		left++
		cl.storeOutbound(o, func(err error) error {
			stored <- err
			return nil
		})
	}
	cl.unlock()
	cl.mark()
	cl.saveThen(func(err error) { stored <- err })
	for range left {
		select {
		case err := <-stored:
			if err != nil {
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// mark draws the number under which the connection, and no other, goes on with the session. The next record has it.
func (cl *client) mark() {
	h := &cl.srv.homeOf(cl.id).handovers
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.marks == nil {
		h.marks = map[string]uint64{}
	}
	h.marks[cl.id] = rand.Uint64() | 1
}

func (h *handovers) markOf(id string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.marks[id]
}

// setMark takes up what a record says, 0 for nothing.
func (h *handovers) setMark(id string, mark uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case mark == 0:
		delete(h.marks, id)
	case h.marks == nil:
		h.marks = map[string]uint64{id: mark}
	default:
		h.marks[id] = mark
	}
}

func (h *handovers) setLink(cl *client, name uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case name == 0:
		delete(h.links, cl)
	case h.links == nil:
		h.links = map[*client]uint64{cl: name}
	default:
		h.links[cl] = name
	}
}

func (h *handovers) linkOf(cl *client) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[cl]
}

func (h *handovers) forgetMarks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = nil
}

// unpark has the connection go on here.
func (cl *client) unpark(c *conn.Conn) {
	cl.lock()
	here := cl.c == c && cl.s != nil
	if cl.c == c {
		cl.parking = notParking
	}
	cl.unlock()
	if here {
		cl.srv.homeOf(cl.id).handovers.setMark(cl.id, 0)
		cl.attach(c, false)
		c.Resume()
	}
}

// holdsBack says whether a packet is left for the next owner; under mu.
func (cl *client) holdsBack(t packet.Type) bool {
	switch {
	case cl.parking == notParking:
		return false
	case cl.parking > calming:
		return true
	}
	switch t {
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP, packet.PINGREQ:
		return false // what is under way ends with them
	}
	return true
}

// takeOff gives the connection, on its own turn, what waits for the next owner in place of the client; under mu. What was written for the client goes
// out first.
func (cl *client) takeOff(c *conn.Conn) {
	if cl.gone != nil || cl.leaving { // somebody is about to close it
		return
	}
	s, hm := cl.srv, cl.srv.homeOf(cl.id)
	r := cl.resumption(c.Idle())
	h := &handshake{srv: s, parked: true}
	if cl.link&fromFront != 0 {
		h.front = &handed{name: hm.handovers.linkOf(cl), loop: s.loop, done: make(chan struct{}), flushed: make(chan struct{})}
		h.inner, h.answered, h.passed = true, true, &origin{Link: h.front.name} // if it stays here after all
		hm.handovers.setLink(cl, 0)
	}
	if cl.out != nil && len(cl.s.Out) > 0 {
		cl.out.B = cl.s.Out
		h.out, cl.out = cl.out, nil
		cl.s.Out = nil
	}
	cl.s.Drained()
	cl.c, cl.parking = nil, notParking
	cl.live.Store(nil)
	cl.s.Lost()
	cl.epoch++
	c.Pause()
	c.SetIdle(0)
	c.SetDeadline(2 * s.cfg.ConnectTimeout)
	c.SetHandler(h)
	s.loop.Go(func() {
		s.sendOn(c, h, r, hm)
		hm.handovers.isOff(cl)
	})
}

// sendOn has the connection wait for whoever owns the session next.
func (s *Server) sendOn(c *conn.Conn, h *handshake, r *originResume, hm *home) {
	a := &arrival{c: c, h: h, req: r.connect(), home: hm, until: time.Now().Add(s.cfg.ConnectTimeout), resume: r}
	a.identity = &Identity{ClientID: r.Client, Name: r.Name, Principal: r.Principal, Host: r.Host}
	a.name = rand.Uint64() | 1
	h.mu.Lock()
	a.hello = append((&origin{Resume: r, Link: a.name}).append(nil), h.unread...)
	h.mu.Unlock()
	s.loop.MustReserve(len(a.hello))
	if h.front != nil {
		s.handed.add(a)
	}
	if !h.wait(a) {
		s.loop.Unreserve(len(a.hello))
		s.lostParked(a)
		return
	}
	hm.arrive(a)
}

// lostParked ends a connection that waited for the next owner, if its session is still here: then it was lost as any other.
func (s *Server) lostParked(a *arrival) {
	cl := s.registry.find(a.req.ClientID)
	if cl == nil {
		return
	}
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	marks := &a.home.handovers
	cl.lock()
	if cl.s == nil || cl.c != nil || cl.local || cl.leaving || marks.markOf(cl.id) != a.resume.Mark {
		cl.unlock()
		return
	}
	marks.setMark(cl.id, 0)
	cl.stay(errOtherEnd)
}
