package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Options say where a Node keeps its files and whom it tells.
type Options struct {
	Dir string // raft.db and snapshots/; made when missing
	// ID is the broker's uuid. It names the server in raft, never an address: addresses change.
	ID string
	// Bootstrap makes this node the only voter of a new group when Dir holds no state yet. Without it a node without state
	// waits for Node.Bootstrap, or to be added to a group.
	Bootstrap bool
	// Member says that this directory has been part of a group: one that holds none is refused then, since its metadata was lost.
	Member bool
	// Network reaches the other members. With nil the node is alone, and nobody can join it.
	Network Network
	Timing  Timing // [LANTiming]
	Logger  *slog.Logger
	// OnApply gets each new Image in order, on the goroutine that applies entries: it must not block, nor propose.
	OnApply func(*Image)
	// OnFail is called when the node can no longer keep its promises: a write failed, or an entry cannot be understood.
	// It may be called more than once, and must not block.
	OnFail func(error)
}

// Node is one member of the metadata group. All its methods may be called concurrently.
type Node struct {
	id        string
	raft      *raft.Raft
	trans     *transport
	network   *layer       // nil alone
	spreading atomic.Int64 // commands since the last spread began
	store     *store
	fsm       *fsm

	closing chan struct{}
	watch   sync.WaitGroup

	mu    sync.Mutex
	leads bool
	moved chan struct{} // closed and replaced when leads, or the leader that is known, changes
}

const (
	snapshotThreshold = 1024 // entries between snapshots
	trailingEntries   = 1024 // kept behind one for followers
	maxAppendEntries  = 64
	retainedSnapshots = 2
)

// OpenNode opens the files and starts raft. It does not wait for a leader; Propose does.
func OpenNode(o Options) (*Node, error) {
	logs := raftLog{o.Logger}
	st, err := openStore(o.Dir, o.OnFail)
	if err != nil {
		return nil, err
	}
	n := &Node{id: o.ID, store: st, closing: make(chan struct{}), moved: make(chan struct{})}
	n.fsm = newFSM(&o)
	if err := n.start(o, logs); err != nil {
		st.release()
		if n.trans != nil {
			_ = n.trans.Close() // the first error says more
		}
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", o.Dir, err), st.close())
	}
	if err := n.belongs(o.Member); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", o.Dir, err), n.Close())
	}
	if err := n.electAlone(); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", o.Dir, err), n.Close())
	}
	return n, nil
}

func (n *Node) start(o Options, logs raftLog) error {
	files, err := raft.NewFileSnapshotStore(o.Dir, retainedSnapshots, logs)
	if err != nil {
		return err
	}
	made, err := files.List()
	if err != nil {
		return err
	}
	if len(made) > 0 {
		n.fsm.configuredAt(made[0].ConfigurationIndex)
	}
	snaps := snapshots{files, n.fsm}
	c := o.raft(logs)
	inner, network := o.transport(logs)
	n.trans, n.network = newTransport(inner), network

	known, err := raft.HasExistingState(n.store, n.store, snaps)
	if err != nil {
		return err
	}
	if !known && o.Bootstrap {
		only := raft.Configuration{Servers: []raft.Server{{ID: c.LocalID, Address: raft.ServerAddress(o.ID)}}}
		if err := raft.BootstrapCluster(c, n.store, n.store, snaps, n.trans, only); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	if n.raft, err = raft.NewRaft(c, n.fsm, n.store, n.store, snaps, n.trans); err != nil {
		return err
	}
	n.watchLeadership()
	return nil
}

func (o *Options) raft(logs raftLog) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(o.ID)
	t := o.Timing
	if t == (Timing{}) {
		t = LANTiming
	}
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = t.Heartbeat, t.Election, t.Lease
	// A member hears of what is committed with the next message; an idle leader sends one so often. Commands do not wait for that, see spread.
	c.CommitTimeout = max(c.CommitTimeout, t.Heartbeat/5)
	c.SnapshotThreshold, c.TrailingLogs = snapshotThreshold, trailingEntries
	// Not BatchApplyCh: entries left in its buffer at shutdown are never answered. Proposals that wait together are
	// written together without it as well.
	c.MaxAppendEntries = maxAppendEntries
	c.LogOutput, c.LogLevel, c.NoLegacyTelemetry = logs, "WARN", true
	return c
}

func (o *Options) transport(logs raftLog) (raft.Transport, *layer) {
	if o.Network == nil { // nobody to talk to; a transport only has to exist
		_, trans := raft.NewInmemTransport(raft.ServerAddress(o.ID))
		return trans, nil
	}
	l := &layer{Network: o.Network, open: map[*conn]struct{}{}}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: l, ServerAddressProvider: l, MaxPool: connectionsPerPeer, Timeout: transportTimeout,
		Logger: hclog.New(&hclog.LoggerOptions{Name: "raft-net", Level: hclog.Warn, Output: logs}),
	}), l
}

