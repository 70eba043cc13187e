package deliver

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// fillSegments commits n segments of ten batches; in every segment whose number divides by each there is one message
// on topic mark, the rest are telemetry.
func fillSegments(l *fakeLog, n, each int, mark string) (marks []string) {
	l.perSegment = 10
	for i := range n {
		for k := range 10 {
			topic, payload := fmt.Sprintf("devices/%d/telemetry", k), "x"
			if k == 5 && i%each == 0 {
				topic, payload = mark, fmt.Sprint(i)
				marks = append(marks, payload)
			}
			l.commit(published(topic, payload, 1))
		}
	}
	return marks
}

// The pass after a restart reads only the segments in which an absent session finds something.
func TestPassSkipsSegmentsOfOtherTopics(t *testing.T) {
	for _, filter := range []string{"devices/7/commands", "devices/+/commands", "+/7/commands/#", "$share/g/devices/7/#"} {
		synctest.Test(t, func(t *testing.T) {
			th := startHub(t, 1, func(c *Config) { c.Limits.ReadBytes = 1 })
			l := th.logs[0]
			th.Restore("all", Cursor{}, []Sub{{Filter: "nothing/of/that", QoS: 1}}) // somebody listens, so that notes are made
			marks := fillSegments(l, 50, 10, "devices/7/commands")
			synctest.Wait()
			if len(l.notes) != 49 {
				t.Fatalf("%d notes, want one for each closed segment", len(l.notes))
			}
			th.stop()
			th.open(func(c *Config) { c.Limits.ReadBytes = 1 })
			var start Cursor
			start.Set(l.id, 3) // in the middle of the first segment
			th.Restore("dev", start, []Sub{{Filter: filter, QoS: 1}})
			l.reads = 0
			th.start()
			defer th.stop()
			if st := th.Stats(); st.Skipped != 440 || l.reads > 10*6+2 || st.RebuildingPartitions != 0 {
				// 44 of 50 segments; the last one is open.
				if !strings.HasSuffix(filter, "7/#") {
					t.Fatalf("%s: %d records skipped, %d reads", filter, st.Skipped, l.reads)
				}
			}
			target := newTarget(-1)
			th.Attach("dev", target, true, Cursor{}, nil)
			synctest.Wait()
			var got []string
			for _, p := range target.payloads() {
				if p != "x" {
					got = append(got, p)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(marks) {
				t.Fatalf("%s: %v, want %v", filter, got, marks)
			}
		})
	}
}

// A session that scans skips too.
func TestScanSkipsSegmentsOfOtherTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, func(c *Config) { c.Limits.ReadBytes = 1 })
		defer th.stop()
		l := th.logs[0]
		th.Restore("all", Cursor{}, []Sub{{Filter: "nothing/of/that", QoS: 1}})
		marks := fillSegments(l, 50, 10, "devices/7/commands")
		synctest.Wait()
		var start Cursor
		start.Set(l.id, 0)
		th.Restore("dev", start, []Sub{{Filter: "devices/7/commands", QoS: 1}}) // after Run: it scans
		l.reads = 0
		target := newTarget(-1)
		th.Attach("dev", target, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, target, marks...)
		if l.reads > 10*6+2 || th.Stats().Skipped != 440 {
			t.Errorf("%d reads, %d records skipped", l.reads, th.Stats().Skipped)
		}
	})
}

// Segments of more topics than a note holds are read, and the next ones get notes again.
func TestSegmentsOfManyTopicsHaveNoNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		l := th.logs[0]
		l.perSegment = topicsPerSegment + 1
		th.Restore("all", Cursor{}, []Sub{{Filter: "nothing/of/that", QoS: 1}})
		l.fail = errors.New("not just now") // so that the scan sees the end of the segment too late
		for i := range topicsPerSegment + 1 {
			l.commit(published(fmt.Sprint("d/", i), "x", 1))
		}
		l.perSegment = 3
		l.commit(published("early", "x", 1))
		l.mu.Lock()
		l.fail = nil
		l.mu.Unlock()
		time.Sleep(2 * time.Second)
		for range 10 {
			l.commit(published("a", "x", 1))
			synctest.Wait()
		}
		span, _ := l.SpanAt(topicsPerSegment + 1)
		if from, _, ok := readNote(l.Note(span.First), span); ok && from <= span.First {
			t.Errorf("the second segment's note holds from %d on and cannot know all", from)
		}
		if l.Note(0) != nil || len(l.notes) < 2 {
			t.Errorf("%d notes, one of %d bytes for the segment of many topics", len(l.notes), len(l.Note(0)))
		}
		th.stop()
		for _, p := range *th.parts.Load() {
			p.dropCollector(&p.collect[0])
		}
		if n := th.collected.Load(); n != 0 {
			t.Errorf("%d topics are still counted", n)
		}
	})
}

// What cannot be read may have any topic.
func TestDamagedSegmentHasNoNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		l := th.logs[0]
		l.perSegment = 3
		th.Restore("all", Cursor{}, []Sub{{Filter: "nothing/of/that", QoS: 1}})
		l.fail = errors.New("not just now")
		for i := range 9 {
			var bb log.BatchBuilder
			bb.SetCompression(log.CompressionSnappy)
			l.commitWith(&bb, published("a", "x", 1))
			if i == 4 {
				b := l.batches[len(l.batches)-1]
				clear(b[log.BatchHeaderSize:])
			}
		}
		l.mu.Lock()
		l.fail = nil
		l.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		l.commit(published("a", "x", 1))
		synctest.Wait()
		if th.Stats().ReadErrors == 0 {
			t.Fatal("nothing was damaged")
		}
		for _, first := range []log.Offset{0, 3, 6} {
			span, _ := l.SpanAt(first)
			if from, _, ok := readNote(l.Note(first), span); ok && from <= 4 && 4 < span.Next {
				t.Errorf("the note of %+v holds from %d on", span, from)
			}
		}
	})
}

func FuzzReadNote(f *testing.F) {
	h := &Hub{}
	c := h.newCollector(5)
	for i, topic := range []string{"a", "devices/7/telemetry", strings.Repeat("long/", 40)} {
		c.see(h, &result{}, []byte(topic), log.Offset(5+i))
	}
	c.pos = 8
	span := log.Span{First: 4, Next: 8, Closed: true}
	whole := c.note()
	f.Add(whole)
	first, topics, ok := readNote(whole, span)
	if !ok || first != 5 {
		f.Fatalf("first %d, %v", first, ok)
	}
	n := 0
	for ; len(topics) > 0; n++ {
		var topic []byte
		if topic, topics, ok = nextTopic(topics); !ok || c.topics[string(topic)] == nil {
			f.Fatalf("topic %q, %v", topic, ok)
		}
	}
	for i := range whole {
		if _, _, ok := readNote(whole[:i], span); ok {
			f.Errorf("accepted when cut to %d bytes", i)
		}
		whole[i] ^= 0x10
		if _, _, ok := readNote(whole, span); ok {
			f.Errorf("accepted with byte %d changed", i)
		}
		whole[i] ^= 0x10
	}
	for _, other := range []log.Span{{First: 4, Next: 9, Closed: true}, {First: 6, Next: 8, Closed: true}} {
		if _, _, ok := readNote(whole, other); ok || n != 3 {
			f.Errorf("%d topics; accepted for %+v", n, other)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, topics, _ := readNote(b, span)
		for ok := true; ok && len(topics) > 0; {
			_, topics, ok = nextTopic(topics)
		}
		for ok := true; ok && len(b) > 0; {
			_, b, ok = nextTopic(b)
		}
	})
}
