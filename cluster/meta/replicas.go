package meta

import (
	"fmt"
	"slices"

	"github.com/weir-io/weir/log"
)

// AlterPartitions is what a leader proposes for the ISRs of partitions that it leads (I1). Each change stands for itself;
// answers []AlterOutcome, in their order. A change that names the state it was decided on is always committed: applied, or
// refused under a new partition epoch, so that no other copy of it can be applied later (I2).
type AlterPartitions struct {
	BrokerID    int32       `cbor:"1,keyasint"`
	BrokerEpoch int64       `cbor:"2,keyasint"`
	Changes     []ISRChange `cbor:"3,keyasint"`
}

// ISRChange is a new ISR for one partition.
type ISRChange struct {
	Topic          log.TopicID `cbor:"1,keyasint"`
	Index          int32       `cbor:"2,keyasint"`
	LeaderEpoch    log.Epoch   `cbor:"3,keyasint"`
	PartitionEpoch int32       `cbor:"4,keyasint"`
	ISR            []ISRMember `cbor:"5,keyasint"`
}

// ISRMember is one replica that is to be in sync.
type ISRMember struct {
	ID    int32 `cbor:"1,keyasint"`
	Epoch int64 `cbor:"2,keyasint"` // the process that the leader knows (BE)
	// Proven: this process has fetched in this leader epoch, without divergence, up to what is committed (E5, I4).
	Proven bool `cbor:"3,keyasint,omitempty"`
}

// AlterOutcome tells what became of one change.
type AlterOutcome uint8

// Outcomes.
const (
	AlterApplied AlterOutcome = iota
	AlterStale                // the partition is in another epoch, or led by another process; nothing was changed
	AlterRefused              // a member may not be in sync; the partition epoch rose and the ISR stays
)

// MaxAlterations bounds one AlterPartitions, ElectLeaders or Reassign.
const MaxAlterations = 10_000

// ElectLeaders has partitions led by replicas that the proposer has chosen. Answers []AlterOutcome.
type ElectLeaders struct {
	Kind  Election `cbor:"1,keyasint"`
	Elect []Choice `cbor:"2,keyasint"`
}

// Election is why a leader is chosen.
type Election uint8

// Elections.
const (
	// ElectPreferred gives a partition back to its first replica, or to another member of the ISR.
	ElectPreferred Election = 1 + iota
	// ElectRecovered chooses among members that have restarted, after a look at their logs (E6).
	ElectRecovered
	// ElectUnclean takes any replica, on an operator's word: what it does not have is lost (E1).
	ElectUnclean
)

// Choice is one leader to be.
type Choice struct {
	Topic          log.TopicID `cbor:"1,keyasint"`
	Index          int32       `cbor:"2,keyasint"`
	PartitionEpoch int32       `cbor:"3,keyasint"`
	Leader         int32       `cbor:"4,keyasint"`
	// Missing: a member of ISR or ELR was not heard before this choice of ElectRecovered.
	Missing bool `cbor:"5,keyasint,omitempty"`
}

// Reassign moves partitions to other replicas. The old ones stay until the new are in sync. Answers *Topic.
type Reassign struct {
	ID     log.TopicID `cbor:"1,keyasint"`
	Expect uint64      `cbor:"2,keyasint"` // Topic.Version
	Moves  []Move      `cbor:"3,keyasint"`
	// MinInsync is the topic's min.insync.replicas from now on, in the same entry (I7); 0 leaves it.
	MinInsync int `cbor:"4,keyasint,omitempty"`
}

// Move gives one partition its replicas, preferred leader first. Giving it those it has ends a move that is under way.
type Move struct {
	Index    int32   `cbor:"1,keyasint"`
	Replicas []int32 `cbor:"2,keyasint"`
}

// ReportDamage takes replicas whose log lost something in its middle out of everything that counts (E7).
type ReportDamage struct {
	BrokerID    int32           `cbor:"1,keyasint"`
	BrokerEpoch int64           `cbor:"2,keyasint"`
	Partitions  []PartitionName `cbor:"3,keyasint"`
}

// PartitionName names a partition for ever.
type PartitionName struct {
	Topic log.TopicID `cbor:"1,keyasint"`
	Index int32       `cbor:"2,keyasint"`
}

