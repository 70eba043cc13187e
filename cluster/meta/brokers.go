package meta

import (
	"fmt"
	"slices"
)

// FenceBrokers takes brokers whose leases have run out from everything they lead and are in sync with (E4). Who proposes it
// names all that are silent at that moment: a partition must not be given to one of them because it is not fenced yet.
type FenceBrokers struct {
	Brokers []Incarnation `cbor:"1,keyasint"`
}

// Incarnation is one process of a broker.
type Incarnation struct {
	BrokerID    int32 `cbor:"1,keyasint"`
	BrokerEpoch int64 `cbor:"2,keyasint"`
}

// UnfenceBroker lets a fenced process back that renews its lease again. What it led meanwhile has other leaders.
type UnfenceBroker struct {
	BrokerID    int32 `cbor:"1,keyasint"`
	BrokerEpoch int64 `cbor:"2,keyasint"`
}

// StopBroker has a broker that is about to shut down hand over what it leads and leave the ISRs that can spare it (E8).
type StopBroker struct {
	BrokerID    int32 `cbor:"1,keyasint"`
	BrokerEpoch int64 `cbor:"2,keyasint"`
}

// DrainBroker has a broker given nothing new, so that others can take over what it has, or takes that back. It is an operator's word about the data
// directory, whichever process runs on it.
type DrainBroker struct {
	BrokerID int32 `cbor:"1,keyasint"`
	Stays    bool  `cbor:"2,keyasint,omitempty"` // it is to stay after all
}

// RemoveBroker forgets a broker that holds no replica any more. Its id is not given again.
type RemoveBroker struct {
	BrokerID    int32 `cbor:"1,keyasint"`
	BrokerEpoch int64 `cbor:"2,keyasint"`
}

func (*FenceBrokers) kind() kind  { return kindFenceBrokers }
func (*UnfenceBroker) kind() kind { return kindUnfenceBroker }
func (*StopBroker) kind() kind    { return kindStopBroker }
func (*RemoveBroker) kind() kind  { return kindRemoveBroker }
func (*DrainBroker) kind() kind   { return kindDrainBroker }

func (c *RegisterBroker) apply(next *Image) (any, error) {
	switch {
	case c.ClusterID == "" || len(c.ClusterID) > MaxTopicName:
		return nil, fmt.Errorf("register broker %s: cluster id of %d bytes: %w", c.UUID, len(c.ClusterID), ErrRefused)
	case next.ClusterID != "" && next.ClusterID != c.ClusterID: // C3
		return nil, fmt.Errorf("register broker %s: it belongs to cluster %s, this is %s: %w", c.UUID, c.ClusterID, next.ClusterID, ErrRefused)
	case len(c.Held) > MaxNonces:
		return nil, fmt.Errorf("register broker %s: %d nonces, limit %d: %w", c.UUID, len(c.Held), MaxNonces, ErrRefused)
	case len(c.Host) > maxHost || len(c.Peer) > maxHost || len(c.Zone) > maxHost:
		return nil, fmt.Errorf("register broker %s: an address or zone of more than %d bytes: %w", c.UUID, maxHost, ErrRefused)
	}
	b := &Broker{
		ID: next.NextBrokerID, UUID: c.UUID, Epoch: int64(next.Version), Nonce: c.Nonce,
		Host: c.Host, KafkaPort: c.KafkaPort, KafkaTLSPort: c.KafkaTLSPort, Peer: c.Peer, Zone: c.Zone, Witness: c.Witness,
	}
	next.ClusterID = c.ClusterID
	old := next.BrokerByUUID(c.UUID)
	if old == nil {
		next.NextBrokerID++ // C2
		next.brokers = append(slices.Clone(next.brokers), b)
		return Registration{BrokerID: b.ID, BrokerEpoch: b.Epoch, Version: next.Version}, nil
	}
	if old.Nonce == c.Nonce { // the same request again: the same answer (C4)
		return Registration{BrokerID: old.ID, BrokerEpoch: old.Epoch, Version: uint64(old.Epoch)}, nil
	}
	b.ID, b.Draining = old.ID, old.Draining
	known := slices.Contains(c.Held, old.Nonce)
	if !known {
		if err := next.mayReplace(old, c.Replaces); err != nil { // C4, E5
			return nil, fmt.Errorf("register broker %d: its data directory is an old copy, or another process runs on a copy of it: %w: %w", old.ID, err, ErrRefused)
		}
	}
	next.setBroker(b)
	next.each(func(p *Partition) bool { return slices.Contains(p.Replicas, b.ID) }, func(m machine) bool {
		return m.returned(b.ID, known, c.Clean == old.Epoch)
	})
	return Registration{BrokerID: b.ID, BrokerEpoch: b.Epoch, Version: next.Version}, nil
}

// mayReplace says whether a directory that is not the newest state of broker old may take its place (E5). Nothing may be lost by
// it: the process before must be gone, and each partition must have another member that holds everything.
func (im *Image) mayReplace(old *Broker, named int64) error {
	switch {
	case !old.Fenced:
		return fmt.Errorf("the process before holds its lease")
	case named != old.Epoch:
		return fmt.Errorf("the process to be replaced is that of epoch %d", old.Epoch)
	}
	for _, t := range im.topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			members := slices.Concat(p.ISR, p.ELR)
			if slices.Contains(members, old.ID) && len(members) == 1 {
				return fmt.Errorf("partition %s/%d has no other replica that holds everything", t.Name, i)
			}
		}
	}
	return nil
}

