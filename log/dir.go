package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/weir-io/weir/log/vfs"
)

const (
	formatVersion = 2 // 1 had no list of journal files
	formatName    = "log.meta"
	cleanName     = "clean"
	topicsName    = "topics"
	journalName   = "journal"
)

var (
	formatMagic = [8]byte{'w', 'e', 'i', 'r', 'L', 'O', 'G', 0}
	cleanMagic  = [8]byte{'w', 'e', 'i', 'r', 'C', 'L', 'N', 0}
)

// lockDir makes the directory when missing, locks it against a second node, and checks that its format is
// one we know before anything else is read. The format is 0 when it was never opened successfully.
func lockDir(fsys vfs.FS, dir string) (lock io.Closer, format uint32, err error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, 0, err
	}
	if lock, err = fsys.Lock(filepath.Join(dir, "lock")); err != nil {
		return nil, 0, err
	}
	if format, err = prepareDir(fsys, dir); err != nil {
		return nil, 0, errors.Join(err, lock.Close())
	}
	return lock, format, nil
}

func prepareDir(fsys vfs.FS, dir string) (format uint32, err error) {
	if err := refuseHalfRepaired(fsys, dir); err != nil {
		return 0, err
	}
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, formatName), 4*kib)
	switch {
	case err == nil:
		if format, err = checkFormat(b); err != nil {
			return 0, err
		}
		return format, fsys.SyncDir(dir) // an earlier process may have died before it did
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if err := refuseForeign(fsys, dir); err != nil {
		return 0, err
	}
	for _, name := range []string{journalName, topicsName} {
		if err := fsys.MkdirAll(filepath.Join(dir, name)); err != nil {
			return 0, err
		}
	}
	return 0, syncParents(fsys, dir)
}

// writeFormat marks the directory as one that has a journal, from which any missing file is damage. It is
// the last step of the first Open, and of the first in a directory of an older format.
func writeFormat(fsys vfs.FS, dir string) error {
	b := append(append([]byte(nil), formatMagic[:]...), formatVersion, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return vfs.WriteFile(fsys, filepath.Join(dir, formatName), b)
}

// refuseForeign: a directory that holds partitions but not our mark is either damaged or not ours.
func refuseForeign(fsys vfs.FS, dir string) error {
	entries, err := fsys.ReadDir(filepath.Join(dir, topicsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s holds data but %s is missing: %w", filepath.Join(dir, topicsName), filepath.Join(dir, formatName), ErrCorrupt)
	}
	return nil
}

func checkFormat(b []byte) (format uint32, err error) {
	if len(b) != 16 || [8]byte(b[:8]) != formatMagic || crc32.Checksum(b[:12], castagnoli) != binary.LittleEndian.Uint32(b[12:]) {
		return 0, fmt.Errorf("%s, the mark of a log's directory, is not what was written: %w", formatName, ErrCorrupt)
	}
	if format = binary.LittleEndian.Uint32(b[8:]); format == 0 || format > formatVersion {
		return 0, fmt.Errorf("%s: format %d, this weir knows %d: %w", formatName, format, formatVersion, ErrNewerFormat)
	}
	return format, nil
}

// syncParents makes dir's name durable in its parent, as far as the parent lets us.
func syncParents(fsys vfs.FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(filepath.Clean(dir)))
}

// cleanMarker says how the journal ended at a clean shutdown (E8). It is removed before the first append.
type cleanMarker struct{ seq, commit uint64 }

func writeCleanMarker(fsys vfs.FS, dir string, m cleanMarker) error {
	le := binary.LittleEndian
	b := le.AppendUint64(le.AppendUint64(append([]byte(nil), cleanMagic[:]...), m.seq), m.commit)
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if err := vfs.WriteFile(fsys, filepath.Join(dir, cleanName), b); err != nil {
		return fmt.Errorf("write clean marker: %w", err)
	}
	return nil
}

// readCleanMarker returns nil when there is no sound one: then the last stop was not clean.
func readCleanMarker(fsys vfs.FS, dir string) (*cleanMarker, error) {
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, cleanName), 4*kib)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeCleanMarker(b), nil
}

func decodeCleanMarker(b []byte) *cleanMarker {
	le := binary.LittleEndian
	if len(b) != 28 || [8]byte(b[:8]) != cleanMagic || crc32.Checksum(b[:24], castagnoli) != le.Uint32(b[24:]) {
		return nil
	}
	return &cleanMarker{seq: le.Uint64(b[8:]), commit: le.Uint64(b[16:])}
}

// removeCleanMarker removes it durably.
func removeCleanMarker(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(filepath.Join(dir, cleanName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := removeIfThere(fsys, filepath.Join(dir, cleanName)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

func removeIfThere(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkTopicName refuses what Kafka refuses; anything else could also leave the directory.
func checkTopicName(name string) error {
	ok := len(name) > 0 && len(name) <= 249 && name != "." && name != ".."
	for i := 0; i < len(name) && ok; i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if !ok {
		return fmt.Errorf("topic name %q: want 1 to 249 of letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

// partitionDir is topics/<topic>-<uuid>/<partition>. A long topic name is cut, so that the directory's name
// stays within 255 bytes; part.meta has it in full.
func partitionDir(dir string, id PartitionID, topic string) string {
	return filepath.Join(dir, topicsName, topic[:min(len(topic), 200)]+"-"+id.Topic.String(), fmt.Sprint(id.Index))
}

// syncPartitionDir makes the names durable that lead to a partition's directory.
func syncPartitionDir(fsys vfs.FS, dir string) error {
	topic := filepath.Dir(dir)
	for _, name := range []string{topic, filepath.Dir(topic)} {
		if err := fsys.SyncDir(name); err != nil {
			return fmt.Errorf("sync directory %s: %w", name, err)
		}
	}
	return nil
}

// removePartitionDir removes a deleted partition's files, and its topic's directory with the last partition.
func (l *Log) removePartitionDir(dir string) error {
	if err := l.cfg.FS.RemoveAll(dir); err != nil {
		return err
	}
	topic := filepath.Dir(dir)
	if entries, err := l.cfg.FS.ReadDir(topic); err == nil && len(entries) == 0 {
		if err := removeIfThere(l.cfg.FS, topic); err != nil {
			return err
		}
		return l.cfg.FS.SyncDir(filepath.Dir(topic))
	}
	return l.cfg.FS.SyncDir(topic)
}
