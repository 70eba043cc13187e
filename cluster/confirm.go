package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A lease bounds for how long a leader that was replaced in good order reads as one (R2): it may not have heard yet. That is good enough for records, which are
// committed wherever they are read. It is not for the word that an offset lies behind the end: a consumer who has read on at the new leader would begin anew, or
// skip (R4). Before such a word the quorum is asked.

// confirming has all who ask meanwhile share one question.
type confirming struct {
	turn ioLock    // of who asks; not held by who waits
	last time.Time // when the last question was put; under turn

	mu   sync.Mutex
	next *confirmation // not put yet
}

type confirmation struct {
	done chan struct{}
	err  error
}

// confirmEvery bounds what a flood of questions costs the quorum.
const confirmEvery = 50 * time.Millisecond

// Confirm returns once the metadata in force here has everything that the quorum had committed when it was called: who leads here then led when it was
// called. ErrUnavailable where the quorum does not answer in time.
func (b *Broker) Confirm(ctx context.Context) error {
	c := &b.confirming
	c.mu.Lock()
	r, begin := c.next, c.next == nil
	if begin {
		r = &confirmation{done: make(chan struct{})}
		c.next = r
	}
	c.mu.Unlock()
	if begin {
		go b.confirm(r) // ends with its time limit
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	case <-b.closing:
		return ErrClosed
	}
}

func (b *Broker) confirm(r *confirmation) {
	defer close(r.done)
	c := &b.confirming
	c.turn.Lock()
	defer c.turn.Unlock()
	if wait := confirmEvery - time.Since(c.last); wait > 0 {
		select {
		case <-time.After(wait):
		case <-b.closing:
		}
	}
	c.last = time.Now()
	c.mu.Lock()
	c.next = nil // who comes now needs a later answer
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), proposeOnce, errors.New("the quorum does not answer"))
	defer cancel()
	go func() {
		select {
		case <-b.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	im, err := b.quorum.current(ctx)
	if err == nil {
		err = b.awaitTable(ctx, func(t *partitionTable) bool { return t.image.Version >= im.Version })
	}
	r.err = err
}
