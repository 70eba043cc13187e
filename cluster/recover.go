package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/quorum"
	"github.com/weir-io/weir/log/vfs"
)

// A cluster that has lost a majority of its voters for ever goes on from one node (RecoverDir). Every other node that is left has metadata from before
// that, and comes back after it was told to forget it (ForgetDir).

// RecoverReport is what a recovery has done, and what it could not save.
type RecoverReport struct {
	ClusterID  string           `json:"cluster_id"`
	Generation uint32           `json:"generation"`
	Broker     int32            `json:"broker"` // that goes on
	Others     []RecoveredOther `json:"others"` // that were in the quorum, or are registered
	Partitions int              `json:"partitions"`
	// Behind are those of which this node has a replica that was not in sync; Elsewhere those of which it has none. Until a node that has them is back, their
	// newest records, or all, are missing.
	Behind    []string `json:"behind,omitempty"`
	Elsewhere []string `json:"elsewhere,omitempty"`
}

// RecoveredOther is another node that the cluster had.
type RecoveredOther struct {
	Broker  int32  `json:"broker,omitempty"`
	UUID    string `json:"uuid"`
	Address string `json:"address,omitempty"`
	Voter   bool   `json:"voter,omitempty"`
}

// lockStopped locks the directory of a node that must not be running, as the log does (vfs.ErrLocked), and reads whose it is.
func lockStopped(dir string) (io.Closer, *identity, error) {
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s holds no %s: name the data directory of a node", dir, identityFile)
		}
		return nil, nil, err
	}
	lock, err := vfs.OS{}.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, nil, err
	}
	id, err := loadIdentity(vfs.OS{}, dir)
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return lock, id, nil
}

// RecoverDir makes a stopped node the only member of its quorum, in a new generation: the next one, or that given (E2).
func RecoverDir(dir string, generation uint32, logger *slog.Logger) (_ *RecoverReport, err error) {
	lock, id, err := lockStopped(dir)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	raftDir := filepath.Join(dir, "raft")
	done, err := quorum.Recover(raftDir, id.UUID.String(), generation, logger)
	if err != nil {
		return nil, err
	}
	im, err := meta.ReadImage(raftDir)
	if err != nil {
		return nil, fmt.Errorf("recover: it is done, but: %w", err)
	}
	return recovered(im, id.UUID, done), nil
}

func recovered(im *meta.Image, self meta.UUID, done *meta.Recovery) *RecoverReport {
	r := &RecoverReport{ClusterID: im.ClusterID, Generation: im.Generation, Others: []RecoveredOther{}}
	for _, b := range im.Brokers() {
		if b.UUID == self {
			r.Broker = b.ID
			continue
		}
		voter := slices.ContainsFunc(done.Members, func(m meta.Member) bool { return m.ID == b.UUID.String() && m.Voter })
		r.Others = append(r.Others, RecoveredOther{b.ID, b.UUID.String(), b.Peer, voter})
	}
	for _, m := range done.Members {
		if m.ID != self.String() && brokerOf(im, m.ID) == nil {
			r.Others = append(r.Others, RecoveredOther{UUID: m.ID, Address: m.Addr, Voter: m.Voter})
		}
	}
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p, name := &t.Partitions[i], fmt.Sprintf("%s/%d", t.Name, i)
			r.Partitions++
			switch {
			case !slices.Contains(p.Replicas, r.Broker):
				r.Elsewhere = append(r.Elsewhere, name)
			case !slices.Contains(p.ISR, r.Broker) && !slices.Contains(p.ELR, r.Broker):
				r.Behind = append(r.Behind, name)
			}
		}
	}
	return r
}

// ForgetDir puts the metadata of a stopped node aside, so that the cluster that was recovered elsewhere takes it in again, under its old number and with
// its records. It answers where the metadata is now. The node is let into no other cluster.
func ForgetDir(dir string) (aside string, err error) {
	lock, id, err := lockStopped(dir)
	if err != nil {
		return "", fmt.Errorf("forget: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if id.ClusterID == "" {
		return "", fmt.Errorf("forget: %s belongs to no cluster, and can join one as it is", dir)
	}
	raftDir := filepath.Join(dir, "raft")
	if _, err := os.Stat(raftDir); err == nil || !errors.Is(err, fs.ErrNotExist) { // else a forget before did not come to its end
		if aside, err = quorum.Forget(raftDir); err != nil {
			return "", err
		}
	}
	id.Former, id.ClusterID, id.Confirmed = id.ClusterID, "", false
	return aside, id.save(vfs.OS{}, dir)
}

// mayJoin says why a directory that was told to forget must not become part of a cluster: its logs would be removed as strangers.
func (id *identity) mayJoin(cluster string) error {
	if id.Former == "" || id.Former == cluster {
		return nil
	}
	return fmt.Errorf("this directory holds records of cluster %s and waits to be taken in by it again: start it with --join and the address of a node of that cluster, "+
		"or start with an empty directory", id.Former)
}
