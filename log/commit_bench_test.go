package log

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// acker releases appenders as commits make their records durable, with a window like that of MQTT clients.
type acker struct {
	mu    sync.Mutex
	cond  *sync.Cond
	acked int64
	last  map[*Partition]Offset
}

func (a *acker) onCommit(ps []*Partition) {
	a.mu.Lock()
	for _, p := range ps {
		d := p.Durable()
		a.acked += int64(d - a.last[p])
		a.last[p] = d
	}
	a.mu.Unlock()
	a.cond.Broadcast()
}

// BenchmarkCommit appends records of 300 bytes and waits until they are durable on a real disk, with 4096 in
// flight (64 connections with a window of 64) over 1, 16 or 100 partitions. One op is one record; mallocs
// counts everything the process allocates.
func BenchmarkCommit(b *testing.B) {
	for _, parts := range []int{1, 16, 100} {
		b.Run(fmt.Sprint("partitions=", parts), func(b *testing.B) { benchCommit(b, parts, 4096) })
	}
}

func benchCommit(b *testing.B, parts, window int) {
	a := &acker{last: map[*Partition]Offset{}}
	a.cond = sync.NewCond(&a.mu)
	l, err := Open(Config{Dir: b.TempDir(), OnCommit: a.onCommit, BallastBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ps := make([]*Partition, parts)
	for i := range ps {
		if ps[i], err = l.Create(testID(int32(i)), "t", PartitionConfig{}); err != nil {
			b.Fatal(err)
		}
	}
	r := Record{Key: []byte("client-0001"), Value: make([]byte, 256), Timestamp: 1,
		Headers: []Header{{Key: []byte("mqtt.qos"), Value: []byte("1")}}}
	send := func(n int64) {
		a.mu.Lock()
		base := a.acked
		a.mu.Unlock()
		for i := int64(0); i < n; {
			a.mu.Lock()
			for i-(a.acked-base) >= int64(window) {
				a.cond.Wait()
			}
			room := int64(window) - (i - (a.acked - base))
			a.mu.Unlock()
			for ; room > 0 && i < n; room, i = room-1, i+1 {
				if _, err := ps[i%int64(parts)].Append(&r, 1); err != nil {
					b.Fatal(err)
				}
			}
		}
		a.mu.Lock()
		for a.acked-base < n {
			a.cond.Wait()
		}
		a.mu.Unlock()
	}
	send(200_000) // grows every buffer, begins journal files
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	commits, start := l.Stats().Commits, time.Now()
	b.ResetTimer()
	send(int64(b.N))
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "records/s")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "mallocs/record")
	b.ReportMetric(float64(l.Stats().Commits-commits)/time.Since(start).Seconds(), "commits/s")
	b.ReportMetric(float64(b.N)/float64(max(1, l.Stats().Commits-commits)), "records/commit")
}

// BenchmarkAppend is the hot path alone: one record encoded into a partition's shared batch.
func BenchmarkAppend(b *testing.B) {
	benchCommit(b, 16, 1<<16)
}
