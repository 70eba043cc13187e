package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/weir-io/weir/log/vfs"
)

// repairJournal is what a repair knows from the journal, however damaged that is.
type repairJournal struct {
	lastSeq, lastNumber, lastCommit uint64
	nextPID                         uint32
	cp                              *checkpoint // the last that can be read; nil = none
	pairs                           map[uint32]*checkpointPart
	data                            map[uint32][]journalData // by partition number, by offset
	defs                            map[uint32]*entry        // PARTDEF
	starts                          map[uint32]Offset        // LOGSTART
	marks                           map[uint32]Offset        // HW
	epochs                          map[uint32]epochList

	// Entries are missing: afterHole is the first that follows the last hole, or nothing is known to. holeBytes is
	// what they can have taken.
	holed     bool
	openEnd   bool
	afterHole uint64
	holeBytes int64

	gone    int      // listed files that are not there
	numbers []uint64 // of the files that are, 0 where that cannot be read
}

// journalData is one DATA entry.
type journalData struct {
	seq        uint64
	base, next Offset
	file       string
	pos, size  int64 // of the batch in the file
	epoch      Epoch
}

// readJournal judges the journal as a start does, then takes from it every entry that is sound and in its place.
func (r *repairer) readJournal() error {
	dir := filepath.Join(r.Dir, journalName)
	r.j = repairJournal{
		nextPID: 1, pairs: map[uint32]*checkpointPart{}, data: map[uint32][]journalData{}, defs: map[uint32]*entry{},
		starts: map[uint32]Offset{}, marks: map[uint32]Offset{}, epochs: map[uint32]epochList{},
	}
	sound, err := r.judgeJournal(dir)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	if err != nil {
		r.report.Journal = err.Error()
	}
	if r.noSlots != "" {
		r.report.Fixes = append(r.report.Fixes, r.noSlots)
	}
	files, all, err := r.journalFiles(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		defer f.f.Close()
	}
	for i, f := range files {
		end := uint64(1<<64 - 1)
		if i+1 < len(files) {
			end = files[i+1].firstSeq // a later use of the journal began there: what follows here was void then
		}
		if sound != nil {
			end = min(end, sound.next)
		}
		if err := r.takeEntries(f, end); err != nil {
			return err
		}
	}
	if r.j.cp != nil {
		for i := range r.j.cp.parts {
			r.j.pairs[r.j.cp.parts[i].pid] = &r.j.cp.parts[i]
		}
		r.j.nextPID = max(r.j.nextPID, r.j.cp.nextPID)
	}
	if sound != nil {
		r.j.holed, r.j.openEnd = false, false
		return nil
	}
	marker, err := readCleanMarker(r.FS, r.Dir)
	if err != nil {
		return err
	}
	if !r.j.holed && (r.j.cp == nil || marker != nil && r.j.lastSeq < marker.seq || len(files) < all) {
		r.j.holed, r.j.openEnd = true, true
	}
	if r.j.cp == nil {
		r.j.openEnd = true
	} else if len(files) > 0 && files[0].firstSeq > r.j.cp.covered+1 {
		r.j.hole(max(r.j.afterHole, files[0].firstSeq), files[0].bytes)
	}
	if r.j.gone > r.j.numbersMissing() {
		r.j.holed, r.j.openEnd = true, true // one may have been the newest
		for _, f := range files {
			r.j.holeBytes = max(r.j.holeBytes, int64(r.j.gone)*f.bytes)
		}
	}
	for _, f := range files {
		if f.size < f.bytes {
			r.j.holed, r.j.openEnd = true, true
			r.j.holeBytes += f.bytes - f.size
		}
	}
	if r.j.openEnd {
		// The clean marker says that a checkpoint covered everything, and the segments have it.
		r.j.holeBytes = max(r.j.holeBytes, 64*mib)
		r.j.afterHole = 1<<64 - 1
	}
	return nil
}

// judgeJournal is what a start would say.
func (r *repairer) judgeJournal(dir string) (*journalScan, error) {
	marker, err := readCleanMarker(r.FS, r.Dir)
	if err != nil {
		return nil, err
	}
	j := &journal{fs: r.FS, dir: dir}
	listed, err := readSlots(r.FS, r.Dir, r.format)
	if errors.Is(err, ErrCorrupt) {
		r.noSlots = fmt.Sprintf("%v: it is written again", err)
	} else if err != nil {
		return nil, err
	}
	sc := &journalScan{ctx: r.ctx, j: j}
	err = sc.openFiles()
	defer func() { _ = j.close() }()
	if err != nil {
		return nil, err
	}
	gone := j.gone(listed)
	r.j.gone = len(gone)
	cp, err := sc.findCheckpoint()
	if err != nil {
		return nil, err
	}
	if cp == nil {
		return nil, fmt.Errorf("%s: no checkpoint can be found: %w", dir, ErrCorrupt)
	}
	if err := sc.from(cp.oldest); err != nil {
		return nil, err
	}
	if err := sc.replay(func(e *entry) error { return nil }); err != nil {
		return nil, err
	}
	if marker != nil && sc.next <= marker.seq {
		return nil, fmt.Errorf("journal ends at entry %d, but the node was shut down after %d: %w", sc.next-1, marker.seq, ErrCorrupt)
	}
	if err := checkGone(gone, marker != nil && sc.next == marker.seq+1); err != nil {
		return nil, err
	}
	return sc, nil
}

