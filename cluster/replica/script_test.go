package replica

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

// script is a partition as one leader and one follower see it.
type script struct {
	t    *testing.T
	line string
	now  time.Duration
	l    *Leader
}

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
			s := &script{t: t}
			for line := range strings.Lines(string(text)) {
				step, _, _ := strings.Cut(strings.TrimSpace(line), "=>")
				step = strings.TrimSpace(step)
				if step == "" || step[0] == '#' {
					out.WriteString(step + "\n")
					continue
				}
				s.line = step
				s.run()
				if err := s.l.Check(); err != nil {
					t.Errorf("%s: %v", step, err)
				}
				writable := "writable"
				if s.l.Writable() != nil {
					writable = "refusing"
				}
				fmt.Fprintf(&out, "%-44s => %s %s\n", step, s.l, writable)
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

// arg is the value of name=, or otherwise.
func (s *script) arg(name, otherwise string) string {
	for a := range strings.FieldsSeq(s.line) {
		if k, v, _ := strings.Cut(a, "="); k == name {
			return v
		}
	}
	return otherwise
}

func (s *script) num(name string, otherwise int64) int64 {
	n, err := strconv.ParseInt(s.arg(name, fmt.Sprint(otherwise)), 10, 64)
	if err != nil {
		s.t.Fatalf("%s: %v", s.line, err)
	}
	return n
}

// ids reads "1,2,3"; what stands behind a letter goes to marked.
func (s *script) ids(name string) (all []int32, marked map[int32]string) {
	marked = map[int32]string{}
	for part := range strings.SplitSeq(s.arg(name, ""), ",") {
		digits := strings.TrimRight(part, "xrd'")
		n, err := strconv.ParseInt(digits, 10, 32)
		if err != nil {
			s.t.Fatalf("%s: %v", s.line, err)
		}
		all = append(all, int32(n))
		marked[int32(n)] = part[len(digits):]
	}
	return all, marked
}

// state reads replicas= (x: not eligible, r: restarted, d: damaged, ': a newer process), isr=, min= and pe=.
func (s *script) state() State {
	st := State{PartitionEpoch: int32(s.num("pe", 0)), MinInsync: int(s.num("min", 1))}
	ids, marks := s.ids("replicas")
	st.ISR, _ = s.ids("isr")
	for _, id := range ids {
		epoch := int64(1 + strings.Count(marks[id], "'"))
		st.Replicas = append(st.Replicas, Replica{
			ID: id, Epoch: epoch, Eligible: !strings.Contains(marks[id], "x"), Restarted: strings.Contains(marks[id], "r"), Damaged: strings.Contains(marks[id], "d"),
		})
	}
	return st
}

func (s *script) run() {
	switch strings.Fields(s.line)[0] {
	case "lead":
		s.l = Lead(Term{Self: 1, Epoch: int32(s.num("epoch", 1)), Start: s.num("start", 0), HighWatermark: s.num("hw", 0), State: s.state()}, s.now)
	case "synced": // the leader's own log
		s.l.Appended(s.num("durable", 0), s.num("end", s.num("durable", 0)), int32(s.num("entry", int64(s.l.Epoch()))))
	case "fetch":
		s.l.Fetched(Fetch{
			Node: int32(s.num("node", 0)), BrokerEpoch: s.num("process", 1), LeaderEpoch: int32(s.num("epoch", int64(s.l.Epoch()))),
			Durable: s.num("durable", 0), Entry: int32(s.num("entry", int64(s.l.Epoch()))), Refilled: s.num("refilled", 0) == 1,
		}, s.now)
	case "meta":
		s.l.Changed(s.state(), s.now)
	case "wait":
		s.now += time.Duration(s.num("ms", 0)) * time.Millisecond
		s.l.Tick(s.now)
	case "propose":
		s.l.Propose(s.now)
	default:
		s.t.Fatalf("unknown step %q", s.line)
	}
}
