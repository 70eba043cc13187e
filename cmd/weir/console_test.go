package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tool runs commands against a cluster in this process.
type tool struct {
	t    *testing.T
	addr string
}

func newTool(t *testing.T, opts ...kfake.Opt) *tool {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &tool{t, c.ListenAddrs()[0]}
}

// run gives args and stdin to the command line as a user would, and returns stdout and the error.
func (tl *tool) run(ctx context.Context, stdin string, args ...string) (string, error) {
	tl.t.Helper()
	var out bytes.Buffer
	c := struct {
		Globals
		Tools
	}{Globals: Globals{In: strings.NewReader(stdin), Out: &out, Err: tl.t.Output(), Ctx: ctx}}
	k, err := kong.Must(&c, kong.Exit(func(int) { tl.t.Fatal("kong exited") })).Parse(append(args, "--bootstrap", tl.addr))
	if err == nil {
		err = k.Run(&c.Globals)
	}
	return out.String(), err
}

// ok runs what must succeed.
func (tl *tool) ok(stdin string, args ...string) string {
	tl.t.Helper()
	out, err := tl.run(tl.t.Context(), stdin, args...)
	if err != nil {
		tl.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// fails runs what must fail with the code and words of the message.
func (tl *tool) fails(code int, want string, args ...string) {
	tl.t.Helper()
	_, err := tl.run(tl.t.Context(), "", args...)
	if exitCode(err) != code || err == nil || !strings.Contains(errorLine(err), want) {
		tl.t.Errorf("%v: exit %d, %v; want exit %d and %q", args, exitCode(err), err, code, want)
	}
}

func TestTopics(t *testing.T) {
	tl := newTool(t)
	tl.ok("", "topics", "create", "b", "--partitions", "3", "--replicas", "1", "--config", "retention.ms=1000", "--config", "cleanup.policy=compact,delete")
	tl.ok("", "topics", "create", "a", "--partitions", "1", "--replicas", "1", "--dry-run")
	tl.fails(exitFailed, "pick another name", "topics", "create", "b")
	tl.ok("", "topics", "create", "b", "--if-not-exists")
	tl.fails(exitUsage, "1 or more", "topics", "create", "c", "--partitions", "0")
	if out := tl.ok("", "topics", "list"); out != "TOPIC  PARTITIONS  REPLICAS\nb               3         1\n" {
		t.Errorf("list:\n%s", out)
	}
	out := tl.ok("", "topics", "describe", "b")
	for _, want := range []string{"topic b", "PARTITION", "retention.ms", "1000", "compact,delete"} {
		if !strings.Contains(out, want) {
			t.Errorf("describe has no %q:\n%s", want, out)
		}
	}
	tl.ok("", "topics", "alter", "b", "--config", "retention.ms=2000", "--delete-config", "cleanup.policy", "--partitions", "5")
	var d []topicDescription
	if err := json.Unmarshal([]byte(tl.ok("", "topics", "describe", "b", "--json")), &d); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d[0].Configs, func(c configRow) bool { return c.Name == "retention.ms" })
	if len(d[0].Parts) != 5 || i < 0 || d[0].Configs[i].Value != "2000" {
		t.Errorf("%+v", d)
	}
	tl.fails(exitUsage, "nothing to change", "topics", "alter", "b")
	tl.fails(exitFailed, "weir topics list", "topics", "alter", "nope", "--partitions", "2")
	tl.fails(exitFailed, "weir topics list", "topics", "describe", "nope")
	tl.fails(exitFailed, "nope", "topics", "delete", "nope", "b")
	if out := tl.ok("", "topics", "list", "--json"); out != "[]\n" {
		t.Errorf("after delete: %s", out)
	}
}

// Lines that come faster than they go are put into batches that the topic takes, not into ones as large as a line may be.
func TestProduceFillsNoBatchPastWhatTheTopicTakes(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var largest atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				largest.Store(max(largest.Load(), int64(len(p.Records))))
			}
		}
		return nil, nil, false
	})
	tl := &tool{t, c.ListenAddrs()[0]}
	lines := strings.Repeat(strings.Repeat("x", 200)+"\n", 9000) // all of them are read before the first is acknowledged, or nearly
	tl.ok(lines, "produce", "t")
	if n := largest.Load(); n > 1<<20 || n < 100_000 {
		t.Errorf("a batch of %d bytes", n)
	}
	largest.Store(0)
	tl.ok("", "topics", "alter", "t", "--config", "max.message.bytes=20000")
	tl.ok(lines, "produce", "t")
	if n := largest.Load(); n > 20_000 || n < 10_000 {
		t.Errorf("a batch of %d bytes where the topic takes 20000", n)
	}
}

