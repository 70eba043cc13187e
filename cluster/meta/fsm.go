package meta

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm carries entries from raft to Image.Apply and keeps the newest Image. It decides nothing itself.
type fsm struct {
	image atomic.Pointer[Image]
	// failed is set at the first entry that cannot be understood. From there on nothing is applied: this
	// node's state would no longer be that of its peers.
	failed atomic.Pointer[error]
	// configured is the entry of the newest configuration that is known to be committed. raft tells the configuration, and not that.
	configured atomic.Uint64
	onApply    func(*Image) // after each change, on raft's apply goroutine
	onFail     func(error)
}

func newFSM(o *Options) *fsm {
	f := &fsm{onApply: o.OnApply, onFail: o.OnFail}
	f.image.Store(NewImage())
	return f
}

// outcome is what Apply hands back through raft to the proposer.
type outcome struct {
	answer any
	err    error
}

func (f *fsm) Apply(e *raft.Log) any {
	if failed := f.failed.Load(); failed != nil {
		return outcome{err: *failed}
	}
	cmd, err := DecodeCommand(e.Data)
	if err != nil {
		err = fmt.Errorf("metadata entry %d: %w", e.Index, err)
		f.failed.Store(&err)
		f.onFail(err)
		return outcome{err: err}
	}
	next, answer, err := f.image.Load().Apply(cmd)
	if err != nil {
		return outcome{err: err}
	}
	f.image.Store(next)
	f.onApply(next)
	return outcome{answer: answer}
}

// StoreConfiguration implements raft.ConfigurationStore.
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) { f.configuredAt(index) }

func (f *fsm) configuredAt(index uint64) {
	for {
		last := f.configured.Load()
		if index <= last || f.configured.CompareAndSwap(last, index) {
			return
		}
	}
}

// snapshots notes which configuration those have that are made here, or sent by the leader: its entry may not be in the log.
type snapshots struct {
	raft.SnapshotStore
	f *fsm
}

func (s snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	s.f.configuredAt(at)
	return s.SnapshotStore.Create(v, index, term, c, at, t)
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if failed := f.failed.Load(); failed != nil {
		return nil, *failed
	}
	return snapshot{f.image.Load()}, nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	im, err := DecodeImage(r)
	if err != nil {
		return err
	}
	f.image.Store(im)
	f.onApply(im)
	return nil
}

// snapshot writes an Image in the background; Images do not change, so nothing has to be copied or locked.
type snapshot struct{ im *Image }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.im.Encode(sink); err != nil {
		_ = sink.Cancel() // the first error says more
		return err
	}
	return sink.Close()
}

func (s snapshot) Release() {}
