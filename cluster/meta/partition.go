package meta

import (
	"slices"

	"github.com/weir-io/weir/log"
)

// Partition is the assignment of one partition. Its index is its place in Topic.Partitions.
type Partition struct {
	Leader         int32     `cbor:"1,keyasint"` // NoLeader when it has none
	LeaderEpoch    log.Epoch `cbor:"2,keyasint"`
	PartitionEpoch int32     `cbor:"3,keyasint"`
	Replicas       []int32   `cbor:"4,keyasint"` // preferred leader first; while it moves, those to come and those to go
	ISR            []int32   `cbor:"5,keyasint"`
	// Since is the Image version that added the partition: a broker that has opened everything up to a
	// later version, and finds no log, has lost one rather than never had it.
	Since uint64 `cbor:"6,keyasint"`
	// ELR are replicas outside the ISR that hold everything committed: they left while fewer than min.insync.replicas
	// stayed, and nothing has been committed since (KIP-966, E3).
	ELR []int32 `cbor:"7,keyasint,omitempty"`
	// Restarted are those in ISR and ELR whose process started anew without a clean stop, and that have not shown since
	// that they hold everything (E5). They lead only when nobody better is to be had.
	Restarted []int32 `cbor:"8,keyasint,omitempty"`
	// Damaged replicas lost something in the middle of their log. They are in neither set until they are refilled (E7).
	Damaged []int32 `cbor:"9,keyasint,omitempty"`
	// LastUnclean is the newest epoch that began with a leader that may not have held everything, 0 if none did (E1, E6).
	LastUnclean log.Epoch `cbor:"10,keyasint,omitempty"`
	// Adding and Removing are the ends of a move that is under way.
	Adding   []int32 `cbor:"11,keyasint,omitempty"`
	Removing []int32 `cbor:"12,keyasint,omitempty"`
	// Left is the partition epoch in which a replica last left the assignment (I8).
	Left int32 `cbor:"13,keyasint,omitempty"`
}

// Target are the replicas it has, or will have once its move is over.
func (p *Partition) Target() []int32 { return without(p.Replicas, p.Removing...) }

// Before are the replicas that it had before the move that is under way; without one those it has.
func (p *Partition) Before() []int32 { return without(p.Replicas, p.Adding...) }

// Moves says whether it is under way to other replicas.
func (p *Partition) Moves() bool { return len(p.Adding) > 0 || len(p.Removing) > 0 }

// MinInsync is min.insync.replicas as it takes effect: a partition of two replicas cannot have three in sync (H4).
func (p *Partition) MinInsync(ofTopic int) int { return min(max(ofTopic, 1), len(p.Target())) }

// without copies set and leaves the members out. It never writes into set, which an Image may share.
func without(set []int32, members ...int32) []int32 {
	var out []int32
	for _, id := range set {
		if !slices.Contains(members, id) {
			out = append(out, id)
		}
	}
	return out
}

// with is set and id.
func with(set []int32, id int32) []int32 {
	if slices.Contains(set, id) {
		return set
	}
	return append(slices.Clone(set), id)
}

// common are the members of set that are in other as well.
func common(set, other []int32) []int32 {
	var out []int32
	for _, id := range set {
		if slices.Contains(other, id) {
			out = append(out, id)
		}
	}
	return out
}

// machine changes one partition of the Image under construction. Each method leaves the sets consistent but for the
// leader; settle comes last.
type machine struct {
	im        *Image
	p         *Partition
	minInsync int       // of the topic
	led       int32     // who led before
	epoch     log.Epoch // in this epoch
}

func (im *Image) machine(t *Topic, p *Partition) machine {
	return machine{im, p, t.MinInsync, p.Leader, p.LeaderEpoch}
}

// enough says whether what the ISR has is committed without anybody else (H4).
func (m machine) enough() bool { return len(m.p.ISR) >= m.p.MinInsync(m.minInsync) }

// serving says whether a broker may lead or join an ISR: it holds its lease and does not shut down.
func (m machine) serving(id int32) bool {
	b := m.im.Broker(id)
	return b != nil && !b.Fenced && !b.Stopping
}

// trusted says whether a member of the ISR may take over without another look at its log.
func (m machine) trusted(id int32) bool { return m.serving(id) && !slices.Contains(m.p.Restarted, id) }

// drop takes a replica out of the ISR, and into the ELR where it still counts (E3).
func (m machine) drop(id int32) {
	if !slices.Contains(m.p.ISR, id) {
		return
	}
	m.p.ISR = without(m.p.ISR, id)
	left := m.p.Leader
	if left == id {
		left = NoLeader
	}
	trusted := left != NoLeader || slices.ContainsFunc(m.p.ISR, m.trusted)
	if !m.enough() || !trusted {
		m.p.ELR = with(m.p.ELR, id)
	}
}

