package mqtt

import (
	"time"

	"github.com/weir-io/weir/mqtt/conn"
)

// Quota says how much clients may publish. It is asked for every publish and does not block.
type Quota interface {
	// Publish counts bytes that a client has published, which may be 0, and says how long it is to keep still from now on. The user is empty who has not logged in.
	Publish(user, clientID string, bytes int) time.Duration
}

// lookAgain is how often a muted client's quota is looked at: another may be in force.
const lookAgain = time.Second

// mutes counts bytes that the client has published and says whether nothing more is to be read of it for now; under mu. What was taken is acknowledged as always: a
// client is slowed down by its window and its socket, and nothing of it is dropped. A session that is to move to another node is not kept from it.
func (cl *client) mutes(c *conn.Conn, bytes int) bool {
	q := cl.srv.cfg.Quota
	if q == nil {
		return false
	}
	owed := q.Publish(cl.identity.Name, cl.id, bytes)
	if owed <= 0 || cl.parking != notParking {
		cl.link &^= muted
		return false
	}
	if cl.link&muted == 0 {
		cl.link |= muted
		cl.heldSince = 0 // a publish that is held waits for the quota now, not for the log
		cl.srv.stats.throttled.Add(1)
	}
	c.Pause()
	c.WakeAfter(min(owed, lookAgain))
	return true
}
