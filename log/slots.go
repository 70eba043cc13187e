package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-io/weir/log/vfs"
)

// The neighbours of a journal file show that it is missing, but the newest one has none: without it the journal looks
// like one that ends earlier, and what was acked in it is gone in silence. So the directory has a list of its slots.
//
// A slot is listed once its file and its name are on the disk, and before it is begun; it is taken off the list before
// its file is removed. Whenever the power is cut, then, each listed slot has a file, and a file that is not listed holds
// nothing that is needed. Slots are made and removed rarely, and not by the committer: the list costs no commit a sync.

const (
	slotsName    = "journal.slots"
	slotsVersion = 1
	maxSlotsFile = 64 * kib
)

var slotsMagic = [8]byte{'w', 'e', 'i', 'r', 'S', 'L', 'T', 0}

// slotList is the numbers of slots, in order.
type slotList []uint32

func slotFile(dir string, slot uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.wal", slot))
}

func (l slotList) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(append([]byte(nil), slotsMagic[:]...), slotsVersion)
	b = le.AppendUint32(b, uint32(len(l)))
	for _, slot := range l {
		b = le.AppendUint32(b, slot)
	}
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSlots(b []byte) (slotList, error) {
	le := binary.LittleEndian
	end := len(b) - 4
	if end < 16 || [8]byte(b[:8]) != slotsMagic || crc32.Checksum(b[:end], castagnoli) != le.Uint32(b[end:]) {
		return nil, fmt.Errorf("%s, the list of journal files, is not what was written: %w", slotsName, ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != slotsVersion {
		return nil, fmt.Errorf("%s version %d: %w", slotsName, v, ErrNewerFormat)
	}
	if n := le.Uint32(b[12:]); int64(n)*4 != int64(end-16) {
		return nil, fmt.Errorf("%s lists %d files in %d bytes: %w", slotsName, n, len(b), ErrCorrupt)
	}
	var l slotList
	for b = b[16:end]; len(b) > 0; b = b[4:] {
		l = append(l, le.Uint32(b))
	}
	return l, nil
}

// readSlots returns nil for a directory of a format that has no list.
func readSlots(fsys vfs.FS, dir string, format uint32) (slotList, error) {
	if format < 2 {
		return nil, nil
	}
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, slotsName), maxSlotsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s, the list of journal files, is missing: %w", filepath.Join(dir, slotsName), ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	return decodeSlots(b)
}

// list writes which slots there are, made among them if it is not nil: one that is not in use yet. It does nothing when
// the list says so already. After an error nobody knows which of the two lists the disk has.
func (j *journal) list(made *journalFile) error {
	var now slotList
	j.mu.Lock()
	for _, s := range j.slots {
		now = append(now, s.slot)
	}
	j.mu.Unlock()
	if made != nil {
		now = append(now, made.slot)
	}
	slices.Sort(now)
	if !j.unsure && slices.Equal(now, j.listed) {
		return nil
	}
	j.unsure = true
	name := filepath.Join(filepath.Dir(j.dir), slotsName)
	if err := vfs.WriteFile(j.fs, name, now.encode()); err != nil {
		return fmt.Errorf("write list of journal files %s: %w", name, err)
	}
	j.listed, j.unsure = now, false
	return nil
}

// gone is the names of listed slots that have no file.
func (j *journal) gone(listed slotList) (names []string) {
	for _, slot := range listed {
		if !slices.ContainsFunc(j.slots, func(s *journalFile) bool { return s.slot == slot }) {
			names = append(names, slotFile(j.dir, slot))
		}
	}
	return names
}

// checkGone judges listed slots without a file. After a clean stop the marker shows that the journal is whole: then they
// were spare ones.
func checkGone(gone []string, clean bool) error {
	if len(gone) == 0 || clean {
		return nil
	}
	return fmt.Errorf("journal file %s is missing, and what was written last may have been there: %w", strings.Join(gone, " and "), ErrCorrupt)
}
