package conn

import "time"

// What a connection needs when its stream goes on elsewhere.

// Idle is what SetIdle was told.
func (c *Conn) Idle() time.Duration { return c.idle() }

// Unsent is how many bytes of output the socket has not taken; from within a handler call only.
func (c *Conn) Unsent() int { return c.unsent() }

// Unread puts b in front of the input that was not used yet; from within a handler call, with the connection paused, only.
func (c *Conn) Unread(b []byte) {
	if len(b) == 0 {
		return
	}
	all := Get(len(b) + smallInput)
	all.B = append(all.B, b...)
	if c.carry != nil {
		all.B = append(all.B, c.carry.B...)
	}
	c.setCarry(all) //nolint:errcheck // a paused connection is never refused
}
