package sim

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log/vfs"
)

// node is a machine: a disk, a clock, and at most one process.
type node struct {
	s *Sim
	i int // from 1

	// guarded by s.mu
	uuid    meta.UUID
	mem     *vfs.Mem
	copies  []copied   // of the disk, oldest first
	truth   *vfs.Mem   // what an old copy stands in for, until the cluster has let it in
	taken   []*vfs.Mem // copies that have stood in for it since, oldest first
	lied    bool       // its disk has told of a sync that it did not do, since it was put in
	broken  error      // why no process starts on it any more
	run     *process
	starts  int
	applied int // newest metadata entry that any process here has applied
	wall    time.Duration
}

// copied is a copy of a disk, taken while nothing ran on it.
type copied struct {
	mem    *vfs.Mem
	starts int
}

// now is the process that runs, nil if none does.
func (n *node) now() *process {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.run
}

// broker is that of the process that runs, once it is open.
func (n *node) broker() (*process, *cluster.Broker) {
	if p := n.now(); p != nil {
		return p, p.b.Load()
	}
	return nil, nil
}

const (
	dataDir      = "data"
	identityFile = "data/meta.cbor"
)

// start begins a process, if none runs.
func (n *node) start() {
	s := n.s
	s.mu.Lock()
	if n.run != nil || n.broken != nil || s.over {
		s.mu.Unlock()
		return
	}
	n.starts++
	p := &process{s: s, n: n, no: n.starts, closed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.disk = &disk{FS: n.mem, p: p}
	n.run = p
	s.mu.Unlock()
	s.trace.add("%s: starts", p)
	s.processes.Go(p.live)
}

func (n *node) wallOffset() time.Duration {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.wall
}

// die ends the process where it stands. What it knew is gone; cut says that the power is gone as well, so that of what its disk had not
// synced only a part is left.
func (n *node) die(cut bool, r *rand.Rand) {
	keep := kept
	if cut {
		keep = []float64{0, 0, 1, 0.5, 0.9}[r.IntN(5)]
	}
	n.end(keep, r)
}

// cutPower is die; keep is the chance that what was not synced is there all the same.
func (n *node) cutPower(keep float64, r *rand.Rand) { n.end(keep, r) }

// kept: the machine goes on, and its page cache with it.
const kept = -1.0

func (n *node) end(keep float64, r *rand.Rand) {
	s := n.s
	s.mu.Lock()
	p := n.run
	if p == nil {
		s.mu.Unlock()
		return
	}
	n.run, p.dead = nil, true
	if p.member != nil {
		p.member.gone = true
	}
	p.disk.cut()
	if keep != kept {
		n.mem = n.mem.CrashClone(keep, r)
	}
	if len(n.copies) < 3 || chance(r, 4) {
		n.copies = append(n.copies, copied{n.mem.CrashClone(1, nil), n.starts})
	}
	s.mu.Unlock()
	if keep == kept {
		s.trace.add("%s: dies", p)
	} else {
		s.trace.add("%s: loses power, keeps %v of what was not synced", p, keep)
	}
	p.cancel()
}

// stop ends the process as an operator would (E8).
func (n *node) stop() {
	p, b := n.broker()
	if b == nil {
		return
	}
	n.s.mu.Lock()
	told := p.told
	p.told = true
	n.s.mu.Unlock()
	if told {
		return
	}
	n.s.trace.add("%s: is told to stop", p)
	p.endUpper()
	err := b.Close(context.Background())
	close(p.closed)
	n.s.trace.add("%s: has stopped: %v", p, err)
	n.s.mu.Lock()
	if n.run == p {
		n.run, p.dead = nil, true
		p.disk.cut()
	}
	n.s.mu.Unlock()
	p.cancel()
}

// restore puts an older copy of the disk in, while nothing runs; false: there is none.
func (n *node) restore(r *rand.Rand) bool {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	var old []copied
	for _, c := range n.copies {
		if _, err := c.mem.Stat(identityFile); err == nil && c.starts < n.starts { // an empty disk is a new broker's (C2)
			old = append(old, c)
		}
	}
	if n.run != nil || len(old) == 0 || n.broken != nil {
		return false
	}
	c := old[r.IntN(len(old))]
	n.s.trace.add("n%d: gets the disk of its process %d back, after process %d", n.i, c.starts, n.starts)
	if n.truth == nil {
		n.truth = n.mem
	} else {
		n.taken = append(n.taken, n.mem)
	}
	n.mem = c.mem.CrashClone(1, nil)
	return true
}

// putBack has the operator put the disk back that an old copy stands in for, which is refused where it would be the only one to know something (E5).
func (n *node) putBack() {
	n.die(false, n.s.draws.of("put back"))
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	n.s.trace.add("n%d: gets its own disk back", n.i)
	n.mem = n.newest()
	n.truth, n.taken = nil, nil
}

// newest is the disk that the cluster has seen last. That is a copy which stood in for another if it was let in and its process died before it heard of that.
// s.mu is held.
func (n *node) newest() *vfs.Mem {
	images := n.s.quorum.images
	b := images[len(images)-1].BrokerByUUID(n.uuid)
	if b == nil {
		return n.truth
	}
	for _, disk := range append([]*vfs.Mem{n.truth, n.mem}, n.taken...) {
		if id, err := vfs.ReadFile(disk, identityFile, 64<<10); err == nil && bytes.Contains(id, b.Nonce[:]) {
			return disk
		}
	}
	return n.truth
}

// stranger says whether the node runs on an old copy that has not been let in.
func (n *node) stranger() bool {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.truth != nil
}
