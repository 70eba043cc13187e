package cluster

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// ExpectedPartitions are the partitions that must be in a data directory and nowhere else, by the metadata in it: no
// other broker could fill them again. No node may run on it.
func ExpectedPartitions(fsys vfs.FS, dir string) ([]log.ExpectedPartition, error) {
	id, err := loadIdentity(fsys, dir)
	if err == nil && id == nil {
		err = fmt.Errorf("%s is missing from %s: %s", identityFile, dir, identityIsOther)
	}
	if err != nil {
		return nil, err
	}
	im, err := meta.ReadImage(filepath.Join(dir, "raft"))
	if err != nil {
		return nil, err
	}
	self := im.BrokerByUUID(id.UUID)
	if self == nil {
		return nil, errors.New("the metadata in raft/ does not know this node: " + identityIsOther)
	}
	var all []log.ExpectedPartition
	for _, t := range im.Topics() {
		for i, p := range t.Partitions {
			if len(p.Replicas) == 1 && p.Replicas[0] == self.ID && p.Since <= id.Opened {
				all = append(all, log.ExpectedPartition{ID: log.PartitionID{Topic: t.ID, Index: int32(i)}, Topic: t.Name})
			}
		}
	}
	return all, nil
}
