package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log"
)

// benchLogCmd is `weir bench log`.
type benchLogCmd struct {
	Dir         string        `default:"." placeholder:"DIR" help:"A directory on the disk to measure; a temporary one is made in it (default ${default})."`
	Partitions  []int         `short:"p" default:"16" help:"Partitions, each with one writer; several numbers, separated by commas, are compared with the first (default ${default})."`
	Window      int           `short:"w" default:"4096" help:"Records, over all partitions, that wait for the disk (default ${default})."`
	Rate        float64       `placeholder:"N" help:"Records per second in all; latency counts from when one was due (default: as fast as commits allow)."`
	Size        int           `default:"256" help:"Record bytes (default ${default})."`
	Duration    time.Duration `short:"d" default:"10s" help:"How long each run measures (default ${default})."`
	Warmup      time.Duration `default:"2s" help:"Run so long before measuring: a new directory makes its files (default ${default})."`
	Rounds      int           `default:"1" help:"Rounds; each runs every number of partitions once, and medians are printed (default ${default})."`
	JournalFile Size          `name:"journal-file" default:"64MiB" help:"One of the four journal files (default ${default})."`
}

// benchLogResult is the JSON form of one run, or of the medians of several.
type benchLogResult struct {
	Partitions int     `json:"partitions"`
	Window     int     `json:"window"`
	Size       int     `json:"size"`
	TargetRate float64 `json:"target_rate,omitempty"`
	usage
	latencies
	Commits         int64   `json:"commits"` // fdatasyncs of the journal
	BytesPerRecord  float64 `json:"disk_bytes_per_record"`
	CommitsPerSec   float64 `json:"commits_per_s"`
	SyncsPerSec     float64 `json:"syncs_per_s"` // of all files
	RecordsPerCommt float64 `json:"records_per_commit"`
	Checkpoints     int64   `json:"checkpoints"`
	Journals        float64 `json:"journals"` // bytes written to the journal, in its size
}

// Run appends for the duration, to each number of partitions in turn; latency is append to durable.
func (c *benchLogCmd) Run(g *Globals) error {
	for _, n := range c.Partitions {
		if n < 1 || n > 10_000 || c.Window < n {
			return usagef("want --partitions 1 to 10000, and --window that number or more")
		}
	}
	if len(c.Partitions) == 0 || c.Window > 1<<20 || c.Size < 1 || c.Size > 1<<20 || c.Duration <= 0 || c.Warmup < 0 || c.Rate < 0 || c.Rounds < 1 {
		return usagef("want --window and --size 1 to 1048576, --duration more than 0, --warmup and --rate 0 or more, --rounds 1 or more")
	}
	all := make([][]*benchLogResult, len(c.Partitions))
	for range c.Rounds {
		for i, n := range c.Partitions {
			res, err := c.run(g, n)
			if g.Ctx.Err() != nil {
				return failf("bench log: interrupted")
			}
			if err != nil {
				return fail("bench log", err)
			}
			all[i] = append(all[i], res)
		}
	}
	var rows []*benchLogResult
	for _, runs := range all {
		rows = append(rows, medianLog(runs))
	}
	return printLog(g, rows)
}

// medianLog is the median of each figure that is compared; the others are the last run's.
func medianLog(runs []*benchLogResult) *benchLogResult {
	r := *runs[len(runs)-1]
	for _, f := range []func(*benchLogResult) *float64{
		func(r *benchLogResult) *float64 { return &r.Rate }, func(r *benchLogResult) *float64 { return &r.MBPerSecond },
		func(r *benchLogResult) *float64 { return &r.ClientCPU }, func(r *benchLogResult) *float64 { return &r.BytesPerRecord },
		func(r *benchLogResult) *float64 { return &r.P50 }, func(r *benchLogResult) *float64 { return &r.P90 },
		func(r *benchLogResult) *float64 { return &r.P99 }, func(r *benchLogResult) *float64 { return &r.P999 },
		func(r *benchLogResult) *float64 { return &r.SyncsPerSec },
	} {
		v := make([]float64, len(runs))
		for i := range runs {
			v[i] = *f(runs[i])
		}
		slices.Sort(v)
		*f(&r) = v[len(v)/2]
	}
	return &r
}

