package mqtt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// Owners is what the server asks of the cluster when it is not alone. The owner of a session is the node that leads the
// partition of the sessions table that PartitionFor gives for its client identifier. All methods may be called concurrently.
type Owners interface {
	// Watch calls gained for every partition that this node leads, before it returns, and then as that changes, with the
	// epoch of its leadership, which is higher than that of any leader before. When gained is called, Table.Load of the
	// partition gives everything that former leaders have acknowledged. A new epoch may follow without lost in between.
	// moved is called when a partition that this node leads neither before nor after gets another leader, or none, or one that connections which were
	// passed on to it do not reach any more.
	// Calls do not overlap and do not block.
	Watch(gained func(partition int, epoch int32), lost, moved func(partition int)) (stop func())
	// Dial opens a connection to the partition's owner, another node, which hands the far end to its Server.Passed. A
	// *net.TCPConn costs neither side a goroutine. node names that owner for Release and Collect, 0 where nobody can be sure that what one side has
	// written before it ends comes to the other.
	Dial(ctx context.Context, partition int) (nc net.Conn, node int32, err error)
	// Release and Collect have a node, the former owner of sessions, run Server.Release and Server.Collect.
	Release(ctx context.Context, node int32, link uint64) (state []byte, err error)
	Collect(ctx context.Context, node int32, link uint64) (unread []byte, err error)
	// Part has a node, the owner of sessions, run Server.Part, and returns when it has.
	Part(ctx context.Context, node int32, links []uint64) error
	// Claim has the partition's owner, another node, run Server.Claim with this node's id as from.
	Claim(ctx context.Context, partition int, clientID string) (claim uint64, err error)
	// Drop has every other node but except run Server.Drop, and returns when all of them have. except is 0 for none. A node
	// that does not answer is waited for a second or two and then left out: it cannot be asked, and is about to be fenced.
	Drop(ctx context.Context, clientID string, claim uint64, except int32) error
}

// ErrNotOwner is Claim's answer on a node that does not own the client identifier, or does not know its sessions yet.
var ErrNotOwner = errors.New("this node does not own the session")

// movedReason tells a client to connect again. Not 0x9C, use another server: any node will do, the one it is connected to
// included, and clients that are sent elsewhere without being told where may not come back.
const movedReason = packet.ServerShuttingDown

// errMoved ends the connections of sessions whose partition another node leads now.
var errMoved = errors.New("another node owns the session now")

// holdings is the sessions table as this node owns it.
type holdings struct {
	n     int // partitions
	first int // where earlier builds kept what belongs to no client
	homes []home

	mu         sync.Mutex
	floor      []byte // see Server.floorOfAll
	floorKnown bool
	strays     map[string][]int // shared subscriptions that earlier builds stored in partitions that are not theirs
}

// homeState says what the node can do about the sessions of a partition.
type homeState uint8

const (
	away    homeState = iota // another node owns them, or nobody
	loading                  // this node will, once it has read them
	owned
)

// home is one partition of the sessions table: where the sessions of some client identifiers live.
type home struct {
	srv   *Server
	index int

	durable atomic.Int64 // sessions here that outlive their connection

	mu       sync.Mutex
	state    homeState
	epoch    int32 // of the state, unless away
	want     int32 // epoch of our leadership as last told
	leads    bool  // as last told
	settling bool  // a goroutine brings state to where leads and want say
	resting  bool  // it is about to have another owner: what arrives waits for that
	rests    int   // that there ever were
	serving  int   // CONNECTs and claims at work on sessions that live here
	idle     sync.Cond
	gate     gate
	links    map[*link]struct{} // to the owner elsewhere
	hosts    map[*shareHost]struct{}

	handovers handovers

	shares shareLink
}

func (h *holdings) init(s *Server, partitions int) {
	h.n, h.first = partitions, PartitionFor(nil, partitions)
	h.homes = make([]home, partitions)
	for i := range h.homes {
		hm := &h.homes[i]
		hm.srv, hm.index = s, i
		hm.idle.L = &hm.mu
		hm.links = map[*link]struct{}{}
		hm.shares = shareLink{srv: s, partition: i, kick: make(chan struct{}, 1)}
	}
}

