package firmwaresim

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Faults is misbehaviour on purpose. The zero value is a well-behaved fleet. Times between events are per device and
// jittered by half either way, so that the fleet does not misbehave in step.
type Faults struct {
	Duplicates float64       // share of readings published a second time right away, 0 … 1
	HalfOpen   time.Duration // mean time until a connection silently stops carrying bytes either way; the keepalive finds out
	Reboot     time.Duration // mean time between power losses: no DISCONNECT, MQTT session state gone, readings kept in flash
	ClockSkew  time.Duration // device clocks are off by up to this, either way
	ClockDrift float64       // device clocks run fast or slow by up to this many parts per million
	Burst      time.Duration // mean time between bursts
	BurstSize  int           // readings in a burst, besides the regular ones; default 50
}

func (f *Faults) validate() []error {
	var errs []error
	if f.Duplicates < 0 || f.Duplicates > 1 {
		errs = append(errs, fmt.Errorf("duplicates %v: want a share between 0 and 1", f.Duplicates))
	}
	if f.HalfOpen < 0 || f.Reboot < 0 || f.Burst < 0 || f.ClockSkew < 0 || f.BurstSize < 0 {
		errs = append(errs, errors.New("fault times and sizes must not be negative"))
	}
	if f.ClockDrift < 0 || f.ClockDrift > 100_000 {
		errs = append(errs, fmt.Errorf("clock drift %v ppm: want 0 to 100000", f.ClockDrift))
	}
	if f.BurstSize == 0 {
		f.BurstSize = 50
	}
	return errs
}

// after returns when the next event of a fault comes, or the zero time if the fault is off.
func after(now time.Time, mean time.Duration, rng *rand.Rand) time.Time {
	if mean <= 0 {
		return time.Time{}
	}
	return now.Add(mean/2 + time.Duration(rng.Int64N(int64(mean)+1)))
}

// clock is a device's own idea of time.
type clock struct {
	started time.Time
	skew    time.Duration
	ppm     float64
}

func newClock(started time.Time, f *Faults, rng *rand.Rand) clock {
	signed := func() float64 { return 2*rng.Float64() - 1 }
	return clock{started, time.Duration(signed() * float64(f.ClockSkew)), signed() * f.ClockDrift}
}

// ms is the device's reading of t in milliseconds since 1970.
func (c clock) ms(t time.Time) int64 {
	ran := t.Sub(c.started)
	return t.Add(c.skew + time.Duration(float64(ran)*c.ppm/1e6)).UnixMilli()
}

// link is the device's end of a connection. Half open it swallows what is written and delivers nothing, like a peer
// behind a NAT entry that expired: neither side hears of it but by silence.
//
// It is a sync.Locker because the client library then holds it around the pieces of one packet; Unlock sends them in
// one write.
type link struct {
	net.Conn
	dead atomic.Bool

	mu  sync.Mutex
	out []byte

	in    []byte // read ahead: the library reads headers byte by byte
	inBuf [256]byte
}

func (l *link) Lock() { l.mu.Lock() }

// Unlock flushes. A failed write is not returned from here; the reader sees the broken connection.
func (l *link) Unlock() {
	if len(l.out) > 0 && !l.dead.Load() {
		if _, err := l.Conn.Write(l.out); err != nil {
			l.Conn.Close()
		}
	}
	l.out = l.out[:0]
	l.mu.Unlock()
}

// Write is called with the lock held.
func (l *link) Write(b []byte) (int, error) {
	l.out = append(l.out, b...)
	return len(b), nil
}

// Read is called by one goroutine only.
func (l *link) Read(b []byte) (int, error) {
	for len(l.in) == 0 || l.dead.Load() {
		n, err := l.Conn.Read(l.inBuf[:])
		if err != nil {
			return 0, err
		}
		l.in = l.inBuf[:n]
	}
	n := copy(b, l.in)
	l.in = l.in[n:]
	return n, nil
}

var _ io.ReadWriter = (*link)(nil)
