package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// progress is a bar on stderr for work that takes a while, drawn on a terminal only. Its methods work on nil, which is
// what newProgress returns anywhere else.
type progress struct {
	w       io.Writer
	label   string
	total   int64 // 0: unknown
	done    atomic.Int64
	started time.Time
	quit    chan struct{}
	ended   chan struct{}
}

const (
	progressEvery = 200 * time.Millisecond
	progressWidth = 30
)

// newProgress starts a bar that ends at total units of work (0 if that is not known). The caller must call finish.
func newProgress(g *Globals, label string, total int64) *progress {
	f, ok := g.Err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	p := &progress{w: f, label: label, total: total, started: time.Now(), quit: make(chan struct{}), ended: make(chan struct{})}
	go p.draw()
	return p
}

// add reports n more units done. Any goroutine may call it.
func (p *progress) add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

// finish wipes the bar and returns once nothing more will be drawn.
func (p *progress) finish() {
	if p != nil {
		close(p.quit)
		<-p.ended
	}
}

func (p *progress) draw() {
	defer close(p.ended)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			fmt.Fprint(p.w, "\r\x1b[K")
			return
		case <-tick.C:
			fmt.Fprint(p.w, "\r\x1b[K"+p.line(time.Since(p.started)))
		}
	}
}

func (p *progress) line(ran time.Duration) string {
	done := p.done.Load()
	rate := float64(done) / max(ran.Seconds(), 1e-9)
	if p.total <= 0 {
		return fmt.Sprintf("%s  %d  %s/s", p.label, done, shortCount(rate))
	}
	share := min(1, float64(done)/float64(p.total))
	full := int(share * progressWidth)
	line := fmt.Sprintf("%s [%s%s] %3.0f%%  %s/s", p.label, strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), share*100, shortCount(rate))
	if rate > 0 && share < 1 {
		left := time.Duration(float64(p.total-done) / rate * float64(time.Second))
		line += "  " + left.Round(time.Second).String() + " left"
	}
	return line
}

// shortCount writes a figure in three digits and a suffix: 999, 12.3k, 4.56M.
func shortCount(v float64) string {
	for _, u := range []struct {
		by     float64
		suffix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.by {
			return fmt.Sprintf("%.3g%s", v/u.by, u.suffix)
		}
	}
	return fmt.Sprintf("%.0f", v)
}
