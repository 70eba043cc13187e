package kafka

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// reply is the place of one answer in its connection's queue. The handler queues it, and
// somebody completes it once, now or later.
type reply struct {
	corr  int32
	ready chan struct{} // one token when complete
	out   *buffer       // the framed answer; nil = the request has none
	size  int64         // counted in conn.unsent
	held  int64         // of the budget for fetch answers, given back when sent

	// A produce that is not settled by then is answered with REQUEST_TIMED_OUT. Set by the
	// handler before it stores producing; who takes producing out owns that reference, and
	// puts it back or lets it go.
	expires   time.Time
	producing atomic.Pointer[producing]
}

var replyPool = sync.Pool{New: func() any { return &reply{ready: make(chan struct{}, 1)} }}

func newReply(corr int32) *reply {
	r := replyPool.Get().(*reply)
	r.corr = corr
	return r
}

// complete hands the answer over; out is the writer's from then on. It never blocks and
// may be called from any goroutine, also when the connection is gone.
func (r *reply) complete(out *buffer) {
	r.out = out
	r.ready <- struct{}{}
}

// encodeResponse frames a struct: size, correlation id, header tags, body.
func encodeResponse(resp kmsg.Response, corr int32) *buffer {
	out := newBuffer(minResponseBytes)
	out.b = appendResponseHeader(out.b, corr, resp.IsFlexible() && resp.Key() != keyApiVersions)
	out.b = resp.AppendTo(out.b)
	sealResponse(out.b)
	return out
}

const minResponseBytes = 4 << 10

func appendResponseHeader(b []byte, corr int32, flexible bool) []byte {
	b = append(b, 0, 0, 0, 0)
	b = appendInt32(b, corr)
	if flexible {
		b = append(b, 0)
	}
	return b
}

// sealResponse writes the size in front of a finished answer.
func sealResponse(b []byte) { binary.BigEndian.PutUint32(b, uint32(len(b)-4)) }

const (
	coalesceBytes = 32 << 10  // answers up to this size share a write
	writeChunk    = 256 << 10 // written, and given a deadline, at a time
)

// write sends replies in order until the queue is closed, then closes the connection. It
// always takes them all, so that the handler never waits for a dead peer: once the peer is
// gone, or has not read for Config.ProgressTimeout, they are dropped.
func (c *conn) write() {
	defer c.cancel()
	defer c.nc.Close()
	w := writer{c: c}
	defer w.stop()
	for {
		rep, ok := w.next()
		if !ok {
			w.flush()
			return
		}
		if rep == nil {
			continue
		}
		out, size, held := rep.out, rep.size, rep.held
		rep.out, rep.size, rep.held = nil, 0, 0
		replyPool.Put(rep)
		if out != nil {
			w.put(out)
		}
		c.s.fetching.Add(-held)
		if size > 0 {
			c.unsent.Add(-size)
			select {
			case c.room <- struct{}{}:
			default:
			}
		}
		c.pending.Add(-1)
	}
}

// writer is the state of the writer goroutine.
type writer struct {
	c      *conn
	small  *buffer // answers waiting for company; nil when none
	failed bool    // nothing more is sent
	timer  *time.Timer
}

// next is the next complete reply, or nil for one that nobody will read; false when the
// queue is closed. It flushes before it waits.
func (w *writer) next() (rep *reply, ok bool) {
	select {
	case rep, ok = <-w.c.replies:
	default:
		w.flush()
		rep, ok = <-w.c.replies
	}
	if !ok {
		return nil, false
	}
	select {
	case <-rep.ready:
		return rep, true
	default:
	}
	w.flush()
	if w.timer == nil {
		w.timer = time.NewTimer(expiryCheck)
	}
	for {
		w.timer.Reset(expiryCheck)
		select {
		case <-rep.ready:
			return rep, true
		case <-w.c.ctx.Done():
			w.failed = true
			return nil, true // left to whoever completes it
		case now := <-w.timer.C:
			rep.expire(now)
		}
	}
}

// expiryCheck is how exact a produce's timeout is. It is a net under a stalled commit, not
// a clock: clients ask for 30 s.
const expiryCheck = 250 * time.Millisecond

// expire settles of a produce what need not wait any longer. A fetch waits in its handler instead.
func (r *reply) expire(now time.Time) {
	p := r.producing.Load()
	if p == nil || !r.producing.CompareAndSwap(p, nil) {
		return
	}
	over := !now.Before(r.expires)
	p.expire(over)
	if !over {
		r.producing.Store(p)
		if p.open.Load() > 0 || !r.producing.CompareAndSwap(p, nil) {
			return
		}
		// The last part was settled meanwhile, and done found no reference to let go.
	}
	p.unref()
}

// put sends a large answer now, a small one together with others.
func (w *writer) put(out *buffer) {
	if len(out.b) > coalesceBytes || w.small != nil && len(w.small.b)+len(out.b) > coalesceBytes {
		w.flush()
	}
	switch {
	case len(out.b) > coalesceBytes:
		w.send(out)
	case w.small == nil:
		w.small = out
	default:
		w.small.grow(len(out.b))
		w.small.b = append(w.small.b, out.b...)
		out.free()
	}
}

func (w *writer) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *writer) flush() {
	if w.small != nil {
		w.send(w.small)
		w.small = nil
	}
}

func (w *writer) send(out *buffer) {
	defer out.free()
	for b := out.b; len(b) > 0 && !w.failed; {
		n := min(len(b), writeChunk)
		w.c.nc.SetWriteDeadline(time.Now().Add(w.c.s.cfg.ProgressTimeout))
		if _, err := w.c.nc.Write(b[:n]); err != nil {
			w.c.s.log.Debug("kafka: write", "peer", w.c.nc.RemoteAddr(), "err", err)
			w.failed = true
			w.c.cancel()
			w.c.nc.Close() // ends the reader
		}
		w.c.s.n.responseBytes.Add(int64(n))
		b = b[n:]
	}
}
