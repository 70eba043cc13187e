package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// metadata is the quorum as a broker uses it: meta.Node, and a simulator's own.
type metadata interface {
	Image() *meta.Image
	// Propose answers meta.ErrNotLeader where another member leads.
	Propose(ctx context.Context, cmd meta.Command) (any, error)
	Leader() string
	Leads() (bool, <-chan struct{})
	Barrier(ctx context.Context) error
	Applied() uint64
}

// member is a node's own part of the quorum: meta.Node, and a simulator's.
type member interface {
	metadata
	HandOver() error
	Close() error
}

// proposer brings commands to whoever leads the quorum. A command carries what it was decided on, so that any broker may decide (C1).
type proposer struct {
	metadata
	net     network
	self    meta.UUID
	applied func() <-chan struct{} // closed when a newer Image is there
}

const (
	// proposeAgain is how long to wait before somebody is asked again who did not lead, or was not to be reached.
	proposeAgain = 100 * time.Millisecond
	// proposeOnce bounds one try with a leader elsewhere: it may have lost its majority without knowing it.
	proposeOnce = 5 * time.Second
)

// Propose returns once the command is committed, and applied here. Its error is an ErrUnavailable where it is not known whether it
// takes effect.
func (p *proposer) Propose(ctx context.Context, cmd meta.Command) (any, error) {
	maybe := false // an earlier try may have taken effect
	for {
		answer, err := p.metadata.Propose(ctx, cmd)
		if errors.Is(err, meta.ErrNotLeader) {
			answer, err = p.forward(ctx, cmd)
		}
		switch {
		case err == nil:
			return answer, nil
		case errors.Is(err, meta.ErrNotLeader):
		case errors.Is(err, rpc.ErrUnreachable):
			maybe = true
		case maybe && (errors.Is(err, meta.ErrConflict) || errors.Is(err, meta.ErrExists)):
			return p.before(cmd, err)
		default:
			return nil, err
		}
		select {
		case <-time.After(proposeAgain):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w: %w", meta.ErrUnavailable, context.Cause(ctx), err)
		}
	}
}

// current is the metadata with everything in it that was committed before it was asked for, through whichever broker: what refuses an order, or says that
// nothing is left to do, must not have missed what was done a moment ago through another.
func (p *proposer) current(ctx context.Context) (*meta.Image, error) {
	for {
		version, err := p.newest(ctx)
		switch {
		case err == nil:
			err = p.await(ctx, version)
			return p.Image(), err
		case !errors.Is(err, meta.ErrNotLeader) && !errors.Is(err, meta.ErrUnavailable) && !errors.Is(err, rpc.ErrUnreachable):
			return nil, err
		}
		select {
		case <-time.After(proposeAgain):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w: %w", meta.ErrUnavailable, context.Cause(ctx), err)
		}
	}
}

// newest is the version that whoever leads the quorum has.
func (p *proposer) newest(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proposeOnce, errors.New("the leader of the quorum does not answer"))
	defer cancel()
	if leads, _ := p.Leads(); leads {
		err := p.Barrier(ctx)
		return p.Image().Version, err
	}
	leader, err := parseUUID(p.Leader())
	if err != nil || leader == p.self {
		return 0, meta.ErrNotLeader
	}
	var answer versionAnswer
	reply, err := p.net.call(ctx, leader, methodVersion, struct{}{}, nil, &answer)
	if err != nil {
		return 0, err
	}
	reply.Release()
	return answer.Version, nil
}

// answerVersion is the other side. Only who leads can tell.
func (b *Broker) answerVersion(ctx context.Context) (*versionAnswer, error) {
	if leads, _ := b.node.Leads(); !leads {
		return nil, meta.ErrNotLeader
	}
	ctx, cancel := context.WithTimeoutCause(ctx, proposeOnce, errors.New("nobody waits for it any more"))
	defer cancel()
	if err := b.node.Barrier(ctx); err != nil {
		return nil, err
	}
	return &versionAnswer{b.node.Image().Version}, nil
}

// before tells what became of a command whose answer was lost and that is refused when it comes again: its first copy may be why.
func (p *proposer) before(cmd meta.Command, err error) (any, error) {
	if c, ok := cmd.(*meta.CreateTopic); ok {
		if t := p.Image().TopicByID(c.ID); t != nil {
			return t, nil
		}
		return nil, err
	}
	return nil, fmt.Errorf("%w: an answer was lost: %w", meta.ErrUnavailable, err)
}

func (p *proposer) forward(ctx context.Context, cmd meta.Command) (any, error) {
	leader, err := parseUUID(p.Leader())
	if err != nil || leader == p.self {
		return nil, meta.ErrNotLeader
	}
	data, err := meta.EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	once, cancel := context.WithTimeoutCause(ctx, proposeOnce, errors.New("the leader of the quorum does not answer"))
	defer cancel()
	var answer proposeAnswer
	reply, err := p.net.call(once, leader, methodPropose, proposeCall{data}, nil, &answer)
	if err != nil {
		return nil, err
	}
	reply.Release()
	if err := p.await(ctx, answer.Version); err != nil {
		return nil, err
	}
	return p.result(cmd, &answer), nil
}

// await returns when the metadata here is at version.
func (p *proposer) await(ctx context.Context, version uint64) error {
	for {
		changed := p.applied()
		if p.Image().Version >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: done, but not yet known here: %w", meta.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// result is what Propose answers where the command was proposed.
func (p *proposer) result(cmd meta.Command, a *proposeAnswer) any {
	switch c := cmd.(type) {
	case *meta.RegisterBroker:
		if a.Registration != nil {
			return *a.Registration
		}
		return meta.Registration{}
	case *meta.AllocProducerIDs:
		if a.ProducerIDs != nil {
			return *a.ProducerIDs
		}
		return meta.ProducerIDs{}
	case *meta.CreateTopic:
		return p.topic(c.ID)
	case *meta.CreatePartitions:
		return p.topic(c.ID)
	case *meta.AlterConfigs:
		return p.topic(c.ID)
	case *meta.Reassign:
		return p.topic(c.ID)
	}
	return nil
}

// topic is a *meta.Topic, or nothing at all where it was deleted before this broker looked.
func (p *proposer) topic(id log.TopicID) any {
	if t := p.Image().TopicByID(id); t != nil {
		return t
	}
	return nil
}

// answerPropose is the other side, where the quorum is led.
func (b *Broker) answerPropose(ctx context.Context, call *proposeCall) (*proposeAnswer, error) {
	cmd, err := meta.DecodeCommand(call.Command)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, proposeOnce, errors.New("nobody waits for it any more")) // ctx lasts as long as the connection
	defer cancel()
	got, err := b.quorum.metadata.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	a := &proposeAnswer{Version: b.node.Image().Version}
	switch v := got.(type) {
	case meta.Registration:
		a.Registration = &v
	case meta.ProducerIDs:
		a.ProducerIDs = &v
	}
	return a, nil
}
