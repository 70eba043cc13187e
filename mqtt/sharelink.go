package mqtt

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
)

// shareLink is this node's stream to the leader of the groups of one partition, as long as sessions here are members of any.
// What it tells of members is how they are when it is sent, so that nothing queues while the leader is not reached: a new
// stream begins with all of them.
type shareLink struct {
	srv       *Server
	partition int

	mu    sync.Mutex // nothing is locked under it
	c     *conn.Conn // nil while there is none
	taken bool       // the leader has
	out   frames
	tell  map[uint64]struct{} // members that have changed
	gone  []shareGone         // memberships that have ended
	busy  bool                // a goroutine dials
	again bool                // there is something new for it
	wait  time.Duration       // before it does
	kick  chan struct{}       // ends that

	answered bool // owned by the connection's turn, as what follows
	msg      deliver.Message
}

const (
	shareRetry    = 50 * time.Millisecond // and twice as long each time, up to
	shareRetryMax = time.Second
	// shareGoneMax bounds what is remembered of ended memberships while the leader is not reached.
	shareGoneMax = 4096
)

// answer sends a frame; without a stream there is nobody whom it would tell anything.
func (l *shareLink) answer(kind byte, number uint64, rest []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		l.out.number(kind, number, rest)
		l.c.Wake()
	}
}

// pushLocked has the stream say what is new, or makes one.
func (l *shareLink) pushLocked() {
	switch {
	case l.taken:
		l.c.Wake()
	case l.busy:
		l.again = true
	case l.c == nil && l.srv.cfg.Owners != nil && l.srv.running.Load():
		l.busy = l.srv.far.start(l.dial)
	}
}

// reach makes a stream if it is needed; moved, that the one there is leads to a former leader.
func (l *shareLink) reach(moved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if moved && l.c != nil {
		l.c.Close(errShareMoved)
	}
	if l.wait = 0; l.busy {
		select {
		case l.kick <- struct{}{}:
		default:
		}
	}
	if l.c == nil {
		l.pushLocked()
	}
}

// dial tries until there is a stream or none is needed.
func (l *shareLink) dial() {
	for l.pause() {
		err := l.connect()
		l.mu.Lock()
		if err == nil && (l.c != nil || !l.again) {
			l.busy = false
			l.mu.Unlock()
			return
		}
		if l.again = false; err != nil {
			l.waitLonger()
			l.srv.cfg.Logger.Debug("leader of shared subscriptions is not reached", "partition", l.partition, "err", err)
		}
		l.mu.Unlock()
	}
}

// waitLonger has the next attempt come later than the one before; l.mu must be held.
func (l *shareLink) waitLonger() { l.wait = min(max(2*l.wait, shareRetry), shareRetryMax) }

// pause waits before an attempt, not all nodes as long; false when the server stops.
func (l *shareLink) pause() bool {
	l.mu.Lock()
	wait := l.wait
	l.mu.Unlock()
	if wait == 0 {
		return l.srv.far.ctx.Err() == nil
	}
	t := time.NewTimer(wait/2 + rand.N(wait))
	defer t.Stop()
	select {
	case <-l.kick:
	case <-t.C:
	case <-l.srv.far.ctx.Done():
		return false
	}
	return true
}

// connect makes a stream; nil also where there is nobody to tell anything of, and where the groups are led here, or about to
// be.
func (l *shareLink) connect() error {
	s := l.srv
	if s.holdings.homes[l.partition].mine() || len(s.hub.AwayMembers(l.partition)) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.far.ctx, dialTime)
	defer cancel()
	nc, _, err := s.cfg.Owners.Dial(ctx, l.partition)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	nc.SetWriteDeadline(deadline) //nolint:errcheck // the write says so
	if _, err := nc.Write((&origin{Shares: &originShares{shareVersion, l.partition}}).append(nil)); err != nil {
		nc.Close()
		return err
	}
	nc.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
	err = s.loop.Join(nc, func(c *conn.Conn) conn.Handler {
		c.SetDeadline(dialTime)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.c = c
		return l
	})
	if err != nil {
		l.mu.Lock()
		l.c = nil
		l.mu.Unlock()
	}
	return err
}
