package mqtt

import (
	"errors"
	"fmt"
	"io"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
)

// This file is what passes over a stream to the leader of shared subscriptions, on the members' node.

// Data implements conn.Handler.
func (l *shareLink) Data(c *conn.Conn, b []byte) (used int, err error) {
	if !l.answered {
		if b[0] != taken {
			return 1, errNotTaken
		}
		used = 1
		c.SetDeadline(0)
		c.SetIdle(shareIdle)
		l.begin(c)
	}
	for {
		kind, body, size, err := cutFrame(b[used:])
		if err != nil || size == 0 {
			return used, err
		}
		used += size
		if err := l.frame(kind, body); err != nil {
			return used, err
		}
	}
}

// begin has the leader told of all members.
func (l *shareLink) begin(c *conn.Conn) {
	l.answered = true
	numbers := l.srv.hub.AwayMembers(l.partition)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken, l.wait = true, 0
	if l.tell == nil {
		l.tell = map[uint64]struct{}{}
	}
	for _, n := range numbers {
		l.tell[n] = struct{}{}
	}
	c.Wake()
}

// frame takes up what the leader says.
func (l *shareLink) frame(kind byte, body []byte) error {
	switch kind {
	case frameAlive:
		return nil
	case frameOthers:
		if len(body) > 0 {
			l.srv.hub.ToldOthers(string(body[1:]), body[0] != 0)
			return nil
		}
	case framePassed:
		var p sharePassed
		if err := decodeFrame(body, &p); err != nil {
			return err
		}
		l.srv.hub.ToldPassed(p.Group, p.Cursor)
		l.srv.dropStrays(deliver.GroupKeyPrefix + p.Group)
		return nil
	case frameGive:
		number, rest, err := cutNumber(body)
		if err != nil || len(rest) == 0 || rest[0] > 2 {
			break
		}
		return l.give(number, rest[0], rest[1:])
	}
	return fmt.Errorf("%w: kind %q, %d bytes", errShareFrame, kind, len(body))
}

// give passes a message to a member here.
func (l *shareLink) give(number uint64, qos byte, record []byte) error {
	if err := l.srv.hub.LoadRecord(&l.msg, record); err != nil {
		return err
	}
	given := l.srv.hub.Give(number, qos, &l.msg)
	switch {
	case qos == 0 || given == deliver.Taken:
	case given == deliver.Had:
		l.answer(frameDone, number, placeBytes(l.msg.ID, l.msg.Offset))
	default:
		l.answer(frameFull, number, placeBytes(l.msg.ID, l.msg.Offset))
	}
	return nil
}

// Wake implements conn.Handler: it says how members are now.
func (l *shareLink) Wake(*conn.Conn) error {
	l.mu.Lock()
	if !l.taken {
		l.mu.Unlock()
		return nil
	}
	tell, gone := l.tell, l.gone
	l.tell, l.gone = nil, nil
	for i := range gone { // before what has begun since
		l.out.control(frameGone, &gone[i])
	}
	l.mu.Unlock()
	for n := range tell {
		l.srv.hub.Membership(n, func(ms *deliver.Membership) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.out.control(frameMember, toWire(ms))
		})
	}
	return nil
}

// Output implements conn.Handler.
func (l *shareLink) Output(*conn.Conn) *conn.Buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.take()
}

// Closing implements conn.Handler.
func (l *shareLink) Closing(*conn.Conn, error) {}

// Closed implements conn.Handler: the leader, or another one by then, is told of all members again.
func (l *shareLink) Closed(_ *conn.Conn, err error) {
	if err != io.EOF && !errors.Is(err, errNotTaken) && !errors.Is(err, errShareMoved) && !errors.Is(err, conn.ErrStopped) {
		l.srv.cfg.Logger.Warn("stream to the leader of shared subscriptions ended", "partition", l.partition, "why", err)
	}
	l.answered = false
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.out.take(); b != nil {
		conn.Put(b)
	}
	if !l.taken {
		l.waitLonger()
	} else if !errors.Is(err, errShareMoved) {
		l.wait = shareRetry
	}
	l.c, l.taken = nil, false
	l.pushLocked()
}

// alive keeps a stream from counting as dead.
func (l *shareLink) alive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		l.out.end(l.out.begin(frameAlive, 0))
		l.c.Wake()
	}
}