// homeOf is where the session of a client identifier lives.
func (s *Server) homeOf(id string) *home { return &s.holdings.homes[s.partitionFor(id)] }

// inUse lists the owned partitions that have sessions.
func (h *holdings) inUse() (list []int) {
	for i := range h.homes {
		hm := &h.homes[i]
		if hm.durable.Load() > 0 && hm.owned() {
			list = append(list, i)
		}
	}
	return list
}

func (h *holdings) floorOfAllKnown() ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.floor, h.floorKnown
}

func (h *holdings) floorOfAll(value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.floor, h.floorKnown = value, true
}

// ownership is in whose name the sessions here are served.
func (hm *home) ownership() Ownership {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	return Ownership{hm.index, hm.epoch}
}

// mine says whether the node owns the partition or is about to, and not about to lose it.
func (hm *home) mine() bool {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	return hm.leadsLocked() && !hm.resting
}

// leadsLocked says whether the node should own the partition.
func (hm *home) leadsLocked() bool { return hm.leads && !hm.srv.away.Load() }

// comingLocked says whether the node will own the partition before long: what arrives waits for that.
func (hm *home) comingLocked() bool {
	return hm.state == loading || hm.state == away && hm.leadsLocked()
}

func (hm *home) owned() bool {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	return hm.state == owned
}

// serve begins work on a session that lives here; false when the node does not own it. While it lasts the partition is
// not given up.
func (hm *home) serve() bool {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if hm.state != owned || hm.resting {
		return false
	}
	hm.serving++
	return true
}

func (hm *home) served() {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if hm.serving--; hm.serving == 0 {
		hm.idle.Broadcast()
	}
}

// claimNumber orders claims of one client identifier across owners. Call between serve and served.
func (hm *home) claimNumber() uint64 {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	return uint64(hm.epoch)<<32 | uint64(hm.srv.claims.count.Add(1))
}

// watchOwners learns what the node owns and loads that, so that the server begins with it. Alone, the node owns everything.
func (s *Server) watchOwners() error {
	if s.cfg.Owners == nil {
		for i := range s.holdings.homes {
			s.holdings.homes[i].leads = true
		}
	} else {
		s.unwatch = s.cfg.Owners.Watch(
			func(p int, epoch int32) { s.holdings.homes[p].told(true, epoch) },
			func(p int) { s.holdings.homes[p].told(false, 0) },
			func(p int) { s.holdings.homes[p].cutLinks(); s.holdings.homes[p].shares.reach(true) },
		)
	}
	for i := range s.holdings.homes {
		hm := &s.holdings.homes[i]
		hm.mu.Lock()
		leads, epoch := hm.leads, hm.want
		hm.mu.Unlock()
		if !leads {
			continue
		}
		clients, err := s.restore(hm)
		if err != nil {
			return err
		}
		s.restored = append(s.restored, clients...)
		s.leadShares(hm)
		hm.enter(owned, epoch)
	}
	return nil
}

// told takes up what the cluster says about the partition's leader.
func (hm *home) told(leads bool, epoch int32) {
	hm.cutLinks()
	defer hm.shares.reach(true) // once it is known who leads
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.leads, hm.want = leads, epoch
	hm.settleLocked()
}

// cutLinks ends the connections that were passed on to whoever owned the partition, once he has had time to say goodbye:
// a node that has died without a word would leave its clients waiting for longer than they need to.
func (hm *home) cutLinks() {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	if len(hm.links) == 0 {
		return
	}
	old := slices.Collect(maps.Keys(hm.links))
	hm.srv.far.start(func() { hm.srv.follow(old) })
	time.AfterFunc(goodbyeTime, func() {
		for _, l := range old {
			if l.stays() {
				l.c[clientSide].Close(errMoved)
			}
		}
	})
}

const goodbyeTime = 2 * time.Second

func (hm *home) addLink(l *link) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.links[l] = struct{}{}
}

func (hm *home) removeLink(l *link) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	delete(hm.links, l)
}

