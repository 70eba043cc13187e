package meta

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// Recovery is what Recover has done.
type Recovery struct {
	Generation uint32
	Version    uint64   // of the metadata
	ClusterID  string   // "" when nobody had registered
	Members    []Member // who was in the quorum before
}

// Recover makes the node with that id the only member of the quorum whose files are in dir, in a new generation: the next one, or
// one that is given because a later one has been seen elsewhere. All that this node has is taken for committed, and what only the lost
// majority had is lost. The files must not be in use. When it fails it can be called again; it is done when it returns nil.
func Recover(dir, id string, generation uint32, logger *slog.Logger) (*Recovery, error) {
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("recover %s: it holds no metadata: choose a node that has been in the quorum", dir)
		}
		return nil, fmt.Errorf("recover: %w", err)
	}
	st, err := openStore(dir, func(error) {}) // each failed write is returned as well
	if err != nil {
		return nil, err
	}
	r, err := recoverStore(st, Options{Dir: dir, ID: id}, generation, raftLog{logger})
	if err != nil {
		err = fmt.Errorf("recover %s: %w", dir, err)
	}
	st.release()
	return r, errors.Join(err, st.close())
}

func recoverStore(st *store, o Options, generation uint32, logs raftLog) (*Recovery, error) {
	snaps, err := raft.NewFileSnapshotStore(o.Dir, retainedSnapshots, logs)
	if err != nil {
		return nil, err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(o.ID))
	f := &recovery{fsm: newFSM(&Options{OnApply: func(*Image) {}, OnFail: func(error) {}}), generation: generation}
	before, err := raft.GetConfiguration(o.raft(logs), newFSM(&Options{OnApply: func(*Image) {}, OnFail: func(error) {}}), st, st, snaps, trans)
	if err != nil {
		return nil, err
	}
	r := &Recovery{Members: membersOf(before)}
	if !slices.ContainsFunc(r.Members, func(m Member) bool { return m.ID == o.ID }) {
		return nil, fmt.Errorf("node %s is no member of the quorum in it: choose a node that is", o.ID)
	}
	only := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(o.ID), Address: raft.ServerAddress(o.ID)}}}
	if err := raft.RecoverCluster(o.raft(logs), f, st, st, newest{snaps}, trans, only); err != nil {
		return nil, err
	}
	im := f.image.Load()
	r.Generation, r.Version, r.ClusterID = im.Generation, im.Version, im.ClusterID
	return r, nil
}

// recovery is the fsm of a recovery: the snapshot that ends it begins the new generation.
type recovery struct {
	*fsm
	generation uint32
}

func (f *recovery) Snapshot() (raft.FSMSnapshot, error) {
	if failed := f.failed.Load(); failed != nil {
		return nil, *failed
	}
	im := f.image.Load()
	if f.generation == 0 {
		f.generation = im.Generation + 1
	}
	next, err := im.BeginGeneration(f.generation)
	if err != nil {
		return nil, err
	}
	f.image.Store(next)
	return snapshot{next}, nil
}

// newest has the snapshot of a recovery come after any other, whatever the clock says: raft goes by term, index, and time.
type newest struct{ raft.SnapshotStore }

func (s newest) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	return s.SnapshotStore.Create(v, index+1, term, c, at, t)
}

// Aside renames dir, the metadata of a node that must not be running.
func Aside(dir, to string) error {
	f, err := openLocked(filepath.Join(dir, "raft.db"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("put metadata %s aside: %w", dir, inUse(err))
	}
	defer f.Close()
	if err := os.Rename(dir, to); err != nil {
		return fmt.Errorf("put metadata aside: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}
