package deliver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-io/weir/log"
)

// nullTarget takes everything, up to room messages between two Ready calls if room is positive.
type nullTarget struct {
	room, left int
	n          int
}

func (t *nullTarget) Deliver(m *Message, _ byte, _ bool, _ []uint32) bool {
	if t.room > 0 {
		if t.left == 0 {
			return false
		}
		t.left--
	}
	t.n++
	if b := m.Shared(3); len(*b) == 0 {
		*b = append(append(*b, m.Topic...), m.Payload...)
	}
	return true
}

const (
	benchBatches = 64
	benchRecords = 100 // per batch
)

// benchPartition is a partition of 256 B records from devices.
func benchPartition(b *testing.B, devices int) (*Hub, *partition) {
	b.Helper()
	src := &fakeSource{}
	l := newFakeLog("telemetry", 0)
	payload := strings.Repeat("x", 256)
	for i := range benchBatches {
		var records []log.Record
		for j := range benchRecords {
			client := fmt.Sprintf("sim-%d", (i*benchRecords+j)%devices)
			r := published("devices/"+client+"/telemetry", payload, 1, HeaderClient, client)
			records = append(records, r)
		}
		l.commit(records...)
	}
	h, err := NewHub(Config{Source: src})
	if err != nil {
		b.Fatal(err)
	}
	h.running = true
	close(h.started)
	h.addPartition(l)
	return h, h.partition(l.id)
}

// rewind puts the tail back so that the same records pass again.
func rewind(p *partition) {
	p.mu.Lock()
	p.setTail(0)
	p.mu.Unlock()
}

func drain(w *worker, t task) {
	for t.run(w) {
	}
}

func reportPerRecord(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchBatches*benchRecords), "ns/record")
}

// What one '#' session at QoS 1 costs per record, live.
func BenchmarkTailOneSubscriber(b *testing.B) {
	for _, devices := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			h, p := benchPartition(b, devices)
			t := &nullTarget{}
			h.Attach("c", t, true, Cursor{}, nil)
			if _, err := h.Subscribe("c", Sub{Filter: "#", QoS: 1}); err != nil {
				b.Fatal(err)
			}
			h.session("c").subs["#"].since.Store(nil)
			w := newWorker(h)
			rewind(p)
			drain(w, p)
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				rewind(p)
				drain(w, p)
			}
			reportPerRecord(b)
		})
	}
}

// What a record costs that none of 10,000 narrow subscriptions wants.
func BenchmarkTailNoMatch(b *testing.B) {
	h, p := benchPartition(b, 100)
	for i := range 10_000 {
		id := fmt.Sprint("c", i)
		h.Restore(id, Cursor{}, []Sub{{Filter: fmt.Sprintf("others/%d/#", i), QoS: 1}})
	}
	w := newWorker(h)
	rewind(p)
	drain(w, p)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		rewind(p)
		drain(w, p)
	}
	reportPerRecord(b)
}

// What each delivery of a fan-out to 1,000 sessions costs.
func BenchmarkFanOut(b *testing.B) {
	const sessions = 1000
	h, p := benchPartition(b, 1)
	for i := range sessions {
		id := fmt.Sprint("c", i)
		h.Attach(id, &nullTarget{}, false, Cursor{}, nil)
		if _, err := h.Subscribe(id, Sub{Filter: "devices/+/telemetry", QoS: 1}); err != nil {
			b.Fatal(err)
		}
		for _, sub := range h.session(id).subs {
			sub.since.Store(nil)
		}
	}
	w := newWorker(h)
	b.ReportAllocs()
	for b.Loop() {
		rewind(p)
		drain(w, p)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchBatches*benchRecords*sessions), "ns/delivery")
}

// What a record costs when a session catches up by scanning, with a window that fills again and again.
func BenchmarkCatchUp(b *testing.B) {
	for _, window := range []int{20, 100, 1000, 0} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			h, p := benchPartition(b, 100)
			t := &nullTarget{room: window}
			h.Attach("c", t, true, Cursor{}, nil)
			if _, err := h.Subscribe("c", Sub{Filter: "#", QoS: 1}); err != nil {
				b.Fatal(err)
			}
			s := h.session("c")
			s.subs["#"].since.Store(nil)
			w := newWorker(h)
			b.ReportAllocs()
			for b.Loop() {
				p.mu.Lock()
				p.newLag(s, 0).toScan(0)
				p.mu.Unlock()
				for s.lagging.Load() > 0 {
					t.left = window
					s.full.Store(false)
					s.run(w)
				}
			}
			reportPerRecord(b)
		})
	}
}

// Subscribing while thousands are subscribed: a reconnecting fleet.
func BenchmarkSubscribe(b *testing.B) {
	h, _ := benchPartition(b, 1)
	for i := range 10_000 {
		h.Restore(fmt.Sprint("c", i), Cursor{}, []Sub{{Filter: fmt.Sprintf("devices/%d/commands", i), QoS: 1}})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		h.Subscribe("c1", Sub{Filter: "devices/1/commands", QoS: byte(i & 1)})
	}
}

func BenchmarkMatchUncached(b *testing.B) {
	h, _ := benchPartition(b, 1)
	for i := range 10_000 {
		h.Restore(fmt.Sprint("c", i), Cursor{}, []Sub{{Filter: fmt.Sprintf("devices/%d/+", i), QoS: 1}})
	}
	c := newMatchCache(&h.index, 100)
	topic := []byte("devices/77/telemetry")
	b.ReportAllocs()
	for b.Loop() {
		c.subs = h.index.match(topic, c.subs[:0])
	}
}

// Commit wake-ups with nobody subscribed: what publishers pay.
func BenchmarkWakeIdle(b *testing.B) {
	_, p := benchPartition(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		p.wake()
	}
}

// End to end through the run queue with real workers.
func BenchmarkRunning(b *testing.B) {
	src := &fakeSource{}
	l := newFakeLog("telemetry", 0)
	src.logs = append(src.logs, l)
	h, err := NewHub(Config{Source: src})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	defer run.Wait()
	defer cancel()
	run.Go(func() { h.Run(ctx) })
	t := &countTarget{done: make(chan struct{}, 1)}
	h.Attach("c", t, true, Cursor{}, nil)
	h.Subscribe("c", Sub{Filter: "#", QoS: 1})
	var records []log.Record
	for range benchRecords {
		records = append(records, published("devices/1/telemetry", strings.Repeat("x", 256), 1))
	}
	b.ReportAllocs()
	for b.Loop() {
		t.want.Store(benchRecords)
		l.commit(records...)
		<-t.done
		l.setStart(l.HighWatermark())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchRecords), "ns/record")
}

// countTarget signals when it has got as many as wanted.
type countTarget struct {
	want atomic.Int64
	done chan struct{}
}

func (t *countTarget) Deliver(*Message, byte, bool, []uint32) bool {
	if t.want.Add(-1) == 0 {
		t.done <- struct{}{}
	}
	return true
}
