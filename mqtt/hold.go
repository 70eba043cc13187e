package mqtt

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
)

// crowd is the clients whose publish waits because the log has no room for records (log.ErrBusy). They are woken
// in the order in which they came; who is refused again goes to the end.
type crowd struct {
	round atomic.Uint64 // counts Retry
	mu    sync.Mutex
	list  []*client
}

// awaitRoom has the client woken by the next Retry if err says that the log had no room; round is that of the crowd
// before the append. Under mu.
func (cl *client) awaitRoom(err error, round uint64) {
	if !errors.Is(err, log.ErrBusy) {
		return
	}
	q := &cl.srv.crowd
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case cl.inCrowd:
	case q.round.Load() != round: // it has been told meanwhile
		cl.c.Wake()
	default:
		cl.inCrowd = true
		q.list = append(q.list, cl)
	}
}

// Retry says that the log takes records again that it had refused with log.ErrBusy. Publishes that were left unread for
// that reason go on at once, and not only when their connection's timer comes round. It does not block; call it from
// any goroutine. // M8
func (s *Server) Retry() {
	q := &s.crowd
	q.mu.Lock()
	q.round.Add(1)
	list := q.list
	q.list = nil
	for _, cl := range list {
		cl.inCrowd = false
	}
	q.mu.Unlock()
	for _, cl := range list {
		if c := cl.live.Load(); c != nil {
			c.Wake()
		}
	}
}
