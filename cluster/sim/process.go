package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// process is one start of a broker.
type process struct {
	s      *Sim
	n      *node
	no     int
	disk   *disk
	ctx    context.Context
	cancel context.CancelFunc
	member *member // guarded by s.mu
	dead   bool    // guarded by s.mu
	hurt   atomic.Bool
	told   bool          // to stop; guarded by s.mu
	closed chan struct{} // once it has
	serve  atomic.Pointer[func(context.Context, cluster.Message) (cluster.Message, error)]
	b      atomic.Pointer[cluster.Broker]

	endUpper func() // ends the room above, which is before the broker ends; set before b
}

func (p *process) String() string { return fmt.Sprintf("n%d.%d", p.n.i, p.no) }

func (p *process) part() *member {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.member
}

func (p *process) serving() func(context.Context, cluster.Message) (cluster.Message, error) {
	if f := p.serve.Load(); f != nil {
		return *f
	}
	return nil
}

// alive says whether what the process says still reaches anybody.
func (p *process) alive() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return !p.dead
}

func (p *process) sleep(d time.Duration) bool { return sleep(p.ctx, d) }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// live opens the broker, and ends once it is closed.
func (p *process) live() {
	b, err := cluster.Open(p.ctx, p.config())
	if err != nil {
		p.failed(err)
		return
	}
	p.s.trace.add("%s: serves as broker %d, process %d", p, b.NodeID(), b.Epoch())
	p.s.mu.Lock()
	p.n.truth, p.n.taken = nil, nil
	p.s.mu.Unlock()
	p.serveUpper(b)
	p.b.Store(b)
	select {
	case <-p.ctx.Done():
	case <-b.Failed():
		if p.alive() {
			p.s.trace.add("%s: fails: %v", p, b.Err())
			if !p.hurt.Load() {
				p.s.check.violated("no failure without a cause", "%s: %v", p, b.Err())
			}
		}
		<-p.ctx.Done()
	}
	p.s.mu.Lock()
	told := p.told
	p.told = true
	p.s.mu.Unlock()
	p.endUpper()
	if told { // two calls of Close wait for each other on a mutex, which stops the clock
		<-p.closed
		return
	}
	_ = b.Close(context.Background()) // of a dead process: lets go of its goroutines
}

// serveUpper has the room above serve on the broker until the process dies, or is told to stop.
func (p *process) serveUpper(b *cluster.Broker) {
	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan struct{})
	p.endUpper = func() {
		cancel()
		<-ended
	}
	go func() {
		defer close(ended)
		if p.s.upper != nil {
			p.s.upper.Serve(ctx, Host{p}, b)
		}
	}()
}

// failed takes note of a process that did not come up.
func (p *process) failed(err error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.dead {
		return
	}
	p.s.trace.add("%s: does not start: %v", p, err)
	p.dead, p.n.run = true, nil
	p.cancel()
	switch {
	case errors.Is(err, log.ErrCorrupt) && p.n.lied:
		p.n.broken = err
	case !p.hurt.Load():
		p.s.check.violated("every disk that keeps its word can be started from", "%s: %v", p, err)
	}
}

func (p *process) config() cluster.Config {
	s, n := p.s, p.n
	return cluster.Config{
		NodeID: fmt.Sprintf("n%d", n.i), DataDir: dataDir, FS: p.disk, AdvertiseHost: "sim",
		Log: log.Config{
			JournalFileBytes: 64 << 10, JournalFiles: 3, BallastBytes: -1, CheckpointEvery: s.plan.checkpoint, CheckpointIdleEvery: 4 * s.plan.checkpoint,
			DiskMinFree: 1, RecentCacheBytes: 4 << 10, MaxUnwrittenBytes: 32 << 10, HousekeepTick: 3 * time.Second,
		},
		Peer: &cluster.PeerConfig{
			Listen: fmt.Sprintf("n%d:1", n.i), Timing: s.plan.timing,
			Seams: &cluster.Seams{
				Quorum: func(id meta.UUID, onApply func(*meta.Image)) cluster.Member { return s.quorum.join(p, id, onApply) },
				Kept:   func() bool { _, err := n.mem.Stat(identityFile); return err == nil },
				Carry: func(ctx context.Context, to meta.UUID, m cluster.Message) (cluster.Message, error) {
					return s.net.carry(ctx, p, to, m)
				},
				Serve: func(f func(context.Context, cluster.Message) (cluster.Message, error)) { p.serve.Store(&f) },
				Clock: func() time.Duration { return s.now() + time.Duration(n.i)*time.Hour },
			},
		},
		DefaultPartitions: s.plan.partitions,
		Logger:            slog.New(voice{p, slog.LevelInfo}),
		Now:               func() time.Time { return time.Now().AddDate(27, 0, 0).Add(n.wallOffset()) },
		Rand:              s.draws.reader("rand " + p.String()),
	}
}
