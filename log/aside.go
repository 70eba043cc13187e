package log

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// PutAside is Delete, but the files of the partition are kept, as <partition>.damaged-<time>: a replica that has lost something is filled again
// from nothing, and what it had may be all that is left of something (E7). The same id can be made anew when it returns.
func (l *Log) PutAside(id PartitionID) error { return l.drop(id, flagAside) }

// RemoveAside removes what PutAside has kept of a partition: its replica holds everything again.
func (l *Log) RemoveAside(id PartitionID, topic string) error {
	dir := partitionDir(l.cfg.Dir, id, topic)
	entries, err := l.cfg.FS.ReadDir(filepath.Dir(dir))
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(dir)+asideMark) {
			if err := l.removePartitionDir(filepath.Join(filepath.Dir(dir), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// HasAside says whether something is kept of a partition that was put aside.
func (l *Log) HasAside(id PartitionID, topic string) bool {
	dir := partitionDir(l.cfg.Dir, id, topic)
	entries, err := l.cfg.FS.ReadDir(filepath.Dir(dir))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), filepath.Base(dir)+asideMark) })
}

// isAside says whether a directory beside those of partitions is one that was put aside.
func isAside(name string) bool { return strings.Contains(name, asideMark) }

// dropPartitionDir removes a partition's directory, or gives it a name under which nobody looks for it. It can be repeated after a crash.
func (l *Log) dropPartitionDir(dir string, aside bool) error {
	if !aside {
		return l.removePartitionDir(dir)
	}
	to := dir + asideMark + l.cfg.Now().UTC().Format("20060102T150405.000Z")
	if err := l.cfg.FS.Rename(dir, to); err != nil {
		return err
	}
	return l.cfg.FS.SyncDir(filepath.Dir(dir))
}
