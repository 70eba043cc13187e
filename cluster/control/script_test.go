package control

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

// step runs one line of a scenario. "N" stands for broker ids with commas.
//
//	begin                   a node begins to lead the quorum
//	start N [zone|witness]  registers processes, unclean unless they ended cleanly
//	kill N, end N           processes die, or end cleanly; nothing is told
//	cut N, heal N           processes live on out of touch, and come back
//	gone N, stopping N      processes say that they serve nothing, or that they will stop
//	topic name k=v...       partitions, replicas (N, or a number with rf), min, auto
//	late N                  renewals of their processes before come late
//	log N epoch end         what the processes' logs of t/0 are
//	sync                    leaders let everybody in who is in touch
//	mute, unmute            whether questions are answered
//	wait 5s                 time passes; the brokers renew
//	retire N                brokers are marked to be drained, and the controller does it
//	drain N, balance, remove N, replicas topic n, plan topic index id
func (s *sim) step(text string) error {
	f := strings.Fields(text)
	var ids []int32
	if len(f) > 1 {
		for part := range strings.SplitSeq(f[1], ",") {
			if n, err := strconv.Atoi(part); err == nil {
				ids = append(ids, int32(n))
			}
		}
	}
	each := func(do func(id int32) error) error {
		for _, id := range ids {
			if err := do(id); err != nil {
				return err
			}
		}
		return nil
	}
	reassign := func(cmds []*meta.Reassign, err error) error {
		for _, cmd := range cmds {
			if err == nil && cmd != nil {
				s.did = append(s.did, "plan: "+told(s.im, cmd))
				err = s.apply(cmd)
			}
		}
		if err != nil {
			return err
		}
		return s.tick()
	}
	switch f[0] {
	case "begin":
		return s.begin()
	case "start":
		zone := strings.Join(f[2:], "")
		return each(func(id int32) error { return s.start(id, zone, zone == "witness") })
	case "kill", "cut", "end":
		return each(func(id int32) error { s.stop(id, f[0] == "end"); return nil })
	case "heal":
		return each(func(id int32) error { s.up[id], s.back[id] = true, s.now; return nil })
	case "gone":
		_ = each(func(id int32) error { s.stop(id, false); s.c.Gone(s.now, id, s.im.Broker(id).Epoch); return nil })
		return s.tick()
	case "stopping":
		return each(func(id int32) error {
			if err := s.apply(&meta.StopBroker{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch}); err != nil {
				return err
			}
			return s.tick()
		})
	case "retire":
		return each(func(id int32) error {
			if err := s.apply(&meta.DrainBroker{BrokerID: id}); err != nil {
				return err
			}
			return s.tick()
		})
	case "late":
		return each(func(id int32) error { s.c.Heard(s.now, id, s.im.Broker(id).Epoch-1); return s.tick() })
	case "remove":
		return each(func(id int32) error {
			if err := s.apply(&meta.RemoveBroker{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch}); err != nil {
				return err
			}
			delete(s.up, id)
			return s.tick()
		})
	case "topic":
		return s.topic(f[1], f[2:])
	case "log":
		entry, err1 := strconv.Atoi(f[2])
		end, err2 := strconv.Atoi(f[3])
		if err1 != nil || err2 != nil {
			return fmt.Errorf("%s: want numbers", text)
		}
		return each(func(id int32) error {
			s.logs[id][meta.PartitionName{Topic: s.im.Topic("t").ID}] = LogState{EpochEntry: log.Epoch(entry), End: log.Offset(end)}
			return nil
		})
	case "sync":
		return s.sync()
	case "mute", "unmute":
		s.mute = f[0] == "mute"
		return nil
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			return err
		}
		return s.run(d)
	case "drain":
		return reassign(PlanDrain(s.im, ids[0]))
	case "balance":
		return reassign(PlanRebalance(s.im), nil)
	case "plan":
		index, _ := strconv.Atoi(f[2])
		to, _ := strconv.Atoi(f[3])
		cmd, err := PlanReassign(s.im, f[1], []meta.Move{{Index: int32(index), Replicas: []int32{int32(to)}}})
		return reassign([]*meta.Reassign{cmd}, err)
	case "replicas":
		n, _ := strconv.Atoi(f[2])
		cmd, err := PlanReplicas(s.im, f[1], n)
		return reassign([]*meta.Reassign{cmd}, err)
	}
	return fmt.Errorf("unknown step %q", text)
}

func (s *sim) topic(name string, args []string) error {
	n, rf, minInsync, follow, internal := 1, 0, 0, false, false
	var replicas []int32
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		v, _ := strconv.Atoi(value)
		switch key {
		case "partitions":
			n = v
		case "rf":
			rf = v
		case "min":
			minInsync = v
		case "auto":
			follow = true
		case "internal": // as a node alone makes its own, before there was a choice
			internal = true
		case "replicas":
			for part := range strings.SplitSeq(value, ",") {
				id, _ := strconv.Atoi(part)
				replicas = append(replicas, int32(id))
			}
		}
	}
	var assignment [][]int32
	for range n {
		if len(replicas) > 0 {
			assignment = append(assignment, replicas)
		}
	}
	return s.create(name, n, rf, follow, internal, minInsync, assignment)
}

// Each file is a list of steps. Below a step stands, by "> ", what the controller did, and by "= ", each partition if one changed.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
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
			s, before := newSim(LANTiming), ""
			for step := range strings.Lines(string(text)) {
				step = strings.TrimSpace(step)
				switch {
				case step == "" || step[0] == '#':
					out.WriteString(step + "\n")
					continue
				case step[0] == '>' || step[0] == '=' || step[0] == '!':
					continue
				case step == "new":
					out.WriteString(step + "\n")
					s, before = newSim(LANTiming), ""
					continue
				}
				s.did = nil
				err := s.step(step)
				out.WriteString(step + "\n")
				for _, d := range s.did {
					out.WriteString("> " + d + "\n")
				}
				if err != nil {
					out.WriteString("! " + err.Error() + "\n")
				}
				if err := s.im.Check(); err != nil {
					t.Errorf("%s: %v", step, err)
				}
				if after := s.state(); after != before {
					before = after
					out.WriteString("= " + strings.ReplaceAll(after, "\n", "\n= ") + "\n")
				}
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