// numbersMissing is how many files that the last checkpoint needs are known to be missing, by those that stand around them.
func (j *repairJournal) numbersMissing() int {
	if j.cp == nil || j.lastNumber < j.cp.oldest {
		return 0
	}
	missing := j.lastNumber - j.cp.oldest + 1
	for _, n := range j.numbers {
		if missing > 0 && (n == 0 || n >= j.cp.oldest) { // one that cannot be read may be any of them
			missing--
		}
	}
	return int(min(missing, maxSlotsFile))
}

// journalFiles opens the files whose header can be read, and those whose header cannot but whose entries tell it.
func (r *repairer) journalFiles(dir string) (files []*journalFile, all int, err error) {
	entries, err := r.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	for _, d := range entries {
		if filepath.Ext(d.Name()) != ".wal" {
			continue
		}
		f, err := r.FS.OpenFile(filepath.Join(dir, d.Name()), os.O_RDONLY)
		if err != nil {
			return files, all, err
		}
		s := &journalFile{name: filepath.Join(dir, d.Name()), f: f}
		head := make([]byte, journalHeaderSize)
		n, err := f.ReadAt(head, 0)
		if err == nil || err == io.EOF {
			s.size, err = f.Size()
		}
		if err != nil {
			_ = f.Close()
			return files, all, err
		}
		if isZero(head[:n]) {
			_ = f.Close()
			continue // never used
		}
		all++
		at := len(r.j.numbers)
		r.j.numbers = append(r.j.numbers, 0)
		if s.journalHeader, err = decodeJournalHeader(head[:n]); err != nil {
			if s.journalHeader, err = r.guessHeader(s); err != nil || s.salt == 0 {
				_ = f.Close()
				if err != nil {
					return files, all, err
				}
				continue
			}
		}
		r.j.numbers[at] = s.number
		r.j.lastNumber = max(r.j.lastNumber, s.number)
		if s.recovery { // until it holds an entry its header proves nothing (J7)
			sc := &journalScan{ctx: r.ctx, j: &journal{}}
			next, _, err := sc.walkAt(s, s.firstSeq, journalHeaderSize, func(*entry, int64) error { return errFound })
			if err == nil && next == s.firstSeq {
				_ = f.Close()
				all--
				continue
			}
		}
		files = append(files, s)
	}
	sort.SliceStable(files, func(a, b int) bool {
		if files[a].firstSeq != files[b].firstSeq {
			return files[a].firstSeq < files[b].firstSeq
		}
		return files[a].number < files[b].number
	})
	return files, all, nil
}

// guessHeader finds the last use of a file by its entries: that with the highest sequence number.
func (r *repairer) guessHeader(s *journalFile) (h journalHeader, err error) {
	sc := &journalScan{ctx: r.ctx, j: &journal{}}
	last := map[uint64]uint64{}
	first := map[uint64]uint64{}
	err = sc.search(s, 0, func(_, salt uint64) bool { return salt != 0 }, func(e *entry, _ int64) error {
		if first[e.salt] == 0 {
			first[e.salt] = e.seq
		}
		last[e.salt] = max(last[e.salt], e.seq)
		return nil
	}, nil)
	for salt, seq := range last {
		if seq >= last[h.salt] {
			h = journalHeader{salt: salt, firstSeq: first[salt], bytes: s.size}
		}
	}
	return h, err
}

