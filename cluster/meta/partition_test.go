package meta

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/log"
)

// line is a partition as scenarios print it.
func (p *Partition) line() string {
	leader := "none"
	if p.Leader != NoLeader {
		leader = fmt.Sprint(p.Leader)
	}
	s := fmt.Sprintf("leader=%s epoch=%d/%d isr=%v", leader, p.LeaderEpoch, p.PartitionEpoch, p.ISR)
	for _, set := range []struct {
		name string
		ids  []int32
	}{{"elr", p.ELR}, {"restarted", p.Restarted}, {"damaged", p.Damaged}, {"adding", p.Adding}, {"removing", p.Removing}} {
		if len(set.ids) > 0 {
			s += fmt.Sprintf(" %s=%v", set.name, set.ids)
		}
	}
	if p.LastUnclean > 0 {
		s += fmt.Sprintf(" unclean=%d", p.LastUnclean)
	}
	return s
}

// world is an Image with one partition under test, and the nonces that its brokers hold.
type world struct {
	im     *Image
	nonces map[int32]UUID
	drawn  byte
	sent   []*AlterPartitions // all proposals, for copies that come late
}

var testTopic = topicID(1)

func newWorld(t testing.TB, brokers, replicas, minInsync int) *world {
	w := &world{im: NewImage(), nonces: map[int32]UUID{}}
	var ids []int32
	for id := int32(1); int(id) <= brokers; id++ {
		if err := w.register(id, true, true); err != nil {
			t.Fatal(err)
		}
		if int(id) <= replicas {
			ids = append(ids, id)
		}
	}
	w.im = mustApply(t, w.im, &CreateTopic{Name: "t", ID: testTopic, Assignment: [][]int32{ids}, MinInsync: minInsync})
	return w
}

func (w *world) p() *Partition { return &w.im.Topic("t").Partitions[0] }

func (w *world) do(cmd Command) error {
	data, err := EncodeCommand(cmd)
	if err != nil {
		return err
	}
	if cmd, err = DecodeCommand(data); err != nil { // what raft does to it
		return err
	}
	next, _, err := w.im.Apply(cmd)
	w.im = next
	return err
}

// register starts a broker's process; with known false from an old copy of its directory.
func (w *world) register(id int32, clean, known bool) error {
	w.drawn++
	nonce := UUID{0: w.drawn, 1: 1}
	held := []UUID{nonce}
	if known {
		held = append(held, w.nonces[id])
	}
	cmd := &RegisterBroker{ClusterID: "c", UUID: uuid(byte(id)), Nonce: nonce, Held: held}
	if old := w.im.Broker(id); old != nil {
		if clean {
			cmd.Clean = old.Epoch
		}
		if !known {
			cmd.Replaces = old.Epoch
		}
	}
	err := w.do(cmd)
	if err == nil {
		w.nonces[id] = nonce
	}
	return err
}

func (w *world) fence(ids ...int32) error {
	c := &FenceBrokers{}
	for _, id := range ids {
		c.Brokers = append(c.Brokers, Incarnation{id, w.epoch(id)})
	}
	return w.do(c)
}

func (w *world) epoch(id int32) int64 { return w.im.Broker(id).Epoch }

// alter proposes an ISR as the leader would.
func (w *world) alter(isr []int32, proven bool) error {
	cmd, err := w.proposal(isr, proven)
	if err != nil {
		return err
	}
	return w.do(cmd)
}

func (w *world) proposal(isr []int32, proven bool) (*AlterPartitions, error) {
	p := w.p()
	c := ISRChange{Topic: testTopic, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		c.ISR = append(c.ISR, ISRMember{ID: id, Epoch: w.epoch(id), Proven: proven})
	}
	if p.Leader == NoLeader {
		return nil, fmt.Errorf("nobody leads: %w", ErrRefused)
	}
	cmd := &AlterPartitions{BrokerID: p.Leader, BrokerEpoch: w.epoch(p.Leader), Changes: []ISRChange{c}}
	w.sent = append(w.sent, cmd)
	return cmd, nil
}

