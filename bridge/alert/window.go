package alert

import "math"

// window holds the figures of one device's readings in [start, end), for one rule. Constant size, any order of readings.
type window struct {
	start, end int64 // ms
	offset     int64 // of its first record: where a successor has to begin

	count           int64
	sum, min, max   float64
	first, last     float64
	firstAt, lastAt int64 // event times of first and last, ms
}

// add takes a reading in. Of readings of the same time the first to arrive is first, the last to arrive is last.
func (w *window) add(at int64, v float64) {
	if w.count == 0 {
		w.min, w.max = v, v
		w.first, w.firstAt = v, at
		w.last, w.lastAt = v, at
	}
	w.count++
	w.sum += v
	w.min, w.max = math.Min(w.min, v), math.Max(w.max, v)
	if at < w.firstAt {
		w.first, w.firstAt = v, at
	}
	if at >= w.lastAt {
		w.last, w.lastAt = v, at
	}
}

// rate is the change of the value per second between the first and the last reading, as one wants it of counters.
func (w *window) rate() float64 {
	if w.lastAt == w.firstAt {
		return 0
	}
	return (w.last - w.first) / (float64(w.lastAt-w.firstAt) / 1000)
}

func (w *window) figures() map[string]any {
	return map[string]any{"avg": w.sum / float64(w.count), "min": w.min, "max": w.max, "sum": w.sum, "count": int(w.count),
		"first": w.first, "last": w.last, "rate": w.rate()}
}
