package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/internal/strictyaml"
	"github.com/weir-io/weir/log"
)

func TestLinksOfAConfiguration(t *testing.T) {
	all, err := parse(t, `
uplinks:
  - name: central
    to: kafka://central:9092
    topics: ["*"]
    links:
      - {name: eth, interface: "e*"}
      - {name: lte, interface: wwan0, limits: {rate: 256kbit, daily: 50MiB}, max_priority: 2}
      - {name: roaming, interface: "*", max_priority: -1}
  - name: other
    to: mqtt://central:1883
    topics: ["*"]
    links: [{name: eth}, {name: lte}]
    link_probe: {command: [/usr/lib/weir/link, --quiet]}
`, "")
	if err != nil {
		t.Fatal(err)
	}
	c := &all[0]
	for found, want := range map[string]int{"eth0": 0, "wwan0": 1, "wlan0": 2} {
		if got, err := c.classOf(found); got != want || err != nil {
			t.Errorf("%s: %d, %v", found, got, err)
		}
	}
	for class, want := range map[int]int{-1: 9, 0: 9, 1: 2, 2: -1} {
		if got := c.maxPriority(class); got != want {
			t.Errorf("class %d: priorities up to %d", class, got)
		}
	}
	if text := c.linkText(1); text != "lte (256kbit, 50 MiB a day, priorities up to 2)" {
		t.Error(text)
	}
	c = &all[1]
	if c.LinkProbe.Every != 30*time.Second || c.LinkProbe.Timeout != 5*time.Second {
		t.Errorf("%+v", c.LinkProbe)
	}
	if class, err := c.classOf("wifi"); class != 1 || err == nil {
		t.Errorf("a class that is none: %d, %v", class, err)
	}
}

func TestLinkFaultsNameTheirKey(t *testing.T) {
	for text, want := range map[string]string{
		"links: [{name: a}]": "links[0].interface", "links: [{name: a, interface: '['}]": "links[0].interface", "links: [{name: '', interface: a}]": "links[0].name",
		"links: [{name: a, interface: a}, {name: a, interface: b}]":                                  "links[1].name",
		"links: [{name: a, interface: a, max_priority: -2}]":                                         "links[0].max_priority",
		"links: [{name: a, interface: a, limits: {rate: 80bit}}]":                                    "links[0].limits.rate",
		"link_probe: {command: [/bin/true]}":                                                         "links",
		"link_probe: {every: 5s}":                                                                    "link_probe.command",
		"links: [{name: a}]\n    link_probe: {command: [true]}":                                      "link_probe.command",
		"links: [{name: a, interface: a}]\n    link_probe: {command: [/bin/true]}":                   "links[0].interface",
		"links: [{name: a}]\n    link_probe: {command: [/bin/true], every: 10ms}":                    "link_probe.every",
		"links: [{name: a}]\n    link_probe: {command: [/bin/true], every: 5s, timeout: 6s}":         "link_probe.timeout",
		"links: [" + strings.Repeat("{name: a, interface: a},", maxLinks+1) + "]":                    "links: 9 of them",
		"links: [{name: a}]\n    link_probe: {command: [/bin/true" + strings.Repeat(",x", 16) + "]}": "link_probe.command",
	} {
		_, err := parse(t, "uplinks:\n  - name: central\n    to: kafka://central:9092\n    topics: ['*']\n    "+text+"\n", "")
		if err == nil || !strings.Contains(err.Error(), "uplinks[0]."+want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	var file struct{ Uplinks []Config }
	if err := strictyaml.Decode([]byte("uplinks: [{links: [{speed: 1}]}]"), &file); err == nil {
		t.Error("an unknown key is taken")
	}
}

// script is a command that can be changed while it is in use.
func script(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(file+".new", []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProbeIsBounded(t *testing.T) {
	t.Setenv("WEIR_SECRET", "of this process")
	for text, want := range map[string]string{
		`echo "$1-$WEIR_UPLINK$WEIR_SECRET"`:  "a-central",
		"echo lte; echo more":                 "lte",
		"yes | head -c 1000000 | tr -d '\\n'": strings.Repeat("y", probeOutput),
		"echo no modem >&2; exit 3":           "!exit status 3: no modem",
		"sleep 60":                            "!it has not ended within 1s",
		"sleep 60 & echo lte":                 "!",
		"exit 1":                              "!exit status 1",
		"echo '   wifi  '":                    "wifi",
	} {
		began := time.Now()
		p := LinkProbe{Command: []string{script(t, text), "a"}, Timeout: time.Second}
		got, err := p.run(t.Context(), "central")
		if reason, fails := strings.CutPrefix(want, "!"); fails && (err == nil || !strings.Contains(err.Error(), reason)) || !fails && (got != want || err != nil) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: %s", text, took)
		}
	}
	if _, err := (&LinkProbe{Command: []string{"/nonexistent/link"}, Timeout: time.Second}).run(t.Context(), "central"); err == nil {
		t.Error("a command that is not there")
	}
}

// The way to an address of this host is over its loopback, which nothing is sent for.
func TestInterfaceOnTheWay(t *testing.T) {
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	lo := ""
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			lo = i.Name
		}
	}
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:9", Topics: []string{"*"}, Links: []Link{{Name: "local", Interface: lo}, {Name: "other", Interface: "*x"}}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	w := linkWatch{f: New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})}
	if class, err := w.look(t.Context()); class != 0 || err != nil {
		t.Errorf("%d, %v", class, err)
	}
	cfg[0].Links[0].Interface = "wwan0"
	w = linkWatch{f: New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})}
	if class, err := w.look(t.Context()); class != 1 || err == nil || !strings.Contains(err.Error(), lo) {
		t.Errorf("%d, %v", class, err)
	}
}

