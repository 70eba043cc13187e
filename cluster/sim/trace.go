package sim

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// traceLines is how many events a failure shows.
const traceLines = 20_000

// trace is what happened, one line for each event, and a hash over all lines. What happens at one instant has no order, and the hash knows none.
type trace struct {
	began time.Time
	mu    sync.Mutex
	lines []string // a ring
	n     int
	hash  uint64
}

func (t *trace) add(format string, args ...any) {
	line := fmt.Sprintf("%12.6f ", time.Since(t.began).Seconds()) + fmt.Sprintf(format, args...)
	t.mu.Lock()
	defer t.mu.Unlock()
	h := fnv.New64a()
	_, _ = h.Write([]byte(line))
	t.hash += h.Sum64() * (h.Sum64() | 1)
	if len(t.lines) < traceLines {
		t.lines = append(t.lines, line)
	} else {
		t.lines[t.n%traceLines] = line
	}
	t.n++
}

// String is the last lines.
func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := 0
	if t.n > traceLines {
		at = t.n % traceLines
	}
	var b strings.Builder
	for i := range t.lines {
		b.WriteString(t.lines[(at+i)%len(t.lines)])
		b.WriteByte('\n')
	}
	return b.String()
}

// voice brings what a broker logs into the trace, as long as it is alive.
type voice struct {
	p     *process
	level slog.Level
}

func (v voice) Enabled(_ context.Context, l slog.Level) bool { return l >= v.level }
func (v voice) WithAttrs([]slog.Attr) slog.Handler           { return v }
func (v voice) WithGroup(string) slog.Handler                { return v }

func (v voice) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	if v.p.alive() {
		v.p.s.trace.add("%s: %s%s", v.p, r.Message, b.String())
	}
	return nil
}
