package kafka

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/sim"
	"github.com/weir-io/weir/log"
)

// simRoom runs this room's servers on the simulated brokers of cluster/sim: the coordinators of transactions and of groups as the binary links them, with
// transactional producers and readers of committed records that speak to them in bytes. A request is lost, late, or comes twice, and so are answers.
type simRoom struct {
	s   *sim.Sim
	all context.Context // of a schedule's clients

	mu      sync.Mutex // never held over a wait
	servers map[sim.Host]*simServer
	clients int
	txns    []*simTxn
	reads   []simRead
	numbers map[string]int // by transactional id: of its newest transaction
	ends    map[simEnd]txn.Producer
	goes    map[txn.Producer]simEnd
	terms   map[simMarked]int32 // of the coordinator that last had markers sent
}

// simServer is one process's server.
type simServer struct {
	s     *Server
	ctx   context.Context
	conns sync.WaitGroup
}

func newSimRoom() *simRoom {
	return &simRoom{
		servers: map[sim.Host]*simServer{}, numbers: map[string]int{}, ends: map[simEnd]txn.Producer{}, goes: map[txn.Producer]simEnd{}, terms: map[simMarked]int32{},
	}
}

// Serve implements sim.Upper.
func (x *simRoom) Serve(ctx context.Context, h sim.Host, b *cluster.Broker) {
	for ctx.Err() == nil {
		s, err := NewServer(Config{
			Broker: b, Groups: GroupConfig{OffsetsPartitions: 2}, Transactions: TransactionConfig{Partitions: 2}, Logger: h.Logger(), DrainTimeout: time.Second,
		})
		if err == nil {
			end := s.transactions.cfg.end
			s.transactions.cfg.end = func(ctx context.Context, parts []txn.Partition, m log.Marker) []error {
				x.marked(txn.Producer{ID: m.ProducerID, Epoch: m.ProducerEpoch}, m.Started, m.CoordinatorEpoch)
				return end(ctx, parts, m)
			}
			up := &simServer{s: s, ctx: ctx}
			x.mu.Lock()
			x.servers[h] = up
			x.mu.Unlock()
			_ = s.Run(ctx)
			x.mu.Lock()
			delete(x.servers, h)
			x.mu.Unlock()
			up.conns.Wait()
		}
		select { // the binary would end, and be started again
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// ask brings a request to a process over a connection of its own, and its answer back; nil where none comes.
func (x *simRoom) ask(to sim.Host, req kmsg.Request) kmsg.Response {
	x.mu.Lock()
	up := x.servers[to]
	if up != nil {
		up.conns.Add(1)
	}
	x.mu.Unlock()
	if up == nil {
		return nil
	}
	defer up.conns.Done()
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		newConn(up.s, far, boundListener{host: "sim", port: 1}).serve(up.ctx)
		close(served)
	}()
	cut := context.AfterFunc(up.ctx, func() { near.Close() })
	defer func() {
		cut()
		near.Close()
		<-served
	}()
	frame := frameOf(req, 1)
	if _, err := near.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		return nil
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(near, head); err != nil {
		return nil
	}
	body := make([]byte, binary.BigEndian.Uint32(head)-4)
	if _, err := io.ReadFull(near, body); err != nil || !to.Alive() {
		return nil
	}
	resp := req.ResponseKind()
	if resp.IsFlexible() {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		x.s.Violated("an answer can be read", "key %d version %d: %v", req.Key(), req.GetVersion(), err)
		return nil
	}
	if a, ok := resp.(*kmsg.EndTxnResponse); ok {
		x.ended(req.(*kmsg.EndTxnRequest), a)
	}
	return resp
}

// call is ask over a network that may lose, repeat and hold up what it carries. Where stray is false it returns only when no copy of the request is under way
// any more: before transactions of version 2 the protocol cannot tell an old EndTxn or TxnOffsetCommit from one of the producer's next transaction.
func (x *simRoom) call(ctx context.Context, r *rand.Rand, to sim.Host, req kmsg.Request, stray bool) kmsg.Response {
	there, back := between(r, 100*time.Microsecond, 2*time.Millisecond), between(r, 100*time.Microsecond, 2*time.Millisecond)
	lost, answerLost, again := false, false, time.Duration(0)
	fate, late := r.IntN(1<<16), between(r, time.Millisecond, 4*time.Second)
	if harsh := x.s.Harsh(); harsh > 0 {
		switch fate % (2 * harsh) {
		case 0:
			lost = true
		case 1:
			answerLost = true
		case 2:
			again = late
		case 3:
			there += late
		}
	}
	answers := make(chan kmsg.Response, 2)
	var copies sync.WaitGroup
	send := func(after time.Duration, answer bool) {
		x.begin()
		copies.Go(func() {
			defer x.end()
			time.Sleep(after)
			resp := x.ask(to, req)
			time.Sleep(back)
			if answer {
				answers <- resp
			}
		})
	}
	if !lost {
		send(there, !answerLost)
		if again > 0 {
			x.s.Trace("client: key %d goes to %s twice", req.Key(), to)
			send(there+again, false)
		}
	}
	limit := time.NewTimer(3 * time.Second)
	defer limit.Stop()
	var resp kmsg.Response
	select {
	case resp = <-answers:
	case <-limit.C:
	case <-ctx.Done():
	}
	if !stray {
		copies.Wait()
	}
	return resp
}

func (x *simRoom) begin() { x.mu.Lock(); x.clients++; x.mu.Unlock() }
func (x *simRoom) end()   { x.mu.Lock(); x.clients--; x.mu.Unlock() }

func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}

// rest waits about so long; false: ctx has ended.
func rest(ctx context.Context, r *rand.Rand, about time.Duration) bool {
	t := time.NewTimer(between(r, about/2, about*3/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// leader is the process that leads a partition, by what some broker knows.
func (x *simRoom) leader(r *rand.Rand, topic string, partition func(partitions int32) int32) (sim.Host, log.PartitionID, bool) {
	_, b, ok := x.s.Any(r)
	if !ok {
		return sim.Host{}, log.PartitionID{}, false
	}
	im := b.Image()
	t := im.Topic(topic)
	if t == nil {
		return sim.Host{}, log.PartitionID{}, false
	}
	i := partition(int32(len(t.Partitions)))
	if i >= int32(len(t.Partitions)) || t.Partitions[i].Leader == meta.NoLeader {
		return sim.Host{}, log.PartitionID{}, false
	}
	h, ok := x.s.Host(im, t.Partitions[i].Leader)
	return h, log.PartitionID{Topic: t.ID, Index: i}, ok
}

// coordinator is the process that coordinates a transactional id. Somebody has to ask for one before there is any.
func (x *simRoom) coordinator(ctx context.Context, r *rand.Rand, id string) (sim.Host, bool) {
	h, _, ok := x.leader(r, transactionsTopic, func(n int32) int32 { return hashPartition(id, n) })
	if !ok && x.s.Image().Topic(transactionsTopic) == nil {
		if h, _, up := x.s.Any(r); up {
			find := kmsg.NewPtrFindCoordinatorRequest()
			find.Version, find.CoordinatorType, find.CoordinatorKeys = 4, 1, []string{id}
			x.call(ctx, r, h, find, true)
		}
	}
	return h, ok
}

// retriable are the codes after which clients ask again.
func retriable(code int16) bool {
	return slices.Contains([]int16{
		errUnknownTopicOrPartition, errLeaderNotAvailable, errNotLeaderOrFollower, errRequestTimedOut, errCoordinatorLoadInProgress, errCoordinatorNotAvailable,
		errNotCoordinator, errNotEnoughReplicas, errNotEnoughReplicasAfter, errConcurrentTransactions, errKafkaStorageError, errFencedLeaderEpoch, errUnknownLeaderEpoch,
		errUnstableOffsetCommit, errUnknownServerError,
	}, code)
}
