package mqtt

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// sinkLog takes records as fast as a log could, commits them together about once a millisecond and keeps
// nothing: what is measured is this package.
type sinkLog struct {
	parts []*sinkPartition
	dirty chan struct{}
}

type sinkPartition struct {
	l  *sinkLog
	id log.PartitionID

	mu      sync.Mutex
	bb      log.BatchBuilder
	end     log.Offset
	runs    []sinkRun
	spare   []sinkRun
	waiting bool
}

type sinkRun struct {
	w     Waiter
	first uint64
	n     int
}

func (p *sinkPartition) ID() log.PartitionID { return p.id }
func (p *sinkPartition) AppendIn(_ Ownership, r *log.Record, w Waiter, seq uint64) error {
	return p.Append(r, w, seq)
}
func (p *sinkPartition) LogEnd() log.Offset                              { return 0 }
func (p *sinkPartition) Settle() (log.Offset, error)                     { return 0, nil }
func (p *sinkPartition) Read(log.Offset, int, []byte) ([]byte, error)    { return nil, nil }
func (l *sinkLog) Topic(string) ([]Partition, error)                     { return l.all(), nil }
func (l *sinkLog) Transient(error) bool                                  { return true }
func (l *sinkLog) Watch(func(deliver.Log), func(log.PartitionID)) func() { return func() {} }

func (l *sinkLog) all() (out []Partition) {
	for _, p := range l.parts {
		out = append(out, p)
	}
	return out
}

func (p *sinkPartition) Append(r *log.Record, w Waiter, seq uint64) error {
	p.mu.Lock()
	if p.bb.Count() == 0 || p.bb.Len() > 256<<10 {
		p.bb.Reset()
	}
	p.bb.Append(r)
	p.end++
	if k := len(p.runs) - 1; w == nil {
	} else if k >= 0 && p.runs[k].w == w && p.runs[k].first+uint64(p.runs[k].n) == seq {
		p.runs[k].n++
	} else {
		p.runs = append(p.runs, sinkRun{w, seq, 1})
	}
	first := !p.waiting
	p.waiting = true
	p.mu.Unlock()
	if first {
		select {
		case p.l.dirty <- struct{}{}:
		default:
		}
	}
	return nil
}

func (l *sinkLog) run(ctx context.Context, every time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.dirty:
		}
		if every > 0 {
			time.Sleep(every)
		}
		for _, p := range l.parts {
			p.mu.Lock()
			runs := p.runs
			p.runs, p.spare, p.waiting = p.spare[:0], nil, false
			p.mu.Unlock()
			for i := range runs {
				runs[i].w.Committed(runs[i].first, runs[i].n, nil)
			}
			p.mu.Lock()
			p.spare = runs
			p.mu.Unlock()
		}
	}
}

// BenchmarkPublish measures publishes of 256 B over loopback TCP; cpu-us/msg is of the whole process, load
// generator included, and mallocs/msg counts the process's allocations.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		conns, window int
		qos           byte
	}{{64, 64, 1}, {1, 100, 1}, {64, 1, 1}, {64, 64, 0}} {
		b.Run(fmt.Sprintf("conns=%d/window=%d/qos=%d", c.conns, c.window, c.qos), func(b *testing.B) {
			benchPublish(b, c.conns, c.window, c.qos)
		})
	}
}

func benchPublish(b *testing.B, conns, window int, qos byte) {
	l := &sinkLog{dirty: make(chan struct{}, 1)}
	for i := range 16 {
		p := &sinkPartition{l: l}
		p.id.Index = int32(i)
		l.parts = append(l.parts, p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	every := time.Millisecond
	if window == 1 {
		every = 0
	}
	go l.run(ctx, every)
	router, err := NewRouter([]Route{{Match: "#", Topic: "telemetry"}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	srv, err := NewServer(Config{
		Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Sink: l, Source: l, Sessions: onePart{newFakeTable()}, Retained: deliver.Alone(newFakeTable()), Router: router,
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	clients := make([]*benchClient, conns)
	for i := range clients {
		clients[i] = newBenchClient(b, srv, fmt.Sprintf("dev%d", i), window, qos)
		clients[i].batch(b, window) // warm up
	}
	b.ResetTimer()
	b.ReportAllocs()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := processCPU()
	var wg sync.WaitGroup
	per := b.N/conns + 1
	for _, c := range clients {
		wg.Go(func() {
			for left := per; left > 0; left -= window {
				c.batch(b, min(window, left))
			}
		})
	}
	wg.Wait()
	used := processCPU() - cpu
	runtime.ReadMemStats(&after)
	b.StopTimer()
	n := float64(per * conns)
	b.ReportMetric(float64(used.Nanoseconds())/1000/n, "cpu-us/msg")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "mallocs/msg")
	for _, c := range clients {
		c.c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}

func processCPU() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru) //nolint:errcheck // cannot fail with these arguments
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

type benchClient struct {
	c    net.Conn
	out  []byte
	size int
	in   []byte
	qos  byte
}

func newBenchClient(b *testing.B, srv *Server, id string, window int, qos byte) *benchClient {
	c, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		b.Fatal(err)
	}
	connect := append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, byte(len(id))}, id...)
	if _, err := c.Write(connect); err != nil {
		b.Fatal(err)
	}
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil || ack != [4]byte{0x20, 2, 0, 0} {
		b.Fatalf("CONNACK % x, %v", ack, err)
	}
	bc := &benchClient{c: c, in: make([]byte, 4*window), qos: qos}
	for i := range window {
		p := packet.Publish{Topic: []byte("devices/" + id + "/telemetry"), Payload: make([]byte, 256), QoS: qos, ID: uint16(i + 1)}
		if qos == 0 {
			p.ID = 0
		}
		bc.out = packet.AppendPublish(bc.out, &p, packet.V311)
	}
	bc.size = len(bc.out) / window
	return bc
}

// batch publishes n messages and waits for their acks; QoS 0 waits for a ping instead.
func (c *benchClient) batch(b *testing.B, n int) {
	out, in := c.out[:n*c.size], c.in[:4*n]
	if _, err := c.c.Write(out); err != nil {
		b.Error(err)
		return
	}
	if c.qos == 0 {
		if _, err := c.c.Write([]byte{0xc0, 0}); err != nil {
			b.Error(err)
		}
		in = c.in[:2]
	}
	if _, err := io.ReadFull(c.c, in); err != nil {
		b.Error(err)
	}
}