func (c *benchLogCmd) run(g *Globals, partitions int) (_ *benchLogResult, err error) {
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
		Dir: dir, JournalFileBytes: int64(c.JournalFile),
		OnCommit: func(ps []*log.Partition) { // writers is complete before the first epoch begins
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
	for i := range partitions {
		id, err := log.NewTopicID(crand.Reader)
		if err != nil {
			return nil, err
		}
		p, err := l.Create(log.PartitionID{Topic: id, Index: 0}, fmt.Sprintf("bench-%d", i), log.PartitionConfig{})
		if err != nil {
			return nil, err
		}
		w := &logWriter{p: p, at: make([]time.Time, c.Window/partitions), woken: make(chan struct{}, 1)}
		if c.Rate > 0 {
			w.every = time.Duration(float64(partitions) / c.Rate * float64(time.Second))
		}
		writers[p] = w
	}
	for p := range writers {
		if err := p.BeginEpoch(1); err != nil {
			return nil, err
		}
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
	defer timeBar(g, "bench log", c.Warmup+c.Duration)()

	appendFor := func(d time.Duration) (durable int64, err error) {
		ctx, over := context.WithTimeout(running, d)
		defer over()
		var wg sync.WaitGroup
		var all atomic.Int64
		for _, w := range writers {
			w.hist = newHistogram()
			wg.Go(func() { all.Add(w.run(ctx, c.Size)) })
		}
		wg.Wait()
		if e := failed.Load(); e != nil {
			return 0, *e
		}
		for _, w := range writers {
			err = errors.Join(err, w.err)
		}
		return all.Load(), err
	}
	if _, err := appendFor(c.Warmup); err != nil {
		return nil, err
	}
	before := l.Stats()
	m, err := startMeter(0)
	if err != nil {
		return nil, err
	}
	n, err := appendFor(c.Duration)
	if err != nil {
		return nil, err
	}
	u, err := m.stop(n, n*int64(c.Size))
	if err != nil {
		return nil, err
	}
	var hs []*histogram
	for _, w := range writers {
		hs = append(hs, w.hist)
	}
	after := l.Stats()
	commits, journal := after.Commits-before.Commits, after.CommitBytes-before.CommitBytes
	return &benchLogResult{Partitions: partitions, Window: c.Window, Size: c.Size, TargetRate: c.Rate, usage: u, latencies: summary(hs...), Commits: commits,
		CommitsPerSec: float64(commits) / u.Seconds, RecordsPerCommt: float64(n) / float64(max(commits, 1)),
		SyncsPerSec: float64(after.Syncs-before.Syncs) / u.Seconds, Checkpoints: after.Checkpoints - before.Checkpoints,
		Journals:       float64(journal) / float64(max(after.JournalBytes, 1)),
		BytesPerRecord: float64(journal+after.SegmentBytes-before.SegmentBytes) / float64(max(n, 1))}, nil
}

// printLog prints a row for each; JSON of one is an object, as it is for the other loads.
func printLog(g *Globals, rows []*benchLogResult) error {
	var all *table
	for _, r := range rows {
		var t columns
		t.add("PARTITIONS", "%d", r.Partitions)
		t.add("WINDOW", "%d", r.Window)
		t.add("SIZE", "%d", r.Size)
		t.usage(r.usage)
		t.latencies(r.latencies)
		t.add("SYNCS/S", "%.0f", r.SyncsPerSec)
		t.add("LOG B/REC", "%.0f", r.BytesPerRecord)
		t.add("CHECKPOINTS", "%d", r.Checkpoints)
		t.add("JOURNALS", "%.1f", r.Journals)
		if len(rows) > 1 {
			t.add("p50 ×", "%.2f", r.P50/rows[0].P50)
			t.add("p99 ×", "%.2f", r.P99/rows[0].P99)
		}
		if all == nil {
			all = t.table()
		} else {
			all.add(t.cells...)
		}
	}
	if len(rows) == 1 {
		return g.emit(rows[0], all)
	}
	return g.emit(rows, all)
}

// logWriter keeps a window of records waiting for the disk in one partition.
type logWriter struct {
	p     *log.Partition
	hist  *histogram
	at    []time.Time   // of append, or when that was due, by offset modulo window
	every time.Duration // between records; 0: as fast as commits allow
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
	due := time.Now()
	if w.every > 0 {
		due = due.Add(rand.N(w.every)) // writers keep no step
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		for end := w.p.LogEnd(); end-done < window && ctx.Err() == nil && !now.Before(due); end++ {
			r.Timestamp = now.UnixMilli()
			if _, err := w.p.Append(&r, 1); errors.Is(err, log.ErrBusy) && end > done {
				break // the commits under way will wake us
			} else if err != nil {
				w.err = err
				return int64(done - first)
			}
			w.at[end%window] = now
			if w.every > 0 {
				w.at[end%window] = due
				due = due.Add(w.every)
			}
		}
		if ctx.Err() != nil && done == w.p.LogEnd() {
			return int64(done - first)
		}
		timer.Reset(requestTimeout)
		if w.every > 0 && ctx.Err() == nil && w.p.LogEnd()-done < window {
			timer.Reset(max(0, time.Until(due)))
		}
		select {
		case <-w.woken:
		case <-timer.C:
			if w.every == 0 || time.Since(due) > requestTimeout {
				w.err = fmt.Errorf("no commit for %v", requestTimeout)
				return int64(done - first)
			}
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