// takeEntries takes the sound entries of a file below end, in their order, and notes holes.
func (r *repairer) takeEntries(s *journalFile, end uint64) error {
	j := &r.j
	sc := &journalScan{ctx: r.ctx, j: &journal{}}
	at, due := int64(journalHeaderSize), s.firstSeq
	if j.lastSeq > 0 && due > j.lastSeq+1 {
		j.hole(due, s.size)
	}
	for {
		// Entries that follow each other are read in a row; where one is bad the next good one is looked for.
		next, stop, err := sc.walkAt(s, due, at, func(e *entry, pos int64) error {
			if e.seq >= end {
				return errFound
			}
			return r.take(s, e, pos)
		})
		if err != nil && err != errFound {
			return err
		}
		if err == errFound {
			return nil
		}
		at, due = stop, next
		found, pos := entry{}, int64(0)
		err = sc.search(s, at, func(seq, salt uint64) bool { return salt == s.salt && seq >= due && seq < end }, func(e *entry, where int64) error {
			found, pos = *e, where
			return errFound
		}, nil)
		if err != nil && err != errFound {
			return err
		}
		if err == nil {
			return nil
		}
		if found.commit <= j.lastCommit+1 && end == 1<<64-1 {
			// Perhaps the torn tail of the last commit, which nobody was told of (J2): a start drops it.
			later := false
			err := sc.search(s, pos, func(seq, salt uint64) bool { return salt == s.salt && seq > found.seq }, func(e *entry, _ int64) error {
				if e.commit > j.lastCommit+1 {
					later = true
					return errFound
				}
				return nil
			}, nil)
			if err != nil && err != errFound {
				return err
			}
			if !later {
				return nil
			}
		}
		j.hole(found.seq, pos-at)
		at, due = pos, found.seq
	}
}

var errFound = errors.New("found")

// hole notes that entries before seq are missing.
func (j *repairJournal) hole(seq uint64, bytes int64) {
	j.holed, j.afterHole = true, seq
	j.holeBytes += bytes
}

// walkAt is walk from a position, and tells fn where each entry stands.
func (sc *journalScan) walkAt(s *journalFile, seq uint64, at int64, fn func(e *entry, pos int64) error) (uint64, int64, error) {
	head := make([]byte, entryHeaderSize)
	for at+entryHeaderSize <= s.size {
		if err := readFull(s, head, at); err != nil {
			return seq, at, err
		}
		if !mayBeEntry(head, s.size-at) || binary.LittleEndian.Uint64(head[8:]) != seq || binary.LittleEndian.Uint64(head[16:]) != s.salt {
			break
		}
		whole := make([]byte, entrySize(int(binary.LittleEndian.Uint32(head[4:]))))
		if err := readFull(s, whole, at); err != nil {
			return seq, at, err
		}
		e, size, err := decodeEntry(whole)
		if err != nil {
			break
		}
		if err := fn(&e, at); err != nil {
			return seq, at, err
		}
		seq, at = seq+1, at+int64(size)
		if err := sc.ctx.Err(); err != nil {
			return seq, at, err
		}
	}
	return seq, at, nil
}

// take notes what one entry says. e's payload is not kept.
func (r *repairer) take(s *journalFile, e *entry, pos int64) error {
	j := &r.j
	j.lastSeq, j.lastCommit, j.nextPID = max(j.lastSeq, e.seq), max(j.lastCommit, e.commit), max(j.nextPID, e.pid+1)
	switch e.typ {
	case entryData:
		b, err := NextBatch(e.payload, 0)
		if err != nil || len(b) != len(e.payload) || b.CheckCRC() != nil || b.LastOffset() < b.BaseOffset() {
			return nil // its offsets are found missing
		}
		j.data[e.pid] = append(j.data[e.pid], journalData{e.seq, b.BaseOffset(), b.NextOffset(), s.name, pos + entryHeaderSize, int64(len(b)), b.LeaderEpoch()})
	case entryTruncate:
		if keep := j.data[e.pid]; len(keep) > 0 {
			n := sort.Search(len(keep), func(i int) bool { return keep[i].next > e.base })
			j.data[e.pid] = keep[:n]
		}
		j.epochs[e.pid] = j.epochs[e.pid].truncate(e.base)
		if j.cp == nil || e.seq > j.cp.covered {
			return fmt.Errorf("journal file %s: partition number %d was cut to a leader's log at entry %d: let it be filled from its leader instead", s.name, e.pid, e.seq)
		}
	case entryLogStart:
		j.starts[e.pid] = max(j.starts[e.pid], e.base)
	case entryEpoch:
		j.epochs[e.pid] = j.epochs[e.pid].begin(e.epoch, e.base)
	case entryHighWatermark:
		j.marks[e.pid] = max(j.marks[e.pid], e.base)
	case entryCheckpoint:
		if cp, err := decodeCheckpoint(e.payload); err == nil {
			j.cp = cp
			if j.afterHole <= cp.covered+1 {
				j.holed, j.afterHole, j.holeBytes = false, 0, 0 // segments have all that came before
			}
		}
	case entryPartDef:
		if id, topic, err := decodePartDef(e.payload); err == nil && checkTopicName(topic) == nil {
			j.defs[e.pid] = &entry{flags: e.flags, pid: e.pid, payload: encodePartDef(nil, id, topic)}
		}
	}
	return nil
}

// readPart reads a piece of a file.
func readPart(fsys vfs.FS, name string, pos, size int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size)
	if n, err := f.ReadAt(b, pos); err != nil && (err != io.EOF || int64(n) < size) {
		return nil, fmt.Errorf("read %s at %d: %w", name, pos, err)
	}
	return b, nil
}
