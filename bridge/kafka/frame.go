package kafka

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	frameChunk = 64 << 10 // read, charged and given a deadline at a time

	// Frames of every key but Produce are decoded into structs, which may be some
	// twenty times as large as their encoding (empty strings, empty arrays).
	maxStructFrame = 2 << 20
	structFactor   = 16

	maxAnonymousFrame = 64 << 10 // before authentication, where it is asked for
	maxEagerFrame     = 2 << 20  // gets its whole buffer at once while memory is plentiful
)

// request is one frame of a client, header decoded.
//
//	int32 size | int16 key | int16 version | int32 correlation | string client id | tags | body
//
// body is a view of the frame: nothing of it may be used after free.
type request struct {
	key, version int16
	corr         int32
	body         []byte
	frame        *buffer
	charge       charge
}

var requestPool = sync.Pool{New: func() any { return new(request) }}

// free gives the frame and its share of the memory quota back.
func (r *request) free() {
	r.charge.release()
	r.frame.free()
	*r = request{}
	requestPool.Put(r)
}

// abandon releases the quota but leaves the frame to whoever still has views of it.
func (r *request) abandon() {
	r.frame = nil
	r.free()
}

var errFrameSize = errors.New("frame size")

// readRequest reads the next frame. The size was seen already, nothing more.
func (c *conn) readRequest(ctx context.Context, br *bufio.Reader, size int) (*request, error) {
	r := requestPool.Get().(*request)
	r.charge.q = c.s.quota
	if err := c.readFrame(ctx, br, r, size); err != nil {
		r.free()
		return nil, err
	}
	return r, nil
}

func (c *conn) readFrame(ctx context.Context, br *bufio.Reader, r *request, size int) error {
	peek, err := br.Peek(2)
	if err != nil {
		return err
	}
	factor := structFactor
	if key := int16(binary.BigEndian.Uint16(peek)); key == keyProduce {
		factor = 1
	} else if size > maxStructFrame {
		return fmt.Errorf("%w %d of a request with key %d: limit is %d bytes", errFrameSize, size, key, maxStructFrame)
	}
	if size > maxAnonymousFrame && !c.trusted.Load() {
		return fmt.Errorf("%w %d before authentication: limit is %d bytes", errFrameSize, size, maxAnonymousFrame)
	}

	room := min(size, frameChunk)
	if size <= maxEagerFrame && r.charge.tryTake(int64(size*factor)) {
		room, factor = size, 0
	}
	r.frame = newBuffer(room)
	for len(r.frame.b) < size {
		have := len(r.frame.b)
		n := min(size-have, frameChunk)
		if factor > 0 {
			if err := r.charge.take(ctx, int64(n*factor)); err != nil {
				return err
			}
		}
		r.frame.grow(n)
		if !c.readDeadline(c.s.cfg.ProgressTimeout) {
			return errDraining
		}
		r.frame.b = r.frame.b[:have+n]
		if _, err := io.ReadFull(br, r.frame.b[have:]); err != nil {
			return err
		}
	}
	return nil
}

// parseHeader fills the header fields. Of an unknown key or version only key, version and
// correlation id are known to be right, since the rest depends on the version.
func (r *request) parseHeader() error {
	b := r.frame.b
	if len(b) < 8 {
		return fmt.Errorf("%w %d is too short for a request header", errFrameSize, len(b))
	}
	r.key = int16(binary.BigEndian.Uint16(b))
	r.version = int16(binary.BigEndian.Uint16(b[2:]))
	r.corr = int32(binary.BigEndian.Uint32(b[4:]))
	r.body = b[8:]
	return nil
}

// parseClientID goes on after parseHeader, for a version that is served. The id is a view.
func (r *request) parseClientID(flexible bool) (id []byte, err error) {
	d := decoder{b: r.body}
	id = d.bytes16()
	if flexible {
		d.tags()
	}
	if d.bad {
		return nil, errors.New("request header ends early")
	}
	r.body = d.b
	return id, nil
}

// readDeadline sets the deadline of the next read, false when the server drains: then
// stopReading may have come before, and must not be undone.
func (c *conn) readDeadline(d time.Duration) bool {
	c.nc.SetReadDeadline(time.Now().Add(d)) // fails only on a closed connection: the read says so
	select {
	case <-c.s.draining:
		return false
	default:
		return true
	}
}
