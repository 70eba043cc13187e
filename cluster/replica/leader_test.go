package replica

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

// Each file is a list of steps; behind "=>" stands the state after the step.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scenarios: %v %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			var l *Leader
			for line := range strings.Lines(string(text)) {
				step, _, _ := strings.Cut(strings.TrimSpace(line), "=>")
				step = strings.TrimSpace(step)
				if step == "" || step[0] == '#' {
					out.WriteString(step + "\n")
					continue
				}
				l = run(t, l, step)
				if err := l.Check(); err != nil {
					t.Errorf("%s: %v", step, err)
				}
				writable := "writable"
				if l.Writable() != nil {
					writable = "refusing"
				}
				fmt.Fprintf(&out, "%-60s => %s %s\n", step, l, writable)
			}
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if out.String() != string(text) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), text)
			}
		})
	}
}

func run(t *testing.T, l *Leader, step string) *Leader {
	t.Helper()
	args := strings.Fields(step)
	arg := func(name string) string {
		for _, a := range args[1:] {
			if k, v, _ := strings.Cut(a, "="); k == name {
				return v
			}
		}
		t.Fatalf("%s: %s= is missing", step, name)
		return ""
	}
	num := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		return n
	}
	switch args[0] {
	case "lead":
		var isr []int32
		for s := range strings.SplitSeq(arg("isr"), ",") {
			isr = append(isr, int32(num(s)))
		}
		return Lead(Term{
			Self: isr[0], Epoch: int32(num(arg("epoch"))), Start: num(arg("start")), HighWatermark: num(arg("hw")),
			Replicas: int(num(arg("replicas"))), ISR: isr, MinInsync: int(num(arg("min"))),
		})
	case "durable":
		l.Durable(int32(num(arg("node"))), num(arg("next")))
	case "min":
		l.SetMinInsync(int(num(arg("insync"))))
	default:
		t.Fatalf("unknown step %q", step)
	}
	return l
}

// Against the definition: the lowest report of the in-sync set, while it is large enough, and never falling.
func TestHighWatermark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		inSync := rapid.IntRange(1, replicas).Draw(t, "in sync")
		isr := make([]int32, inSync)
		for i := range isr {
			isr[i] = int32(i + 1)
		}
		term := Term{
			Self: 1, Start: rapid.Int64Range(0, 10).Draw(t, "start"), HighWatermark: rapid.Int64Range(0, 12).Draw(t, "hw"),
			Replicas: replicas, ISR: isr, MinInsync: rapid.IntRange(1, 4).Draw(t, "min"),
		}
		l := Lead(term)
		reports := make([]int64, inSync)
		want, minInsync := min(term.HighWatermark, term.Start), term.MinInsync
		settle := func() {
			if inSync >= min(minInsync, replicas) {
				want = max(want, slices.Min(reports))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"durable": func(t *rapid.T) {
				node, next := rapid.IntRange(1, replicas+1).Draw(t, "node"), rapid.Int64Range(0, 30).Draw(t, "next")
				before := l.HighWatermark()
				moved := l.Durable(int32(node), next)
				if node <= inSync {
					reports[node-1] = max(reports[node-1], next)
				}
				settle()
				if moved != (before != want) {
					t.Fatalf("moved %t from %d, want %d", moved, before, want)
				}
			},
			"min": func(t *rapid.T) {
				minInsync = rapid.IntRange(1, 4).Draw(t, "min")
				l.SetMinInsync(minInsync)
				settle()
			},
			"": func(t *rapid.T) {
				if err := l.Check(); err != nil {
					t.Fatal(err)
				}
				if l.HighWatermark() != want {
					t.Fatalf("high watermark %d, want %d: %s", l.HighWatermark(), want, l)
				}
				if refused := l.Writable() != nil; refused != (inSync < min(minInsync, replicas)) {
					t.Fatalf("refused %t: %s", refused, l)
				}
			},
		})
	})
}

func TestCheckFindsBrokenState(t *testing.T) {
	for name, l := range map[string]*Leader{
		"leader out of sync":    Lead(Term{Self: 1, Replicas: 2, ISR: []int32{2}}),
		"more in sync than are": Lead(Term{Self: 1, Replicas: 1, ISR: []int32{1, 2}}),
		"watermark too high":    {term: Term{Self: 1, Replicas: 1, ISR: []int32{1}}, hw: 5},
		"vote from outside":     {term: Term{Self: 1, Replicas: 2, ISR: []int32{1}}, durable: map[int32]int64{2: 1}},
	} {
		if l.Check() == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
