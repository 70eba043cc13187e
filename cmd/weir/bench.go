package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// benchCmd is `weir bench …`. Server and load often share a machine, so that every load is made to cost little itself and
// says how much it cost.
type benchCmd struct {
	MQTT   benchMQTTCmd   `cmd:"" name:"mqtt" help:"Publish over MQTT as fast as acks allow, or at a rate."`
	Kafka  benchKafkaCmd  `cmd:"" help:"Produce and fetch over the Kafka protocol."`
	Idle   benchIdleCmd   `cmd:"" help:"Hold connections that do nothing, in waves, and see what they cost."`
	Absent benchAbsentCmd `cmd:"" help:"Let many sessions be away under others' traffic and return: each must get exactly its messages."`
	Log    benchLogCmd    `cmd:"" help:"Append to a log in this process: journal and disk without a network."`
}

// clockTicks is USER_HZ, the unit of /proc/PID/stat: 100 on every Linux platform that Go supports.
const clockTicks = 100

// procCPU is the processor time, user and system, that a process has used.
func procCPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, usagef("--pid %d: %v; name a process that runs on this machine, or leave --pid out", pid, err)
	}
	// The command name, field 2, is in parentheses and may hold spaces; utime and stime are fields 14 and 15.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, failf("/proc/%d/stat: not understood", pid)
	}
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, failf("/proc/%d/stat: %v", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// procPeakRSS is the most memory, in bytes, that a process has had resident.
func procPeakRSS(pid int) (int64, error) { return procStatus(pid, "VmHWM:") }

// procRSS is the memory, in bytes, that a process has resident now.
func procRSS(pid int) (int64, error) { return procStatus(pid, "VmRSS:") }

func procStatus(pid int, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, usagef("--pid %d: %v; name a process that runs on this machine, or leave --pid out", pid, err)
	}
	_, after, ok := strings.Cut(string(b), field)
	if f := strings.Fields(after); ok && len(f) > 0 {
		kib, err := strconv.ParseInt(f[0], 10, 64)
		return kib << 10, err
	}
	return 0, failf("/proc/%d/status has no %s", pid, field)
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// meter measures an interval: time, our processor time and the server's.
type meter struct {
	pid       int // 0: no server to watch
	began     time.Time
	own, peer time.Duration
}

func startMeter(pid int) (*meter, error) {
	m := &meter{pid: pid, own: ownCPU(), began: time.Now()}
	if pid == 0 {
		return m, nil
	}
	var err error
	m.peer, err = procCPU(pid)
	return m, err
}

// usage is what an interval cost. The server's figures are nil without --pid.
type usage struct {
	Seconds       float64  `json:"seconds"`
	Messages      int64    `json:"messages"`
	Rate          float64  `json:"rate"` // messages per second
	MBPerSecond   float64  `json:"mb_per_s"`
	ClientCPU     float64  `json:"client_cpu_us"` // per message
	ServerCPU     *float64 `json:"server_cpu_us,omitempty"`
	ServerPeakRSS *int64   `json:"server_peak_rss,omitempty"` // bytes
}

func (m *meter) stop(messages, bytes int64) (usage, error) {
	ran := time.Since(m.began)
	u := usage{Seconds: ran.Seconds(), Messages: messages, Rate: float64(messages) / ran.Seconds(), MBPerSecond: float64(bytes) / 1e6 / ran.Seconds()}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(max(messages, 1)) }
	u.ClientCPU = each(ownCPU() - m.own)
	if m.pid == 0 {
		return u, nil
	}
	cpu, err := procCPU(m.pid)
	if err != nil {
		return u, err
	}
	rss, err := procPeakRSS(m.pid)
	if err != nil {
		return u, err
	}
	per := each(cpu - m.peer)
	u.ServerCPU, u.ServerPeakRSS = &per, &rss
	return u, nil
}

// latencies are in milliseconds.
type latencies struct {
	P50  float64 `json:"latency_p50_ms"`
	P90  float64 `json:"latency_p90_ms"`
	P99  float64 `json:"latency_p99_ms"`
	P999 float64 `json:"latency_p999_ms"`
	Max  float64 `json:"latency_max_ms"`
}

// maxLatency is the histograms' range; what takes longer counts as that.
const maxLatency = 5 * time.Minute

// histogram may be shared by a few goroutines that each record many values under one lock.
type histogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func newHistogram() *histogram {
	return &histogram{h: hdrhistogram.New(1, int64(maxLatency/time.Microsecond), 3)}
}

// recordLocked counts n values of d.
func (h *histogram) recordLocked(d time.Duration, n int64) {
	us := min(max(int64(d/time.Microsecond), 1), int64(maxLatency/time.Microsecond))
	_ = h.h.RecordValues(us, n) // in range
}

func (h *histogram) record(d time.Duration, n int64) {
	h.mu.Lock()
	h.recordLocked(d, n)
	h.mu.Unlock()
}

func summary(hs ...*histogram) latencies {
	all := newHistogram()
	for _, h := range hs {
		h.mu.Lock()
		all.h.Merge(h.h)
		h.mu.Unlock()
	}
	ms := func(us int64) float64 { return float64(us) / 1e3 }
	return latencies{ms(all.h.ValueAtQuantile(50)), ms(all.h.ValueAtQuantile(90)), ms(all.h.ValueAtQuantile(99)), ms(all.h.ValueAtQuantile(99.9)), ms(all.h.Max())}
}

// columns adds a result's common cells to a table under construction.
type columns struct{ head, cells []any }

func (c *columns) add(head string, format string, v any) {
	c.head = append(c.head, head)
	c.cells = append(c.cells, fmt.Sprintf(format, v))
}

func (c *columns) usage(u usage) {
	c.add("MSG/S", "%.0f", u.Rate)
	c.add("MB/S", "%.1f", u.MBPerSecond)
	c.add("CLIENT µs/MSG", "%.2f", u.ClientCPU)
	if u.ServerCPU != nil {
		c.add("SERVER µs/MSG", "%.2f", *u.ServerCPU)
		c.add("PEAK RSS MiB", "%.0f", float64(*u.ServerPeakRSS)/(1<<20))
	}
}

func (c *columns) latencies(l latencies) {
	c.add("p50 ms", "%.2f", l.P50)
	c.add("p99 ms", "%.2f", l.P99)
	c.add("p99.9 ms", "%.2f", l.P999)
	c.add("MAX ms", "%.2f", l.Max)
}

func (c *columns) table() *table {
	head := make([]string, len(c.head))
	for i, h := range c.head {
		head[i] = fmt.Sprint(h)
	}
	t := newTable(head...)
	t.add(c.cells...)
	return t
}
