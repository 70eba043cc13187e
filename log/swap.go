package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weir-io/weir/log/vfs"
)

// How a rewritten segment takes the place of the ones it was made from (K1). next is the first offset after them.
//
//  1. <base>-<next>.clean is written and synced. A crash leaves a file that recovery removes.
//  2. It is renamed to .swap and the directory synced. From here on it counts: a crash before leaves the old
//     segments, a crash after lets recovery go on with step 3.
//  3. Segments that begin in [base, next) are unlinked with their indexes, and the directory synced, so that
//     no power cut can bring one back beside the segment that replaces it.
//  4. .swap is renamed to <base>.log and the directory synced.
//
// Steps 3 and 4 may be repeated from any point. An error up to step 2's rename leaves the old segments
// valid; a later one leaves a directory that only a restart can put right, so the log goes offline (A6).

const (
	cleanExt = ".clean"
	swapExt  = ".swap"
)

// swapName is the name of the file that replaces segments [base, next), at either stage.
func swapName(dir string, base, next Offset, ext string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d-%020d%s", int64(base), int64(next), ext))
}

// parseSwapName reads the last part of what swapName wrote.
func parseSwapName(name string) (base, next Offset, ok bool) {
	name, ok = strings.CutSuffix(name, swapExt)
	from, to, both := strings.Cut(name, "-")
	if !ok || !both || len(from) != 20 || len(to) != 20 {
		return 0, 0, false
	}
	b, err1 := strconv.ParseUint(from, 10, 63)
	n, err2 := strconv.ParseUint(to, 10, 63)
	return Offset(b), Offset(n), err1 == nil && err2 == nil && b < n
}

// commitSwap is step 2; the .clean file was written, synced and may stay open. committed is false when nothing
// has changed yet.
func commitSwap(fsys vfs.FS, dir string, base, next Offset) (committed bool, err error) {
	if err := fsys.Rename(swapName(dir, base, next, cleanExt), swapName(dir, base, next, swapExt)); err != nil {
		return false, fmt.Errorf("swap segment %d: %w", base, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return true, fmt.Errorf("swap segment %d: %w", base, err)
	}
	return true, nil
}

// finishSwap is steps 3 and 4.
func finishSwap(fsys vfs.FS, dir string, base, next Offset) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("swap segment %d: %w", base, err)
	}
	for _, e := range entries {
		if o, ok := parseSegmentFile(e.Name()); !ok || o < base || o >= next {
			continue
		}
		if err := fsys.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("swap segment %d: %w", base, err)
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("swap segment %d: %w", base, err)
	}
	if err := fsys.Rename(swapName(dir, base, next, swapExt), filepath.Join(dir, fmt.Sprintf("%020d.log", int64(base)))); err != nil {
		return fmt.Errorf("swap segment %d: %w", base, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("swap segment %d: %w", base, err)
	}
	return nil
}

// parseSegmentFile returns the base of a file that goes with its segment: log, indexes, note. Producer
// snapshots stay: they are named by the offset they cover and remain true.
func parseSegmentFile(name string) (Offset, bool) {
	stem, ext, _ := strings.Cut(name, ".")
	if ext != "log" && ext != "idx" && ext != "tix" && ext != "note" || len(stem) != 20 {
		return 0, false
	}
	o, err := strconv.ParseUint(stem, 10, 63)
	return Offset(o), err == nil
}

// recoverSwaps puts a partition's directory right after a crash, before anything else looks at its
// segments. It says whether it changed anything.
func recoverSwaps(fsys vfs.FS, dir string) (changed bool, err error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("recover %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), cleanExt) {
			changed = true
			if err := fsys.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return changed, fmt.Errorf("recover %s: %w", dir, err)
			}
		}
		if base, next, ok := parseSwapName(e.Name()); ok {
			changed = true
			if err := finishSwap(fsys, dir, base, next); err != nil {
				return changed, fmt.Errorf("recover %s: %w", dir, err)
			}
		}
	}
	return changed, nil
}
