package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

const (
	// relayTimeout bounds the second leg; it is shorter than a caller's patience (forwardCall), so that it hears why.
	relayTimeout = 4 * time.Second
	// relayAtOnce bounds the calls that a node has passed on to one other and that are not answered; who asks for more waits.
	relayAtOnce = 16
)

// relays are the calls that this broker passes on, by node.
type relays struct {
	mu    sync.Mutex
	slots map[meta.UUID]chan struct{}

	calls atomic.Int64
}

func (r *relays) of(id meta.UUID) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slots == nil {
		r.slots = map[meta.UUID]chan struct{}{}
	}
	if r.slots[id] == nil {
		r.slots[id] = make(chan struct{}, relayAtOnce)
	}
	return r.slots[id]
}

// answerRelay is the third node's part.
func (b *Broker) answerRelay(ctx context.Context, c *relayCall, raw []byte) (rpc.Answer, error) {
	var to meta.UUID
	if len(c.To) != len(to) || !relayed(c.Method) {
		return rpc.Answer{}, fmt.Errorf("method %d to % x is not passed on: %w", c.Method, c.To, rpc.ErrFrame)
	}
	copy(to[:], c.To)
	k := b.Image().BrokerByUUID(to)
	switch {
	case k == nil || k.ID == b.id:
		return rpc.Answer{}, fmt.Errorf("node %s: %w", to, meta.ErrNotFound)
	case b.detours.gone(to):
		b.detour(k) // has it tried again when it is time
		return rpc.Answer{Control: relayAnswer{Unreached: fmt.Sprintf("broker %d does not reach it either", b.id)}}, nil
	}
	wait := relayTimeout
	if c.WaitMS > 0 && c.WaitMS < wait.Milliseconds() {
		wait = time.Duration(c.WaitMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errors.New("no answer in time"))
	defer cancel()
	slots := b.relays.of(to)
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return rpc.Answer{Control: relayAnswer{Unreached: fmt.Sprintf("%d calls to it are not answered", relayAtOnce)}}, nil
	}
	var got cbor.RawMessage
	reply, err := b.callWatched(ctx, k, c.Method, c.Control, raw, &got) // never through another: two that seek a way would send each other round
	switch {
	case errors.Is(err, rpc.ErrUnreachable):
		return rpc.Answer{Control: relayAnswer{Unreached: err.Error()}}, nil
	case err != nil:
		return rpc.Answer{}, err
	}
	b.relays.calls.Add(1)
	return rpc.Answer{Control: relayAnswer{Control: got}, Raw: reply.Raw, Done: reply.Release}, nil
}
