package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// lane is one call at a time to one leader.
type lane struct {
	leader int32
	n      int32
}

// load is what a call carries.
type load struct {
	lane  lane
	parts []*forwarder
	count []int // of batches, for each of parts
	call  appendCall
	raw   []byte
	buf   *[]byte // where raw came from
}

// callBuffers are what calls are put together in.
var callBuffers = sync.Pool{New: func() any { return new([]byte) }}

// free gives the memory back once the call is over.
func (l *load) free() {
	if cap(l.raw) <= 2*forwardCallBytes {
		*l.buf = l.raw
		callBuffers.Put(l.buf)
	}
	l.raw, l.buf = nil, nil
}

// run sends what waits whenever its lane is free.
func (f *forwarding) run() {
	busy, senders := map[lane]bool{}, map[lane]chan<- *load{}
	ended := make(chan lane)
	var retry *time.Timer
	for {
		loads, again := f.gather(busy)
		for _, l := range loads {
			if senders[l.lane] == nil {
				senders[l.lane] = f.sender(ended)
			}
			busy[l.lane] = true
			senders[l.lane] <- l
		}
		var later <-chan time.Time
		if again > 0 {
			if retry == nil {
				retry = time.NewTimer(again)
			} else {
				retry.Reset(again)
			}
			later = retry.C
		}
		select {
		case <-f.wake:
		case l := <-ended:
			delete(busy, l)
		case <-later:
		case <-f.ctx.Done():
			return
		}
	}
}

// sender is the goroutine of one lane. It stays, and with it the stack that it has grown.
func (f *forwarding) sender(ended chan<- lane) chan<- *load {
	loads := make(chan *load, 1)
	f.tasks.Go(func() {
		for {
			select {
			case l := <-loads:
				lane := l.lane
				f.send(l)
				select {
				case ended <- lane:
				case <-f.ctx.Done():
				}
			case <-f.ctx.Done():
				return
			}
		}
	})
	return loads
}

// gather takes what can be sent now, and says when something else can; 0 is not before it is told.
func (f *forwarding) gather(busy map[lane]bool) (loads map[lane]*load, again time.Duration) {
	f.mu.Lock()
	parts := make([]*forwarder, 0, len(f.parts))
	for _, w := range f.parts {
		parts = append(parts, w)
	}
	f.mu.Unlock()
	table, now := f.b.table.Load(), time.Now()
	loads = map[lane]*load{}
	for _, w := range parts {
		if table.image.TopicByID(w.id.Topic) == nil {
			w.gone()
			continue
		}
		to := lane{table.leader(w.id), w.id.Index % forwardLanes}
		if busy[to] {
			continue
		}
		if wait := w.into(loads, to, now); wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	return loads, again
}

// into adds what the partition has to its lane's load.
func (w *forwarder) into(loads map[lane]*load, to lane, now time.Time) (wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open != nil && len(w.queue) < forwardWindow {
		w.seal()
	}
	if len(w.queue) == 0 || w.calling {
		return 0
	}
	if now.Sub(w.queue[0].since) > forwardTimeout {
		w.giveUp(fmt.Errorf("no leader took the records within %s: %w", forwardTimeout, ErrUnavailable))
		return 0
	}
	if wait := w.pause.Sub(now); wait > 0 {
		return wait
	}
	if to.leader == meta.NoLeader {
		return forwardRetry
	}
	l := loads[to]
	if l == nil {
		l = &load{lane: to, buf: callBuffers.Get().(*[]byte)}
		l.raw = (*l.buf)[:0]
		loads[to] = l
	}
	if len(l.raw) >= forwardCallBytes {
		return time.Millisecond
	}
	n := 0
	for _, b := range w.queue[:min(len(w.queue), forwardWindow)] {
		if len(l.raw) > 0 && len(l.raw)+len(b.batch) > maxCarried {
			break
		}
		n++
		l.call.Parts = append(l.call.Parts, appendPart{toWire(w.id), len(b.batch), toWireTerms(b.terms)})
		l.raw = append(l.raw, b.batch...)
	}
	if n == 0 {
		return time.Millisecond
	}
	l.parts, l.count = append(l.parts, w), append(l.count, n)
	w.calling = true
	return 0
}

// send makes a call, and acts on its answer.
func (f *forwarding) send(l *load) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, forwardCall, errors.New("no answer in time"))
	defer cancel()
	var answer appendAnswer
	err := f.deliver(ctx, l, &answer)
	if err == nil && len(answer.Parts) != len(l.call.Parts) {
		err = fmt.Errorf("%d answers for %d batches: %w", len(answer.Parts), len(l.call.Parts), rpc.ErrFrame)
	}
	l.free()
	at := 0
	for i, w := range l.parts {
		outcomes := make([]error, l.count[i])
		for j := range outcomes {
			if outcomes[j] = err; err == nil {
				outcomes[j] = answer.Parts[at].err()
			}
			at++
		}
		w.settle(outcomes)
	}
}

