package alert

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Partition names a partition of an input topic.
type Partition struct {
	Topic string
	Index int32
}

// Record is what the engine needs of a record. Offset is its place in the partition.
type Record struct {
	Offset int64
	Time   int64 // event time, ms
	Device string
	Value  func(path []string) (float64, bool) // a numeric payload field; asked for at most once per field and record
}

// Counters are what the engine dropped and did, since it was made.
type Counters struct{ Records, Late, Future, OverLimit, Alerts int64 }

// Engine is the core. It is not safe for concurrent use.
type Engine struct {
	file   *File
	parts  map[Partition]*shard
	spoken map[key]spoken // what the alert topic last said
	swept  time.Time      // spoken was last rid of what is long over
	judged func(r *Rule, device string, w *window)
	Counters
}

// key is a rule and a device.
type key struct{ rule, device string }

type spoken struct {
	firing bool
	at     int64 // Alert.Time
}

// shard is one partition's state.
type shard struct {
	rules     []*Rule
	watermark int64     // windows that end here or earlier are judged; math.MinInt64 before the first record
	newest    int64     // greatest event time
	nextEnd   int64     // no open window ends earlier
	arrived   time.Time // of the last record, by our clock
	caughtUp  bool      // the last record read was the last there was
	next      int64     // offset after the last record
	devices   map[string]*device
}

type device struct {
	seen  time.Time
	rules []*ruleState // those that cover it
}

type ruleState struct {
	rule *Rule
	open []*window // by start
}

// NewEngine makes an engine without partitions.
func NewEngine(f *File) *Engine {
	return &Engine{file: f, parts: map[Partition]*shard{}, spoken: map[key]spoken{}}
}

// Restore tells what the alert topic said last; call it for each of its records, in order, before the first Observe.
func (e *Engine) Restore(a Alert) {
	e.spoken[key{a.Rule, a.Device}] = spoken{a.State == Firing, a.Time}
}

// Assign begins a partition at an offset, with the watermark its last owner committed (ok false: there was none).
func (e *Engine) Assign(p Partition, offset, watermark int64, ok bool) {
	s := &shard{watermark: math.MinInt64, newest: math.MinInt64, nextEnd: math.MaxInt64, next: offset, devices: map[string]*device{}}
	if ok {
		s.watermark, s.newest = watermark, watermark+e.file.Lateness.Milliseconds()
	}
	for _, r := range e.file.Rules {
		if r.Topic == p.Topic {
			s.rules = append(s.rules, r)
		}
	}
	e.parts[p] = s
}

// Revoke forgets a partition.
func (e *Engine) Revoke(p Partition) { delete(e.parts, p) }

// Position is what to commit for a partition: where a successor has to begin and the watermark it has to begin with
// (ok false: none yet).
func (e *Engine) Position(p Partition) (offset, watermark int64, ok bool) {
	s := e.parts[p]
	if s == nil {
		return 0, 0, false
	}
	offset = s.next
	for _, d := range s.devices {
		for _, rs := range d.rules {
			for _, w := range rs.open {
				offset = min(offset, w.offset)
			}
		}
	}
	return offset, s.watermark, s.watermark != math.MinInt64
}

// Observe takes one record in, in offset order per partition, and returns the alerts that follow. end is the
// partition's end as far as is known (its high watermark).
func (e *Engine) Observe(now time.Time, p Partition, r Record, end int64) []Alert {
	s := e.parts[p]
	if s == nil {
		return nil // revoked while the record was on its way
	}
	s.arrived, s.next, s.caughtUp = now, r.Offset+1, r.Offset+1 >= end
	e.Records++
	if r.Device == "" {
		return nil
	}
	var alerts []Alert
	d := e.device(s, r.Device)
	if d == nil {
		e.OverLimit++
		return nil
	}
	for _, rs := range d.rules {
		if rs.rule.Absent > 0 && e.spoken[key{rs.rule.Name, r.Device}].firing {
			alerts = e.speak(alerts, rs.rule, r.Device, Resolved, now.UnixMilli(), d.seen.UnixMilli(), nil)
		}
	}
	d.seen = now
	if r.Time > now.UnixMilli()+e.file.Lateness.Milliseconds() {
		e.Future++
		return alerts
	}
	late := true
	for _, rs := range d.rules {
		if rs.rule.Absent > 0 || rs.add(s, r) {
			late = false
		}
	}
	if late && len(d.rules) > 0 {
		e.Late++
	}
	if r.Time > s.newest {
		s.newest = r.Time
		alerts = e.advance(alerts, s, s.newest-e.file.Lateness.Milliseconds())
	}
	return alerts
}

