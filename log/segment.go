package log

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// segment is one .log file of a partition with its indexes. Batches are appended by the segment writer
// only; readers see bytes below size. Its file is opened when somebody needs it.
type segment struct {
	fs   vfs.FS
	dir  string
	base Offset
	size atomic.Int64 // bytes readers may see

	mu    sync.Mutex
	f     vfs.File
	users int  // between open and done
	gone  bool // unlinked: close with the last user
	index segmentIndex

	active bool      // the writer appends here: the file stays open; guarded by mu
	begun  time.Time // of the first append, or when the process found the segment with some; guarded by mu

	// segment writer only
	dirty  bool  // holds bytes no checkpoint has synced
	handed int64 // bytes the disk was told to write
}

// handOverBytes is so much that writing it is worth an order of its own, and so little that it holds up no sync.
const handOverBytes = 256 * kib

// handOver has the disk write the segment as it grows: the checkpoint would else bring half a minute's bytes at once,
// and commits would wait behind them.
func (s *segment) handOver(f vfs.File, size int64) {
	whole := size &^ (4*kib - 1) // the last page will change again
	s.handed = min(s.handed, whole)
	if whole-s.handed >= handOverBytes {
		vfs.StartWriteback(f, s.handed, whole)
		s.handed = whole
	}
}

func segmentName(dir string, base Offset, ext string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", int64(base), ext))
}

func (s *segment) path() string { return segmentName(s.dir, s.base, ".log") }

// createSegment makes an empty file, replacing what an earlier run may have left under the name. The caller
// syncs the directory before a checkpoint counts on it (J3).
func createSegment(fs vfs.FS, dir string, base Offset) (*segment, error) {
	s := &segment{fs: fs, dir: dir, base: base, active: true}
	f, err := fs.Create(s.path())
	if err != nil {
		return nil, fmt.Errorf("create segment %s: %w", s.path(), err)
	}
	s.f = f
	s.index.loaded = true
	for _, ext := range []string{".idx", ".tix", noteExt} {
		if err := removeIfThere(fs, segmentName(dir, base, ext)); err != nil {
			return nil, fmt.Errorf("create segment %s: %w", s.path(), err)
		}
	}
	return s, nil
}

// open returns the file for use until done.
func (s *segment) open() (vfs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		if s.gone {
			return nil, errSegmentGone
		}
		f, err := s.fs.OpenFile(s.path(), os.O_RDWR)
		if err != nil {
			return nil, fmt.Errorf("open segment %s: %w", s.path(), err)
		}
		s.f = f
		openSegments.Add(1)
	}
	s.users++
	return s.f, nil
}

// errSegmentGone: retention or compaction removed the segment between look-up and use; look again.
var errSegmentGone = errors.New("segment was removed")

// openSegments counts closed segments that are open for readers, over all logs of the process: the limit
// it is held against is one on file descriptors.
var openSegments atomic.Int64

// done ends a use. A file over the limit of open ones, or unlinked, is closed with its last user.
func (s *segment) done(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users == 0 && s.f != nil && !s.active && (s.gone || openSegments.Load() > int64(limit)) {
		s.closeLocked()
	}
}

func (s *segment) closeLocked() {
	_ = s.f.Close() // nothing unsynced depends on it
	s.f = nil
	openSegments.Add(-1)
}

// rest makes the segment a closed one: its file may be closed whenever nobody uses it.
func (s *segment) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active {
		s.active = false
		openSegments.Add(1)
	}
}

// begins notes when the first batch came.
func (s *segment) begins(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = now
}

// age is how long ago that was; 0 where there is nothing yet, or nothing more is appended.
func (s *segment) age(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active || s.size.Load() == 0 {
		return 0
	}
	return now.Sub(s.begun)
}

// closeIfIdle closes a closed segment's file when nobody uses it; the next reader opens it again.
func (s *segment) closeIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f != nil && s.users == 0 && !s.active {
		s.closeLocked()
	}
}

// retire closes the file, at once or with its last user, and lets nobody new open it.
func (s *segment) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.active {
		s.active = false
		if s.f != nil {
			openSegments.Add(1)
		}
	}
	if s.f != nil && s.users == 0 {
		s.closeLocked()
	}
}

