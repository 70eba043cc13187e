package uplink

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// What an uplink holds while it drains a backlog, and what it leaves to the garbage collector for each record: a node's memory is twice what is held, however little that is.
func TestDrainNeedsLittleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("pools lose on purpose with the race detector, and everything is larger")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // each processor has pools of its own
	for _, c := range []struct {
		value, records int // of each partition
		held           int64
		bytes, mallocs float64 // for each record, of which the fake target has what it receives
	}{
		{1, 64 << 10, 9 << 20, 150, 0.2},
		{256, 32 << 10, 14 << 20, 420, 0.2},
		{4096, 2 << 10, 14 << 20, 5800, 1.5},
	} {
		t.Run(fmt.Sprintf("records of %d B", c.value), func(t *testing.T) {
			source := fakeSource{}
			for i := range int32(4) {
				source.logs = append(source.logs, backlog(i, c.records, c.value))
			}
			total := int64(4 * c.records)
			memory(true) // twice: what pools hold survives the first
			began := int64(memory(true).HeapAlloc)
			var mu sync.Mutex
			var requests int64
			var samples []int64
			drain(t, source, total, func() {
				mu.Lock()
				defer mu.Unlock()
				if requests++; requests%5 == 0 {
					samples = append(samples, int64(memory(true).HeapAlloc)-began)
				}
			})
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // each collection empties pools, whoever has it happen
			before := memory(false)
			drain(t, source, total, func() {})
			after := memory(false)
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(samples)
			held := samples[len(samples)/2] // how many requests the fake target has read, and not answered, is chance
			bytes, mallocs := float64(after.TotalAlloc-before.TotalAlloc)/float64(total), float64(after.Mallocs-before.Mallocs)/float64(total)
			t.Logf("%d requests, held %.1f MiB, %.0f bytes and %.2f allocations a record", requests, float64(held)/(1<<20), bytes, mallocs)
			if held > c.held {
				t.Errorf("it holds %d bytes, %d are enough", held, c.held)
			}
			if bytes > c.bytes || mallocs > c.mallocs {
				t.Errorf("%.0f bytes and %.2f allocations a record, %.0f and %.2f are enough", bytes, mallocs, c.bytes, c.mallocs)
			}
		})
	}
}

// drain carries all to a target that forgets it; each is called with every request that produces, one at a time.
func drain(t *testing.T, source fakeSource, total int64, each func()) {
	t.Helper()
	centre, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	swallow(centre, each)
	centre.ControlKey(int16(kmsg.GetTelemetrySubscriptions), func(kmsg.Request) (kmsg.Response, error, bool) {
		t.Error("the link is used for what nobody has asked for: metrics of the client")
		return nil, nil, false
	})
	cfg := []Config{{Name: "central", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"telemetry"}, Guarantee: AtLeastOnce, Compress: "zstd"}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	store := &storeState{rng: rand.New(rand.NewPCG(1, 1)), kept: map[string][]byte{}}
	f := New(Options{Config: cfg[0], Cluster: "edge", Source: source, Store: fakeStore{store, store.term}, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for carried := int64(0); carried < total; {
		select {
		case <-tick.C:
			f.told(func(s *figures) { carried = s.records }) // Status reads the log
		case err := <-ended:
			t.Fatal("it has ended: ", err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// backlog is a partition full of noise.
func backlog(index int32, records, size int) *fakeLog {
	l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}, Index: index}, topic: "telemetry"}
	rng := rand.New(rand.NewPCG(1, uint64(index)))
	value := make([]byte, size)
	for range records / 128 {
		var b log.BatchBuilder
		for range 128 {
			for i := range value {
				value[i] = "0123456789abcdef"[rng.IntN(16)]
			}
			b.Append(&log.Record{Timestamp: 1, Value: value})
		}
		l.batches = append(l.batches, log.Batch(append([]byte(nil), b.Seal(l.end, 1)...)))
		l.end += 128
	}
	l.hw = l.end
	return l
}

// swallow has a fake broker confirm what is produced and forget it.
func swallow(centre *kfake.Cluster, each func()) {
	var next int64
	centre.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		centre.KeepControl()
		each()
		resp := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.BaseOffset = p.Partition, next
				next += 1 << 20
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// memory is what the runtime says, of live objects only when they are collected before.
func memory(collect bool) (m runtime.MemStats) {
	if collect {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
