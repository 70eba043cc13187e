package log

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/weir-io/weir/log/vfs"
)

// A note is what another room wants to find again beside a closed segment, such as a summary of what is in it: a file
// <base20>.note whose bytes the log does not understand. It is a hint: never synced, possibly torn or missing, so that
// its owner checks it. It goes with its segment: by retention, and when compaction or a truncation changes the segment.

const (
	noteExt = ".note"
	// maxNote bounds a note.
	maxNote = 4 << 20
)

// Span is where a segment lies.
type Span struct {
	First, Next Offset // half open
	Closed      bool   // nothing is appended to it any more; Next of the active segment is the log end
}

// SpanAt is the segment that o lies in; false when there is none.
func (p *Partition) SpanAt(o Offset) (Span, bool) {
	segs := *p.segs.Load()
	i := sort.Search(len(segs), func(i int) bool { return segs[i].base > o }) - 1
	if i < 0 || o >= p.LogEnd() {
		return Span{}, false
	}
	if i+1 < len(segs) {
		return Span{First: segs[i].base, Next: segs[i+1].base, Closed: true}, true
	}
	return Span{First: segs[i].base, Next: p.LogEnd()}, true
}

func (p *Partition) closedSegment(first Offset) *segment {
	segs := *p.segs.Load()
	i := sort.Search(len(segs), func(i int) bool { return segs[i].base >= first })
	if i+1 >= len(segs) || segs[i].base != first {
		return nil
	}
	return segs[i]
}

// Note returns the note of the closed segment that begins at first, nil when there is none that can be read.
func (p *Partition) Note(first Offset) []byte {
	s := p.closedSegment(first)
	if s == nil {
		return nil
	}
	b, err := vfs.ReadFile(s.fs, segmentName(s.dir, s.base, noteExt), maxNote)
	if err != nil {
		return nil
	}
	return b
}

// SetNote replaces the note of the closed segment that begins at first. It does nothing when that has gone meanwhile.
// An error leaves no note, and is none of the log's health.
func (p *Partition) SetNote(first Offset, b []byte) error {
	s := p.closedSegment(first)
	if s == nil {
		return nil
	}
	if len(b) > maxNote {
		return fmt.Errorf("note of segment %s has %d bytes, want at most %d", s.path(), len(b), maxNote)
	}
	s.mu.Lock() // retire waits, so that no note outlives its segment
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	name := segmentName(s.dir, s.base, noteExt)
	f, err := s.fs.Create(name)
	if err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	_, err = f.WriteAt(b, 0)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		if e := s.fs.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return fmt.Errorf("write note %s: %w", name, err)
	}
	return nil
}
