package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log/vfs"
)

// journalFile is one slot of the journal. Its name is that of the slot; which part of the journal it holds
// is said by its header, so that a file changes hands with one synced write and no rename.
type journalFile struct {
	slot uint32
	name string
	f    vfs.File
	size int64
	journalHeader
	live bool // holds entries that recovery may need; guarded by journal.mu
}

// journal owns the files. Position, current file and writes belong to the committer alone; the mutex
// guards only which files are free, and is never held over a write.
type journal struct {
	fs    vfs.FS
	dir   string
	bytes int64 // wanted size of a file
	files int   // wanted number of files
	rand  io.Reader

	// committer only
	cur    *journalFile
	pos    int64
	number uint64

	half atomic.Bool // of cur is used

	// who makes and removes files
	names  uint32   // the slot that is made next; all are below
	listed slotList // in the list on the disk
	unsure bool     // writing it has failed

	mu    sync.Mutex
	slots []*journalFile
	short bool          // the committer found none free: a checkpoint takes longer than the files there are last
	room  chan struct{} // holds a token after a file became free
}

// errJournalFull: every file holds entries that segments do not cover yet. The committer waits.
var errJournalFull = errors.New("every journal file is in use")

func newJournal(cfg *Config) *journal {
	return &journal{
		fs: cfg.FS, dir: filepath.Join(cfg.Dir, "journal"), bytes: cfg.JournalFileBytes, files: cfg.JournalFiles,
		rand: cfg.Rand, room: make(chan struct{}, 1),
	}
}

// create writes a file of size zeros and syncs it and its directory: later syncs of the same bytes then
// change no metadata of the file system. Then it lists the slot.
// pause is called between one MiB and the next; nil when somebody waits. Its error ends the work.
func (j *journal) create(size int64, pause func() error) (*journalFile, error) {
	if j.unsure {
		if err := j.list(nil); err != nil { // it may name the slot that is now made again
			return nil, err
		}
	}
	name := slotFile(j.dir, j.names)
	f, err := j.fs.Create(name)
	if err != nil {
		return nil, fmt.Errorf("create journal file %s: %w", name, err)
	}
	if err = fillZero(f, 0, size, pause); err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err == nil && pause != nil {
		err = pause()
	}
	if err != nil {
		_ = f.Close()
		_ = j.fs.Remove(name) // nothing of it was used
		return nil, fmt.Errorf("create journal file %s: %w", name, err)
	}
	s := &journalFile{slot: j.names, name: name, f: f, size: size}
	if err := j.list(s); err != nil {
		_ = f.Close() // the file stays, since the list may name it
		return nil, err
	}
	j.names++
	return s, nil
}

// fillZero writes zeros and syncs. A large sync would hold up commits to the same disk, so that with a pause the zeros
// go there a piece at a time.
func fillZero(f vfs.File, from, to int64, pause func() error) error {
	zero := make([]byte, min(mib, to-from))
	for at := from; at < to; at += int64(len(zero)) {
		zero = zero[:min(int64(len(zero)), to-at)]
		if _, err := f.WriteAt(zero, at); err != nil {
			return err
		}
		if pause != nil && at+int64(len(zero)) < to {
			vfs.StartWriteback(f, at, at+int64(len(zero)))
			if err := pause(); err != nil {
				return err
			}
		}
	}
	return f.Sync()
}

// prepare makes a spare file when none is free, or, with grow, when that was so as the committer wanted one, and fewer than the
// wanted number exist, and replaces free files of the wrong size. It runs beside the committer.
func (j *journal) prepare(pause func() error, grow bool) error {
	for {
		j.mu.Lock()
		var wrong *journalFile
		free := 0
		for i, s := range j.slots {
			if s.live {
				continue
			}
			if s.size != j.bytes || len(j.slots) > j.files {
				wrong = s
				j.slots = append(j.slots[:i:i], j.slots[i+1:]...)
				break
			}
			free++
		}
		missing, short := j.files-len(j.slots), j.short
		j.mu.Unlock()
		if wrong != nil {
			_ = wrong.f.Close()
			if err := j.list(nil); err != nil {
				return err
			}
			if err := j.fs.Remove(wrong.name); err != nil {
				return fmt.Errorf("remove journal file %s: %w", wrong.name, err)
			}
			continue
		}
		if free > 0 && !(short && grow) || missing <= 0 {
			return nil
		}
		s, err := j.create(j.bytes, pause)
		if err != nil {
			j.mu.Lock()
			j.short = false // a full disk: not again before one is missing again
			j.mu.Unlock()
			return err
		}
		j.addFree(s)
	}
}

