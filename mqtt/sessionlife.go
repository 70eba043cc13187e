package mqtt

import (
	"context"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/session"
)

// newSession gives the client a fresh session; under mu.
func (cl *client) newSession() {
	cl.s = session.New(cl, &cl.srv.limits, cl.epoch)
	cl.q2.forget(cl.srv)
	cl.subs, cl.cursor, cl.q2, cl.o2, cl.acked = nil, deliver.Cursor{}, nil, nil, 0
	cl.setDurable(false)
	cl.srv.absent.setLost(cl.id, nil)
	cl.srv.registry.setLive(cl, true)
}

// setDurable notes and counts whether the session outlives its connection; under mu.
func (cl *client) setDurable(durable bool) {
	if durable != cl.durable {
		cl.durable = durable
		n := int64(1)
		if !durable {
			n = -1
		}
		cl.srv.stats.durable.Add(n)
		cl.srv.homeOf(cl.id).durable.Add(n)
	}
}

// Closed implements conn.Handler: the connection is gone.
func (cl *client) Closed(c *conn.Conn, err error) {
	cl.lock()
	if cl.c != c {
		cl.unlock()
		return
	}
	cl.c, cl.ending = nil, true
	defer cl.ended()
	cl.live.Store(nil)
	cl.s.Lost()
	cl.handleResults() //nolint:errcheck // there is no connection to close
	cl.resending = false
	cl.reclaim()
	handovers := &cl.srv.homeOf(cl.id).handovers
	handovers.setLink(cl, 0)
	if cl.parking != notParking {
		cl.parking = notParking
		handovers.setMark(cl.id, 0)
		handovers.isOff(cl)
	}
	if cl.leaving {
		cl.unlock()
		cl.srv.stats.moved.Add(1)
		cl.srv.noteClosed(cl, err)
		return // forget follows
	}
	cl.stay(err)
}

// stay has the session go on without a connection, or end with it. mu is held, and released.
func (cl *client) stay(err error) {
	will, delay := cl.will, time.Duration(0)
	if will != nil {
		delay = min(time.Duration(will.Delay), time.Duration(cl.expiry)) * time.Second
		if err == errFrontStops {
			delay = max(delay, min(handoverGrace, time.Duration(cl.expiry)*time.Second))
		}
	}
	if delay == 0 {
		cl.will = nil
	}
	cl.closedAt = cl.srv.cfg.Now().UnixMilli()
	who, expiry, epoch := cl.author(), cl.expiry, cl.epoch
	cl.setDurable(cl.durable && expiry > 0)
	cl.unlock()

	cl.srv.noteClosed(cl, err)
	if will != nil && delay == 0 { // MQTT5 [MQTT-3.1.2-8] [MQTT-3.1.3-9]
		cl.srv.wills.publish(who, will)
	}
	if expiry == 0 { // MQTT5 [MQTT-3.1.2-23]
		cl.endSession()
		return
	}
	cl.detach()
	cl.save()
	if delay > 0 {
		cl.srv.registry.timers.add(delay, cl, epoch, dueWill)
	}
	if expiry != session.NoExpiry {
		cl.srv.registry.timers.add(time.Duration(expiry)*time.Second, cl, epoch, dueExpiry)
	}
}

// ended tells whoever waits to take the client over that its last connection has been dealt with.
func (cl *client) ended() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.ending = false
	if cl.gone != nil {
		close(cl.gone)
		cl.gone = nil
	}
}

// reclaim gives unacked messages of shared subscriptions back, so that another member gets them; under mu.
// MQTT5 §4.8.2
func (cl *client) reclaim() {
	for u := range cl.s.Unacked(0) {
		if x, ok := u.Extra.(*outExtra); ok && x.group != nil && u.QoS == 1 &&
			x.group.Reclaim(cl.id, partitionOf(u.Ref), log.Offset(u.Ref.Offset)) {
			cl.s.Drop(u.ID)
		}
	}
}

// detach takes the client off the hub and keeps its place.
func (cl *client) detach() {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	if !cl.onHub {
		return
	}
	cur := cl.srv.hub.Detach(cl.id)
	cl.mu.Lock()
	cl.cursor = cur
	cl.mu.Unlock()
}

// attach puts the client on the hub, unless c is not its connection any more. A client without subscriptions
// joins with its first one: most devices only publish, and the hub then need not know them. force is for that
// first one.
func (cl *client) attach(c *conn.Conn, force bool) {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	cl.mu.Lock()
	current, resending := cl.c == c, cl.resending
	durable, cur, subs := cl.durable, cl.cursor, cl.subs
	cl.mu.Unlock()
	switch {
	case !current:
	case resending:
		if force && !cl.onHub { // it subscribes before its window was sent again: known, but absent until then
			cl.onHub = true
			cl.srv.hub.Attach(cl.id, nil, durable, cur, subs)
		}
	case force && !cl.onHub, !force && (cl.onHub || len(subs) > 0):
		cl.onHub = true
		cl.srv.hub.Attach(cl.id, cl, durable, cur, subs)
	}
}

// leaveHub makes the hub forget the client; moved, because another node has its session from now on.
func (cl *client) leaveHub(moved bool) {
	cl.attaching.Lock()
	defer cl.attaching.Unlock()
	if cl.onHub {
		cl.onHub = false
		if moved {
			cl.srv.hub.Release(cl.id)
		} else {
			cl.srv.hub.Forget(cl.id)
		}
	}
}

// endSession forgets everything about the client's session, and publishes a will that still waits: the end
// of the session is its moment too. // MQTT5 [MQTT-3.1.2-8]
func (cl *client) endSession() { cl.endThen(nil) }

// endThen is endSession; done, which may be nil, hears when all that was stored of the session is gone for good.
func (cl *client) endThen(done func(error)) {
	cl.leaveHub(false)
	cl.lock()
	if cl.s == nil {
		cl.unlock()
		if done != nil {
			done(nil)
		}
		return
	}
	will, who := cl.will, cl.author()
	cl.will, cl.s, cl.subs = nil, nil, nil
	cl.q2.forget(cl.srv)
	cl.setDurable(false)
	cl.srv.absent.setLost(cl.id, nil)
	cl.unlock()
	if will != nil {
		cl.srv.wills.publish(who, will)
	}
	cl.srv.sys.remove(cl)
	cl.eraseThen(done)
	cl.srv.registry.setLive(cl, false)
}

// discard ends the client's session, and returns when nothing of it can come back.
func (cl *client) discard(ctx context.Context) error {
	gone := make(chan error, 1)
	cl.endThen(func(err error) { gone <- err })
	select {
	case err := <-gone:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forget drops a session that another node owns now. What is stored of it stays. Behind it nothing of the client is put.
func (cl *client) forget() {
	cl.leaveHub(true)
	cl.saving.Lock()
	defer cl.saving.Unlock()
	cl.lock()
	cl.will, cl.s, cl.subs = nil, nil, nil
	cl.q2.forget(cl.srv)
	cl.setDurable(false)
	cl.epoch++ // timers are stale
	cl.stored, cl.leaving, cl.dirty, cl.stale = false, false, false, false
	cl.srv.absent.setLost(cl.id, nil)
	cl.unlock()
	cl.srv.sys.remove(cl)
	cl.srv.registry.setLive(cl, false)
}
