package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// Dashboards and alerts for Go programs expect these names and meanings from every one of them, so they are those of
// Prometheus' own client library; a test compares the two.

// runtimeNumber is the sum of some of the runtime's own metrics, none of which stops the world.
type runtimeNumber struct {
	name, help string
	keys       []string
}

const (
	heapObjects, heapUnused = "/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes"
	heapFree, heapReleased  = "/memory/classes/heap/free:bytes", "/memory/classes/heap/released:bytes"
	stackInUse, tinyAllocs  = "/memory/classes/heap/stacks:bytes", "/gc/heap/tiny/allocs:objects"
	spanInUse, cacheInUse   = "/memory/classes/metadata/mspan/inuse:bytes", "/memory/classes/metadata/mcache/inuse:bytes"
)

var runtimeNumbers = []runtimeNumber{
	{"go_goroutines", "Goroutines that exist.", []string{"/sched/goroutines:goroutines"}},
	{"go_sched_gomaxprocs_threads", "Threads that may run Go code at once.", []string{"/sched/gomaxprocs:threads"}},
	{"go_gc_gogc_percent", "Heap growth at which a collection starts.", []string{"/gc/gogc:percent"}},
	{"go_gc_gomemlimit_bytes", "Memory limit of the runtime.", []string{"/gc/gomemlimit:bytes"}},
	{"go_memstats_alloc_bytes", "Heap bytes in use.", []string{heapObjects}},
	{"go_memstats_alloc_bytes_total", "Heap bytes allocated since the start.", []string{"/gc/heap/allocs:bytes"}},
	{"go_memstats_mallocs_total", "Heap objects allocated since the start.", []string{"/gc/heap/allocs:objects", tinyAllocs}},
	{"go_memstats_frees_total", "Heap objects freed since the start.", []string{"/gc/heap/frees:objects", tinyAllocs}},
	{"go_memstats_sys_bytes", "Bytes taken from the system.", []string{"/memory/classes/total:bytes"}},
	{"go_memstats_heap_alloc_bytes", "Heap bytes in use.", []string{heapObjects}},
	{"go_memstats_heap_sys_bytes", "Heap bytes taken from the system.", []string{heapObjects, heapUnused, heapReleased, heapFree}},
	{"go_memstats_heap_idle_bytes", "Heap bytes that wait to be used.", []string{heapReleased, heapFree}},
	{"go_memstats_heap_inuse_bytes", "Heap bytes in spans in use.", []string{heapObjects, heapUnused}},
	{"go_memstats_heap_released_bytes", "Heap bytes given back to the system.", []string{heapReleased}},
	{"go_memstats_heap_objects", "Heap objects that exist.", []string{"/gc/heap/objects:objects"}},
	{"go_memstats_stack_inuse_bytes", "Bytes of goroutine stacks.", []string{stackInUse}},
	{"go_memstats_stack_sys_bytes", "Bytes of all stacks.", []string{stackInUse, "/memory/classes/os-stacks:bytes"}},
	{"go_memstats_mspan_inuse_bytes", "Bytes of span structures in use.", []string{spanInUse}},
	{"go_memstats_mspan_sys_bytes", "Bytes of span structures.", []string{spanInUse, "/memory/classes/metadata/mspan/free:bytes"}},
	{"go_memstats_mcache_inuse_bytes", "Bytes of cache structures in use.", []string{cacheInUse}},
	{"go_memstats_mcache_sys_bytes", "Bytes of cache structures.", []string{cacheInUse, "/memory/classes/metadata/mcache/free:bytes"}},
	{"go_memstats_buck_hash_sys_bytes", "Bytes of the profiler's table.", []string{"/memory/classes/profiling/buckets:bytes"}},
	{"go_memstats_gc_sys_bytes", "Bytes of the collector's own data.", []string{"/memory/classes/metadata/other:bytes"}},
	{"go_memstats_other_sys_bytes", "Bytes of other runtime data.", []string{"/memory/classes/other:bytes"}},
	{"go_memstats_next_gc_bytes", "Heap size at which the next collection ends.", []string{"/gc/heap/goal:bytes"}},
}

