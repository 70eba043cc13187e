package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Options say where a Node keeps its files and whom it tells.
type Options struct {
	Dir string // raft.db and snapshots/; made when missing
	// ID is the broker's uuid. It names the server in raft, never an address: addresses change.
	ID string
	// Bootstrap makes this node the only voter of a new group when Dir holds no state yet.
	Bootstrap bool
	Logger    *slog.Logger
	// OnApply gets each new Image in order, on the goroutine that applies entries: it must not block, nor propose.
	OnApply func(*Image)
	// OnFail is called when the node can no longer keep its promises: a write failed, or an entry cannot be understood.
	// It may be called more than once, and must not block.
	OnFail func(error)
}

// Node is one member of the metadata group. All its methods may be called concurrently.
type Node struct {
	raft  *raft.Raft
	trans *raft.InmemTransport
	store *store
	fsm   *fsm

	closing chan struct{}
	watch   sync.WaitGroup

	mu      sync.Mutex
	leading chan struct{} // closed while this node leads
}

// Timings of a lone voter. It has nobody to wait for and is told to elect itself at once (see electAlone), so the times only
// say how often an idle node wakes: raft looks at its lease that often. The relations between them are raft's.
const (
	singleHeartbeat   = time.Second
	singleElection    = time.Second
	singleLeaderLease = 500 * time.Millisecond

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
	n := &Node{store: st, closing: make(chan struct{}), leading: make(chan struct{})}
	n.fsm = &fsm{onApply: o.OnApply, onFail: o.OnFail}
	n.fsm.image.Store(NewImage())
	if err := n.start(o, logs); err != nil {
		st.release()
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", o.Dir, err), st.close())
	}
	n.watch.Go(n.watchLeadership)
	if !n.member(raft.ServerID(o.ID)) {
		return nil, errors.Join(fmt.Errorf("open metadata %s: it is that of another node, not of %s: put back the meta.cbor that belongs to it", o.Dir, o.ID), n.Close())
	}
	if err := n.electAlone(); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", o.Dir, err), n.Close())
	}
	return n, nil
}

// electAlone spares a lone voter the wait for a leader that cannot come: it gets the message by which a leader hands over to a
// peer. With other voters the ordinary election decides.
func (n *Node) electAlone() error {
	f := n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	voters := slices.DeleteFunc(f.Configuration().Servers, func(s raft.Server) bool { return s.Suffrage != raft.Voter })
	if len(voters) != 1 {
		return nil
	}
	_, from := raft.NewInmemTransport("")
	from.Connect(n.trans.LocalAddr(), n.trans)
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
	err := from.TimeoutNow(voters[0].ID, n.trans.LocalAddr(), &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{})
	return errors.Join(err, from.Close())
}

func (n *Node) start(o Options, logs raftLog) error {
	snaps, err := raft.NewFileSnapshotStore(o.Dir, retainedSnapshots, logs)
	if err != nil {
		return err
	}
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(o.ID)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = singleHeartbeat, singleElection, singleLeaderLease
	c.SnapshotThreshold, c.TrailingLogs = snapshotThreshold, trailingEntries
	// Not BatchApplyCh: entries left in its buffer at shutdown are never answered. Proposals that wait together are
	// written together without it as well.
	c.MaxAppendEntries = maxAppendEntries
	c.LogOutput, c.LogLevel, c.NoLegacyTelemetry = logs, "WARN", true
	// A lone voter has nobody to talk to; the transport only has to exist.
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(o.ID))

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
	n.raft, err = raft.NewRaft(c, n.fsm, n.store, n.store, snaps, n.trans)
	return err
}

// member tells whether the group, as this node knows it, has a server of that id.
func (n *Node) member(id raft.ServerID) bool {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == id {
			return true
		}
	}
	return false
}

// watchLeadership turns raft's edge-triggered channel into one that any number of proposers can wait on.
func (n *Node) watchLeadership() {
	for {
		select {
		case leads := <-n.raft.LeaderCh():
			n.mu.Lock()
			select {
			case <-n.leading:
				if !leads {
					n.leading = make(chan struct{})
				}
			default:
				if leads {
					close(n.leading)
				}
			}
			n.mu.Unlock()
		case <-n.closing:
			return
		}
	}
}

// Image is the newest applied state.
func (n *Node) Image() *Image { return n.fsm.image.Load() }

// Propose puts cmd into the log and returns its answer once it is committed, synced and applied here. It waits for this
// node to lead. An error that is an ErrUnavailable leaves open whether the command takes effect later; after any
// other it did not and will not.
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
			return out.answer, out.err
		case <-ctx.Done():
			return nil, n.unavailable(context.Cause(ctx))
		}
	}
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
	n.mu.Lock()
	leading := n.leading
	n.mu.Unlock()
	select {
	case <-leading:
		return nil
	case <-ctx.Done():
		return n.unavailable(fmt.Errorf("no leader: %w", context.Cause(ctx)))
	case <-n.closing:
		return fmt.Errorf("%w: shutting down", ErrUnavailable)
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

// raftLog passes what raft says to slog. Raft warns at every ordinary election, so only its errors are shown by default.
type raftLog struct{ to *slog.Logger }

func (l raftLog) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	text := bytes.TrimSpace(line)
	if bytes.Contains(text, []byte("[ERROR]")) {
		level = slog.LevelError
	}
	if _, after, found := bytes.Cut(text, []byte("] ")); found { // "<time> [LEVEL]  raft: …"
		text = bytes.TrimSpace(after)
	}
	l.to.Log(context.Background(), level, string(text))
	return len(line), nil
}