func (f *forwarding) deliver(ctx context.Context, l *load, answer *appendAnswer) error {
	if l.lane.leader == f.b.id { // this broker has come to lead it
		*answer = f.b.answerAppend(ctx, &l.call, l.raw)
		return nil
	}
	reply, err := f.b.CallNode(ctx, l.lane.leader, methodAppend, &l.call, l.raw, answer)
	if err == nil {
		reply.Release()
	}
	return err
}

// settle takes the outcomes of the first batches in the queue.
func (w *forwarder) settle(outcomes []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calling = false
	var done []*forwarded
	for _, err := range outcomes {
		if err != nil {
			if final(err) {
				w.tell(done, nil)
				w.giveUp(err)
				return
			}
			w.f.retries.Add(1)
			if !errors.Is(err, errUndecided) {
				w.pause = time.Now().Add(forwardRetry)
			}
			break // what is behind it is sent again as well, in order
		}
		w.f.records.Add(int64(w.queue[0].batch.Count()))
		w.f.sent.Add(int64(len(w.queue[0].batch)))
		done = append(done, w.queue[0])
		w.queue = slices.Delete(w.queue, 0, 1)
	}
	w.tell(done, nil)
}

// final: sending it again cannot help.
func final(err error) bool {
	return errors.Is(err, log.ErrTooLarge) || errors.Is(err, log.ErrProducerFenced) || errors.Is(err, log.ErrCorrupt) || errors.Is(err, ErrTermOver)
}

// giveUp tells everybody who waits that it is not known what became of their records. What follows needs another producer id: the sequence
// is broken. w.mu is held.
func (w *forwarder) giveUp(err error) {
	if w.open != nil {
		w.seal()
	}
	all := w.queue
	w.queue, w.producer, w.next = nil, -1, 0
	w.tell(all, fmt.Errorf("append to %s/%d: %w", w.topic, w.id.Index, err))
	if errors.Is(err, ErrUnknownTopic) || errors.Is(err, ErrClosed) {
		w.f.forget(w)
		return
	}
	w.f.tasks.Go(w.renew)
}

// gone gives up because the topic was deleted. Only the metadata here can say so: whoever is asked may have started a moment ago, and know no topic yet.
func (w *forwarder) gone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calling {
		w.giveUp(ErrUnknownTopic)
	}
}

// renew gets a producer id of the partition's own.
func (w *forwarder) renew() {
	for {
		ctx, cancel := context.WithTimeoutCause(context.Background(), proposeOnce, errors.New("no answer in time"))
		id, err := w.f.b.NextProducerID(ctx)
		cancel()
		if err == nil {
			w.mu.Lock()
			w.producer = id
			w.mu.Unlock()
			w.f.b.onRoom()
			return
		}
		select {
		case <-time.After(time.Second):
		case <-w.f.ctx.Done():
			return
		}
	}
}

// tell has the completer tell the waiters of batches. w.mu is held.
func (w *forwarder) tell(batches []*forwarded, err error) {
	if len(batches) == 0 {
		return
	}
	bytes := 0
	for _, b := range batches {
		bytes += b.bytes
	}
	w.f.b.completer.call(func() {
		for _, b := range batches {
			for i := range b.waiters {
				b.waiters[i].w.Committed(b.waiters[i].seq, b.waiters[i].n, err)
			}
			b.free()
		}
	})
	w.f.release(bytes)
	if w.held -= bytes; w.crowded && w.held < forwardPartBytes/2 {
		w.crowded = false
		w.f.b.onRoom()
	}
}

func (f *forwarding) forget(w *forwarder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parts[w.id] == w {
		delete(f.parts, w.id)
	}
}

// close gives up what waits.
func (f *forwarding) close() {
	if f.b == nil {
		return
	}
	f.mu.Lock()
	f.closed = true
	parts := slices.Collect(maps.Values(f.parts)) // each is forgotten as it gives up
	f.mu.Unlock()
	f.stop()
	f.tasks.Wait()
	for _, w := range parts {
		w.mu.Lock()
		w.giveUp(ErrClosed)
		w.mu.Unlock()
	}
}
