package firmwaresim

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// maxRecording bounds a recording in memory (16 bytes a row).
const maxRecording = 10_000_000

// Recording is measured telemetry to be published again with its own timestamps.
type Recording struct {
	Name string
	ts   []int64 // ms since 1970, as recorded
	v    []float64
}

// Len is the number of readings.
func (r *Recording) Len() int { return len(r.ts) }

// Gap is the recorded time between readings i-1 and i; zero where the recording's clock was set back.
func (r *Recording) Gap(i int) time.Duration {
	return time.Duration(max(0, r.ts[i]-r.ts[i-1])) * time.Millisecond
}

// At returns reading i: its timestamp in milliseconds and its value.
func (r *Recording) At(i int) (ts int64, value float64) { return r.ts[i], r.v[i] }

// OpenRecording reads a CSV file with the columns timestamp and value, in any order, named by a header line.
func OpenRecording(path string) (*Recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	defer f.Close()
	r, err := ReadRecording(f)
	if err != nil {
		return nil, fmt.Errorf("recording %s: %w", path, err)
	}
	r.Name = path
	return r, nil
}

// ReadRecording reads what OpenRecording opens. Timestamps may be `2006-01-02 15:04:05` (UTC), RFC 3339, or a number of
// seconds or milliseconds since 1970. Real recordings step back in time where a clock was set; such rows are kept as they
// stand, and replay does not wait before them.
func ReadRecording(in io.Reader) (*Recording, error) {
	c := csv.NewReader(in)
	c.ReuseRecord = true
	head, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("no header line: %w", err)
	}
	tsCol, vCol := -1, -1
	for i, h := range head {
		switch h {
		case "timestamp":
			tsCol = i
		case "value":
			vCol = i
		}
	}
	if tsCol < 0 || vCol < 0 {
		return nil, fmt.Errorf("header %q: want the columns timestamp and value", head)
	}
	r := &Recording{}
	for {
		row, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := c.FieldPos(0)
		ts, err := parseTimestamp(row[tsCol])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		v, err := strconv.ParseFloat(row[vCol], 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: value %q is not a number", line, row[vCol])
		}
		if len(r.ts) == maxRecording {
			return nil, fmt.Errorf("more than %d rows: split the file", maxRecording)
		}
		r.ts, r.v = append(r.ts, ts), append(r.v, v)
	}
	if len(r.ts) == 0 {
		return nil, errors.New("no rows")
	}
	return r, nil
}

func parseTimestamp(s string) (ms int64, err error) {
	for _, layout := range []string{time.DateTime, time.RFC3339Nano, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UnixMilli(), nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 100_000_000_000 { // seconds until the year 5138
			n *= 1000
		}
		return n, nil
	}
	return 0, fmt.Errorf("timestamp %q: want 2006-01-02 15:04:05, RFC 3339, or seconds or milliseconds since 1970", s)
}