func (*AlterPartitions) kind() kind { return kindAlterPartitions }
func (*ElectLeaders) kind() kind    { return kindElectLeaders }
func (*Reassign) kind() kind        { return kindReassign }
func (*ReportDamage) kind() kind    { return kindReportDamage }

// one changes a single partition; false when there is none of that name, or change answers false.
func (im *Image) one(topic log.TopicID, index int32, change func(machine) bool) bool {
	t := im.byID[topic]
	if t == nil || index < 0 || int(index) >= len(t.Partitions) {
		return false
	}
	p := t.Partitions[index]
	m := im.machine(t, &p)
	if !change(m) {
		return false
	}
	m.settle()
	if t.Version != im.Version { // else it is this entry's own already
		t = im.changed(t)
		im.put(t)
	}
	t.Partitions[index] = p
	return true
}

func (c *AlterPartitions) apply(next *Image) (any, error) {
	b, err := next.incarnation(c.BrokerID, c.BrokerEpoch)
	switch {
	case err != nil:
		return nil, fmt.Errorf("alter partitions: %w", err)
	case b.Fenced:
		return nil, fmt.Errorf("alter partitions: broker %d is fenced: %w", b.ID, ErrRefused)
	case len(c.Changes) > MaxAlterations:
		return nil, fmt.Errorf("alter partitions: %d at once, limit %d: %w", len(c.Changes), MaxAlterations, ErrRefused)
	}
	outcomes := make([]AlterOutcome, len(c.Changes))
	changed := false
	for i := range c.Changes {
		ch := &c.Changes[i]
		outcomes[i] = AlterStale
		if next.one(ch.Topic, ch.Index, func(m machine) bool {
			if m.p.Leader == b.ID && m.p.LeaderEpoch == ch.LeaderEpoch && m.p.PartitionEpoch == ch.PartitionEpoch {
				outcomes[i] = m.alter(ch)
			}
			return outcomes[i] != AlterStale
		}) {
			changed = true
		}
	}
	if !changed {
		return nil, fmt.Errorf("alter partitions of broker %d: all are in other epochs: %w", b.ID, ErrConflict)
	}
	return outcomes, nil
}

// alter gives the partition the ISR that its leader proposes.
func (m machine) alter(c *ISRChange) AlterOutcome {
	p := m.p
	var isr []int32
	for i, member := range c.ISR {
		b := m.im.Broker(member.ID)
		added := !slices.Contains(p.ISR, member.ID)
		switch {
		case b == nil || !slices.Contains(p.Replicas, member.ID) || slices.Contains(isr, member.ID):
			return AlterRefused
		case added && (b.Epoch != member.Epoch || b.Fenced || b.Stopping): // I1
			return AlterRefused
		}
		isr = append(isr, c.ISR[i].ID)
	}
	if !slices.Contains(isr, p.Leader) {
		return AlterRefused
	}
	old, left := p.ISR, without(p.ISR, isr...)
	p.ISR = isr
	if !m.enough() { // E3: all of them hold what was committed while they were members
		p.ELR = slices.Concat(p.ELR, left)
	}
	for _, member := range c.ISR {
		added := !slices.Contains(old, member.ID)
		if b := m.im.Broker(member.ID); b.Epoch == member.Epoch && (added || member.Proven) { // E5
			p.Restarted, p.Damaged = without(p.Restarted, member.ID), without(p.Damaged, member.ID)
		}
		p.ELR = without(p.ELR, member.ID)
	}
	return AlterApplied
}

func (c *ElectLeaders) apply(next *Image) (any, error) {
	switch {
	case c.Kind < ElectPreferred || c.Kind > ElectUnclean:
		return nil, fmt.Errorf("elect leaders: kind %d: %w", c.Kind, ErrRefused)
	case len(c.Elect) > MaxAlterations:
		return nil, fmt.Errorf("elect leaders: %d at once, limit %d: %w", len(c.Elect), MaxAlterations, ErrRefused)
	}
	outcomes := make([]AlterOutcome, len(c.Elect))
	changed := false
	for i := range c.Elect {
		ch := &c.Elect[i]
		outcomes[i] = AlterStale
		if next.one(ch.Topic, ch.Index, func(m machine) bool {
			if m.p.PartitionEpoch != ch.PartitionEpoch {
				return false
			}
			outcomes[i] = AlterRefused
			if m.choose(c.Kind, ch) {
				outcomes[i] = AlterApplied
			}
			return outcomes[i] == AlterApplied
		}) {
			changed = true
		}
	}
	if !changed {
		return nil, fmt.Errorf("elect leaders: none can be had: %w", ErrConflict)
	}
	return outcomes, nil
}