// settleLocked has a goroutine bring the state to where it should be, once the server runs.
func (hm *home) settleLocked() {
	if hm.settling || hm.settledLocked() || !hm.srv.running.Load() {
		return
	}
	hm.settling = hm.srv.far.start(hm.settle)
}

// settleAll makes up for what was told before the server ran.
func (hm *home) settleAll() {
	hm.shares.reach(false)
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.settleLocked()
}

func (hm *home) settledLocked() bool {
	if !hm.leadsLocked() {
		return hm.state == away
	}
	return hm.state == owned && hm.epoch == hm.want
}

func (hm *home) settle() {
	for {
		hm.mu.Lock()
		state, epoch, leads, want := hm.state, hm.epoch, hm.leadsLocked(), hm.want
		if hm.settledLocked() {
			hm.settling = false
			hm.mu.Unlock()
			return
		}
		hm.mu.Unlock()
		switch {
		case state == owned && (!leads || epoch != want):
			hm.srv.giveUp(hm)
		case !leads:
			hm.enter(away, 0)
		default:
			hm.enter(loading, want)
			if err := hm.srv.takeOn(hm); err != nil {
				hm.srv.cfg.Logger.Error("sessions cannot be loaded, trying again", "partition", hm.index, "err", err)
				if !hm.srv.far.sleep(time.Second) {
					return
				}
				continue
			}
			hm.enter(owned, want)
		}
	}
}

// enter changes the state. CONNECTs that waited are looked at again.
func (hm *home) enter(state homeState, epoch int32) {
	hm.mu.Lock()
	defer hm.mu.Unlock()
	hm.state, hm.epoch, hm.resting = state, epoch, false
	hm.gate.pause = time.Time{} // who did not answer may have another answer now
	hm.kickLocked()
}

// takeOn loads the sessions of a partition that the node has begun to lead.
func (s *Server) takeOn(hm *home) error {
	clients, err := s.restore(hm)
	if err != nil {
		for _, cl := range clients {
			cl.forget()
		}
		s.absent.leave(hm.index)
		return fmt.Errorf("load sessions: %w", err)
	}
	s.leadShares(hm) // before those of its sessions come that are members
	s.arm(clients, handoverGrace)
	s.cfg.Logger.Info("owns sessions", "partition", hm.index, "sessions", len(clients))
	return nil
}

// handoverGrace is how long clients whose sessions changed their owner have to come back before that counts as the end
// of their connection: their wills are not published for it.
const handoverGrace = 10 * time.Second

// leadShares has this node lead the shared subscriptions of a partition.
func (s *Server) leadShares(hm *home) {
	if s.cfg.Owners != nil {
		s.hub.LeadGroups(hm.index)
	}
}

// giveUp drops the sessions of a partition that another node leads now, without touching what is stored. Their clients
// are told to connect again, which leads them to the new owner.
func (s *Server) giveUp(hm *home) {
	hm.mu.Lock()
	hm.state = away
	for hm.serving > 0 {
		hm.idle.Wait()
	}
	hm.mu.Unlock()
	hm.closeHosts()
	hm.handovers.forgetMarks()
	s.hub.FollowGroups(hm.index)
	s.absent.leave(hm.index)
	var mine []*client
	for _, cl := range s.registry.all() {
		if s.partitionFor(cl.id) == hm.index && cl.leave() {
			mine = append(mine, cl)
		}
	}
	for _, cl := range mine {
		cl.connecting.Lock()
		cl.lock()
		cl.await(cl.c, errMoved)
		cl.forget()
		cl.connecting.Unlock()
	}
	s.cfg.Logger.Info("owns sessions no more", "partition", hm.index, "sessions", len(mine))
	hm.enter(away, 0)
}

// leave begins to end a session that another node has now; false if the client has none of that kind.
func (cl *client) leave() bool {
	cl.lock()
	defer cl.unlock()
	if cl.s == nil || cl.local {
		return false
	}
	cl.leaving = true
	if cl.c != nil {
		cl.s.Fail(movedReason)
		cl.c.Close(errMoved)
	}
	return true
}