// unlink removes the segment's files. Readers that have it open finish undisturbed.
func (s *segment) unlink() error {
	s.retire()
	for _, ext := range []string{".log", ".idx", ".tix", noteExt} {
		if err := removeIfThere(s.fs, segmentName(s.dir, s.base, ext)); err != nil {
			return fmt.Errorf("remove segment %s: %w", s.path(), err)
		}
	}
	return nil
}

// headerScanner walks batch headers of a segment by pread, without reading the records of large batches.
type headerScanner struct {
	f    io.ReaderAt
	pos  int64 // of the next header
	size int64 // end of the segment
	buf  []byte
	at   int64 // file position of buf
	n    int   // valid bytes of buf
	// of the batch last returned
	header Batch // header only; records are not there
	start  int64
	end    int64
}

func newHeaderScanner(f io.ReaderAt, pos, size int64) *headerScanner {
	h := scanners.Get().(*headerScanner)
	h.f, h.pos, h.size, h.n = f, pos, size, 0
	return h
}

var scanners = sync.Pool{New: func() any { return &headerScanner{buf: make([]byte, 4*kib)} }}

func (h *headerScanner) free() {
	h.f, h.header = nil, nil
	scanners.Put(h)
}

// next moves to the next batch; io.EOF at the end, ErrCorrupt where no batch can be.
func (h *headerScanner) next() error {
	if h.pos == h.size {
		return io.EOF
	}
	if h.pos+BatchHeaderSize > h.size {
		return fmt.Errorf("batch header at %d of %d bytes: %w", h.pos, h.size, ErrCorrupt)
	}
	if h.pos < h.at || h.pos+BatchHeaderSize > h.at+int64(h.n) {
		want := min(int64(len(h.buf)), h.size-h.pos)
		n, err := h.f.ReadAt(h.buf[:want], h.pos)
		if int64(n) < want {
			if err == nil || err == io.EOF {
				err = ErrCorrupt
			}
			h.n = 0
			return fmt.Errorf("read batch header at %d: %w", h.pos, err)
		}
		h.at, h.n = h.pos, n
	}
	b := Batch(h.buf[h.pos-h.at:][:BatchHeaderSize])
	length := int64(b.i32(atLength)) + batchOverhead
	if b[atMagic] != batchMagic || length < BatchHeaderSize || h.pos+length > h.size || b.LastOffset() < b.BaseOffset() {
		return fmt.Errorf("no batch at %d: %w", h.pos, ErrCorrupt)
	}
	h.header, h.start, h.end = b, h.pos, h.pos+length
	h.pos = h.end
	return nil
}

// whole reads the batch last returned; the caller keeps it. Only for small ones.
func (h *headerScanner) whole() (Batch, error) {
	size := h.end - h.start
	if size > maxControlBatch {
		return nil, fmt.Errorf("control batch of %d bytes at %d: %w", size, h.start, ErrCorrupt)
	}
	b := make(Batch, size)
	if _, err := h.f.ReadAt(b, h.start); err != nil {
		return nil, fmt.Errorf("read batch at %d: %w", h.start, err)
	}
	return b, nil
}

// maxControlBatch is far more than any marker takes.
const maxControlBatch = 64 * kib

// position is where the batch begins that holds o or the first offset after it; -1 when the segment ends before.
func (s *segment) position(o Offset, interval, limit int) (int64, error) {
	f, err := s.open()
	if err != nil {
		return 0, err
	}
	defer s.done(limit)
	position, _, err := s.locate(f, o, interval)
	if err == io.EOF {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find offset %d in segment %s: %w", o, s.path(), err)
	}
	return position, nil
}

// cut shortens the segment to position and makes it the active one.
func (s *segment) cut(position int64, interval, limit int) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer s.done(limit)
	s.size.Store(position)
	if err := removeIfThere(s.fs, segmentName(s.dir, s.base, noteExt)); err != nil {
		return fmt.Errorf("cut segment %s to %d: %w", s.path(), position, err)
	}
	if err := f.Truncate(position); err != nil {
		return fmt.Errorf("cut segment %s to %d: %w", s.path(), position, err)
	}
	s.mu.Lock()
	loaded := s.index.loaded
	if !s.active {
		s.active = true
		openSegments.Add(-1)
	}
	s.mu.Unlock()
	if loaded {
		s.cutIndex(position)
		return nil
	}
	_, err = s.loadIndex(f, position, interval, nil)
	return err
}