// On a link with max_priority the lanes past it wait, on one with -1 all do; what each has sent today is counted by itself, and over restarts. What nobody can name is the last.
func TestLinkInUseDecides(t *testing.T) {
	class := filepath.Join(t.TempDir(), "class")
	say := func(name string) {
		t.Helper()
		if err := os.WriteFile(class+".new", []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(class+".new", class); err != nil {
			t.Fatal(err)
		}
	}
	say("lte")
	s := newScene()
	s.store.steady = true
	alerts := &fakeLog{id: log.PartitionID{Topic: log.TopicID{3}}, topic: "alerts", values: map[log.Offset]string{}}
	two, none := 2, -1
	cfg := []Config{{
		Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"*"}, Lanes: []Lane{{Topics: []string{"alerts"}}, {Topics: []string{"*"}, Priority: 5}},
		Links:     []Link{{Name: "eth"}, {Name: "lte", Limits: Limits{Daily: 1000}, MaxPriority: &two}, {Name: "roaming", MaxPriority: &none}},
		LinkProbe: LinkProbe{Command: []string{script(t, "cat "+class)}, Every: time.Second, Timeout: time.Second},
	}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 100)
	begin := func() (f *Forwarder, stop func()) {
		f = New(Options{
			Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log, alerts}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
			target: func() target {
				return &closingTarget{fakeTarget{c: s.centre, gaps: map[log.PartitionID][]Span{}}, closed}
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		return f, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	f, stop := begin()
	await := func(what string, is func(Status) bool) Status {
		t.Helper()
		limit := time.After(30 * time.Second)
		for {
			if s := f.Status(); is(s) {
				return s
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-limit:
				t.Fatalf("%s: %+v", what, f.Status())
			}
		}
	}
	s.log.put("bulk")
	alerts.put("alert")
	await("lte", func(s Status) bool {
		return s.Records == 1 && s.State == "waiting" && s.Why == "what waits is for another link" && s.Link == "lte (1000 bytes a day, priorities up to 2)" && s.LagRecords == 1
	})
	alerts.put(strings.Repeat("x", 2000))
	await("its budget", func(s Status) bool { return s.Records == 2 && s.DailyLeft == 0 })
	alerts.put("waits")
	await("its budget is used up", func(s Status) bool {
		return s.State == "waiting" && s.Why == "has used up its daily budget" && s.LagRecords == 2
	})
	stop()
	f, stop = begin()
	await("it is used up after a restart too", func(s Status) bool {
		return s.State == "waiting" && s.Why == "has used up its daily budget" && s.DailyLeft == 0
	})
	say("eth")
	await("eth", func(s Status) bool {
		return s.State == "idle" && s.LagRecords == 0 && s.Link == "eth" && s.DailyLeft == -1
	})
	for len(closed) > 0 {
		<-closed
	}
	say("nonsense")
	await("nobody can tell", func(s Status) bool {
		return s.State == "waiting" && !s.Up && s.LinkClosed && s.Link == "roaming (nothing goes)" && strings.Contains(s.LinkError, `"nonsense"`)
	})
	<-closed // the connection too: it costs
	if !f.isPaused() {
		t.Error("what comes down goes on")
	}
	alerts.put("roaming")
	say("lte")
	st := await("lte again", func(s Status) bool {
		return s.State == "waiting" && s.Why == "has used up its daily budget" && s.LinkError == ""
	})
	say("eth")
	await("eth again", func(s Status) bool { return s.State == "idle" && s.LagRecords == 0 })
	stop()
	if got := fmt.Sprint(s.centre.values[alerts.id]); len(s.centre.got[alerts.id]) != 4 || len(s.centre.got[s.log.id]) != 1 {
		t.Errorf("%s; %+v", got, st)
	}
}

// closingTarget tells when it is closed.
type closingTarget struct {
	fakeTarget
	closed chan<- struct{}
}

func (t *closingTarget) close() { t.closed <- struct{}{} }

// hangingTarget is on a way that ends nowhere.
type hangingTarget struct {
	fakeTarget
	opens chan<- struct{}
	ended chan<- error
}

func (t *hangingTarget) open(ctx context.Context) (map[log.PartitionID]progress, error) {
	t.opens <- struct{}{}
	<-ctx.Done()
	t.ended <- context.Cause(ctx)
	return nil, ctx.Err()
}

// What waits on a way that is no more is not waited for, and that is no failure of the target.
func TestOtherInterfaceEndsWhatWaits(t *testing.T) {
	s := newScene()
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:9", Topics: []string{"*"}, Links: []Link{{Name: "local", Interface: "lo"}, {Name: "other", Interface: "*"}}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	opens, causes := make(chan struct{}, 10), make(chan error, 10)
	f := New(Options{
		Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler),
		target: func() target { return &hangingTarget{fakeTarget{c: s.centre}, opens, causes} },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	<-opens
	f.mu.Lock()
	other := 1 - f.link
	f.mu.Unlock()
	f.foundLink(other, nil)
	if cause := <-causes; cause != errOtherLink {
		t.Fatalf("it ended with %v", cause)
	}
	<-opens
	if st := f.Status(); st.Failures > 0 || st.State != "connecting" {
		t.Errorf("%+v", st)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What a lane with live_first has not sent while it waited for another link is old when it may go again: what is new goes first.
func TestLiveFirstAfterALaneHasWaited(t *testing.T) {
	two := 2
	cfg := []Config{{
		Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"*"}, Lanes: []Lane{{Topics: []string{"*"}, Priority: 5, Order: orderLiveFirst}},
		Links: []Link{{Name: "eth"}, {Name: "lte", MaxPriority: &two}}, LinkProbe: LinkProbe{Command: []string{"/bin/true"}},
	}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	f := New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})
	l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}}, topic: "telemetry", values: map[log.Offset]string{}}
	l.put("first")
	f.added(l)
	p := f.parts[l.id]
	for what, wait := range map[string]struct{ begin, end func() }{
		"over another link": {func() { f.foundLink(1, nil) }, func() { f.foundLink(0, nil) }},
		"after a failure":   {func() { f.block(p, time.Now().Add(time.Hour), errLink) }, func() { p.until = time.Time{} }},
	} {
		f.foundLink(0, nil)
		if _, v, err := f.views(); err != nil || len(v) != 1 {
			t.Fatal(v, err)
		}
		p.cursor.Next = l.end
		wait.begin()
		for range liveBacklog + 10 {
			l.put("held")
		}
		if _, v, err := f.views(); err != nil || len(v) != 0 {
			t.Fatal(what, v, err)
		}
		wait.end()
		if _, v, err := f.views(); err != nil || len(v) != 1 || v[0].live != l.end {
			t.Errorf("%s: %+v, %v", what, v, err)
		}
		p.cursor.Next = l.end
		delete(f.live, l.id)
	}
}

// asked counts what is asked for names.
func asked(t *testing.T) *atomic.Int32 {
	t.Helper()
	n, was := &atomic.Int32{}, net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		n.Add(1)
		return nil, errors.New("no way")
	}}
	t.Cleanup(func() { net.DefaultResolver = was })
	return n
}

