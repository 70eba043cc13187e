package conn

import (
	"errors"
	"time"
)

// Input that a handler could not use yet is memory that peers decide about: the beginning of a large packet, or whole
// packets of a connection that is paused. Each connection is bounded by its handler, all of them together by
// Config.InputBudget:
//
//   - From half the budget on, little is read at once, so that a pause leaves little behind.
//   - Beyond the budget a connection that wants to keep more than smallInput of an unfinished packet is closed with
//     ErrInput. What is kept for a pause is never thrown away: the pause is ours, not the peer's.
//   - An unfinished packet of more than smallInput must be whole within PacketTimeout (ErrUnfinished), so that peers
//     that begin and never end do not hold the budget for good.

// Reasons for closing, beside those of conn.go.
var (
	ErrInput      = errors.New("too much unfinished input is in memory, see mqtt.memory_in_flight")
	ErrUnfinished = errors.New("a packet was begun and not finished in time")
)

// smallInput is what every connection may always keep.
const smallInput = 4 << 10

// setCarry replaces the kept input and counts its memory, unless that passes the budget and may be refused.
func (c *Conn) setCarry(b *Buffer) error {
	var more int
	if b != nil {
		more = cap(b.B)
	}
	if c.carry != nil {
		more -= cap(c.carry.B)
	}
	if more != 0 {
		all := c.loop.input.Add(int64(more))
		if more > 0 && all > c.loop.cfg.InputBudget && cap(b.B) > smallInput && !c.paused {
			c.loop.input.Add(-int64(more))
			c.loop.stats.input.Add(1)
			Put(b)
			return ErrInput
		}
	}
	if c.carry != nil {
		Put(c.carry)
	}
	c.carry = b
	return nil
}

// Reserve counts n bytes of input that the owner keeps elsewhere, until it gives them to Unreserve; false when that
// would pass the budget. Any goroutine.
func (l *Loop) Reserve(n int) bool {
	if l.input.Add(int64(n)) <= l.cfg.InputBudget {
		return true
	}
	l.input.Add(-int64(n))
	return false
}

// MustReserve is Reserve where waiting for room would never end: what the caller keeps came in with a packet, and the room may be what is left
// behind that packet for a pause. Each connection may have one such.
func (l *Loop) MustReserve(n int) { l.input.Add(int64(n)) }

// Unreserve ends a Reserve. Any goroutine.
func (l *Loop) Unreserve(n int) { l.input.Add(-int64(n)) }

// keep copies rest, which lies in memory that is reused, or in the kept input itself.
func (c *Conn) keep(rest []byte) error {
	b := Get(len(rest))
	b.B = append(b.B, rest...)
	return c.setCarry(b)
}

// timePacket starts the clock of an unfinished packet, or stops it when there is none (any more).
func (c *Conn) timePacket(progress bool) {
	if c.timed && (progress || c.carry == nil) {
		c.timed, c.deadline = false, 0
	}
	if !c.timed && c.deadline == 0 && !c.paused && c.carry != nil && len(c.carry.B) > smallInput {
		c.timed, c.deadline = true, c.loop.wheel.elapsed()+c.loop.cfg.PacketTimeout
	}
}

// pace spreads accepted connections over time. A quarter of a second's worth may come at once.
type pace struct{ due time.Time }

// delay is how long the connection that came at now must wait for its turn.
func (p *pace) delay(now time.Time, perSecond int) time.Duration {
	if burst := now.Add(-time.Second / 4); p.due.Before(burst) {
		p.due = burst
	}
	p.due = p.due.Add(time.Second / time.Duration(perSecond))
	return max(0, p.due.Sub(now))
}

// throttle returns when the next connection may be served. Those behind it wait in the kernel's backlog, which
// slows whoever connects.
func (l *Loop) throttle() {
	if l.cfg.AcceptRate <= 0 {
		return
	}
	l.pace.Lock()
	wait := l.pace.delay(time.Now(), l.cfg.AcceptRate)
	l.pace.Unlock()
	if wait > 0 {
		l.stats.delayed.Add(1)
		time.Sleep(wait)
	}
}