// maximalISR is whom the leader waits for (H3): the ISR and all in proposals that may still be applied; not ok when one
// of them is another process by now.
func (w *world) maximalISR() (all []int32, ok bool) {
	p := w.p()
	all = p.ISR
	for _, c := range w.sent {
		if ch := c.Changes[0]; c.BrokerID == p.Leader && ch.PartitionEpoch == p.PartitionEpoch {
			for _, m := range ch.ISR {
				if m.Epoch != w.epoch(m.ID) {
					return nil, false
				}
				all = with(all, m.ID)
			}
		}
	}
	return all, true
}

func (w *world) elect(kind Election, id int32, missing bool) error {
	return w.do(&ElectLeaders{Kind: kind, Elect: []Choice{{Topic: testTopic, PartitionEpoch: w.p().PartitionEpoch, Leader: id, Missing: missing}}})
}

func (w *world) move(to []int32) error {
	return w.do(&Reassign{ID: testTopic, Expect: w.im.Topic("t").Version, Moves: []Move{{Replicas: to}}})
}

func (w *world) minInsync(n int) error {
	return w.do(&AlterConfigs{ID: testTopic, Expect: w.im.Topic("t").Version, MinInsync: n})
}

// step runs one line of a scenario.
func (w *world) step(t *testing.T, line string) (_ *world, err error) {
	f := strings.Fields(line)
	ids := func(s string) (out []int32) {
		for part := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(part)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			out = append(out, int32(n))
		}
		return out
	}
	id := int32(0)
	if len(f) > 1 {
		id = ids(f[1])[0]
	}
	switch f[0] {
	case "topic": // brokers, replicas, min.insync.replicas
		return newWorld(t, int(id), int(ids(f[2])[0]), int(ids(f[3])[0])), nil
	case "crash-start":
		err = w.register(id, false, true)
	case "clean-start":
		err = w.register(id, true, true)
	case "old-copy-start":
		err = w.register(id, false, false)
	case "fence":
		err = w.fence(ids(f[1])...)
	case "unfence":
		err = w.do(&UnfenceBroker{BrokerID: id, BrokerEpoch: w.epoch(id)})
	case "stop":
		err = w.do(&StopBroker{BrokerID: id, BrokerEpoch: w.epoch(id)})
	case "remove":
		err = w.do(&RemoveBroker{BrokerID: id, BrokerEpoch: w.epoch(id)})
	case "isr":
		err = w.alter(ids(f[1]), false)
	case "isr-proven":
		err = w.alter(ids(f[1]), true)
	case "prefer":
		err = w.elect(ElectPreferred, id, false)
	case "recover":
		err = w.elect(ElectRecovered, id, false)
	case "recover-missing":
		err = w.elect(ElectRecovered, id, true)
	case "unclean":
		err = w.elect(ElectUnclean, id, false)
	case "move":
		err = w.move(ids(f[1]))
	case "min":
		err = w.minInsync(int(id))
	case "damage":
		err = w.do(&ReportDamage{BrokerID: id, BrokerEpoch: w.epoch(id), Partitions: []PartitionName{{Topic: testTopic}}})
	default:
		t.Fatalf("unknown step %q", line)
	}
	return w, err
}

