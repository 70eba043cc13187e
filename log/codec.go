package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is the codec of a batch's records, numbered as in the batch attributes.
type Compression int8

const (
	CompressionNone   Compression = 0
	CompressionGzip   Compression = 1
	CompressionSnappy Compression = 2
	CompressionLZ4    Compression = 3
	CompressionZstd   Compression = 4
)

var compressionNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func (c Compression) String() string {
	if c < 0 || int(c) >= len(compressionNames) {
		return fmt.Sprintf("codec(%d)", int8(c))
	}
	return compressionNames[c]
}

// ParseCompression reads what String wrote; "uncompressed" is Kafka's other word for none.
func ParseCompression(s string) (Compression, error) {
	for c, name := range compressionNames {
		if s == name {
			return Compression(c), nil
		}
	}
	if s == "uncompressed" {
		return CompressionNone, nil
	}
	return 0, fmt.Errorf("compression %q: want none, gzip, snappy, lz4 or zstd", s)
}

// Compress appends src, compressed, to dst. Snappy is written raw, LZ4 as a frame of independent
// 64 KiB blocks, zstd and gzip at their fastest level: what every Kafka client reads. Safe for concurrent use.
func Compress(dst []byte, c Compression, src []byte) ([]byte, error) {
	switch c {
	case CompressionNone:
		return append(dst, src...), nil
	case CompressionGzip:
		return compressStream(dst, src, &gzipWriters)
	case CompressionSnappy:
		// The encoder writes into spare room behind dst if it suffices.
		need := s2.MaxEncodedLen(len(src))
		if need < 0 {
			return dst, fmt.Errorf("snappy: %d bytes: %w", len(src), ErrTooLarge)
		}
		dst = grow(dst, need)
		out := s2.EncodeSnappy(dst[len(dst):len(dst)+need], src)
		return dst[:len(dst)+len(out)], nil
	case CompressionLZ4:
		return compressStream(dst, src, &lz4Writers)
	case CompressionZstd:
		return zstdEncoder().EncodeAll(src, dst), nil
	}
	return dst, fmt.Errorf("%v: %w", c, ErrCorrupt)
}

// decompressCap bounds every limit, so that sums with it fit an int of 32 bits.
const decompressCap = 512 << 20

// Decompress appends the decompressed src to dst, at most limit bytes of it: more is ErrTooLarge and
// costs no memory beyond the limit. Snappy may be raw or framed as xerial's Java library does.
// ErrCorrupt if src is not what c writes. Safe for concurrent use.
func Decompress(dst []byte, c Compression, src []byte, limit int) ([]byte, error) {
	out, err := decompress(dst, c, src, min(limit, decompressCap))
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, ErrTooLarge):
		return dst, fmt.Errorf("%v: more than %d bytes decompressed: %w", c, limit, ErrTooLarge)
	case errors.Is(err, ErrCorrupt):
		return dst, fmt.Errorf("%v: %w", c, err)
	}
	return dst, fmt.Errorf("%v: %v: %w", c, err, ErrCorrupt)
}

func decompress(dst []byte, c Compression, src []byte, limit int) ([]byte, error) {
	switch c {
	case CompressionNone:
		if len(src) > limit {
			return dst, ErrTooLarge
		}
		return append(dst, src...), nil
	case CompressionGzip:
		return decompressStream(dst, src, limit, &gzipReaders)
	case CompressionSnappy:
		if bytes.HasPrefix(src, xerialMagic) {
			return decompressXerial(dst, src, limit)
		}
		return decompressSnappy(dst, src, limit)
	case CompressionLZ4:
		return decompressStream(dst, src, limit, &lz4Readers)
	case CompressionZstd:
		return decompressZstd(dst, src, limit)
	}
	return dst, errors.New("unknown codec")
}

// xerialMagic opens the stream format of snappy-java, which Kafka's Java client writes: magic,
// i32 version, i32 lowest compatible version, then chunks of i32 length and raw snappy.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeader  = 16
	xerialVersion = 1
)

func decompressXerial(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < xerialHeader || binary.BigEndian.Uint32(src[12:]) > xerialVersion {
		return dst, errors.New("xerial frame of a newer version")
	}
	start := len(dst)
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return dst, errors.New("xerial chunk ends early")
		}
		size := binary.BigEndian.Uint32(src)
		if src = src[4:]; uint64(size) > uint64(len(src)) {
			return dst, errors.New("xerial chunk ends early")
		}
		var err error
		if dst, err = decompressSnappy(dst, src[:size], limit-(len(dst)-start)); err != nil {
			return dst, err
		}
		src = src[size:]
	}
	return dst, nil
}