func TestProduceAndConsume(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	tl.ok("k1:v1\nk2:a:b\n:\nk4:last line has no newline", "produce", "t", "--key-sep", ":", "--header", "h=x=y")
	if out := tl.ok("", "consume", "t", "--until-end", "--key-sep", "|"); out != "k1|v1\nk2|a:b\n|\nk4|last line has no newline\n" {
		t.Errorf("consumed %q", out)
	}
	if out := tl.ok("", "consume", "t", "--count", "2", "--from", "1"); out != "a:b\n\n" {
		t.Errorf("from 1: %q", out)
	}
	if out := tl.ok("", "consume", "t", "--until-end", "--from=-1"); out != "last line has no newline\n" {
		t.Errorf("the last one: %q", out)
	}
	for from, want := range map[string]string{"end": "", "99": "", "-1h": "v1", "2100-01-01": ""} {
		out := tl.ok("", "consume", "t", "--until-end", "--from="+from)
		if first, _, _ := strings.Cut(out, "\n"); first != want {
			t.Errorf("from %s: %q", from, out)
		}
	}
	var r recordJSON
	if err := json.Unmarshal([]byte(tl.ok("", "consume", "t", "--count", "1", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if *r.Key != "k1" || *r.Value != "v1" || r.Offset != 0 || r.Headers[0].Key != "h" || *r.Headers[0].Value != "x=y" || time.Since(time.UnixMilli(r.Timestamp)) > time.Minute {
		t.Errorf("%+v", r)
	}
	tl.fails(exitUsage, "--from yesterday", "consume", "t", "--from", "yesterday")
	tl.fails(exitUsage, "--partition 7", "consume", "t", "--partition", "7")
	tl.fails(exitFailed, "weir topics create", "consume", "nope")
	tl.fails(exitUsage, "--until-end", "consume", "t", "--group", "g", "--until-end")
	if out, err := tl.run(t.Context(), "no separator", "produce", "t", "--key-sep", ":"); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%q %v", out, err)
	}
}

func TestJSONKeepsBytesThatAreNoText(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	cl, err := kgo.NewClient(kgo.SeedBrokers(tl.addr), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	want := []byte{0xff, 0x00, 0xfe}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: want, Headers: []kgo.RecordHeader{{Key: "h", Value: want}}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var r recordJSON
	if err := json.Unmarshal([]byte(tl.ok("", "consume", "t", "--count", "1", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Key != nil || r.KeyBase64 != nil || r.Value != nil || !bytes.Equal(r.ValueBase64, want) || !bytes.Equal(r.Headers[0].ValueBase64, want) {
		t.Errorf("%+v", r)
	}
}

func TestConsumeUntilInterrupted(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(2, "t"))
	tl.ok("1\n2\n3\n", "produce", "t")
	for _, group := range [][]string{nil, {"--group", "g"}} {
		ctx, cancel := context.WithCancel(t.Context())
		var out lockedBuffer
		g := &Globals{Bootstrap: tl.addr, Out: &out, Err: t.Output(), Ctx: ctx}
		c := consumeCmd{Topic: "t", From: "beginning"}
		if group != nil {
			c.Group = group[1]
		}
		ended := make(chan error, 1)
		out.wait = func(s string) {
			if strings.Count(s, "\n") == 3 {
				cancel()
			}
		}
		go func() { ended <- c.Run(g) }()
		if err := <-ended; exitCode(err) != exitDone {
			t.Errorf("group %v: interrupted: %v", group, err)
		}
		cancel()
	}
	// The group has committed what it printed.
	var d groupDescription
	if err := json.Unmarshal([]byte(tl.ok("", "groups", "describe", "g", "--json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.Lag != 0 || len(d.Members) != 0 || d.State != "Empty" {
		t.Errorf("%+v", d)
	}
}

// lockedBuffer calls wait with everything written so far, after each write.
type lockedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	wait func(string)
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p)
	l.wait(l.b.String())
	return len(p), nil
}

func TestGroups(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t", "u"))
	var in strings.Builder
	for i := range 10 {
		fmt.Fprintln(&in, i)
	}
	tl.ok(in.String(), "produce", "t")
	if out := tl.ok("", "consume", "t", "--group", "g", "--count", "4"); out != "0\n1\n2\n3\n" {
		t.Fatalf("consumed %q", out)
	}
	if out := tl.ok("", "consume", "t", "--group", "g", "--count", "2"); out != "4\n5\n" {
		t.Fatalf("went on with %q", out)
	}
	if out := tl.ok("", "groups", "list"); !strings.Contains(out, "g      Empty  consumer") {
		t.Errorf("list:\n%s", out)
	}
	if out := tl.ok("", "groups", "describe", "g"); !strings.Contains(out, "t              0          6   10    4  -") {
		t.Errorf("describe:\n%s", out)
	}
	for _, c := range []struct {
		to   string
		want int64
	}{{"beginning", 0}, {"end", 10}, {"3", 3}, {"-1", 9}, {"999", 10}, {"-1h", 0}} {
		before := tl.ok("", "groups", "describe", "g")
		dry := tl.ok("", "groups", "reset", "g", "--to="+c.to, "--dry-run", "--json")
		if tl.ok("", "groups", "describe", "g") != before {
			t.Errorf("--dry-run to %s moved the group", c.to)
		}
		var rows []resetRow
		if err := json.Unmarshal([]byte(tl.ok("", "groups", "reset", "g", "--to="+c.to, "--json")), &rows); err != nil {
			t.Fatal(err)
		}
		var planned []resetRow
		if err := json.Unmarshal([]byte(dry), &planned); err != nil || !reflect.DeepEqual(planned, rows) {
			t.Errorf("dry run said %v, reset did %v", planned, rows)
		}
		var d groupDescription
		if err := json.Unmarshal([]byte(tl.ok("", "groups", "describe", "g", "--json")), &d); err != nil {
			t.Fatal(err)
		}
		if len(rows) != 1 || rows[0].To != c.want || d.Partitions[0].Committed != c.want {
			t.Errorf("reset to %s: %+v, then %+v", c.to, rows, d.Partitions)
		}
	}
	tl.ok("", "groups", "reset", "new", "--to", "end", "--topic", "t", "--topic", "u")
	tl.fails(exitFailed, "--topic", "groups", "reset", "fresh", "--to", "end")
	tl.fails(exitUsage, "--to soon", "groups", "reset", "g", "--to", "soon")
	tl.fails(exitFailed, "weir groups list", "groups", "describe", "nobody")
	tl.ok("", "groups", "delete", "g", "new")
	tl.fails(exitFailed, "weir groups list", "groups", "delete", "g")
}

func TestResetRefusesARunningGroup(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	tl.ok("1\n", "produce", "t")
	cl, err := kgo.NewClient(kgo.SeedBrokers(tl.addr), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	cl.PollFetches(t.Context())
	tl.fails(exitFailed, "running members", "groups", "reset", "g", "--to", "end")
}

func TestParsePosition(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]position{
		"beginning":            {kind: atBeginning},
		"end":                  {kind: atEnd},
		"0":                    {kind: atOffset},
		"77":                   {kind: atOffset, offset: 77},
		"-5":                   {kind: beforeEnd, offset: 5},
		"-90m":                 {kind: atTime, time: now.Add(-90 * time.Minute)},
		"2026-01-01T00:00:00Z": {kind: atTime, time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		"2026-01-01 10:00":     {kind: atTime, time: time.Date(2026, 1, 1, 10, 0, 0, 0, time.Local)},
	} {
		got, err := parsePosition("--from", in, now)
		if err != nil || got.kind != want.kind || got.offset != want.offset || !got.time.Equal(want.time) {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "15m", "first", "--", "1.5", "99999999999999999999"} {
		if _, err := parsePosition("--from", in, now); exitCode(err) != exitUsage {
			t.Errorf("%q: %v", in, err)
		}
	}
}
