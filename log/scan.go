package log

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// journalScan is the reading side of the journal: used by recovery, before anything is written.
type journalScan struct {
	ctx   context.Context
	steps int // entries read, to look at ctx now and then
	j     *journal
	files []*journalFile // with a sound header, by number
	blank []*journalFile // without
	buf   []byte

	// set by replay
	next       uint64 // sequence after the last valid entry
	lastCommit uint64
	whole      bool // the last entry was its commit's last
	sealed     bool // and a SEAL
	torn       bool // something that was begun follows it
	tail       *DroppedTail
}

// openFiles opens every file of the journal and reads its header.
func (sc *journalScan) openFiles() error {
	j := sc.j
	entries, err := j.fs.ReadDir(j.dir)
	if isNotExist(err) {
		return fmt.Errorf("%s is missing: %w", j.dir, ErrCorrupt)
	}
	if err != nil {
		return err
	}
	for _, d := range entries {
		slot, err := strconv.ParseUint(strings.TrimSuffix(d.Name(), ".wal"), 10, 31)
		if err != nil || filepath.Ext(d.Name()) != ".wal" {
			continue
		}
		name := filepath.Join(j.dir, d.Name())
		f, err := j.fs.OpenFile(name, os.O_RDWR)
		if err != nil {
			return fmt.Errorf("open journal file %s: %w", name, err)
		}
		s := &journalFile{slot: uint32(slot), name: name, f: f}
		j.slots = append(j.slots, s)
		j.names = max(j.names, s.slot+1)
		if s.size, err = f.Size(); err != nil {
			return fmt.Errorf("open journal file %s: %w", name, err)
		}
		head := make([]byte, journalHeaderSize)
		if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
			return fmt.Errorf("read journal file %s: %w", name, err)
		}
		switch s.journalHeader, err = decodeJournalHeader(head); {
		case err == nil && s.size < s.bytes:
			return fmt.Errorf("journal file %s has %d bytes of %d: %w", name, s.size, s.bytes, ErrCorrupt)
		case err == nil:
			sc.files = append(sc.files, s)
		case errors.Is(err, ErrCorrupt):
			sc.blank = append(sc.blank, s)
		default:
			return fmt.Errorf("read journal file %s: %w", name, err)
		}
	}
	sort.Slice(sc.files, func(a, b int) bool { return sc.files[a].number < sc.files[b].number })
	for i := 1; i < len(sc.files); i++ {
		if sc.files[i].number == sc.files[i-1].number {
			return fmt.Errorf("journal files %s and %s have the same number: is one a copy? %w", sc.files[i-1].name, sc.files[i].name, ErrCorrupt)
		}
	}
	return nil
}

// walk reads valid entries of s in order, from its first, which must be seq, and returns the sequence and
// position after the last. An entry is valid if its checksum, salt and sequence are right (J1). fn's views
// last until it returns.
func (sc *journalScan) walk(s *journalFile, seq uint64, fn func(*entry) error) (uint64, int64, error) {
	if sc.buf == nil {
		sc.buf = make([]byte, mib)
	}
	pos := int64(journalHeaderSize)
	have := sc.buf[:0]
	at := pos // file position of have
	for {
		e, size, err := decodeEntry(have)
		if err == ErrShort && at+int64(size) <= s.size && size > len(have) {
			if cap(sc.buf) < size {
				sc.buf = make([]byte, size)
			}
			n := min(int64(cap(sc.buf)), s.size-at)
			have = sc.buf[:n]
			if err := readFull(s, have, at); err != nil {
				return seq, at, err
			}
			continue
		}
		if err != nil || e.salt != s.salt || e.seq != seq {
			return seq, at, nil
		}
		if sc.steps++; sc.steps%256 == 0 {
			if err := sc.ctx.Err(); err != nil {
				return seq, at, err
			}
		}
		if err := fn(&e); err != nil {
			return seq, at, err
		}
		seq++
		at += int64(size)
		have = have[size:]
	}
}

