package uplink

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// thin does to all but the newest batches what the log does to closed segments: the other way round, with maps, and bytes of its own.
func (l *fakeLog) thin(t *testing.T, rule log.Thinner) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	last := map[string]log.Offset{}
	old := l.batches[:max(len(l.batches)-3, 0)]
	each := func(b log.Batch, fn func(r *log.Record, group string, ok bool)) {
		var rr log.RecordReader
		if err := rr.Reset(b); err != nil {
			t.Fatal(err)
		}
		for {
			var r log.Record
			more, err := rr.Next(&r)
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				return
			}
			group, ok := rule.Group(nil, &r, now)
			fn(&r, string(group), ok)
		}
	}
	for _, b := range old {
		if !b.IsControl() {
			each(b, func(r *log.Record, group string, ok bool) {
				if ok {
					last[group] = r.Offset
				}
			})
		}
	}
	var left []log.Batch
	for _, b := range old {
		if b.IsControl() {
			left = append(left, b)
			continue
		}
		var records []byte
		kept, base := 0, b.BaseOffset()
		each(b, func(r *log.Record, group string, ok bool) {
			if !ok || last[group] <= r.Offset {
				kept++
				records = appendWire(records, r, base, b.BaseTimestamp())
			}
		})
		switch before := len(left) - 1; {
		case kept == b.Count():
			left = append(left, b)
		case kept == 0 && before >= 0 && left[before].Count() == 0 && left[before].NextOffset() == base:
			left[before] = markedBatch(left[before].BaseOffset(), b.NextOffset(), -1, 0, nil)
		default:
			left = append(left, markedBatch(base, b.NextOffset(), b.BaseTimestamp(), kept, records))
		}
	}
	l.batches = append(left, l.batches[len(old):]...)
}

// appendWire writes one record as Kafka's format has it.
func appendWire(b []byte, r *log.Record, base log.Offset, baseTimestamp int64) []byte {
	bytes := func(to, v []byte) []byte {
		if v == nil {
			return binary.AppendVarint(to, -1)
		}
		return append(binary.AppendVarint(to, int64(len(v))), v...)
	}
	one := binary.AppendVarint([]byte{0}, r.Timestamp-baseTimestamp)
	one = binary.AppendVarint(one, int64(r.Offset-base))
	one = binary.AppendVarint(bytes(bytes(one, r.Key), r.Value), int64(len(r.Headers)))
	for _, h := range r.Headers {
		one = bytes(bytes(one, h.Key), h.Value)
	}
	return bytes(b, one)
}

// markedBatch is one that lacks what was given up.
func markedBatch(base, next log.Offset, baseTimestamp int64, count int, records []byte) log.Batch {
	be := binary.BigEndian
	b := make([]byte, log.BatchHeaderSize, log.BatchHeaderSize+len(records))
	be.PutUint64(b, uint64(base))
	be.PutUint32(b[8:], uint32(log.BatchHeaderSize-12+len(records)))
	b[16] = 2
	be.PutUint16(b[21:], uint16(log.AttrThinned))
	be.PutUint32(b[23:], uint32(next-base-1))
	be.PutUint64(b[27:], uint64(baseTimestamp))
	be.PutUint64(b[35:], uint64(baseTimestamp))
	copy(b[43:57], strings.Repeat("\xff", 14)) // no producer
	be.PutUint32(b[57:], uint32(count))
	b = append(b, records...)
	be.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// What the log lacks is told in the order of the log, behind what a lane holds back, and counted to the record; offsets without one are not.
func TestTellsWhatTheLogGaveUp(t *testing.T) {
	for _, thin := range []*Thin{nil, {After: time.Hour, LastOver: time.Minute}} {
		l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}}, topic: "t", hw: 60, end: 60}
		wire := func(base log.Offset, at ...log.Offset) (b []byte) {
			for _, o := range at {
				b = appendWire(b, &log.Record{Offset: o, Key: []byte("k"), Timestamp: int64(o), Value: fmt.Append(nil, o)}, base, 0)
			}
			return b
		}
		marker := markedBatch(20, 21, 0, 0, nil)
		marker.MarkControl()
		l.batches = []log.Batch{
			markedBatch(0, 10, 0, 2, wire(0, 3, 4)), markedBatch(10, 20, -1, 0, nil), marker, markedBatch(30, 40, 0, 1, wire(30, 39)), markedBatch(40, 60, -1, 0, nil),
		}
		f := New(Options{Config: Config{Shards: 1, Lanes: []Lane{{Topics: []string{"*"}, Thin: thin}}}, Cluster: "edge"})
		p := &part{f: f, log: l, rule: f.rules[0]}
		c := &centre{calm: true}
		target := &fakeTarget{c: c}
		k := chunk{f: f, t: target, began: time.Now(), room: 1 << 20, moved: map[*part][]Span{}, larger: func() {}}
		if err := k.read(t.Context(), p, Span{1, 60}); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, r := range target.records {
			text := fmt.Sprint(r.Offset)
			for _, h := range r.own {
				text += " " + string(h.Value)
			}
			told = append(told, text)
		}
		want := []string{"3 1-2 full=2", "4", "39 5-38 full=24"}
		left := k.untold(p)
		if thin != nil { // what the lane leaves out of it besides
			want = []string{"39 1-38 thinned=2 full=26"}
		}
		if fmt.Sprint(told) != fmt.Sprint(want) || string(left.text()) != "40-59 full=20" || k.sums.Full != 46 {
			t.Errorf("told %q, want %q; the cursor has %s, figures %+v", told, want, left.text(), k.sums)
		}
	}
}

