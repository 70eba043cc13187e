package log

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// scanChunk is how much a scanner reads at once.
	scanChunk = 256 << 10
	// maxScannedBatch bounds the memory that a length found in a file can claim.
	maxScannedBatch = 256 << 20
)

// batchScanner reads the batches of a segment in order, whole, through one reused buffer.
type batchScanner struct {
	f        io.ReaderAt
	size     int64 // end of the segment
	pos      int64 // file position of buf[start]
	buf      []byte
	start    int // of the next batch in buf
	end      int // of what was read
	position int64
}

func (s *batchScanner) reset(f io.ReaderAt, pos, size int64) {
	s.f, s.pos, s.size, s.start, s.end, s.position = f, pos, size, 0, 0, pos
}

// next returns the next batch, valid until the call after. It begins at s.position of the file. io.EOF at the
// end; ErrCorrupt where no batch can be, ErrShort where the file ends inside one. The CRC is not checked.
func (s *batchScanner) next() (Batch, error) {
	for {
		b, err := NextBatch(s.buf[s.start:s.end], maxScannedBatch)
		switch {
		case err == nil:
			s.position = s.pos
			s.start += len(b)
			s.pos += int64(len(b))
			return b, nil
		case err != ErrShort:
			return nil, fmt.Errorf("at %d: %w", s.pos, err)
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads on until the batch at start is whole, or more is known about it.
func (s *batchScanner) fill() error {
	have := s.end - s.start
	left := s.size - s.pos - int64(have)
	if left <= 0 {
		if have == 0 {
			return io.EOF
		}
		return fmt.Errorf("at %d: %w", s.pos, ErrShort)
	}
	want := scanChunk
	if have >= batchOverhead {
		want = max(want, batchOverhead+int(binary.BigEndian.Uint32(s.buf[s.start+atLength:])))
		if int64(want) > int64(have)+left && want > scanChunk {
			return fmt.Errorf("at %d: a batch of %d bytes, %d are left: %w", s.pos, want, int64(have)+left, ErrShort)
		}
	}
	if len(s.buf) < want {
		buf := make([]byte, want)
		copy(buf, s.buf[s.start:s.end])
		s.buf = buf
	} else {
		copy(s.buf, s.buf[s.start:s.end])
	}
	s.start, s.end = 0, have
	n, err := s.f.ReadAt(s.buf[have:min(len(s.buf), have+int(min(left, int64(len(s.buf)))))], s.pos+int64(have))
	s.end += n
	if err == io.EOF && n > 0 || err == nil {
		return nil
	}
	if err == io.EOF {
		err = ErrShort // the file is shorter than it was said to be
	}
	return fmt.Errorf("at %d: %w", s.pos+int64(have), err)
}
