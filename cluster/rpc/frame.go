package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Method names what is called. Numbers are for ever.
type Method uint16

type frameKind uint8

const (
	frameCall frameKind = iota
	frameAnswer
	frameFailure
)

const (
	lengthBytes = 4
	headerBytes = 20 // with the length
	// MaxFrame bounds one frame: a fetch answer of 8 MiB and its control part.
	MaxFrame = 9 << 20
	// maxControl bounds what the CBOR decoder is given.
	maxControl = 1 << 20
)

// ErrFrame: the bytes are no frame. The connection is closed.
var ErrFrame = errors.New("bad frame")

// frame is one message. Its parts are views of buf when it was read, of the caller's when it is to be written.
type frame struct {
	call    uint64
	method  Method
	kind    frameKind
	control []byte
	raw     []byte
	buf     *buffer
	done    func() // lets go of raw that is somebody else's
}

// buffer is pooled, since fetch answers are large and many.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 2 << 20

func (f *frame) release() {
	if f.done != nil {
		f.done()
		f.done = nil
	}
	if f.buf == nil {
		return
	}
	if cap(f.buf.b) <= keepBuffer {
		buffers.Put(f.buf)
	}
	f.buf, f.control, f.raw = nil, nil, nil
}

// readFrame reads one frame; release gives its memory back. A length is believed only as far as bytes arrive.
func readFrame(r io.Reader) (f frame, err error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	if f, err = parseHeader(&head); err != nil {
		return f, err
	}
	size := int(binary.BigEndian.Uint32(head[:])) + lengthBytes - headerBytes
	control := int(binary.BigEndian.Uint32(head[16:]))
	f.buf = buffers.Get().(*buffer)
	if f.buf.b, err = readGrowing(r, f.buf.b[:0], size); err != nil {
		f.release()
		return frame{}, err
	}
	f.control, f.raw = f.buf.b[:control:control], f.buf.b[control:]
	return f, nil
}

func parseHeader(head *[headerBytes]byte) (f frame, err error) {
	length := binary.BigEndian.Uint32(head[:])
	control := binary.BigEndian.Uint32(head[16:])
	f = frame{call: binary.BigEndian.Uint64(head[4:]), method: Method(binary.BigEndian.Uint16(head[12:])), kind: frameKind(head[14])}
	switch {
	case length < headerBytes-lengthBytes || length > MaxFrame:
		return frame{}, fmt.Errorf("length %d, want %d to %d: %w", length, headerBytes-lengthBytes, MaxFrame, ErrFrame)
	case control > maxControl || control > length-(headerBytes-lengthBytes):
		return frame{}, fmt.Errorf("control part of %d bytes in a frame of %d: %w", control, length, ErrFrame)
	case f.kind > frameFailure || head[15] != 0:
		return frame{}, fmt.Errorf("kind %d, flags %d: %w", head[14], head[15], ErrFrame)
	}
	return f, nil
}

// growBytes is how much is set aside before any of it has arrived.
const growBytes = 256 << 10

func readGrowing(r io.Reader, b []byte, size int) ([]byte, error) {
	for len(b) < size {
		n := min(size-len(b), max(growBytes, len(b)))
		at := len(b)
		if cap(b) < at+n {
			grown := make([]byte, at, min(size, max(at+n, 2*cap(b))))
			copy(grown, b)
			b = grown
		}
		b = b[:at+n]
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return b, err
		}
	}
	return b, nil
}

// appendHeader writes the header of f.
func appendHeader(b []byte, f *frame) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(headerBytes-lengthBytes+len(f.control)+len(f.raw)))
	b = binary.BigEndian.AppendUint64(b, f.call)
	b = binary.BigEndian.AppendUint16(b, uint16(f.method))
	b = append(b, byte(f.kind), 0)
	return binary.BigEndian.AppendUint32(b, uint32(len(f.control)))
}

// fits says whether f may be sent.
func (f *frame) fits() error {
	if n := headerBytes - lengthBytes + len(f.control) + len(f.raw); n > MaxFrame || len(f.control) > maxControl {
		return fmt.Errorf("message of %d bytes, control part of %d: %w", n, len(f.control), ErrFrame)
	}
	return nil
}

// write sends f in one system call where the connection can.
func (f *frame) write(c net.Conn, scratch []byte) (int64, error) {
	head := append(appendHeader(scratch[:0], f), f.control...)
	if len(f.raw) == 0 {
		n, err := c.Write(head)
		return int64(n), err
	}
	parts := net.Buffers{head, f.raw}
	return parts.WriteTo(c)
}

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic("BUG: cbor options: " + err.Error())
		}
		return m
	}()
	// Unknown fields are passed over: a newer peer may send more.
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey:        cbor.DupMapKeyEnforcedAPF,
			IndefLength:      cbor.IndefLengthForbidden,
			TagsMd:           cbor.TagsForbidden,
			MaxNestedLevels:  8,
			MaxArrayElements: 1 << 17,
			MaxMapPairs:      1 << 17,
		}.DecMode()
		if err != nil {
			panic("BUG: cbor options: " + err.Error())
		}
		return m
	}()
)

// Encode is the control form of a message.
func Encode(m any) ([]byte, error) {
	b, err := encMode.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	return b, nil
}

// Decode reads a control part into m; every error is an ErrFrame.
func Decode(b []byte, m any) error {
	if err := decMode.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %T: %w", ErrFrame, m, err)
	}
	return nil
}