func TestThinnerOfALane(t *testing.T) {
	lanes := []Lane{
		{Topics: []string{"plain"}}, {Topics: []string{"*"}, Filter: "payload.level > 1", Thin: &Thin{After: time.Hour, LastOver: time.Minute}},
	}
	c := Config{OnFull: onFullThin, Lanes: lanes}
	if c.Thinner("plain") != nil || (&Config{OnFull: onFullDrop, Lanes: lanes}).Thinner("t") != nil || (&Config{OnFull: onFullThin}).Thinner("t") != nil {
		t.Error("something may go of a topic whose lane says nothing")
	}
	now := time.Now().Truncate(time.Minute)
	rule := c.Thinner("t")
	group := func(key, value string, age time.Duration) string {
		r := log.Record{Value: []byte(value), Timestamp: now.Add(-age).UnixMilli()}
		if key != "" {
			r.Key = []byte(key)
		}
		name, ok := rule.Group([]byte("x"), &r, now)
		if !ok {
			return ""
		}
		return string(name)
	}
	a := group("k", `{"level":2}`, 2*time.Hour)
	for _, same := range []string{group("k", `{"level":3}`, 2*time.Hour-59*time.Second), group("k", "no JSON", 2*time.Hour)} {
		if a == "" || same != a {
			t.Errorf("%q and %q", a, same)
		}
	}
	others := []string{group("k", `{"level":0}`, 2*time.Hour), group("k", `{"level":2}`, 2*time.Hour-time.Minute), group("kk", `{"level":2}`, 2*time.Hour)}
	if slices.Contains(others, a) || slices.Contains(others, "") {
		t.Errorf("%q is one of %q", a, others)
	}
	for _, stays := range []string{group("k", `{"level":2}`, 59*time.Minute), group("", `{"level":2}`, 2*time.Hour)} {
		if stays != "" {
			t.Errorf("%q may go", stays)
		}
	}
}

func TestOnFullThinNeedsARule(t *testing.T) {
	for thin, want := range map[*Thin]string{
		nil: "wants a lane", {After: time.Hour, MeanOver: time.Minute}: "mean_over", {After: time.Hour, Every: 10}: "every", {After: time.Hour, LastOver: time.Minute}: "",
	} {
		all := []Config{{Name: "a", To: "kafka://h:1", Topics: []string{"t"}, OnFull: "thin", Lanes: []Lane{{Topics: []string{"t"}, Thin: thin}}}}
		err := Check(all, "")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "uplinks[0].on_full") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v", thin, err)
		}
	}
}
