package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// Two nodes may reach a third and not each other. The controller may well hear both, so that neither loses what it leads; and yet what one forwards to the
// other, or has to know of it before it can answer a client, would wait for as long as the line between them is down. Such calls then go through a third node,
// which passes them on as they are, to the node that is meant and no further. Replicas are not fed in this way: what they lack they have from a leader that they
// reach, and until then fewer are in sync.

// relayCall has the callee make a call for the caller, with the same raw part.
type relayCall struct {
	To      []byte          `cbor:"1,keyasint"` // node
	Method  rpc.Method      `cbor:"2,keyasint"`
	Control cbor.RawMessage `cbor:"3,keyasint"`
}

// relayAnswer is that call's. A failure that its callee answers is the answer to the relayCall.
type relayAnswer struct {
	Control   cbor.RawMessage `cbor:"1,keyasint,omitempty"`
	Unreached string          `cbor:"2,keyasint,omitempty"` // why nobody answered; whether the callee acted is not known then
}

// relayed are the calls that a third node passes on: those that may come twice, and late. An append is stored once (P1), in a term that is not over (M4); what is
// asked changes nothing; those of other rooms are for them to say.
func relayed(m rpc.Method) bool {
	return m == methodAppend || m == methodRead || m == methodEnds || m >= MethodsOfRooms
}

const (
	// relayTimeout bounds the second leg; it is shorter than a caller's patience (forwardCall), so that it hears why.
	relayTimeout = 4 * time.Second
	// relayAtOnce bounds the calls that a node has passed on to one other and that are not answered; who asks for more waits.
	relayAtOnce = 16
	// silence is after how long without an answer the line itself is tried. A leader may take forwardAnswer over what it cannot commit.
	silence = forwardAnswer + 500*time.Millisecond
	// lookTimeout is when a line counts as down that brings no answer to a question which costs nothing.
	lookTimeout = 1500 * time.Millisecond
)

var errSilent = errors.New("it answers nothing any more")

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

// reach makes a call that may come twice: directly, or through a third node once the line is found to be down. Its error says so, and the caller tries again.
func (b *Broker) reach(ctx context.Context, k *meta.Broker, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	now := time.Now()
	away, look := b.detours.needed(k.UUID, now)
	if look {
		go b.look(k) // ends with its time limit
	}
	switch third := b.third(k, now); {
	case third == nil: // there is no other way, however long this one takes
		return b.net.call(ctx, k.UUID, m, request, raw, answer)
	case away:
		return b.callThrough(ctx, third, k, m, request, raw, answer)
	}
	return b.callWatched(ctx, k, m, request, raw, answer)
}

// callWatched is a direct call that ends once the line is found to be down.
func (b *Broker) callWatched(ctx context.Context, k *meta.Broker, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	calling, end := context.WithCancelCause(ctx)
	defer end(nil)
	watch := time.AfterFunc(silence, func() {
		if b.awaitLook(calling, k) {
			end(errSilent)
		}
	})
	defer watch.Stop()
	reply, err := b.net.call(calling, k.UUID, m, request, raw, answer)
	if !errors.Is(err, rpc.ErrUnreachable) {
		return reply, err
	}
	// One connection that is lost, or somebody who had no more time, is no line that is down. Who gave up of his own accord says nothing of it.
	if !errors.Is(ctx.Err(), context.Canceled) {
		b.suspect(k)
	}
	return reply, err
}

// awaitLook has the line looked at, and says whether it is down.
func (b *Broker) awaitLook(ctx context.Context, k *meta.Broker) (down bool) {
	if b.detours.look(k.UUID) {
		b.look(k)
	} else { // somebody does already
		select {
		case <-time.After(lookTimeout):
		case <-ctx.Done():
		}
	}
	return b.detours.gone(k.UUID)
}

// suspect has a line looked at over which something did not come through.
func (b *Broker) suspect(k *meta.Broker) {
	if b.detours.look(k.UUID) {
		go b.look(k) // ends with its time limit
	}
}

// away begins a detour.
func (b *Broker) away(k *meta.Broker, err error) {
	select {
	case <-b.closing: // it is this broker that does not want to know any more
		return
	default:
	}
	if b.detours.begin(k.UUID, time.Now()) {
		b.detours.keep(b.Image())
		b.cfg.Logger.Info("a broker is not reached directly", "broker", k.ID, "error", err)
		go b.tryThrough(k) // ends with its time limits
	}
}

// tryThrough finds out whether a node that is not reached lives on for others: then what is bound to the line should not wait for it.
func (b *Broker) tryThrough(k *meta.Broker) {
	for range len(b.Image().Brokers()) {
		now := time.Now()
		third := b.third(k, now)
		if third == nil || !b.detours.gone(k.UUID) {
			return
		}
		ctx, end := b.briefly(relayTimeout)
		reply, err := b.callThrough(ctx, third, k, methodEnds, endsCall{}, nil, nil)
		end()
		if errors.Is(err, rpc.ErrUnreachable) || errors.Is(err, rpc.ErrFrame) {
			continue // with the next
		}
		reply.Release()
		b.cfg.Logger.Warn("a broker is reached through another only", "broker", k.ID, "through", third.ID)
		if fn := b.partedFn.Load(); fn != nil {
			(*fn)(k.ID)
		}
		return
	}
}

