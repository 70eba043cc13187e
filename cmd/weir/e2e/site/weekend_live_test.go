package site

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stopwatch measures how long records take from their producer to readers beside the centre. Its clock is one: all hosts are on this machine.
type stopwatch struct {
	mu   sync.Mutex
	sent map[string]time.Time
	took map[string][]time.Duration // by reader; the first time that each came
	seen map[string]bool
}

func newStopwatch() *stopwatch {
	return &stopwatch{sent: map[string]time.Time{}, took: map[string][]time.Duration{}, seen: map[string]bool{}}
}

const stampWidth = len("alert 000000")

// stamp begins a record of so many bytes: a name and a number, and behind them what no codec makes smaller.
func (s *stopwatch) stamp(name string, number, size int) []byte {
	key := fmt.Sprintf("%-5s %06d", name, number)
	value := make([]byte, size)
	_, _ = rand.Read(value)
	copy(value, key)
	for i, c := range value {
		if c == '\n' || c == 0 { // it is printed as a line
			value[i] = ' '
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[key] = time.Now()
	return value
}

// read notes what a reader has got.
func (s *stopwatch) read(reader string, value []byte) {
	key := string(value[:min(len(value), stampWidth)])
	s.mu.Lock()
	defer s.mu.Unlock()
	if began, ours := s.sent[key]; ours && !s.seen[reader+key] {
		s.seen[reader+key] = true
		s.took[reader] = append(s.took[reader], time.Since(began))
	}
}

func (s *stopwatch) count(reader string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.took[reader])
}

// percentiles are the median, p99 and the most of what a reader has got.
func (s *stopwatch) percentiles(reader string) (p50, p99, most time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Sorted(slices.Values(s.took[reader]))
	at := func(p int) time.Duration { return all[min(len(all)*p/100, len(all)-1)].Round(time.Millisecond) }
	return at(50), at(99), at(100)
}

// live writes, beside a backlog that drains, 100 records a second into the backlog's own topic, whose lane is live_first, and ten alerts a second into a lane that goes before it, and
// tells how long they take to whoever reads what is committed at the centre. On a busy machine the figures say little, so that they are only looked at with wide eyes here.
func (w *weekend) live(lasts time.Duration, backlog int64) {
	w.t.Helper()
	const every, alertEvery = 10 * time.Millisecond, 10
	watch := newStopwatch()
	w.broker.read(func(value []byte) { watch.read("alerts by MQTT", value) })
	w.consumer("plant-7.alerts", func(line []byte) { watch.read("alerts", line) })
	w.consumer("plant-7.bulk", func(line []byte) { watch.read("live", line) })

	began, before := time.Now(), w.status("central")
	var records, alerts int
	send := func(topic string, value []byte) {
		w.gateway.Produce(w.t.Context(), &kgo.Record{Topic: topic, Key: fmt.Append(nil, "device-", records%20), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				w.t.Error(err)
			}
		})
	}
	for tick := time.NewTicker(every); time.Since(began) < lasts; <-tick.C {
		if records++; records%alertEvery == 0 {
			alerts++
			send("alerts", watch.stamp("alert", alerts, 64))
		}
		send("bulk", watch.stamp("live", records, 256))
	}
	after := w.status("central")
	took := time.Since(began) // what is asked for takes its time on a busy machine, and is carried meanwhile
	if after.Lag < backlog/10 {
		w.t.Fatalf("the backlog was carried before what was to be measured: the test proves nothing: %+v", after)
	}
	if drained := before.Lag - after.Lag; drained <= 0 {
		w.t.Errorf("the backlog does not drain beside what is new: %d records waited, then %d", before.Lag, after.Lag)
	}
	if rate := float64(after.Sent-before.Sent) * 8 / took.Seconds(); rate > 690_000 {
		w.t.Errorf("sent at %.0f bit/s, 600 kbit/s are allowed", rate)
	}
	for reader, want := range map[string]int{"live": records, "alerts": alerts, "alerts by MQTT": alerts} {
		for end := time.Now().Add(2 * patience); watch.count(reader) < want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				w.t.Fatalf("of %d records %d have come: %s: %+v", want, watch.count(reader), reader, w.status("central"))
			}
		}
		p50, p99, most := watch.percentiles(reader)
		report(w.t, fmt.Sprintf("%s beside a backlog on a line of 1 Mbit/s: %d records, median %s, p99 %s, most %s", reader, want, p50, p99, most))
		if p50 > 3*time.Second {
			w.t.Errorf("%s: half of them take more than %s: they wait for the backlog", reader, p50)
		}
	}
	report(w.t, fmt.Sprintf("meanwhile the backlog went from %d to %d records, at %.0f kbit/s of 600 that are allowed", before.Lag, after.Lag, float64(after.Sent-before.Sent)*8/took.Seconds()/1000))
}

// consumer is a reader of committed records beside the centre.
func (w *weekend) consumer(topic string, got func(line []byte)) {
	w.t.Helper()
	admin, err := kgo.NewClient(kgo.SeedBrokers(w.centre.Addr))
	if err != nil {
		w.t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if found, err := kadm.NewClient(admin).ListTopics(ctx, topic); err != nil || !found.Has(topic) {
		if _, err := kadm.NewClient(admin).CreateTopic(ctx, 2, 1, nil, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // the uplink may be faster
			w.t.Fatal(err)
		}
	}
	lines(w.t, w.net.hosts[2].command(os.Getenv(insideEnv), "consume", topic, "--bootstrap", w.centre.Addr), got)
}

// lines runs a command until the test ends and passes on what it prints.
func lines(t *testing.T, c *exec.Cmd, got func(line []byte)) {
	t.Helper()
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadBytes('\n')
			if err != nil {
				_, _ = io.Copy(io.Discard, r)
				break
			}
			got(bytes.TrimSuffix(line, []byte("\n")))
		}
		_ = c.Wait()
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); <-ended })
}
