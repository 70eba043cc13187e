package mqtt

import (
	"errors"
	"io"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// resultLists takes turns: one fills while the other is worked on.
type resultLists struct{ list, spare []result }

// result is something that happened elsewhere and waits for the client's turn.
type result struct {
	first uint64
	n     int
	err   error
	fn    func(error) error // instead of a commit; runs under mu
}

// note remembers why a publish is held, and counts refusals.
func (cl *client) note(v session.Verdict) {
	switch {
	case v.Held && v.Reason != 0:
		cl.heldReason = v.Reason
	case v.Held:
		cl.heldReason = packet.ServerUnavailable
	case v.Reason >= packet.UnspecifiedError:
		cl.srv.stats.refused.Add(1)
	}
}

// discard is the Waiter of those that wait for nothing.
type discard struct{}

func (discard) Committed(uint64, int, error) {}

func discardOr(w Waiter) Waiter {
	if w == nil {
		return discard{}
	}
	return w
}

// Committed implements Waiter. It runs on the committer: it notes the result and goes.
func (cl *client) Committed(first uint64, n int, err error) {
	cl.results.mu.Lock()
	l := cl.listsLocked()
	if k := len(l.list) - 1; k >= 0 && err == nil && l.list[k].err == nil && l.list[k].fn == nil &&
		l.list[k].first+uint64(l.list[k].n) == first && !session.IsQoS2(first) {
		l.list[k].n += n
	} else {
		l.list = append(l.list, result{first: first, n: n, err: err})
	}
	cl.wakeLocked()
}

// post runs fn under mu soon, with err. Any goroutine.
func (cl *client) post(fn func(error) error, err error) {
	cl.results.mu.Lock()
	l := cl.listsLocked()
	l.list = append(l.list, result{fn: fn, err: err})
	cl.wakeLocked()
}

func (cl *client) listsLocked() *resultLists {
	if cl.results.lists == nil {
		cl.results.lists = new(resultLists)
	}
	return cl.results.lists
}

// wakeLocked releases results.mu and arranges for the results to be handled, once.
func (cl *client) wakeLocked() {
	r := &cl.results
	wake := !r.woken
	r.woken = true
	r.mu.Unlock()
	if wake {
		cl.srv.wakeClient(cl)
	}
}

// take empties the results.
func (cl *client) take() []result {
	r := &cl.results
	r.mu.Lock()
	defer r.mu.Unlock()
	r.woken = false
	if r.lists == nil {
		return nil
	}
	list := r.lists.list
	r.lists.list, r.lists.spare = r.lists.spare[:0], nil
	return list
}

// giveBack returns a handled list's memory.
func (cl *client) giveBack(list []result) {
	clear(list)
	if cap(list) > 64 {
		return
	}
	cl.results.mu.Lock()
	if l := cl.listsLocked(); l.spare == nil {
		l.spare = list
	}
	cl.results.mu.Unlock()
}

// Wake implements conn.Handler: results, overtaking acks, held publishes.
func (cl *client) Wake(c *conn.Conn) error {
	cl.lock()
	defer cl.unlock()
	if cl.c != c || cl.s == nil {
		return io.EOF
	}
	if err := cl.handleResults(); err != nil {
		return cl.fail(err)
	}
	if cl.parking == parkNow {
		cl.takeOff(c)
		return nil
	}
	if cl.s.Waiting() {
		if err := cl.s.Tick(cl.srv.millis(), cl.srv.patience()); err != nil {
			return cl.fail(err)
		}
		c.WakeAfter(overtake)
	}
	was := cl.link & muted
	if was != 0 && cl.mutes(c, 0) {
		return nil
	}
	if (cl.heldSince != 0 || cl.atWindow || was != 0) && !cl.stopped {
		c.Resume()
	}
	return nil
}

// handleResults runs under mu, with or without a connection.
func (cl *client) handleResults() error {
	list := cl.take()
	if len(list) == 0 {
		return nil
	}
	defer cl.giveBack(list)
	now := cl.srv.millis()
	var first error
	for i := range list {
		r := &list[i]
		var err error
		switch {
		case cl.s == nil: // the session has ended: nobody waits any more
		case r.fn != nil:
			err = r.fn(r.err)
		case session.IsQoS2(r.first):
			err = cl.committedQoS2(r.first, r.err, now)
		default:
			err = cl.s.Committed(r.first, r.n, r.err == nil, now)
		}
		if r.err != nil && r.fn == nil {
			cl.srv.stats.commitErrors.Add(1)
			cl.srv.cfg.Logger.Debug("publish not committed", "client", cl.id, "err", r.err)
		}
		first = errors.Join(first, err)
	}
	return first
}
