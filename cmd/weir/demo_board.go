package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// demoBoard is what the consumer group knows of each device, from the log alone.
type demoBoard struct {
	mu      sync.Mutex
	devices map[string]*demoDevice
	shownAt time.Time
	tally   *demoTally // of a cluster, where devices send again; nil: the board counts by itself
}

type demoDevice struct {
	records, shown, lastSeq, gaps int64
	seen                          time.Time
	reading                       map[string]any
}

// silentAfter is when a device that publishes every half second is called silent.
const silentAfter = 5 * time.Second

func (b *demoBoard) add(now time.Time, key, value []byte) {
	reading := map[string]any{}
	if json.Unmarshal(value, &reading) != nil {
		return // somebody else's record: the topic takes whatever is published
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	dev := b.devices[string(key)]
	if dev == nil {
		dev = &demoDevice{lastSeq: -1}
		b.devices[string(key)] = dev
	}
	if seq, ok := reading["seq"].(float64); ok {
		if next := dev.lastSeq + 1; int64(seq) > next {
			dev.gaps += int64(seq) - next
		}
		dev.lastSeq = max(dev.lastSeq, int64(seq))
	}
	dev.records++
	dev.seen, dev.reading = now, reading
}

// write draws the board in lines of at most so many columns, and at most so many of them under the head; 0: as long, and as
// many, as they get.
func (b *demoBoard) write(w *strings.Builder, now time.Time, columns, rows int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, 0, len(b.devices))
	for name := range b.devices {
		names = append(names, name)
	}
	slices.Sort(names)
	elapsed := now.Sub(b.shownAt).Seconds()
	t := newTable("DEVICE", "RECORDS", "REC/S", "LAST SEQ", "MISSING", "STATE", "LAST READING")
	if b.tally != nil {
		t = newTable("DEVICE", "RECORDS", "REC/S", "LAST SEQ", "MISSING", "DUPLICATES", "STATE", "LAST READING")
	}
	for _, name := range names {
		dev := b.devices[name]
		rate, state := "", "ok"
		if !b.shownAt.IsZero() {
			rate = fmt.Sprintf("%.1f", float64(dev.records-dev.shown)/elapsed)
		}
		if now.Sub(dev.seen) > silentAfter {
			state = "SILENT"
		}
		dev.shown = dev.records
		if b.tally != nil {
			missing, duplicates := b.tally.device(name)
			t.add(name, dev.records, rate, dev.lastSeq, missing, duplicates, state, readingLine(dev.reading))
			continue
		}
		t.add(name, dev.records, rate, dev.lastSeq, dev.gaps, state, readingLine(dev.reading))
	}
	b.shownAt = now
	var drawn strings.Builder
	more := 0
	if rows > 0 && len(t.rows) > rows {
		more = len(t.rows) - rows + 1
		t.rows = t.rows[:rows-1]
	}
	_ = t.write(&drawn) // a Builder takes every write
	if more > 0 {
		fmt.Fprintf(&drawn, "… and %s\n", plural(more, "more device"))
	}
	w.WriteString(fitted(drawn.String(), columns))
}

// fitted cuts lines to so many columns: one that wraps would push the top off the screen. 0: they stay as they are.
func fitted(text string, columns int) string {
	var w strings.Builder
	for line := range strings.Lines(text) {
		if text := []rune(strings.TrimSuffix(line, "\n")); columns > 0 && len(text) > columns {
			line = string(text[:columns-1]) + "…\n"
		}
		w.WriteString(line)
	}
	return w.String()
}

// readingLine shows a reading's own fields in one line.
func readingLine(reading map[string]any) string {
	var parts []string
	for k, v := range reading {
		if k == "seq" || k == "ts" {
			continue
		}
		if f, ok := v.(float64); ok {
			v = fmt.Sprintf("%.5g", f)
		}
		parts = append(parts, fmt.Sprintf("%s=%v", k, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// screenSize is how wide and high the terminal is that w writes to; 0, 0 if it is none.
func screenSize(w any) (columns, lines int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	columns, lines, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, lines
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