func (j *journal) addFree(s *journalFile) {
	j.mu.Lock()
	j.slots = append(j.slots, s)
	j.short = false
	j.mu.Unlock()
	j.signalRoom()
}

func (j *journal) signalRoom() {
	select {
	case j.room <- struct{}{}:
	default:
	}
}

// begin starts the next file with firstSeq: a new number and salt in a synced header, before any entry (J4).
func (j *journal) begin(firstSeq uint64, recovery bool) error {
	j.mu.Lock()
	var next *journalFile
	for _, s := range j.slots {
		if !s.live && (next == nil || s.size > next.size) {
			next = s
		}
	}
	if next != nil {
		next.live = true
		next.journalHeader = journalHeader{number: j.number + 1, firstSeq: firstSeq, bytes: next.size, recovery: recovery}
	} else {
		j.short = true
	}
	j.mu.Unlock()
	if next == nil {
		return errJournalFull
	}
	var salt [8]byte
	if _, err := io.ReadFull(j.rand, salt[:]); err != nil {
		return fmt.Errorf("draw journal salt: %w", err)
	}
	next.salt = binary.LittleEndian.Uint64(salt[:]) | 1 // zeros are never an entry
	if _, err := next.f.WriteAt(next.encode(), 0); err != nil {
		return fmt.Errorf("begin journal file %s: %w", next.name, err)
	}
	if err := next.f.Sync(); err != nil {
		return fmt.Errorf("begin journal file %s: %w", next.name, err)
	}
	j.cur, j.pos, j.number = next, journalHeaderSize, next.number
	j.half.Store(false)
	return nil
}

// left is the room in the current file.
func (j *journal) left() int64 {
	if j.cur == nil {
		return 0
	}
	return j.cur.size - j.pos
}

// commit writes buf at the end and syncs it. When it returns nil the entries are durable (A5).
func (j *journal) commit(buf []byte) error {
	if _, err := j.cur.f.WriteAt(buf, j.pos); err != nil {
		return fmt.Errorf("write journal file %s: %w", j.cur.name, err)
	}
	if err := j.cur.f.Sync(); err != nil {
		return fmt.Errorf("sync journal file %s: %w", j.cur.name, err)
	}
	j.pos += int64(len(buf))
	j.half.Store(j.pos > j.cur.size/2)
	return nil
}

// oldestFor is the number of the file that holds the entry after covered: the oldest that recovery
// would still read.
func (j *journal) oldestFor(covered uint64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var best *journalFile
	for _, s := range j.slots {
		if s.live && s.firstSeq <= covered+1 && (best == nil || s.number > best.number) {
			best = s
		}
	}
	if best == nil {
		panic("BUG: no journal file holds the entry after the covered one")
	}
	return best.number
}

// release frees every file below oldest; a synced checkpoint that names oldest must exist (J4).
func (j *journal) release(oldest uint64) {
	j.mu.Lock()
	n := 0
	for _, s := range j.slots {
		if s.live && s.number < oldest {
			s.live = false
			n++
		}
	}
	j.mu.Unlock()
	if n > 0 {
		j.signalRoom()
	}
}

// usage is the share of the wanted journal size that is in live files.
func (j *journal) usage() (live, total int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.slots {
		if s.live {
			live += s.size
		}
	}
	return live, j.bytes * int64(j.files)
}

// halfUsed says whether the committer has used half of its file.
func (j *journal) halfUsed() bool { return j.half.Load() }

func (j *journal) close() error {
	var errs []error
	for _, s := range j.slots {
		errs = append(errs, s.f.Close())
	}
	j.slots = nil
	return errors.Join(errs...)
}