// elect chooses among the sets (E1), best first, and answers whether somebody leads. unless stays out of it.
//
// A replica that has started anew may have lost what it had acknowledged, if its disk lies about flushes. So it is chosen at once
// only when no other member is left; otherwise whoever elects looks at the logs first (E6).
func (m machine) elect() bool {
	best := NoLeader
	for _, id := range m.p.Target() { // in the order of preference
		if m.serving(id) && slices.Contains(m.p.ISR, id) && !slices.Contains(m.p.Restarted, id) {
			best = id
			break
		}
	}
	if best == NoLeader {
		best = m.lastResort()
	}
	if best == NoLeader {
		return false
	}
	m.lead(best)
	return true
}

// lastResort is a leader when no unrestarted member of the ISR serves.
func (m machine) lastResort() int32 {
	members := slices.Concat(m.p.ISR, m.p.ELR)
	for _, id := range members {
		b := m.im.Broker(id)
		if b == nil || b.Fenced || slices.Contains(m.p.Damaged, id) {
			continue
		}
		// One that shuts down leads to its end when there is nobody else; so does a leaving replica.
		if len(members) == 1 || !slices.Contains(m.p.Restarted, id) && (len(m.p.ISR) == 0 || slices.Contains(m.p.ISR, id)) {
			return id
		}
	}
	return NoLeader
}

// lead makes id the leader of a new epoch. If it comes from the ELR the ISR moves there first (I5).
func (m machine) lead(id int32) {
	if !slices.Contains(m.p.ISR, id) {
		for _, o := range m.p.ISR {
			m.p.ELR = with(m.p.ELR, o)
		}
		m.p.ISR, m.p.ELR = []int32{id}, without(m.p.ELR, id)
	}
	m.p.Leader = id
	m.p.LeaderEpoch = m.epoch + 1 // E2
	m.p.Restarted = without(m.p.Restarted, id)
}

// settle ends a change: it elects where there is no fit leader, completes a move, and raises the partition epoch.
func (m machine) settle() {
	p := m.p
	m.ensureLeader()
	m.complete()
	m.ensureLeader() // who led may have gone with the move
	if p.Leader != m.led {
		p.LeaderEpoch = m.epoch + 1 // also when nobody leads: who did must not go on
	}
	if p.Leader != NoLeader && m.enough() {
		p.ELR = nil // E3
	}
	p.Restarted = common(p.Restarted, slices.Concat(p.ISR, p.ELR))
	p.PartitionEpoch++
}

// ensureLeader elects where there is no fit leader.
func (m machine) ensureLeader() {
	if l := m.p.Leader; l == NoLeader || !slices.Contains(m.p.ISR, l) || !m.mayGoOn(l) {
		m.p.Leader = NoLeader
		m.elect()
	}
}

// mayGoOn says whether a leader keeps its place: one that shuts down does so only when nobody else can have it.
func (m machine) mayGoOn(leader int32) bool {
	b := m.im.Broker(leader)
	if b == nil || b.Fenced || slices.Contains(m.p.Restarted, leader) {
		return false
	}
	if !b.Stopping {
		return true
	}
	return !slices.ContainsFunc(m.p.ISR, m.trusted)
}

// complete ends a move once everybody who is to come is in sync, and enough are without those who are to go. Somebody must lead, and one who
// stays must serve and be trusted (E5): else those who go might be the only ones that hold everything.
func (m machine) complete() {
	p := m.p
	if !p.Moves() || p.Leader == NoLeader {
		return
	}
	staying := without(p.ISR, p.Removing...)
	for _, id := range p.Adding {
		if !slices.Contains(staying, id) {
			return
		}
	}
	if len(staying) < p.MinInsync(m.minInsync) || !slices.ContainsFunc(staying, m.trusted) {
		return
	}
	gone := p.Removing
	if len(gone) > 0 {
		p.Left = p.PartitionEpoch + 1 // as settle leaves it
	}
	p.Replicas, p.Adding, p.Removing = p.Target(), nil, nil
	p.ISR, p.ELR, p.Damaged = staying, without(p.ELR, gone...), without(p.Damaged, gone...)
}

// each applies change to every partition that involves id, and settles those where it answers true.
func (im *Image) each(involves func(*Partition) bool, change func(machine) bool) {
	cloned := false
	for i, t := range im.topics {
		var next *Topic
		for j := range t.Partitions {
			if !involves(&t.Partitions[j]) {
				continue
			}
			p := t.Partitions[j] // a copy: its slices are replaced, never written into
			m := im.machine(t, &p)
			if !change(m) {
				continue
			}
			m.settle()
			if next == nil {
				next = im.changed(t)
			}
			next.Partitions[j] = p
		}
		if next == nil {
			continue
		}
		if !cloned {
			im.ownTopics()
			cloned = true
		}
		im.topics[i], im.byID[t.ID] = next, next
	}
}