// choose makes the choice of a proposer, if the rules of its kind allow it.
func (m machine) choose(kind Election, c *Choice) bool {
	p := m.p
	if !m.serving(c.Leader) || !slices.Contains(p.Replicas, c.Leader) {
		return false
	}
	inISR, restarted := slices.Contains(p.ISR, c.Leader), slices.Contains(p.Restarted, c.Leader)
	switch kind {
	case ElectPreferred:
		if !inISR || restarted || p.Leader == c.Leader {
			return false
		}
		m.lead(c.Leader)
	case ElectRecovered:
		if p.Leader != NoLeader || !inISR && !slices.Contains(p.ELR, c.Leader) {
			return false
		}
		m.lead(c.Leader)
		if c.Missing {
			p.LastUnclean = p.LeaderEpoch
		}
	case ElectUnclean:
		if p.Leader != NoLeader {
			return false
		}
		p.ISR, p.ELR, p.Restarted = []int32{c.Leader}, nil, nil
		p.Damaged = without(p.Damaged, c.Leader)
		m.lead(c.Leader)
		p.LastUnclean = p.LeaderEpoch
	}
	return true
}

func (c *Reassign) apply(next *Image) (any, error) {
	t, err := next.expect(c.ID, c.Expect)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reassign: %w", err)
	case len(c.Moves) > MaxAlterations:
		return nil, fmt.Errorf("reassign: %d partitions at once, limit %d: %w", len(c.Moves), MaxAlterations, ErrRefused)
	}
	if err := checkMinInsync(c.MinInsync); err != nil {
		return nil, fmt.Errorf("reassign: %w", err)
	}
	if c.MinInsync != 0 {
		next.setMinInsync(t, c.MinInsync)
	}
	for _, move := range c.Moves {
		if move.Index < 0 || int(move.Index) >= len(t.Partitions) {
			return nil, fmt.Errorf("reassign: topic %q has no partition %d: %w", t.Name, move.Index, ErrRefused)
		}
		if err := next.checkReplicas(move.Replicas); err != nil || len(move.Replicas) > MaxReplicas {
			return nil, fmt.Errorf("reassign: partition %s/%d: replicas %v: %v: %w", t.Name, move.Index, move.Replicas, err, ErrRefused)
		}
		next.one(c.ID, move.Index, func(m machine) bool { m.move(move.Replicas); return true })
	}
	return next.byID[c.ID], nil
}

// move sets out for other replicas. Those that are there already, from a move before, stay or go as the new one says.
func (m machine) move(to []int32) {
	p := m.p
	old := p.Before()
	p.Adding = without(to, old...)
	p.Removing = without(p.Replicas, to...)
	p.Replicas = slices.Concat(to, p.Removing)
}

// setMinInsync changes min.insync.replicas of a topic and sees anew to each ELR (I7).
func (im *Image) setMinInsync(t *Topic, n int) {
	t = im.changed(t)
	t.MinInsync = n
	for j := range t.Partitions {
		m := im.machine(t, &t.Partitions[j])
		m.settle()
	}
	im.put(t)
}

func (c *ReportDamage) apply(next *Image) (any, error) {
	b, err := next.incarnation(c.BrokerID, c.BrokerEpoch)
	switch {
	case err != nil:
		return nil, fmt.Errorf("report damage: %w", err)
	case len(c.Partitions) > MaxAlterations:
		return nil, fmt.Errorf("report damage: %d partitions at once, limit %d: %w", len(c.Partitions), MaxAlterations, ErrRefused)
	}
	changed := false
	for _, name := range c.Partitions {
		changed = next.one(name.Topic, name.Index, func(m machine) bool {
			p := m.p
			if !slices.Contains(p.Replicas, b.ID) || slices.Contains(p.Damaged, b.ID) {
				return false
			}
			p.ISR, p.ELR, p.Damaged = without(p.ISR, b.ID), without(p.ELR, b.ID), with(p.Damaged, b.ID)
			return true
		}) || changed
	}
	if !changed {
		return nil, fmt.Errorf("report damage of broker %d: nothing new: %w", b.ID, ErrConflict)
	}
	return nil, nil
}