// Each file is a list of steps; behind "=>" stands the partition after the step.
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
			var w *world
			for line := range strings.Lines(string(text)) {
				step, _, _ := strings.Cut(strings.TrimSpace(line), "=>")
				step = strings.TrimSpace(step)
				if step == "" || step[0] == '#' {
					out.WriteString(step + "\n")
					continue
				}
				var err error
				w, err = w.step(t, step)
				state := w.p().line()
				switch {
				case errors.Is(err, ErrConflict):
					state = "nothing new"
				case errors.Is(err, ErrRefused):
					state = "refused"
				case err != nil:
					t.Fatalf("%s: %v", step, err)
				}
				if err := w.im.Check(); err != nil {
					t.Errorf("%s: %v", step, err)
				}
				fmt.Fprintf(&out, "%-22s => %s\n", step, state)
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

// Random histories. A commit gives every member of the ISR the next value; a follower takes values from the leader. Whatever
// happens, each member of ISR and ELR holds all that was committed, so that whoever leads has it (E1, E3, I1 to I7), unless
// somebody was made leader uncleanly.
func TestCommittedIsHeld(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		replicas := rapid.IntRange(1, 3).Draw(rt, "replicas")
		w := newWorld(t, 4, replicas, rapid.IntRange(1, 3).Draw(rt, "min"))
		committed, held := 0, map[int32]int{}
		led := map[log.Epoch]int64{} // by which process
		broker := rapid.Int32Range(1, 4)
		before := *w.p()
		try := func(err error) bool {
			if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrRefused) {
				rt.Fatal(err)
			}
			return err == nil
		}
		min := func() int {
			t := w.im.Topic("t")
			return min(max(t.MinInsync, 1), len(t.Partitions[0].Target()))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"commit": func(rt *rapid.T) {
				all, ok := w.maximalISR()
				if p := w.p(); ok && p.Leader != NoLeader && len(p.ISR) >= min() {
					committed++
					for _, id := range all {
						held[id] = committed
					}
				}
			},
			"fetch": func(rt *rapid.T) {
				if p := w.p(); p.Leader != NoLeader {
					held[broker.Draw(rt, "by")] = held[p.Leader]
				}
			},
			"isr": func(rt *rapid.T) {
				p := w.p()
				if p.Leader == NoLeader {
					return
				}
				isr := []int32{p.Leader}
				for _, id := range p.Replicas {
					if id != p.Leader && held[id] == committed && rapid.Bool().Draw(rt, "in") {
						isr = append(isr, id)
					}
				}
				if cmd, err := w.proposal(isr, rapid.Bool().Draw(rt, "proven")); try(err) && rapid.Bool().Draw(rt, "at once") {
					try(w.do(cmd))
				}
			},
			"late copy": func(rt *rapid.T) { // I2
				if len(w.sent) > 0 {
					try(w.do(rapid.SampledFrom(w.sent).Draw(rt, "proposal")))
				}
			},
			"restart": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				try(w.register(id, rapid.Bool().Draw(rt, "clean"), true))
			},
			"old copy": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				if try(w.register(id, false, false)) {
					held[id] = rapid.IntRange(0, held[id]).Draw(rt, "held")
				}
			},
			"fence": func(rt *rapid.T) {
				try(w.fence(rapid.SliceOfNDistinct(broker, 1, 3, rapid.ID[int32]).Draw(rt, "brokers")...))
			},
			"unfence": func(rt *rapid.T) { id := broker.Draw(rt, "broker"); try(w.do(&UnfenceBroker{id, w.epoch(id)})) },
			"stop":    func(rt *rapid.T) { id := broker.Draw(rt, "broker"); try(w.do(&StopBroker{id, w.epoch(id)})) },
			"prefer":  func(rt *rapid.T) { try(w.elect(ElectPreferred, broker.Draw(rt, "broker"), false)) },
			"recover": func(rt *rapid.T) {
				try(w.elect(ElectRecovered, broker.Draw(rt, "broker"), rapid.Bool().Draw(rt, "missing")))
			},
			"unclean": func(rt *rapid.T) {
				if id := broker.Draw(rt, "broker"); rapid.IntRange(0, 4).Draw(rt, "often") == 0 && try(w.elect(ElectUnclean, id, false)) {
					committed = held[id] // what it does not have is lost, on an operator's word
				}
			},
			"damage": func(rt *rapid.T) {
				id := broker.Draw(rt, "broker")
				if try(w.do(&ReportDamage{id, w.epoch(id), []PartitionName{{Topic: testTopic}}})) {
					held[id] = 0
				}
			},
			"move": func(rt *rapid.T) {
				to := rapid.Permutation([]int32{1, 2, 3, 4}).Draw(rt, "replicas")
				try(w.move(to[:rapid.IntRange(1, 3).Draw(rt, "n")]))
			},
			"min": func(rt *rapid.T) { try(w.minInsync(rapid.IntRange(1, 3).Draw(rt, "min"))) },
			"": func(rt *rapid.T) {
				if err := w.im.Check(); err != nil {
					rt.Fatalf("%v: %s", err, w.p().line())
				}
				p := w.p()
				for _, id := range slices.Concat(p.ISR, p.ELR) {
					if held[id] < committed {
						rt.Fatalf("%s: broker %d holds %d of %d, was %s", p.line(), id, held[id], committed, before.line())
					}
				}
				switch {
				case p.Leader != NoLeader && len(p.ISR) >= min() && len(p.ELR) > 0:
					rt.Fatalf("%s: commits go on without the ELR (E3)", p.line())
				case p.LeaderEpoch < before.LeaderEpoch || p.PartitionEpoch < before.PartitionEpoch:
					rt.Fatalf("an epoch fell from %s to %s (E2)", before.line(), p.line())
				case p.Leader != before.Leader && p.LeaderEpoch == before.LeaderEpoch:
					rt.Fatalf("another leader in the same epoch: %s, was %s (E2)", p.line(), before.line())
				case p.PartitionEpoch == before.PartitionEpoch && p.line() != before.line():
					rt.Fatalf("changed within a partition epoch: %s, was %s (I2)", p.line(), before.line())
				}
				if l := w.im.Broker(p.Leader); l != nil {
					if by, known := led[p.LeaderEpoch]; known && by != l.Epoch {
						rt.Fatalf("epoch %d was led by another process: %s (A7)", p.LeaderEpoch, p.line())
					}
					led[p.LeaderEpoch] = l.Epoch
				}
				before = *p
			},
		})
	})
}

