package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// waits has a long-lived command go on after errors that pass, and say so once for as long as they keep coming.
type waits struct {
	g    *Globals
	what string                      // that the command does
	ping func(context.Context) error // nil: it goes on also where no node answers

	mu   sync.Mutex
	been bool      // connected before
	last time.Time // when an error came
}

// waitCalm is how long none has come when the next is said again: partitions that are well are heard of in between.
const waitCalm = 15 * time.Second

// over says whether the command may go on after err, or nil. Where err is about the network, some node must answer: one that all nodes give does not pass by
// itself.
func (w *waits) over(err error) bool {
	w.mu.Lock()
	w.been = w.been || err == nil
	been := w.been
	w.mu.Unlock()
	switch {
	case err == nil:
		return true
	case !passing(err) && !(been && hungUp(err)), !isKafka(err) && !w.answered():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) > waitCalm {
		fmt.Fprintln(w.g.Err, errorLine(fmt.Errorf("%s: waiting: %w", w.what, err)))
	}
	w.last = time.Now()
	return true
}

// hungUp says whether a node has closed a new connection without a word: one that wants TLS or a login does so, and so does one that dies just then.
func hungUp(err error) bool {
	var eof *kgo.ErrFirstReadEOF
	return errors.As(err, &eof)
}

// pingTimeout is how long a node may take to show that it is there.
const pingTimeout = 10 * time.Second

// answered says whether some node is there.
func (w *waits) answered() bool {
	if w.ping == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(w.g.Ctx, pingTimeout)
	defer cancel()
	return w.ping(ctx) == nil
}

// isKafka says whether a node has answered with the error.
func isKafka(err error) bool {
	var answered *kerr.Error
	return errors.As(err, &answered)
}

// dialWatch hears of nodes that a client cannot connect to. The client itself keeps that to itself, and tries on.
type dialWatch chan error

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (d dialWatch) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		select {
		case d <- err:
		default: // one is not looked at yet
		}
	}
}

// dialPause is between two looks: a ping tries nodes that are dead as well, and is heard of.
const dialPause = time.Second

// run ends the command where no node is there any more, until ctx ends.
func (d dialWatch) run(ctx context.Context, w *waits, end context.CancelCauseFunc) {
	for {
		select {
		case err := <-d:
			if !w.over(err) {
				end(err)
				return
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(dialPause):
		case <-ctx.Done():
			return
		}
	}
}
