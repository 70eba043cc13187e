package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log"
)

// benchLogCmd is `weir bench log`.
type benchLogCmd struct {
	Dir        string        `default:"." placeholder:"DIR" help:"A directory on the disk to measure; a temporary one is made in it (default ${default})."`
	Partitions int           `short:"p" default:"16" help:"Partitions, each with one writer (default ${default})."`
	Window     int           `short:"w" default:"1024" help:"Records per partition that wait for the disk (default ${default})."`
	Size       int           `default:"256" help:"Record bytes (default ${default})."`
	Duration   time.Duration `short:"d" default:"10s" help:"How long to measure (default ${default})."`
}

// benchLogResult is the JSON form.
type benchLogResult struct {
	Partitions int `json:"partitions"`
	Window     int `json:"window"`
	Size       int `json:"size"`
	usage
	latencies
	Commits         int64   `json:"commits"` // fdatasyncs
	BytesPerRecord  float64 `json:"disk_bytes_per_record"`
	CommitsPerSec   float64 `json:"commits_per_s"`
	RecordsPerCommt float64 `json:"records_per_commit"`
}

// Run appends for the duration; latency is append to durable.
func (c *benchLogCmd) Run(g *Globals) error {
	if c.Partitions < 1 || c.Partitions > 10_000 || c.Window < 1 || c.Window > 1<<20 || c.Size < 1 || c.Size > 1<<20 || c.Duration <= 0 {
		return usagef("want --partitions 1 to 10000, --window and --size 1 to 1048576, --duration more than 0")
	}
	res, err := c.run(g)
	if g.Ctx.Err() != nil {
		return failf("bench log: interrupted")
	}
	if err != nil {
		return fail("bench log", err)
	}
	return res.print(g)
}

func (c *benchLogCmd) run(g *Globals) (_ *benchLogResult, err error) {
	dir, err := os.MkdirTemp(c.Dir, "weir-bench-log-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	writers := make(map[*log.Partition]*logWriter)
	var failed atomic.Pointer[error]
	running, cancel := context.WithCancel(g.Ctx)
	defer cancel()
	l, err := log.Open(log.Config{
		Dir: dir,
		OnCommit: func(ps []*log.Partition) { // writers is complete before the first append
			for _, p := range ps {
				writers[p].wake()
			}
		},
		OnFail: func(err error) { failed.Store(&err); cancel() },
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for i := range c.Partitions {
		id, err := log.NewTopicID(rand.Reader)
		if err != nil {
			return nil, err
		}
		p, err := l.Create(log.PartitionID{Topic: id, Index: 0}, fmt.Sprintf("bench-%d", i), log.PartitionConfig{})
		if err == nil {
			err = p.BeginEpoch(1)
		}
		if err != nil {
			return nil, err
		}
		writers[p] = &logWriter{p: p, hist: newHistogram(), at: make([]time.Time, c.Window), woken: make(chan struct{}, 1)}
	}
	housekeeping, stop := context.WithCancel(g.Ctx)
	kept := make(chan error, 1)
	go func() { kept <- l.Run(housekeeping) }()
	defer func() {
		stop()
		if e := <-kept; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}()
	defer timeBar(g, "bench log", c.Duration)()

	before := l.Stats()
	m, err := startMeter(0)
	if err != nil {
		return nil, err
	}
	ctx, over := context.WithTimeout(running, c.Duration)
	defer over()
	var wg sync.WaitGroup
	var durable atomic.Int64
	for _, w := range writers {
		wg.Go(func() { durable.Add(w.run(ctx, c.Size)) })
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return nil, *e
	}
	n := durable.Load()
	u, err := m.stop(n, n*int64(c.Size))
	if err != nil {
		return nil, err
	}
	var hs []*histogram
	for _, w := range writers {
		if w.err != nil {
			return nil, w.err
		}
		hs = append(hs, w.hist)
	}
	after := l.Stats()
	commits := after.Commits - before.Commits
	return &benchLogResult{Partitions: c.Partitions, Window: c.Window, Size: c.Size, usage: u, latencies: summary(hs...), Commits: commits,
		CommitsPerSec: float64(commits) / u.Seconds, RecordsPerCommt: float64(n) / float64(max(commits, 1)),
		BytesPerRecord: float64(after.CommitBytes-before.CommitBytes+after.SegmentBytes-before.SegmentBytes) / float64(max(n, 1))}, nil
}

func (r *benchLogResult) print(g *Globals) error {
	var t columns
	t.add("PARTITIONS", "%d", r.Partitions)
	t.add("WINDOW", "%d", r.Window)
	t.add("SIZE", "%d", r.Size)
	t.usage(r.usage)
	t.latencies(r.latencies)
	t.add("SYNCS/S", "%.0f", r.CommitsPerSec)
	t.add("DISK B/REC", "%.0f", r.BytesPerRecord)
	return g.emit(r, t.table())
}

// logWriter keeps a window of records waiting for the disk in one partition.
type logWriter struct {
	p     *log.Partition
	hist  *histogram
	at    []time.Time // of append, by offset modulo window
	woken chan struct{}
	err   error
}

// wake never blocks: the committer calls it.
func (w *logWriter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// run appends until ctx ends, then waits for the disk; it returns how many records are durable.
func (w *logWriter) run(ctx context.Context, size int) int64 {
	r := log.Record{Value: randomBytes(size)}
	window := log.Offset(len(w.at))
	done := w.p.Durable()
	first := done
	for {
		now := time.Now()
		for end := w.p.LogEnd(); end-done < window && ctx.Err() == nil; end++ {
			r.Timestamp = now.UnixMilli()
			if _, err := w.p.Append(&r, 1); errors.Is(err, log.ErrBusy) && end > done {
				break // the commits under way will wake us
			} else if err != nil {
				w.err = err
				return int64(done - first)
			}
			w.at[end%window] = now
		}
		if done == w.p.LogEnd() {
			return int64(done - first)
		}
		select {
		case <-w.woken:
		case <-time.After(requestTimeout):
			w.err = fmt.Errorf("no commit for %v", requestTimeout)
			return int64(done - first)
		}
		now = time.Now()
		to := w.p.Durable()
		w.hist.mu.Lock()
		for done < to {
			sent, n := w.at[done%window], int64(0)
			for ; done < to && w.at[done%window].Equal(sent); done++ {
				n++
			}
			w.hist.recordLocked(now.Sub(sent), n)
		}
		w.hist.mu.Unlock()
	}
}