// briefly is a context for a question of the broker's own.
func (b *Broker) briefly(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, errSilent)
	go func() {
		select {
		case <-b.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// OnParted has fn called when a broker is found that is not reached directly and that another reaches: streams to it bring nothing any more, and new ones go
// through the other. The last one given counts; it must not block.
func (b *Broker) OnParted(fn func(broker int32)) { b.partedFn.Store(&fn) }

// look finds out whether a node answers. The caller has been told to look.
func (b *Broker) look(k *meta.Broker) {
	defer b.detours.looked(k.UUID)
	ctx, end := b.briefly(lookTimeout)
	defer end()
	reply, err := b.net.call(ctx, k.UUID, methodEnds, endsCall{}, nil, nil) // asks for nothing
	if errors.Is(err, rpc.ErrUnreachable) {
		b.away(k, err)
		return
	}
	reply.Release() // nothing, after an error
	if b.detours.end(k.UUID, time.Now()) {
		b.cfg.Logger.Info("a broker is reached again", "broker", k.ID)
	}
}

// third is a broker that may reach k, nil if there is none.
func (b *Broker) third(k *meta.Broker, now time.Time) *meta.Broker {
	for _, other := range b.Image().Brokers() {
		if other.ID != b.id && other.ID != k.ID && !other.Fenced && !other.Stopping && b.detours.may(k.UUID, other.UUID, now) {
			return other
		}
	}
	return nil
}

func (b *Broker) callThrough(ctx context.Context, third, k *meta.Broker, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	control, err := rpc.Encode(request)
	if err != nil {
		return rpc.Reply{}, err
	}
	var got relayAnswer
	reply, err := b.callWatched(ctx, third, methodRelay, relayCall{k.UUID[:], m, control}, raw, &got)
	switch {
	case err == nil && got.Unreached != "":
		reply.Release()
		err = fmt.Errorf("%w: %s", rpc.ErrUnreachable, got.Unreached)
		fallthrough
	case errors.Is(err, rpc.ErrUnreachable), errors.Is(err, rpc.ErrFrame): // or it is of a version that passes nothing on
		b.detours.fell(k.UUID, third.UUID, time.Now())
	case err == nil && answer != nil:
		if err = rpc.Decode(got.Control, answer); err != nil {
			reply.Release()
		}
	}
	if err != nil {
		return rpc.Reply{}, fmt.Errorf("broker %d, through broker %d: %w", k.ID, third.ID, err)
	}
	b.detours.calls.Add(1)
	return reply, nil
}

// answerRelay is the third node's part.
func (b *Broker) answerRelay(ctx context.Context, c *relayCall, raw []byte) (rpc.Answer, error) {
	var to meta.UUID
	if len(c.To) != len(to) || !relayed(c.Method) {
		return rpc.Answer{}, fmt.Errorf("method %d to % x is not passed on: %w", c.Method, c.To, rpc.ErrFrame)
	}
	copy(to[:], c.To)
	if k := b.Image().BrokerByUUID(to); k == nil || k.ID == b.id {
		return rpc.Answer{}, fmt.Errorf("node %s: %w", to, meta.ErrNotFound)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, relayTimeout, errors.New("no answer in time"))
	defer cancel()
	slots := b.relays.of(to)
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return rpc.Answer{Control: relayAnswer{Unreached: fmt.Sprintf("%d calls to it are not answered", relayAtOnce)}}, nil
	}
	var got cbor.RawMessage
	reply, err := b.net.call(ctx, to, c.Method, c.Control, raw, &got) // never through another: two that seek a way would send each other round
	switch {
	case errors.Is(err, rpc.ErrUnreachable):
		return rpc.Answer{Control: relayAnswer{Unreached: err.Error()}}, nil
	case err != nil:
		return rpc.Answer{}, err
	}
	b.relays.calls.Add(1)
	return rpc.Answer{Control: relayAnswer{Control: got}, Raw: reply.Raw, Done: reply.Release}, nil
}

// dialThrough opens a stream to a node, through a third where it is not reached.
func (b *Broker) dialThrough(ctx context.Context, k *meta.Broker) (net.Conn, error) {
	now := time.Now()
	away, look := b.detours.needed(k.UUID, now)
	if look {
		go b.look(k) // ends with its time limit
	}
	if away {
		if third := b.third(k, now); third != nil {
			to := rpc.UUID(k.UUID)
			c, err := b.dial(ctx, third, &to)
			if err != nil {
				b.detours.fell(k.UUID, third.UUID, time.Now())
				return nil, fmt.Errorf("broker %d, through broker %d: %w", k.ID, third.ID, err)
			}
			return c, nil
		}
	}
	c, err := b.dial(ctx, k, nil)
	if err != nil {
		b.suspect(k)
		return nil, fmt.Errorf("broker %d: %w", k.ID, err)
	}
	return c, nil
}