// I2: a refused proposal has used up its partition epoch, so that a copy of it cannot be applied once its reason has passed.
func TestRefusedProposalIsSpent(t *testing.T) {
	w := newWorld(t, 2, 2, 1)
	do := func(cmd Command) {
		t.Helper()
		if err := w.do(cmd); err != nil {
			t.Fatal(err)
		}
	}
	do(&FenceBrokers{[]Incarnation{{2, w.epoch(2)}}})
	cmd, err := w.proposal([]int32{1, 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	do(cmd)
	do(&UnfenceBroker{2, w.epoch(2)})
	if err := w.do(cmd); !errors.Is(err, ErrConflict) || len(w.p().ISR) != 1 {
		t.Errorf("the copy: %v, %s", err, w.p().line())
	}
}

// I1: a proposal that means the process before does not let its successor in, which may hold less.
func TestProposalMeansOneProcess(t *testing.T) {
	w := newWorld(t, 2, 2, 1)
	if err := w.do(&FenceBrokers{[]Incarnation{{2, w.epoch(2)}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.do(&UnfenceBroker{2, w.epoch(2)}); err != nil {
		t.Fatal(err)
	}
	cmd, err := w.proposal([]int32{1, 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.register(2, false, true); err != nil {
		t.Fatal(err)
	}
	_, answer, err := w.im.Apply(cmd)
	if err != nil || answer.([]AlterOutcome)[0] != AlterRefused {
		t.Errorf("got %v %v", answer, err)
	}
}

// C4, E5: a request that comes twice is one process, and a late one of a process that died does not replace the one that lives.
func TestRegistrationsThatComeLateOrTwice(t *testing.T) {
	w := newWorld(t, 2, 2, 1)
	if err := w.fence(2); err != nil { // cut off, and alive
		t.Fatal(err)
	}
	late := &RegisterBroker{ClusterID: "c", UUID: uuid(2), Nonce: UUID{0: 99}, Held: []UUID{{0: 99}}, Replaces: w.epoch(2) - 1}
	if err := w.do(late); !errors.Is(err, ErrRefused) {
		t.Errorf("a late request: %v", err)
	}
	again := &RegisterBroker{ClusterID: "c", UUID: uuid(2), Nonce: w.nonces[2], Held: []UUID{w.nonces[2]}}
	before := w.p().line()
	next, answer, err := w.im.Apply(again)
	if err != nil || answer.(Registration) != (Registration{BrokerID: 2, BrokerEpoch: w.epoch(2), Version: uint64(w.epoch(2))}) {
		t.Errorf("the same request again: %+v %v", answer, err)
	}
	if after := next.Topic("t").Partitions[0].line(); after != before {
		t.Errorf("it changed %s to %s", before, after)
	}
	// A mark of a clean end that an earlier process left says nothing about the last one.
	w = newWorld(t, 2, 2, 1)
	first := w.epoch(1)
	if err := w.register(1, true, true); err != nil {
		t.Fatal(err)
	}
	cmd := &RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: UUID{0: 98}, Held: []UUID{w.nonces[1]}, Clean: first}
	if err := w.do(cmd); err != nil || !slices.Contains(w.p().Restarted, 1) {
		t.Errorf("an old mark counts: %v %s", err, w.p().line())
	}
}