// findCheckpoint returns the last checkpoint, looking through the newest files first; nil if there is none.
func (sc *journalScan) findCheckpoint() (*checkpoint, error) {
	for i := len(sc.files) - 1; i >= 0; i-- {
		var found []byte
		_, _, err := sc.walk(sc.files[i], sc.files[i].firstSeq, func(e *entry) error {
			if e.typ == entryCheckpoint {
				found = append(found[:0], e.payload...)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if found != nil {
			return decodeCheckpoint(found)
		}
	}
	return nil, nil
}

// from drops files below number oldest; it must be there itself.
func (sc *journalScan) from(oldest uint64) error {
	for len(sc.files) > 0 && sc.files[0].number < oldest {
		sc.files = sc.files[1:]
	}
	if len(sc.files) == 0 || sc.files[0].number != oldest {
		return fmt.Errorf("journal file number %d, which the last checkpoint needs, is missing: %w", oldest, ErrCorrupt)
	}
	return nil
}

// replay gives every valid entry to fn, in order over all files, and checks that what stops it is a torn
// tail and not damage (J2).
func (sc *journalScan) replay(fn func(*entry) error) error {
	sc.next, sc.lastCommit, sc.whole, sc.sealed, sc.torn, sc.tail = 1, 0, true, false, false, nil
	if len(sc.files) == 0 {
		return sc.checkBlank()
	}
	seq := sc.files[0].firstSeq
	var last *journalFile
	var stop int64
	for _, s := range sc.files {
		if s.firstSeq != seq {
			if empty, err := sc.unused(s); err != nil || empty {
				if err != nil {
					return err
				}
				continue
			}
			return fmt.Errorf("journal file %s begins with entry %d, but %d is the next after %s: entries are lost or damaged: %w",
				s.name, s.firstSeq, seq, describe(last, stop), ErrCorrupt)
		}
		n, at, err := sc.walk(s, seq, func(e *entry) error {
			if e.commit < sc.lastCommit || e.commit == sc.lastCommit && sc.whole {
				return fmt.Errorf("journal file %s: entry %d belongs to commit %d after commit %d: %w", s.name, e.seq, e.commit, sc.lastCommit, ErrCorrupt)
			}
			sc.lastCommit, sc.whole, sc.sealed = e.commit, e.flags&flagCommitEnd != 0, e.typ == entrySeal
			return fn(e)
		})
		if err != nil {
			return err
		}
		seq, last, stop = n, s, at
	}
	sc.next = seq
	if err := sc.checkTail(last, stop); err != nil {
		return err
	}
	return sc.checkBlank()
}

func describe(s *journalFile, at int64) string {
	if s == nil {
		return "the start"
	}
	return fmt.Sprintf("%s at %d", s.name, at)
}

// unused: recovery began the file and was cut off before its first entry was durable. Its header then
// proves nothing about the files before it.
func (sc *journalScan) unused(s *journalFile) (bool, error) {
	if !s.recovery {
		return false, nil
	}
	n, _, err := sc.walk(s, s.firstSeq, func(*entry) error { return nil })
	return n == s.firstSeq, err
}

// checkTail decides about what follows the last valid entry. It is a torn tail only if nothing of a later
// commit is valid: a later commit was written only after the bad one had been synced (J2).
func (sc *journalScan) checkTail(s *journalFile, stop int64) error {
	allowed := sc.lastCommit
	if sc.whole {
		allowed++
	}
	later := func(seq, salt uint64) bool { return salt == s.salt && seq >= sc.next }
	drop := DroppedTail{File: s.name, Position: stop, Commit: allowed}
	err := sc.search(s, stop, later, func(e *entry, at int64) error {
		if e.commit > allowed {
			return fmt.Errorf("journal file %s: entry %d at %d is unreadable, but entry %d of the later commit %d follows at %d: %w",
				s.name, sc.next, stop, e.seq, e.commit, at, ErrCorrupt)
		}
		return nil
	}, func(at, size int64) {
		drop.Entries++
		drop.Bytes = max(drop.Bytes, at+size-stop)
	})
	if err == nil && drop.Entries > 0 {
		sc.torn, sc.tail = true, &drop
	}
	return err
}

// checkBlank: a file without a sound header is an unused one, unless it holds what should come next (J2).
func (sc *journalScan) checkBlank() error {
	later := func(seq, _ uint64) bool { return seq >= sc.next && seq-sc.next < 1<<32 } // no journal holds more
	for _, s := range sc.blank {
		err := sc.search(s, 0, later, func(e *entry, at int64) error {
			return fmt.Errorf("journal file %s has a damaged header and holds entry %d at %d: %w", s.name, e.seq, at, ErrCorrupt)
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// search gives every valid entry that is wanted at or after from to fn, wherever it begins. It reads a
// piece at a time: journal files are large and memory may be small. Places that only look like an entry are
// many (small numbers inside batches), and each costs the CRC of as much as it claims to be long: want tells
// them apart before that. seen, if not nil, hears of each place that passes for a wanted entry, valid or not.
func (sc *journalScan) search(s *journalFile, from int64, want func(seq, salt uint64) bool, fn func(e *entry, at int64) error, seen func(at, size int64)) error {
	piece := make([]byte, 256*kib)
	for at := from; at+entryHeaderSize <= s.size; {
		if err := sc.ctx.Err(); err != nil {
			return err
		}
		b := piece[:min(int64(len(piece)), s.size-at)]
		if err := readFull(s, b, at); err != nil {
			return err
		}
		i := 0
		for ; i+entryHeaderSize <= len(b); i += 8 {
			if !mayBeEntry(b[i:], s.size-at-int64(i)) || !want(entryIdentity(b[i:])) {
				continue
			}
			if seen != nil {
				seen(at+int64(i), int64(entrySize(int(binary.LittleEndian.Uint32(b[i+4:])))))
			}
			e, size, err := decodeEntry(b[i:])
			if err == ErrShort {
				whole := make([]byte, size)
				if err := readFull(s, whole, at+int64(i)); err != nil {
					return err
				}
				e, _, err = decodeEntry(whole)
			}
			if err != nil {
				continue
			}
			if err := fn(&e, at+int64(i)); err != nil {
				return err
			}
		}
		at += int64(i)
	}
	return nil
}

// mayBeEntry is a cheap test: most places are zeros or the inside of batches.
func mayBeEntry(b []byte, left int64) bool {
	le := binary.LittleEndian
	return b[32] != 0 && b[32] <= byte(entryPad) && b[34]|b[35] == 0 && le.Uint64(b[8:]) != 0 &&
		int64(entrySize(int(le.Uint32(b[4:])))) <= left && le.Uint32(b[4:]) <= maxJournalFileBytes
}

func entryIdentity(b []byte) (seq, salt uint64) {
	return binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
}

func readFull(s *journalFile, b []byte, at int64) error {
	if n, err := s.f.ReadAt(b, at); err != nil && (err != io.EOF || n < len(b)) {
		return fmt.Errorf("read journal file %s: %w", s.name, err)
	}
	return nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
