package quorum

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weir-io/weir/cluster/meta"
)

// Recover makes the stopped node with that id the only member of its quorum, in a new generation: the next one, or generation if that is
// not 0. It is for a majority that is lost for ever; what only that majority had is lost. Members that come back after it are
// strangers to the new generation until Forget has been called in their directories. raftDir is the directory of the metadata.
func Recover(raftDir, id string, generation uint32, logger *slog.Logger) (*meta.Recovery, error) {
	return meta.Recover(raftDir, id, generation, logger)
}

// Forget puts the metadata of a stopped node aside, under the name that it answers, so that a recovered quorum can add the node anew. Its logs and
// its identity are left as they are; until it is added it must say that it belongs to no cluster.
func Forget(raftDir string) (aside string, err error) {
	for i := 1; ; i++ {
		aside = fmt.Sprintf("%s.before-recovery-%d", filepath.Clean(raftDir), i)
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", fmt.Errorf("put metadata aside: %w", err)
		}
	}
	if err := meta.Aside(raftDir, aside); err != nil {
		return "", err
	}
	return aside, nil
}