// belongs finds a directory whose metadata is that of another node. A member that was removed from its group keeps state without
// being in it, and one that was never in one has none.
func (n *Node) belongs(member bool) error {
	ms, _, err := n.Members()
	if err != nil {
		return err
	}
	if len(ms) == 0 && member || len(ms) == 1 && ms[0].ID != n.id {
		return fmt.Errorf("it is that of another node, not of %s: put back the meta.cbor that belongs to it", n.id)
	}
	return nil
}

// watchLeadership turns raft's observations into a channel that any number of callers can wait on.
func (n *Node) watchLeadership() {
	seen := make(chan raft.Observation, 1) // one that waits stands for all
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	})
	n.raft.RegisterObserver(observer)
	n.watch.Go(func() {
		for {
			select {
			case leads := <-n.raft.LeaderCh():
				n.notice(func() { n.leads = leads })
			case <-seen:
				n.notice(func() {})
			case <-n.closing:
				n.raft.DeregisterObserver(observer)
				return
			}
		}
	})
}

func (n *Node) notice(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	close(n.moved)
	n.moved = make(chan struct{})
}

// Image is the newest applied state.
func (n *Node) Image() *Image { return n.fsm.image.Load() }

// Propose puts cmd into the log and returns its answer once it is committed, synced and applied here. It waits while nobody leads,
// and answers ErrNotLeader where another member does. An error that is an ErrUnavailable leaves open whether the command takes effect
// later; after any other it did not and will not.
func (n *Node) Propose(ctx context.Context, cmd Command) (any, error) {
	data, err := EncodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	for {
		if err := n.awaitLead(ctx); err != nil {
			return nil, err
		}
		done := make(chan outcome, 1)
		go func() { done <- n.apply(data) }() // raft knows no context; ends at the latest when raft shuts down
		select {
		case out := <-done:
			if errors.Is(out.err, raft.ErrNotLeader) { // certainly not in the log
				continue
			}
			n.spread()
			return out.answer, out.err
		case <-ctx.Done():
			return nil, n.unavailable(context.Cause(ctx))
		}
	}
}

// spread has the other members hear soon of what is committed. raft tells them with its next message, and an idle leader sends few: one more entry takes
// the news along, for all commands that come meanwhile.
func (n *Node) spread() {
	if n.network == nil || n.spreading.Add(1) > 1 {
		return
	}
	go func() { // ends at the latest when raft shuts down, unless it asks at that very moment: raft does not answer what it has not begun with then
		for {
			news := n.spreading.Load()
			if f := n.raft.GetConfiguration(); f.Error() == nil && len(f.Configuration().Servers) > 1 {
				_ = n.raft.Barrier(0).Error() // who leads next tells
			}
			if n.spreading.CompareAndSwap(news, 0) {
				return
			}
		}
	}()
}

// unavailable gives the reason below, where it is known, besides that of the caller's patience.
func (n *Node) unavailable(cause error) error {
	if trouble := n.store.trouble(); trouble != nil {
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, cause, trouble)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

func (n *Node) apply(data []byte) outcome {
	f := n.raft.Apply(data, 0)
	if err := f.Error(); err != nil {
		return outcome{err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
	}
	return f.Response().(outcome)
}

func (n *Node) awaitLead(ctx context.Context) error {
	for {
		leads, moved := n.Leads()
		if leads {
			return nil
		}
		if other := n.Leader(); other != "" && other != n.id {
			return ErrNotLeader
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return n.unavailable(fmt.Errorf("no leader: %w", context.Cause(ctx)))
		case <-n.closing:
			return fmt.Errorf("%w: shutting down", ErrUnavailable)
		}
	}
}

// Close stops raft and closes the files. Proposals under way end with ErrUnavailable.
func (n *Node) Close() error {
	close(n.closing)
	n.watch.Wait()
	stopped := n.raft.Shutdown() // stops talking first, then lets go of who is held in the store
	n.store.release()
	err := errors.Join(stopped.Error(), n.trans.Close(), n.store.close())
	if err != nil {
		return fmt.Errorf("close metadata: %w", err)
	}
	return nil
}

// awayLines are what raft says again and again of a member that is away: gossip and the controller tell it once.
var awayLines = []string{
	"failed to heartbeat to", "failed to appendEntries to", "failed to make requestVote RPC", "failed to pipeline", "failed to decode incoming command",
	"failed to send snapshot to", "failed to contact", "failed to accept connection",
}

// raftLog passes what raft says to slog. Raft warns at every ordinary election, so only its errors are shown by default.
type raftLog struct{ to *slog.Logger }

func (l raftLog) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	text := bytes.TrimSpace(line)
	switch {
	case bytes.Contains(text, []byte("use of closed network connection")): // by this node, which stops
	case slices.ContainsFunc(awayLines, func(s string) bool { return bytes.Contains(text, []byte(s)) }):
	case bytes.Contains(text, []byte("[ERROR]")):
		level = slog.LevelError
	}
	if _, after, found := bytes.Cut(text, []byte("] ")); found { // "<time> [LEVEL]  raft: …"
		text = bytes.TrimSpace(after)
	}
	l.to.Log(context.Background(), level, string(text))
	return len(line), nil
}
