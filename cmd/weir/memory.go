package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The runtime collects when the heap has doubled, and keeps that much from the operating system. On a gateway with
// thousands of idle devices the difference is larger than what the devices need, and it stays after every burst: nothing
// allocates, so nothing collects. When the node is quiet and holds memory that it does not use, trimmer has it
// collected and given back. A collection costs about a millisecond of CPU for each 2 MiB in use, and the next one needs
// new garbage, so that a node at rest runs none.

const (
	trimTick  = time.Second
	trimQuiet = 1 << 20 // bytes allocated within a tick above which the node is busy: then the runtime's own pace is right
	trimWorth = 2 << 20 // unused bytes that are worth a collection, besides a sixteenth of what is in use
)

// heapSample is what the decision needs to know.
type heapSample struct {
	live      uint64 // in use at the last collection
	objects   uint64 // live or not collected yet
	free      uint64 // in no use, and not given back
	allocated uint64 // in all, since the start
}

// unused is the memory that a collection would give back; allocations since the last one count as garbage.
func (s heapSample) unused() uint64 {
	if s.objects < s.live {
		return s.free
	}
	return s.free + s.objects - s.live
}

// trimmer decides once a tick.
type trimmer struct {
	last   heapSample
	wasted uint64 // what the last collection could not give back, though it looked as if it could
}

// due says whether now is the time to collect.
func (t *trimmer) due(now heapSample) bool {
	quiet := now.allocated-t.last.allocated < trimQuiet
	t.last = now
	return quiet && now.unused() > t.wasted+trimWorth+now.live/16
}

// trimmed notes what is left after a collection.
func (t *trimmer) trimmed(now heapSample) { t.last, t.wasted = now, now.unused() }

func (t *trimmer) run(ctx context.Context) error {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	read := func() heapSample {
		metrics.Read(samples)
		return heapSample{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
	}
	t.last = read()
	tick := time.NewTicker(trimTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if t.due(read()) {
			debug.FreeOSMemory()
			t.trimmed(read())
		}
	}
}