// A name is asked for each half minute at most, whether there is an answer or none; what is known is used without asking where nothing may go.
func TestNamesAreAskedSeldom(t *testing.T) {
	n, none := asked(t), -1
	cfg := []Config{{Name: "central", To: "kafka://centre.example.com:9", Topics: []string{"*"}, Links: []Link{{Name: "local", Interface: "*"}, {Name: "other", Interface: "?x", MaxPriority: &none}}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	w := linkWatch{f: New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})}
	look := func(what string, asks, knows bool) {
		t.Helper()
		before := n.Load()
		class, err := w.look(t.Context())
		if (n.Load() > before) != asks || (err == nil) != knows {
			t.Errorf("%s: %d questions; class %d, %v", what, n.Load()-before, class, err)
		}
	}
	look("at first", true, false)
	for range 5 {
		look("there was no answer", false, false)
	}
	w.asked = time.Now().Add(-2 * resolveEvery)
	look("half a minute later", true, false)
	w.address, w.asked = "127.0.0.1:9", time.Now().Add(-2*resolveEvery)
	w.f.link = 1
	look("nothing may go", false, true)
	w.f.link = 0
	look("it is not reached", true, true)
	w.asked = time.Now().Add(-2 * resolveEvery)
	w.f.state.up = true
	look("it is reached", false, true)
}
