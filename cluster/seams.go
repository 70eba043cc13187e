package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// Seams stand in for what joins a broker to others (raft, sockets, gossip) and for the clock, so that a simulator decides when each message and each
// entry comes. All the rest of the broker is what production runs.
type Seams struct {
	// Quorum begins this process's part of the metadata quorum. onApply is meta.Options.OnApply.
	Quorum func(id meta.UUID, onApply func(*meta.Image)) Member
	// Kept says whether the directory holds metadata from an earlier start.
	Kept func() bool
	// Carry brings a message to a node and its answer back. An error that is an rpc.ErrUnreachable leaves open whether it acted.
	Carry func(ctx context.Context, to meta.UUID, m Message) (Message, error)
	// Serve is called once, with what answers messages to this process.
	Serve func(func(ctx context.Context, m Message) (Message, error))
	Clock func() time.Duration // never goes back
}

// Member is what a broker uses of meta.Node.
type Member = member

// Message is a call or its answer, encoded.
type Message struct {
	Method  rpc.Method
	Control []byte
	Raw     []byte
}

func (b *Broker) seams() *Seams {
	if b.cfg.Peer == nil {
		return nil
	}
	return b.cfg.Peer.Seams
}

// openNode begins this process's part of the metadata quorum.
func (b *Broker) openNode(o meta.Options) error {
	if s := b.seams(); s != nil {
		b.node = s.Quorum(b.ident.UUID, o.OnApply)
		return nil
	}
	n, err := meta.OpenNode(o)
	if err != nil {
		return err
	}
	b.node = n
	b.raft.Store(n)
	return nil
}

// metadataKept says whether the directory holds metadata.
func (b *Broker) metadataKept() bool {
	if s := b.seams(); s != nil {
		return s.Kept()
	}
	_, err := os.Stat(filepath.Join(b.cfg.DataDir, "raft", "raft.db"))
	return !errors.Is(err, fs.ErrNotExist)
}

// carrier is the network of a simulator. What crosses it is encoded, errors included.
type carrier struct{ s *Seams }

func (c carrier) call(ctx context.Context, to meta.UUID, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	control, err := rpc.Encode(request)
	if err != nil {
		return rpc.Reply{}, err
	}
	got, err := c.s.Carry(ctx, to, Message{m, control, slices.Clone(raw)})
	if err == nil && answer != nil {
		err = rpc.Decode(got.Control, answer)
	}
	if err != nil {
		return rpc.Reply{}, err
	}
	return rpc.Reply{Raw: got.Raw}, nil
}

// answer is handle for a simulator.
func (p *port) answer(ctx context.Context, m Message) (Message, error) {
	a, err := p.handle(ctx, &rpc.Request{Method: m.Method, Control: m.Control, Raw: m.Raw})
	if err != nil {
		out := outcomeOf(err) // loses what a real call loses
		return Message{}, out.err()
	}
	if a.Done != nil {
		defer a.Done()
	}
	control, err := rpc.Encode(a.Control)
	return Message{m.Method, control, slices.Clone(a.Raw)}, err
}

// Propose changes the metadata as an operator would, from any broker.
func (b *Broker) Propose(ctx context.Context, cmd meta.Command) (any, error) {
	return b.quorum.Propose(ctx, cmd)
}

// Probe is what a checker may look at of a replica.
type Probe struct {
	Log   *log.Partition
	Leads bool // and says so to whoever asks
	Epoch log.Epoch
	HW    log.Offset // of the role; that for readers may be behind it
	Role  string     // for people
	Fault error      // a promise that the role's state does not keep
}

// Probe looks at a replica.
func (p *Partition) Probe() Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := Probe{Log: p.log, Epoch: p.epoch, HW: p.HighWatermark(), Role: "none"}
	switch {
	case p.leader != nil:
		at.Leads, at.HW, at.Role, at.Fault = p.refusal == nil, log.Offset(p.leader.HighWatermark()), p.leader.String(), p.leader.Check()
	case p.follower != nil:
		at.HW, at.Role = log.Offset(p.follower.HighWatermark()), "follows"
	}
	return at
}
