package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// errNoAddress makes raft use the address that its configuration has.
var errNoAddress = errors.New("address not known")

// ErrNotLeader: another member leads the quorum, or none does. Nothing was proposed.
var ErrNotLeader = errors.New("this node does not lead the metadata quorum")

// Member is one server of the quorum.
type Member struct {
	ID    string // the broker's uuid
	Addr  string // where it was when it was added; Network.Address knows better
	Voter bool
}

// Members are the servers of the newest configuration known here, by id, and the index that a change names to be refused when
// another came first.
func (n *Node) Members() ([]Member, uint64, error) {
	index := n.fsm.configured.Load() // first: a change that comes in between is refused, not overlooked
	f := n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return membersOf(f.Configuration()), index, nil
}

func membersOf(c raft.Configuration) (ms []Member) {
	for _, s := range c.Servers {
		ms = append(ms, Member{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	slices.SortFunc(ms, func(a, b Member) int { return compare(a.ID, b.ID) })
	return ms
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Bootstrap makes the members the first configuration of the group. All of them call it with the same list; it is refused
// when this node has any state already: with ErrConflict, since another of them may have been faster and has asked this one for its vote. Whoever calls
// it with another list makes another group.
func (n *Node) Bootstrap(members []Member) error {
	var c raft.Configuration
	for _, m := range members {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Addr)})
	}
	err := n.raft.BootstrapCluster(c).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err != nil {
		return fmt.Errorf("form the metadata quorum: %w", err)
	}
	return n.electAlone()
}

// Known says whether this node is part of a group already.
func (n *Node) Known() bool {
	ms, _, err := n.Members()
	return err != nil || len(ms) > 0
}

// SetMember adds a member or changes its address or vote, if the configuration is still the one at index. Only where it leads (ErrNotLeader).
func (n *Node) SetMember(m Member, index uint64) error {
	if m.Voter {
		return n.changed(n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.Addr), index, 0))
	}
	return n.changed(n.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.Addr), index, 0))
}

// Demote takes a member's vote.
func (n *Node) Demote(id string, index uint64) error {
	return n.changed(n.raft.DemoteVoter(raft.ServerID(id), index, 0))
}

// RemoveMember takes a server out of the group.
func (n *Node) RemoveMember(id string, index uint64) error {
	return n.changed(n.raft.RemoveServer(raft.ServerID(id), index, 0))
}

func (n *Node) changed(f raft.IndexFuture) error {
	err := f.Error()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	}
	return fmt.Errorf("change the metadata quorum: %w: %w", ErrUnavailable, err)
}

// Leader is the id of the member that leads, as far as this node knows; "" when it knows of none.
func (n *Node) Leader() string {
	_, id := n.raft.LeaderWithID()
	return string(id)
}

// Leads says whether this node leads, and gives a channel that is closed when that, or the leader it knows of, changes.
func (n *Node) Leads() (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leads, n.moved
}

// Barrier returns once everything that was committed before this node began to lead is applied here (C5).
func (n *Node) Barrier(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- n.raft.Barrier(0).Error() }() // ends at the latest when raft shuts down
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil
	case <-ctx.Done():
		return n.unavailable(context.Cause(ctx))
	}
}

// HandOver has another voter lead, one that is caught up. Nothing happens where there is none.
func (n *Node) HandOver() error {
	if err := n.raft.LeadershipTransfer().Error(); err != nil {
		return fmt.Errorf("hand over the metadata quorum: %w", err)
	}
	return nil
}

// Mute has the other members hear nothing of this one, nor it of them, until Mute(false): a leader whose disk hangs can neither write nor hand over, since raft
// waits for the disk, and yet its heartbeats go on, which keep the others from electing one of them.
func (n *Node) Mute(muted bool) {
	if n.network != nil {
		n.network.mute(muted)
	}
}

// WriteAge is how long a write of this member has been under way, 0 if none is.
func (n *Node) WriteAge() time.Duration { return n.store.writeAge() }

// Applied is the index of the newest entry applied here: what a leader compares to see whether a member keeps up.
func (n *Node) Applied() uint64 { return n.raft.AppliedIndex() }

// electAlone spares a lone voter the wait for a leader that cannot come: it gets the message by which a leader hands over to a
// peer. With other voters the ordinary election decides.
func (n *Node) electAlone() error {
	ms, _, err := n.Members()
	if err != nil {
		return err
	}
	voters := slices.DeleteFunc(ms, func(m Member) bool { return !m.Voter })
	if len(voters) != 1 || voters[0].ID != n.id {
		return nil
	}
	answer := make(chan raft.RPCResponse, 1)
	n.trans.inject(raft.RPC{
		Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
		RespChan: answer,
	})
	return (<-answer).Error
}
