package conn

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"
)

// Handler is what the owner hangs on a connection. Calls for one Conn never overlap; they come from any
// worker and must not block. A returned error closes the connection after one attempt to send what Output
// still has.
type Handler interface {
	// Data gets all input that was not used yet and says how many bytes it used. The view ends with the call.
	Data(c *Conn, b []byte) (used int, err error)
	// Wake follows Conn.Wake, a due WakeAfter, and any deadline check.
	Wake(c *Conn) error
	// Output hands over the bytes to send, or nil. The connection owns the buffer from then on.
	Output(c *Conn) *Buffer
	// Closing comes before a last attempt to send what Output then has, unless the peer closed first. err is
	// why the connection ends.
	Closing(c *Conn, err error)
	// Closed is the last call, exactly one per connection. err is why: io.EOF when the peer closed.
	Closed(c *Conn, err error)
}

// Reasons for closing that a handler may want to tell apart.
var (
	ErrIdle     = errors.New("peer was silent for too long")
	ErrDeadline = errors.New("deadline passed")
	ErrSlow     = errors.New("peer does not read")
	ErrStopped  = errors.New("server is stopping")
)

var errAgain = errors.New("would block")

// What happened to a connection since it last ran.
const (
	bitQueued uint32 = 1 << iota
	bitReadable
	bitWritable
	bitWake
	bitTimer
	bitResume
	bitClose
	bitHangup // the peer has closed its side: an end follows what can still be read
)

// Conn is one connection. Methods marked "any goroutine" are safe at all times; the others belong to the
// handler calls.
type Conn struct {
	loop  *Loop
	h     Handler
	next  *Conn // run queue
	state atomic.Uint32

	fd     int32   // -1 when stream is set
	stream *stream // TLS, WebSocket, other systems

	readable, hangup, paused, blocked, closed bool
	timed                                     bool // deadline is that of an unfinished packet
	inner                                     bool // not counted: it serves another connection

	carry *Buffer // input of a packet that is not whole yet
	out   *Buffer // output being written
	sent  int32   // bytes of out already written

	idleMillis   uint32        // 0: no limit
	lastRead     time.Duration // since the wheel's start, like the following
	blockedSince time.Duration
	deadline     time.Duration // 0: none
	wakeAt       time.Duration // 0: none

	closeErr atomic.Pointer[error]

	// Owned by the wheel's lock.
	wheelNext, wheelPrev *Conn
	wheelAt              int64
}

// Wake makes a worker call the handler's Wake soon. Calls before that coalesce. Any goroutine.
func (c *Conn) Wake() { c.set(bitWake) }

// Close ends the connection; err goes to Handler.Closed. The first reason stands. Any goroutine.
func (c *Conn) Close(err error) {
	c.closeErr.CompareAndSwap(nil, &err)
	c.set(bitClose)
}

// Pause stops reading. Input that Data did not use is kept and offered again after Resume.
func (c *Conn) Pause() { c.paused = true }

// Resume lets reading go on. Any goroutine.
func (c *Conn) Resume() { c.set(bitResume) }

// SetHandler replaces the handler; from within a handler call only.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// SetIdle closes the connection with ErrIdle when nothing was read for d; 0 lifts the limit.
func (c *Conn) SetIdle(d time.Duration) {
	c.idleMillis = uint32(min(d.Milliseconds(), math.MaxUint32))
	c.lastRead = c.loop.wheel.elapsed()
}

// SetDeadline closes the connection with ErrDeadline in d, whatever is read meanwhile; 0 lifts it.
func (c *Conn) SetDeadline(d time.Duration) {
	c.timed = false
	if c.deadline = 0; d > 0 {
		c.deadline = c.loop.wheel.elapsed() + d
	}
}

// WakeAfter makes a worker call the handler's Wake in about d; an earlier wake-up that is arranged stands.
func (c *Conn) WakeAfter(d time.Duration) {
	if at := c.loop.wheel.elapsed() + d; c.wakeAt == 0 || at < c.wakeAt {
		c.wakeAt = at
	}
}

