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

// write draws the board in lines of at most so many columns; 0: as long as they get.
func (b *demoBoard) write(w *strings.Builder, now time.Time, columns int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, 0, len(b.devices))
	for name := range b.devices {
		names = append(names, name)
	}
	slices.Sort(names)
	elapsed := now.Sub(b.shownAt).Seconds()
	t := newTable("DEVICE", "RECORDS", "REC/S", "LAST SEQ", "MISSING", "STATE", "LAST READING")
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
		t.add(name, dev.records, rate, dev.lastSeq, dev.gaps, state, readingLine(dev.reading))
	}
	b.shownAt = now
	var drawn strings.Builder
	_ = t.write(&drawn) // a Builder takes every write
	for line := range strings.Lines(drawn.String()) {
		if text := []rune(strings.TrimSuffix(line, "\n")); columns > 0 && len(text) > columns {
			line = string(text[:columns-1]) + "…\n" // a line that wraps would push the top off the screen
		}
		w.WriteString(line)
	}
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

// screenWidth is how wide the terminal is that w writes to; 0 if it is none.
func screenWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
