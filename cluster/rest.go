package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// A partition that gets another leader in good order (a drain, a move, a preferred leader that is back, a node that stops) is led by one that is there and can be asked. What it
// has appended and not committed when its term ends is nobody's to answer for (A1): who waits would have to be told that it is not known what becomes of his
// records, and an MQTT client's connection would end over it. So the controller has such leaders rest first: they refuse appends, as if another led already, and
// say so once all that they have appended is committed. Whoever appends tries again, here until the term ends and then at the next leader.
//
//	controller                     leader                            next leader
//	  a command that moves leaders
//	  ── methodRest ──────────────► refuses appends, for restFor
//	                                commits what it has
//	  ◄──────────────────────────── nobody waits any more
//	  proposes the command ───────► term ends, with nobody waiting   leads
//
// Nothing rests on it: a leader that does not answer in time, or of an earlier build, is replaced all the same, and one that rests in vain takes appends again
// by itself. Partitions of internal topics take appends to the end: who keeps his state in them looks at the term. Where a room serves clients by what it keeps
// in a topic it is told first (OnRest), and writes what its successor is to find.

const (
	// restFor is how long a leader that rests takes nothing at the most: the command has to be asked for, decided and applied within.
	restFor = time.Second
	// restWait is how long a leader waits for what it has to commit, and for rooms before that.
	restWait = 300 * time.Millisecond
	// restAnswer is how long a command waits for leaders.
	restAnswer = 2*restWait + 100*time.Millisecond
)

// resters are the rooms that are told before one of their topics' leaders is replaced.
type resters struct {
	mu sync.Mutex
	by map[log.TopicID]func(ctx context.Context, partition int32)
}

// OnRest has fn called when this broker is about to lose the lead of partitions of a topic to another in good order, before that is decided. The decision waits
// until fn has returned, and ctx bounds how long it does. It may not come to pass. Calls for several partitions overlap.
func (b *Broker) OnRest(topic log.TopicID, fn func(ctx context.Context, partition int32)) {
	b.resters.mu.Lock()
	defer b.resters.mu.Unlock()
	if b.resters.by == nil {
		b.resters.by = map[log.TopicID]func(context.Context, int32){}
	}
	b.resters.by[topic] = fn
}

// restRooms tells the rooms.
func (b *Broker) restRooms(ctx context.Context, parts []restPart) {
	ctx, cancel := context.WithTimeout(ctx, restWait)
	defer cancel()
	var told sync.WaitGroup
	for _, part := range parts {
		id, ok := part.id()
		if p := b.table.Load().open[id]; !ok || p == nil || p.leads(log.Epoch(part.LeaderEpoch)) != nil {
			continue
		}
		b.resters.mu.Lock()
		fn := b.resters.by[id.Topic]
		b.resters.mu.Unlock()
		if fn != nil {
			told.Go(func() { fn(ctx, id.Index) })
		}
	}
	all := make(chan struct{})
	go func() {
		told.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
	}
}

// errResting refuses appends: soon another broker leads.
var errResting = fmt.Errorf("it is about to be led by another broker: %w", ErrNotLeader)

// restCall has the callee rest in the terms that it leads them in.
type restCall struct {
	Parts []restPart `cbor:"1,keyasint"`
}

type restPart struct {
	wirePartition
	LeaderEpoch int32 `cbor:"3,keyasint"`
}

// moves says whether a command may have another leader take over from one that serves. Those that fence a broker are not among them: there is nobody to ask.
func moves(cmd meta.Command) bool {
	switch cmd.(type) {
	case *meta.AlterPartitions, *meta.ElectLeaders, *meta.Reassign, *meta.StopBroker:
		return true
	}
	return false
}

// passedOn are the partitions that other brokers lead in next than in im, by the leaders that they pass from.
func passedOn(im, next *meta.Image) map[int32][]restPart {
	by := map[int32][]restPart{}
	for _, t := range next.Topics() {
		before := im.TopicByID(t.ID)
		if before == nil || before.Version == t.Version {
			continue
		}
		for i := range min(len(before.Partitions), len(t.Partitions)) {
			from := &before.Partitions[i]
			if to := t.Partitions[i].Leader; to == from.Leader || to == meta.NoLeader || from.Leader == meta.NoLeader || im.Broker(from.Leader).Fenced {
				continue
			}
			by[from.Leader] = append(by[from.Leader], restPart{toWire(log.PartitionID{Topic: t.ID, Index: int32(i)}), int32(from.LeaderEpoch)})
		}
	}
	return by
}

// restLeaders returns when the leaders that a command replaces rest, or restAnswer has passed. It is called where the quorum is led.
func (b *Broker) restLeaders(ctx context.Context, cmd meta.Command) {
	if !moves(cmd) {
		return
	}
	im := b.node.Image()
	next, _, err := im.Apply(cmd)
	if err != nil {
		return // it will be refused
	}
	ctx, cancel := context.WithTimeoutCause(ctx, restAnswer, errors.New("no answer in time"))
	defer cancel()
	var asked sync.WaitGroup
	for leader, parts := range passedOn(im, next) {
		asked.Go(func() {
			if err := b.rest(ctx, im.Broker(leader), &restCall{parts}); err != nil {
				b.cfg.Logger.Debug("a leader is replaced before it has committed everything", "broker", leader, "partitions", len(parts), "error", err)
			}
		})
	}
	asked.Wait()
}

func (b *Broker) rest(ctx context.Context, leader *meta.Broker, call *restCall) error {
	if leader.UUID == b.ident.UUID {
		return b.answerRest(ctx, call)
	}
	reply, err := b.net.call(ctx, leader.UUID, methodRest, call, nil, nil)
	if err == nil {
		reply.Release()
	}
	return err
}

// answerRest is the leader's side. It answers once nobody waits for a commit any more.
func (b *Broker) answerRest(ctx context.Context, call *restCall) error {
	b.restRooms(ctx, call.Parts)
	ctx, cancel := context.WithTimeoutCause(ctx, restWait, errors.New("it has something to commit"))
	defer cancel()
	table, until := b.table.Load(), b.mono()+restFor
	var resting []*Partition
	for _, part := range call.Parts {
		if id, ok := part.id(); ok {
			if t := table.image.TopicByID(id.Topic); t == nil || t.Internal {
				continue
			}
			if p := table.open[id]; p != nil && p.rest(log.Epoch(part.LeaderEpoch), until) {
				resting = append(resting, p)
			}
		}
	}
	for _, p := range resting {
		if err := p.awaitQuiet(ctx); err != nil {
			return p.wrap("rest in", err)
		}
	}
	return nil
}

// rest has the replica take nothing until then, if it leads in that term.
func (p *Partition) rest(term log.Epoch, until time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil || p.epoch != term {
		return false
	}
	p.resting = until
	return true
}

// awaitQuiet returns when nobody waits for the high watermark.
func (p *Partition) awaitQuiet(ctx context.Context) error {
	moved := make(settling, 1)
	p.Watch(moved)
	defer p.Unwatch(moved)
	for !p.quiet() {
		select {
		case <-moved:
		case <-p.b.closing:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *Partition) quiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed.n == 0
}

// refuses says why nothing can be appended. p.mu is held.
func (p *Partition) refuses() error {
	if p.refusal == nil && p.resting > 0 && p.mono() < p.resting {
		return errResting
	}
	return p.refusal
}