// Loop returns the loop that runs c.
func (c *Conn) Loop() *Loop { return c.loop }

// TLS returns the state of a TLS connection, nil for others.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.stream == nil {
		return nil
	}
	return c.stream.tlsState()
}

// RemoteAddr returns the peer's address as text, "" when it cannot be told.
func (c *Conn) RemoteAddr() string {
	if c.stream != nil {
		return addrString(c.stream.nc)
	}
	return fdRemoteAddr(int(c.fd))
}

func addrString(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// set records events and queues the connection unless it is queued already.
func (c *Conn) set(bits uint32) {
	if c.state.Or(bits|bitQueued)&bitQueued == 0 {
		c.loop.queue.push(c)
	}
}

// run is one turn of the actor.
func (c *Conn) run(w *worker) {
	events := c.state.Swap(bitQueued)
	if !c.closed {
		if err := c.turn(w, events); err != nil {
			c.finish(err)
		}
	}
	// New events since the swap, or input left for the sake of fairness: to the back of the queue.
	if !c.state.CompareAndSwap(bitQueued, 0) {
		c.loop.queue.push(c)
	}
}

func (c *Conn) turn(w *worker, events uint32) error {
	if events&bitClose != 0 {
		return *c.closeErr.Load()
	}
	if events&bitReadable != 0 {
		c.readable = true
	}
	if events&bitHangup != 0 {
		c.hangup = true
	}
	if events&bitWritable != 0 {
		c.blocked = false
		c.lastRead = c.loop.wheel.elapsed()
	}
	wake := events&bitWake != 0
	if events&bitTimer != 0 {
		due, err := c.checkTimers()
		if err != nil {
			return err
		}
		wake = wake || due
	}
	if wake {
		if err := c.h.Wake(c); err != nil {
			return err
		}
	}
	if events&bitResume != 0 {
		c.paused = false
		c.lastRead = c.loop.wheel.elapsed()
		if c.carry != nil {
			if err := c.offer(w, nil); err != nil {
				return err
			}
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.readable && !c.paused && c.unsent() <= c.loop.cfg.OutputHighWater {
		if err := c.read(w); err != nil {
			return err
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.armTimers()
	return nil
}

// checkTimers looks at every deadline; due tells that a WakeAfter has come.
func (c *Conn) checkTimers() (due bool, err error) {
	now := c.loop.wheel.elapsed()
	switch {
	case c.deadline != 0 && now >= c.deadline && c.timed:
		c.loop.stats.input.Add(1)
		return false, ErrUnfinished
	case c.deadline != 0 && now >= c.deadline:
		return false, ErrDeadline
	case c.listening() && now >= c.lastRead+c.idle():
		return false, ErrIdle
	case c.blocked && now >= c.blockedSince+c.loop.cfg.WriteTimeout:
		c.loop.stats.slow.Add(1)
		return false, ErrSlow
	}
	if c.wakeAt != 0 && now >= c.wakeAt {
		c.wakeAt = 0
		return true, nil
	}
	return false, nil
}

// listening tells whether silence can be held against the peer: not while it is us who do not read.
func (c *Conn) listening() bool { return c.idleMillis != 0 && !c.paused && !c.blocked }

func (c *Conn) idle() time.Duration { return time.Duration(c.idleMillis) * time.Millisecond }

func (c *Conn) armTimers() {
	var at time.Duration
	sooner := func(t time.Duration) {
		if at == 0 || t < at {
			at = t
		}
	}
	if c.deadline != 0 {
		sooner(c.deadline)
	}
	if c.listening() {
		sooner(c.lastRead + c.idle())
	}
	if c.blocked {
		sooner(c.blockedSince + c.loop.cfg.WriteTimeout)
	}
	if c.wakeAt != 0 {
		sooner(c.wakeAt)
	}
	if at != 0 {
		c.loop.wheel.arm(c, at)
	}
}

// read takes one buffer full from the socket. One, because others wait; what is left brings the connection
// back through the queue.
func (c *Conn) read(w *worker) error {
	buf := w.buf
	switch {
	case c.carry == nil:
	case len(c.carry.B) <= len(buf)/2:
		buf = buf[copy(buf, c.carry.B):]
	default:
		if err := c.growCarry(len(w.buf)); err != nil {
			return err
		}
		buf = c.carry.B[len(c.carry.B):cap(c.carry.B)]
	}
	if len(buf) > smallInput && c.loop.input.Load() > c.loop.cfg.InputBudget/2 {
		buf = buf[:smallInput]
	}
	n, err := c.sockRead(buf)
	if err == errAgain {
		c.readable = false
		return nil
	}
	if err != nil {
		return err
	}
	c.loop.stats.in.Add(int64(n))
	c.lastRead = c.loop.wheel.elapsed()
	if n < len(buf) && c.stream == nil && !c.hangup {
		// A short read drained the socket, and the next edge says when there is more. Not so behind a hangup:
		// its edge may have been the one that brought these bytes.
		c.readable = false
	} else {
		c.state.Or(bitReadable)
	}
	return c.offer(w, buf[:n])
}

// offer shows the handler the kept input followed by fresh, which lies where read put it, and keeps what the
// handler does not use.
func (c *Conn) offer(w *worker, fresh []byte) error {
	var data []byte
	inCarry := false
	switch {
	case c.carry == nil:
		data = fresh
	case len(fresh) == 0 || len(c.carry.B) > len(w.buf)/2:
		c.carry.B = c.carry.B[:len(c.carry.B)+len(fresh)]
		data, inCarry = c.carry.B, true
	default:
		data = w.buf[:len(c.carry.B)+len(fresh)]
	}
	used, err := c.h.Data(c, data)
	if err != nil {
		return err
	}
	rest := data[used:]
	switch {
	case len(rest) == 0:
		c.dropCarry()
	case !inCarry || cap(c.carry.B) > 4*max(len(rest), smallInput): // a large packet's room is not kept for little
		err = c.keep(rest)
	default:
		c.carry.B = c.carry.B[:copy(c.carry.B, rest)]
	}
	c.timePacket(used > 0)
	return err
}

// growCarry makes room for at least n more bytes. It doubles, so that a large packet is bought with data that
// came and not with a length that was announced.
func (c *Conn) growCarry(n int) error {
	have := len(c.carry.B)
	if cap(c.carry.B)-have >= n {
		return nil
	}
	bigger := Get(max(have+n, 2*have))
	bigger.B = append(bigger.B, c.carry.B...)
	return c.setCarry(bigger)
}

func (c *Conn) dropCarry() {
	if c.carry != nil {
		c.setCarry(nil) //nolint:errcheck // giving back is never refused
	}
}

func (c *Conn) unsent() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.B) - int(c.sent)
}

// flush writes until there is nothing more or the socket is full.
func (c *Conn) flush() error {
	for !c.blocked {
		if c.out == nil {
			if c.out = c.h.Output(c); c.out == nil {
				return nil
			}
			c.sent = 0
		}
		n, err := c.sockWrite(c.out.B[c.sent:])
		c.sent += int32(n)
		c.loop.stats.out.Add(int64(n))
		if err == errAgain {
			c.blocked = true
			c.blockedSince = c.loop.wheel.elapsed()
			return nil
		}
		if err != nil {
			return err
		}
		if int(c.sent) == len(c.out.B) {
			Put(c.out)
			c.out = nil
		}
	}
	return nil
}

// finish closes the socket after a last attempt to send, and tells the handler.
func (c *Conn) finish(err error) {
	if err != io.EOF {
		c.h.Closing(c, err)
		c.flush() //nolint:errcheck // the connection ends anyway
	}
	c.closed = true
	c.loop.wheel.disarm(c)
	c.sockClose()
	c.dropCarry()
	if c.out != nil {
		Put(c.out)
		c.out = nil
	}
	c.h.Closed(c, err)
	c.loop.remove(c)
}
