package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

const (
	// detourHold is for how long a node that was not reached is left alone at least. It doubles up to detourHoldMost while the line comes and goes: one that is
	// slow answers a question and lets no batch through in time, and each change of ways costs a time limit.
	detourHold     = time.Second
	detourHoldMost = time.Minute
	// detourCalm is how long a line has to be good before what it did is forgotten.
	detourCalm = 2 * detourHoldMost
	// poorFor is how long a third node is passed over that did not get through, or does not know how to.
	poorFor = 5 * time.Second
)

// detours are the nodes that are not reached directly at present, and what is known of the ways round. It holds an entry for each node of the cluster at most.
type detours struct {
	mu    sync.Mutex
	nodes map[meta.UUID]*detour

	calls atomic.Int64 // that a third node has brought an answer to
}

type detour struct {
	away    bool // not reached directly
	looking bool // somebody finds out
	hold    time.Duration
	again   time.Time // while away: when the line is tried next. Else: when it came back

	through meta.UUID // while away: the third that reaches it; zero: none that is known
	seeking bool      // somebody looks for one
	poor    map[meta.UUID]time.Time
}

// of finds or makes a node's entry. d.mu is held.
func (d *detours) of(id meta.UUID) *detour {
	if d.nodes == nil {
		d.nodes = map[meta.UUID]*detour{}
	}
	n := d.nodes[id]
	if n == nil {
		n = &detour{poor: map[meta.UUID]time.Time{}}
		d.nodes[id] = n
	}
	return n
}

// begin notes that a node is not reached; it answers whether it was until now.
func (d *detours) begin(id meta.UUID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.of(id)
	if n.away {
		return false
	}
	if n.hold == 0 || now.Sub(n.again) > detourCalm {
		n.hold = detourHold
	} else {
		n.hold = min(2*n.hold, detourHoldMost)
	}
	n.away, n.again, n.through = true, now.Add(n.hold), meta.UUID{}
	clear(n.poor)
	return true
}

// end notes that a node has answered; it answers whether that ends a detour.
func (d *detours) end(id meta.UUID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	if n == nil || !n.away {
		return false
	}
	n.away, n.again = false, now
	return true
}

// needed gives the third through which a node is reached, zero where it is reached directly, or nobody is known who reaches it. It says whether it is time to
// look whether it is reached by now: who is told so looks, and calls looked.
func (d *detours) needed(id meta.UUID, now time.Time) (through meta.UUID, look bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	if n == nil || !n.away {
		return through, false
	}
	if look = !n.looking && !now.Before(n.again); look {
		n.looking, n.again = true, now.Add(detourHold)
	}
	return n.through, look
}

// seek says whether a third is to be found. Who is told so looks for one, and calls found.
func (d *detours) seek(id meta.UUID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	if n == nil || !n.away || n.seeking || n.through != (meta.UUID{}) {
		return false
	}
	n.seeking = true
	return true
}

// found ends a search; third is zero where it was in vain.
func (d *detours) found(id, third meta.UUID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.of(id)
	if n.seeking = false; n.away {
		n.through = third
	}
}

// look says whether nobody looks after a node yet. Who is told so looks, and calls looked.
func (d *detours) look(id meta.UUID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.of(id)
	look := !n.looking && !n.away
	n.looking = n.looking || look
	return look
}

func (d *detours) looked(id meta.UUID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of(id).looking = false
}

// gone says whether a node is not reached directly.
func (d *detours) gone(id meta.UUID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[id]
	return n != nil && n.away
}

// fell notes that a third node did not get through to id.
func (d *detours) fell(id, third meta.UUID, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.of(id)
	if n.poor[third] = now.Add(poorFor); n.through == third {
		n.through = meta.UUID{}
	}
}

// may says whether a third node may get through to id, by what is known here.
func (d *detours) may(id, third meta.UUID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.nodes[third]; n != nil && n.away {
		return false
	}
	n := d.nodes[id]
	return n == nil || now.After(n.poor[third])
}

// keep forgets nodes that the cluster has not any more.
func (d *detours) keep(im *meta.Image) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.nodes {
		if im.BrokerByUUID(id) == nil {
			delete(d.nodes, id)
		}
	}
}

// count is how many nodes are not reached directly.
func (d *detours) count() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, at := range d.nodes {
		if at.away {
			n++
		}
	}
	return n
}