// returned takes note of a new process of a broker.
func (m machine) returned(id int32, known, clean bool) (changed bool) {
	p := m.p
	member := slices.Contains(p.ISR, id) || slices.Contains(p.ELR, id)
	switch {
	case !member:
		return false
	case !known: // an old copy of the disk (E5)
		p.ISR, p.ELR = without(p.ISR, id), without(p.ELR, id)
	case !clean:
		p.Restarted = with(p.Restarted, id)
	}
	if p.Leader == id { // A7: never again in the epoch that it led
		p.Leader = NoLeader
		m.elect()
	}
	return true
}

// broker finds the incarnation that a command means.
func (im *Image) incarnation(id int32, epoch int64) (*Broker, error) {
	b := im.Broker(id)
	switch {
	case b == nil:
		return nil, fmt.Errorf("broker %d: %w", id, ErrNotFound)
	case b.Epoch != epoch:
		return nil, fmt.Errorf("broker %d: its epoch is %d, not %d: %w", id, b.Epoch, epoch, ErrRefused)
	}
	return b, nil
}

// setBroker replaces the broker with that id.
func (im *Image) setBroker(b *Broker) {
	i, _ := im.findBroker(b.ID)
	im.brokers = slices.Clone(im.brokers)
	im.brokers[i] = b
}

func inSync(id int32) func(*Partition) bool {
	return func(p *Partition) bool { return slices.Contains(p.ISR, id) }
}

func (c *FenceBrokers) apply(next *Image) (any, error) {
	var gone []int32
	for _, i := range c.Brokers {
		b, err := next.incarnation(i.BrokerID, i.BrokerEpoch)
		if err != nil || b.Fenced { // it has come back as another process, or another proposal was faster
			continue
		}
		fenced := *b
		fenced.Fenced = true
		next.setBroker(&fenced)
		gone = append(gone, b.ID)
	}
	if len(gone) == 0 {
		return nil, fmt.Errorf("fence: none of the %d brokers is as it was: %w", len(c.Brokers), ErrConflict)
	}
	next.each(func(p *Partition) bool { return len(common(p.ISR, gone)) > 0 }, func(m machine) bool {
		if slices.Contains(gone, m.p.Leader) {
			m.p.Leader = NoLeader
		}
		for _, id := range gone {
			m.drop(id)
		}
		return true
	})
	return gone, nil
}

func (c *UnfenceBroker) apply(next *Image) (any, error) {
	b, err := next.incarnation(c.BrokerID, c.BrokerEpoch)
	if err != nil {
		return nil, fmt.Errorf("unfence: %w", err)
	}
	if !b.Fenced {
		return nil, fmt.Errorf("unfence: broker %d is not fenced: %w", b.ID, ErrConflict)
	}
	back := *b
	back.Fenced = false
	next.setBroker(&back)
	next.each(func(p *Partition) bool { return p.Leader == NoLeader && slices.Contains(p.Replicas, b.ID) }, machine.elected)
	return nil, nil
}

// elected tries an election where nobody leads, and answers whether it changed something.
func (m machine) elected() bool { return m.p.Leader == NoLeader && m.elect() }

func (c *StopBroker) apply(next *Image) (any, error) {
	b, err := next.incarnation(c.BrokerID, c.BrokerEpoch)
	if err != nil {
		return nil, fmt.Errorf("stop: %w", err)
	}
	if b.Stopping {
		return nil, fmt.Errorf("stop: broker %d stops already: %w", b.ID, ErrConflict)
	}
	stopping := *b
	stopping.Stopping = true
	next.setBroker(&stopping)
	next.each(inSync(b.ID), func(m machine) bool {
		if !slices.ContainsFunc(m.p.ISR, m.trusted) {
			return false // nobody can take over: it leads to its end
		}
		if m.p.Leader == b.ID {
			m.p.Leader = NoLeader
			m.elect()
		}
		m.drop(b.ID)
		return true
	})
	return nil, nil
}

func (c *DrainBroker) apply(next *Image) (any, error) {
	b := next.Broker(c.BrokerID)
	switch {
	case b == nil:
		return nil, fmt.Errorf("drain: broker %d: %w", c.BrokerID, ErrNotFound)
	case b.Draining == !c.Stays:
		return nil, fmt.Errorf("drain: broker %d: nothing new: %w", b.ID, ErrConflict)
	}
	draining := *b
	draining.Draining = !c.Stays
	next.setBroker(&draining)
	return nil, nil
}

func (c *RemoveBroker) apply(next *Image) (any, error) {
	b, err := next.incarnation(c.BrokerID, c.BrokerEpoch)
	if err != nil {
		return nil, fmt.Errorf("remove: %w", err)
	}
	if !b.Fenced {
		return nil, fmt.Errorf("remove: broker %d is running: stop it first: %w", b.ID, ErrRefused)
	}
	for _, t := range next.topics {
		for i := range t.Partitions {
			if slices.Contains(t.Partitions[i].Replicas, b.ID) {
				return nil, fmt.Errorf("remove: broker %d has a replica of partition %s/%d: move it first: %w", b.ID, t.Name, i, ErrRefused)
			}
		}
	}
	next.brokers = slices.DeleteFunc(slices.Clone(next.brokers), func(o *Broker) bool { return o.ID == b.ID })
	return nil, nil
}
