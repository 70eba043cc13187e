package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Streams is the side of the port that takes streams. Its addresses are those of the nodes that pass them through.
func (l *Listener) Streams() net.Listener {
	return &layer{l: l, from: l.streams, done: make(chan struct{})}
}

// DialStream connects to the node want, for a stream; one to the node onward, which want passes it on to, unless that is nil.
func DialStream(ctx context.Context, addr string, cfg Config, want UUID, onward *UUID) (net.Conn, error) {
	c, _, err := dial(ctx, addr, ForStreams, cfg.withDefaults(), &want, onward)
	return c, err
}

// through is what the node between says once it has reached the one that a stream is for; before it nothing of the stream comes.
const through = 1

// awaitOnward waits for it. One that knows nothing of streams for others says nothing, and the dialer's patience ends.
func awaitOnward(c net.Conn) error {
	var said [1]byte
	_ = c.SetReadDeadline(time.Now().Add(GreetTimeout))
	if _, err := io.ReadFull(c, said[:]); err != nil {
		return fmt.Errorf("it does not pass the stream on: %w", err)
	}
	if said[0] != through {
		return fmt.Errorf("it answers %d to a stream that is for another node: %w", said[0], ErrFrame)
	}
	return c.SetReadDeadline(time.Time{})
}

// passOn joins a stream with the node that it is for, until one end is gone.
func (l *Listener) passOn(ctx context.Context, c net.Conn, peer Peer) {
	select {
	case l.onward <- struct{}{}:
		defer func() { <-l.onward }()
	default:
		l.stats.refused(RefusedBusy)
		return
	}
	far, err := l.dialOnward(ctx, *peer.Onward)
	if err != nil {
		l.cfg.Logger.Debug("a stream for another node is not passed on", "from", peer.Name, "to", peer.Onward.String(), "error", err)
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { far.Close() })
	defer stop()
	if _, err := c.Write([]byte{through}); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { pass(c, far) })
	pass(far, c)
	back.Wait()
}

func (l *Listener) dialOnward(ctx context.Context, to UUID) (net.Conn, error) {
	if l.cfg.Onward == nil {
		return nil, errors.New("this node passes none on")
	}
	ctx, cancel := context.WithTimeout(ctx, GreetTimeout)
	defer cancel()
	return l.cfg.Onward(ctx, to)
}

// pass hands on what comes from one end, the end of it included; where it cannot it ends both.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		to.Close()
		from.Close()
	}
}
