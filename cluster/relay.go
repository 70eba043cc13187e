package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	WaitMS  int64           `cbor:"4,keyasint,omitempty"` // how long the caller waits; nothing is done for it later
}

// relayAnswer is that call's. A failure that its callee answers is the answer to the relayCall.
type relayAnswer struct {
	Control   cbor.RawMessage `cbor:"1,keyasint,omitempty"`
	Unreached string          `cbor:"2,keyasint,omitempty"` // why nobody answered; whether the callee acted is not known then
}

// relayed are the calls that a third node passes on: those that may come twice, and late. An append is stored once (P1), in a term that is not over (M4); a second
// marker ends nothing, and one that is late is refused (endTransaction); what is asked changes nothing; those of other rooms are for them to say.
func relayed(m rpc.Method) bool {
	return m == methodAppend || m == methodRead || m == methodEnds || m == methodEndTransaction || m >= MethodsOfRooms
}

const (
	// silence is after how long without an answer the line itself is tried. A leader may take forwardAnswer over what it cannot commit.
	silence = forwardAnswer + 500*time.Millisecond
	// lookTimeout is when a line counts as down that brings no answer to a question which costs nothing.
	lookTimeout = 1500 * time.Millisecond
)

var errSilent = errors.New("it answers nothing any more")

// reach makes a call that may come twice: directly, or through a third node once the line is found to be down and the third to reach that node. Its error says so,
// and the caller tries again, with who leads by then.
func (b *Broker) reach(ctx context.Context, k *meta.Broker, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	if third := b.detour(k); third != nil {
		return b.callThrough(ctx, third, k, m, request, raw, answer)
	}
	if b.third(k, time.Now()) == nil { // there is no other way, however long this one takes
		return b.net.call(ctx, k.UUID, m, request, raw, answer)
	}
	return b.callWatched(ctx, k, m, request, raw, answer)
}

// detour is the broker through which k is reached, nil where that is not needed, or none is known. It has the line tried again when it is time.
func (b *Broker) detour(k *meta.Broker) *meta.Broker {
	through, look := b.detours.needed(k.UUID, time.Now())
	if look {
		go b.look(k) // ends with its time limit
	}
	if through == (meta.UUID{}) {
		return nil
	}
	return b.Image().BrokerByUUID(through)
}

// Reaches says whether another broker is reached directly, as far as is known here.
func (b *Broker) Reaches(broker int32) bool {
	k := b.Image().Broker(broker)
	return k != nil && b.detour(k) == nil
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
	}
	b.seek(k)
}

// seek has somebody look for a third that reaches k, unless one is known.
func (b *Broker) seek(k *meta.Broker) {
	if b.detours.seek(k.UUID) {
		go b.tryThrough(k) // ends with its time limits
	}
}

// tryThrough finds a third that reaches k. A node that is dead nobody reaches, and then nothing waits for a third to find that out.
func (b *Broker) tryThrough(k *meta.Broker) {
	var found meta.UUID
	defer func() { b.detours.found(k.UUID, found) }()
	for third := b.third(k, time.Now()); third != nil && b.detours.gone(k.UUID); third = b.third(k, time.Now()) {
		ctx, end := b.briefly(lookTimeout)
		reply, err := b.callThrough(ctx, third, k, methodEnds, endsCall{}, nil, nil) // asks for nothing
		end()
		if errors.Is(err, rpc.ErrUnreachable) || errors.Is(err, rpc.ErrFrame) {
			b.detours.fell(k.UUID, third.UUID, time.Now()) // it is passed over now
			continue
		}
		reply.Release() // nothing, after an error
		found = third.UUID
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

// third is a broker that may reach k, nil if there is none. One that is not reached itself is tried again when it is time: nobody else may call it.
func (b *Broker) third(k *meta.Broker, now time.Time) (third *meta.Broker) {
	for _, other := range b.Image().Brokers() {
		if other.ID == b.id || other.ID == k.ID || other.Fenced || other.Stopping {
			continue
		}
		b.detour(other)
		if third == nil && b.detours.may(k.UUID, other.UUID, now) {
			third = other
		}
	}
	return third
}

func (b *Broker) callThrough(ctx context.Context, third, k *meta.Broker, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error) {
	control, err := rpc.Encode(request)
	if err != nil {
		return rpc.Reply{}, err
	}
	call := relayCall{To: k.UUID[:], Method: m, Control: control}
	if until, ok := ctx.Deadline(); ok {
		call.WaitMS = max(time.Until(until).Milliseconds(), 1)
	}
	var got relayAnswer
	reply, err := b.callWatched(ctx, third, methodRelay, call, raw, &got)
	switch {
	case err == nil && got.Unreached != "":
		reply.Release()
		err = fmt.Errorf("%w: %s", rpc.ErrUnreachable, got.Unreached)
		fallthrough
	case errors.Is(err, rpc.ErrUnreachable), errors.Is(err, rpc.ErrFrame): // or it is of a version that passes nothing on
		if ctx.Err() == nil {
			b.detours.fell(k.UUID, third.UUID, time.Now())
			b.seek(k)
		}
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

// dialThrough opens a stream to a node, through a third where it is not reached.
func (b *Broker) dialThrough(ctx context.Context, k *meta.Broker) (net.Conn, error) {
	if third := b.detour(k); third != nil {
		to := rpc.UUID(k.UUID)
		c, err := b.dial(ctx, third, &to)
		if err != nil {
			b.detours.fell(k.UUID, third.UUID, time.Now())
			b.seek(k)
			return nil, fmt.Errorf("broker %d, through broker %d: %w", k.ID, third.ID, err)
		}
		return c, nil
	}
	c, err := b.dial(ctx, k, nil)
	if err != nil {
		b.suspect(k)
		return nil, fmt.Errorf("broker %d: %w", k.ID, err)
	}
	return c, nil
}