// device finds or makes a device's state; nil if there is no room.
func (e *Engine) device(s *shard, name string) *device {
	d := s.devices[name]
	if d != nil {
		return d
	}
	if len(s.devices) >= e.file.MaxDevices {
		return nil
	}
	d = &device{}
	for _, r := range s.rules {
		if r.covers(name) {
			d.rules = append(d.rules, &ruleState{rule: r})
		}
	}
	s.devices[name] = d
	return d
}

// add puts a reading into every window of the rule that holds its time and is not judged yet; false if it came too late
// for all of them. A record without the rule's field is no reading.
func (rs *ruleState) add(s *shard, r Record) bool {
	size, every := rs.rule.Window.Milliseconds(), rs.rule.Every.Milliseconds()
	v := 0.0
	if rs.rule.path != nil {
		var ok bool
		if v, ok = r.Value(rs.rule.path); !ok || math.IsNaN(v) {
			return true
		}
	}
	took := false
	for start := floor(r.Time, every); start+size > r.Time; start -= every {
		if start+size <= s.watermark {
			break // so are all before it
		}
		took = true
		i, found := slices.BinarySearchFunc(rs.open, start, func(w *window, at int64) int { return cmp.Compare(w.start, at) })
		if !found {
			rs.open = slices.Insert(rs.open, i, &window{start: start, end: start + size, offset: r.Offset})
			s.nextEnd = min(s.nextEnd, start+size)
		}
		rs.open[i].add(r.Time, v)
	}
	return took
}

// advance moves a partition's watermark and judges what it closes: devices in order, each one's windows in order.
func (e *Engine) advance(alerts []Alert, s *shard, to int64) []Alert {
	if to <= s.watermark {
		return alerts
	}
	s.watermark = to
	if s.nextEnd > to {
		return alerts
	}
	s.nextEnd = math.MaxInt64
	for _, name := range slices.Sorted(maps.Keys(s.devices)) {
		for _, rs := range s.devices[name].rules {
			n := 0
			for n < len(rs.open) && rs.open[n].end <= to {
				alerts = e.judge(alerts, rs.rule, name, rs.open[n])
				n++
			}
			if rs.open = slices.Delete(rs.open, 0, n); len(rs.open) > 0 {
				s.nextEnd = min(s.nextEnd, rs.open[0].end)
			}
		}
	}
	return alerts
}

func (e *Engine) judge(alerts []Alert, r *Rule, name string, w *window) []Alert {
	if e.judged != nil {
		e.judged(r, name, w)
	}
	was := e.spoken[key{r.Name, name}]
	switch holds := r.holds(w); {
	case w.end <= was.at: // a predecessor judged it, and crashed before it could commit
	case holds && !was.firing:
		return e.speak(alerts, r, name, Firing, w.end, w.start, w.figures())
	case !holds && was.firing:
		return e.speak(alerts, r, name, Resolved, w.end, w.start, w.figures())
	}
	return alerts
}

func (e *Engine) speak(alerts []Alert, r *Rule, name string, s State, at, start int64, figures map[string]any) []Alert {
	e.spoken[key{r.Name, name}] = spoken{s == Firing, at}
	e.Alerts++
	return append(alerts, r.alert(name, s, at, start, figures))
}

// sweepEvery is how often what is long over is looked for.
const sweepEvery = time.Minute

// Tick lets time pass: silence is noticed, partitions at their end go on with our clock, devices long gone are forgotten.
// Call it about once a second, and only while records could arrive.
func (e *Engine) Tick(now time.Time) []Alert {
	var alerts []Alert
	for _, s := range e.parts {
		if !s.caughtUp {
			continue
		}
		if idle := now.Sub(s.arrived); idle > e.file.Lateness {
			alerts = e.advance(alerts, s, s.newest+(idle-e.file.Lateness).Milliseconds())
		}
		for _, name := range slices.Sorted(maps.Keys(s.devices)) {
			d := s.devices[name]
			silent := now.Sub(d.seen)
			for _, rs := range d.rules {
				if rs.rule.Absent > 0 && silent >= rs.rule.Absent && !e.spoken[key{rs.rule.Name, name}].firing {
					alerts = e.speak(alerts, rs.rule, name, Firing, now.UnixMilli(), d.seen.UnixMilli(), nil)
				}
			}
			if silent >= e.file.Forget {
				s.forget(name)
			}
		}
	}
	if now.Sub(e.swept) >= sweepEvery {
		e.swept = now
		maps.DeleteFunc(e.spoken, func(_ key, said spoken) bool {
			return !said.firing && now.UnixMilli()-said.at > e.file.Forget.Milliseconds()
		})
	}
	return alerts
}

// forget drops a device that has no open window. What it said last stays while it is firing: its return resolves it.
func (s *shard) forget(name string) {
	for _, rs := range s.devices[name].rules {
		if len(rs.open) > 0 {
			return
		}
	}
	delete(s.devices, name)
}

func floor(t, by int64) int64 {
	m := t % by
	if m < 0 {
		m += by
	}
	return t - m
}