func runtimeMetrics(e *exposition) {
	var samples []metrics.Sample
	for _, n := range runtimeNumbers {
		for _, key := range n.keys {
			samples = append(samples, metrics.Sample{Name: key})
		}
	}
	metrics.Read(samples)
	for _, n := range runtimeNumbers {
		var sum float64
		for range n.keys {
			if samples[0].Value.Kind() == metrics.KindUint64 { // a later Go may have dropped a key
				sum += float64(samples[0].Value.Uint64())
			}
			samples = samples[1:]
		}
		e.family(n.name, n.help)
		e.sample(n.name, sum)
	}
	threads, _ := runtime.ThreadCreateProfile(nil)
	e.family("go_threads", "Threads created.")
	e.sample("go_threads", float64(threads))
	e.family("go_info", "The Go release that built this binary.")
	e.sample("go_info", 1, "version", runtime.Version())

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	e.familyOf("go_gc_duration_seconds", "Time for which collections stopped the world.", "summary")
	for i, q := range gc.PauseQuantiles {
		e.sample("go_gc_duration_seconds", q.Seconds(), "quantile", strconv.FormatFloat(float64(i)/4, 'g', -1, 64))
	}
	e.sample("go_gc_duration_seconds_sum", gc.PauseTotal.Seconds())
	e.sample("go_gc_duration_seconds_count", float64(gc.NumGC))
	e.family("go_memstats_last_gc_time_seconds", "When the last collection ended, in seconds since 1970.")
	e.sample("go_memstats_last_gc_time_seconds", float64(gc.LastGC.UnixNano())/1e9)
}

// processMetrics reads what Linux tells about this process; on other systems, where proc is no such directory, there are none.
func processMetrics(e *exposition, proc string) {
	gauge := func(name, help string, value float64, err error) {
		if err == nil {
			e.family(name, help)
			e.sample(name, value)
		}
	}
	if stat, err := os.ReadFile(proc + "/self/stat"); err == nil {
		const ticks = 100 // USER_HZ, the same on every Linux that Go runs on
		// The second field is the program's name in brackets and may hold anything; the rest are numbers, from field 3 on.
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		field := func(n int) (float64, error) {
			if n-3 >= len(f) {
				return 0, strconv.ErrRange
			}
			return strconv.ParseFloat(f[n-3], 64)
		}
		user, err := field(14)
		system, err2 := field(15)
		if err2 == nil {
			gauge("process_cpu_seconds_total", "CPU time spent.", (user+system)/ticks, err)
		}
		start, err := field(22)
		gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", bootTime(proc)+start/ticks, err)
		vsize, err := field(23)
		gauge("process_virtual_memory_bytes", "Virtual memory.", vsize, err)
		rss, err := field(24)
		gauge("process_resident_memory_bytes", "Memory in RAM.", rss*float64(os.Getpagesize()), err)
	}
	fds, err := os.ReadDir(proc + "/self/fd")
	gauge("process_open_fds", "Open file descriptors.", float64(len(fds)), err)
	if limits, err := os.ReadFile(proc + "/self/limits"); err == nil {
		soft := func(name string) (float64, error) {
			_, rest, _ := strings.Cut(string(limits), name)
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0, strconv.ErrSyntax
			}
			if f[0] == "unlimited" {
				return 1<<64 - 1, nil
			}
			return strconv.ParseFloat(f[0], 64)
		}
		n, err := soft("Max open files")
		gauge("process_max_fds", "Most file descriptors that may be open.", n, err)
		n, err = soft("Max address space")
		gauge("process_virtual_memory_max_bytes", "Most virtual memory that may be used.", n, err)
	}
	in, out, err := networkBytes(proc)
	gauge("process_network_receive_bytes_total", "Bytes received by the process's network namespace.", in, err)
	gauge("process_network_transmit_bytes_total", "Bytes sent by the process's network namespace.", out, err)
}

// bootTime is when the machine started, in seconds since 1970; 0 where it cannot be told.
func bootTime(proc string) float64 {
	stat, _ := os.ReadFile(proc + "/stat")
	_, rest, _ := strings.Cut(string(stat), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	seconds, _ := strconv.ParseFloat(line, 64)
	return seconds
}

// networkBytes reads the table of pairs of lines, names above values.
func networkBytes(proc string) (in, out float64, err error) {
	text, err := os.ReadFile(proc + "/self/net/netstat")
	if err != nil {
		return 0, 0, err
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 0; j < min(len(names), len(values)) && names[0] == "IpExt:"; j++ {
			switch names[j] {
			case "InOctets":
				in, err = strconv.ParseFloat(values[j], 64)
			case "OutOctets":
				out, err = strconv.ParseFloat(values[j], 64)
			}
			if err != nil {
				return 0, 0, err
			}
		}
	}
	return in, out, nil
}