func decompressSnappy(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return dst, err
	}
	if n > limit {
		return dst, ErrTooLarge
	}
	// Snappy's best element says 64 bytes in 3: a longer claim is a lie, refused before memory is taken for it.
	if int64(n) > int64(len(src))*32 {
		return dst, errors.New("claims more than it can hold")
	}
	dst = grow(dst, n)
	out, err := s2.Decode(dst[len(dst):len(dst)+n], src)
	if err != nil {
		return dst, err
	}
	return dst[:len(dst)+len(out)], nil
}

// zstdEncoder and zstdDecoder serve all callers; building one costs megabytes, so it is done on first use.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("BUG: zstd encoder options: " + err.Error())
	}
	return e
})

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	// DecodeAll keeps no window of its own: the output is the window, and its capacity the limit.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("BUG: zstd decoder options: " + err.Error())
	}
	return d
})

// zstdMaxBlock is the most that one block of a zstd frame decompresses to.
const zstdMaxBlock = 128 << 10

// decompressZstd tries with the room at hand and doubles it while that may be what was missing:
// frames seldom state their size, and a stated one is not to be trusted. Out of room, the library
// gives any error, but not before the last block that could fit.
func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	start, most := len(dst), limit+zstdMaxBlock
	for room := min(max(cap(dst)-start, 4*len(src), 16<<10), most); ; room = min(2*room, most) {
		dst = grow(dst, room)
		out, err := zstdDecoder().DecodeAll(src, dst[:start:start+room])
		got := len(out) - start
		switch {
		case err == nil && got > limit:
			return dst, ErrTooLarge
		case err == nil:
			return out, nil
		case !errors.Is(err, zstd.ErrDecoderSizeExceeded) && got <= room-zstdMaxBlock:
			return dst, err
		case room == most:
			return dst, ErrTooLarge
		}
	}
}

// streamReader and streamWriter are what the gzip and LZ4 libraries have in common, once adapted.
type streamReader interface {
	io.Reader
	Reset(io.Reader) error
}

type streamWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

// lz4Reader gives lz4's Reset the form of gzip's.
type lz4Reader struct{ *lz4.Reader }

func (l lz4Reader) Reset(r io.Reader) error { l.Reader.Reset(r); return nil }

// decoder is a pooled stream reader with the source it reads.
type decoder struct {
	streamReader
	src bytes.Reader
}

var gzipReaders = sync.Pool{New: func() any { return &decoder{streamReader: new(gzip.Reader)} }}
var lz4Readers = sync.Pool{New: func() any { return &decoder{streamReader: lz4Reader{lz4.NewReader(nil)}} }}

func decompressStream(dst, src []byte, limit int, pool *sync.Pool) ([]byte, error) {
	d := pool.Get().(*decoder)
	defer func() {
		d.src.Reset(nil)
		pool.Put(d)
	}()
	d.src.Reset(src)
	if err := d.Reset(&d.src); err != nil {
		return dst, err
	}
	start := len(dst)
	for {
		if len(dst) == cap(dst) {
			dst = grow(dst, max(512, min(len(src), limit)))
		}
		// One byte past the limit shows that there is more.
		end := min(cap(dst), start+limit+1)
		n, err := d.Read(dst[len(dst):end])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst)-start > limit:
			return dst[:start], ErrTooLarge
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return dst, err
		}
	}
}

// encoder is a pooled stream writer with the bytes it wrote.
type encoder struct {
	streamWriter
	out []byte
}

func (e *encoder) appendTo(p []byte) (int, error) { e.out = append(e.out, p...); return len(p), nil }

type sink struct{ *encoder }

func (s sink) Write(p []byte) (int, error) { return s.appendTo(p) }

var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic("BUG: gzip level: " + err.Error())
	}
	return &encoder{streamWriter: w}
}}

var lz4Writers = sync.Pool{New: func() any {
	w := lz4.NewWriter(nil)
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.ConcurrencyOption(1)); err != nil {
		panic("BUG: lz4 options: " + err.Error())
	}
	return &encoder{streamWriter: w}
}}

func compressStream(dst, src []byte, pool *sync.Pool) ([]byte, error) {
	e := pool.Get().(*encoder)
	e.out = dst
	e.Reset(sink{e})
	_, err := e.Write(src)
	if err == nil {
		err = e.Close()
	}
	dst, e.out = e.out, nil
	pool.Put(e)
	return dst, err
}

// grow returns b with room for n more bytes. It doubles, so that repeated growing is linear.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	g := make([]byte, len(b), max(len(b)+n, 2*cap(b)))
	copy(g, b)
	return g
}
