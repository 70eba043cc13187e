package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// recovering is a partition of brokers 1 and 2, both restarted; 3 is a witness. Nobody has answered.
func recovering(t *testing.T) (*sim, meta.PartitionName) {
	s := zoned(t, "", "", "-")
	if err := s.create("t", 0, 0, false, false, 1, [][]int32{{1, 2}}); err != nil {
		t.Fatal(err)
	}
	s.mute = true
	for _, step := range []string{"begin", "kill 1,2", "wait 8s", "start 1,2"} {
		if err := s.step(step); err != nil {
			t.Fatal(err)
		}
	}
	return s, meta.PartitionName{Topic: s.im.Topic("t").ID}
}

func (s *sim) partition() *meta.Partition { return &s.im.Topic("t").Partitions[0] }

// An answer counts for the process and the partition epoch that was asked (E6).
func TestAnswersOfOthersDoNotCount(t *testing.T) {
	s, name := recovering(t)
	be := func(id int32) int64 { return s.im.Broker(id).Epoch }
	now := LogState{Partition: name, PartitionEpoch: s.partition().PartitionEpoch, EpochEntry: 1, End: 5}
	old := now
	old.PartitionEpoch--
	s.c.Logs(s.now, 1, be(1), []LogState{now})
	s.c.Logs(s.now, 2, be(2)-1, []LogState{now}) // the process before
	s.c.Logs(s.now, 2, be(2), []LogState{old})   // late
	s.c.Logs(s.now, 3, be(3), []LogState{now})   // was not asked
	s.c.Logs(s.now, 9, 9, []LogState{now})
	s.c.Logs(s.now, 2, be(2), []LogState{{Partition: meta.PartitionName{Topic: name.Topic, Index: 7}}})
	if n := len(s.c.open[name].answers); n != 1 {
		t.Errorf("%d answers count", n)
	}
	if err := s.tick(); err != nil || s.partition().Leader != meta.NoLeader {
		t.Fatalf("%v: %s", err, s.state())
	}
	// Another process of 2 voids what both said: the partition epoch is another.
	if err := s.step("start 2"); err != nil {
		t.Fatal(err)
	}
	now.PartitionEpoch, now.End = s.partition().PartitionEpoch, 3
	s.c.Logs(s.now, 2, be(2), []LogState{now})
	if err := s.tick(); err != nil || s.partition().Leader != meta.NoLeader {
		t.Fatalf("%v: %s", err, s.state())
	}
	s.c.Logs(s.now, 1, be(1), []LogState{now})
	if err := s.tick(); err != nil || s.partition().Leader != 1 || s.partition().LastUnclean != 0 {
		t.Fatalf("%v: %s", err, s.state())
	}
}

// A member that started anew as another process of the same partition epoch is asked again: its clean start changes nothing there.
func TestAnswerOfACleanProcessIsNotItsSuccessors(t *testing.T) {
	s, name := recovering(t)
	state := LogState{Partition: name, PartitionEpoch: s.partition().PartitionEpoch, EpochEntry: 1, End: 5}
	s.c.Logs(s.now, 1, s.im.Broker(1).Epoch, []LogState{state})
	r := s.c.open[name]
	if len(r.answers) != 1 {
		t.Fatalf("answers %v", r.answers)
	}
	r.answers[1] = answer{s.im.Broker(1).Epoch - 1, 1, 5}
	ask := s.c.Step(s.now, s.im).Ask
	if len(r.answers) != 0 || !slices.ContainsFunc(ask, func(q Question) bool { return q.BrokerID == 1 }) {
		t.Errorf("answers %v, asks %+v", r.answers, ask)
	}
}

// Once its grace is over an election takes no more time than it must, but hears all that are there: the first to answer is not always the one
// with the greatest log. And whoever is not heard at that moment does not lead.
func TestElectionAfterGrace(t *testing.T) {
	s, name := recovering(t)
	if err := s.step("wait 70s"); err != nil {
		t.Fatal(err)
	}
	state := LogState{Partition: name, PartitionEpoch: s.partition().PartitionEpoch, EpochEntry: 1, End: 5}
	s.c.Logs(s.now, 1, s.im.Broker(1).Epoch, []LogState{state})
	if err := s.tick(); err != nil || s.partition().Leader != meta.NoLeader {
		t.Fatalf("%v: %s", err, s.state())
	}
	state.End = 9
	s.c.Logs(s.now, 2, s.im.Broker(2).Epoch, []LogState{state})
	s.c.peers[2].heard -= 3 * second // the answer was long under way
	if err := s.tick(); err != nil || s.partition().Leader != meta.NoLeader {
		t.Fatalf("%v: %s", err, s.state())
	}
	if err := s.step("wait 2s"); err != nil || s.partition().Leader != 2 || s.partition().LastUnclean != 0 {
		t.Fatalf("%v: %s", err, s.state())
	}

	s, _ = recovering(t)
	if err := s.step("wait 70s"); err != nil {
		t.Fatal(err)
	}
	state.PartitionEpoch = s.partition().PartitionEpoch
	s.c.Logs(s.now, 1, s.im.Broker(1).Epoch, []LogState{state}) // and 2 renews, and says nothing
	if err := s.step("wait 3s"); err != nil || s.partition().Leader != 1 || s.partition().LastUnclean == 0 {
		t.Fatalf("%v: %s", err, s.state())
	}
}

// Only those that are there are asked, once in a renewal interval each.
func TestQuestionsAreFew(t *testing.T) {
	s, _ := recovering(t)
	s.stop(2, false)
	if err := s.step("gone 2"); err != nil {
		t.Fatal(err)
	}
	asked, first := 0, s.now
	for ; s.now < first+10*second; s.now += second / 10 {
		s.c.Heard(s.now, 1, s.im.Broker(1).Epoch)
		for _, q := range s.c.Step(s.now, s.im).Ask {
			if q.BrokerID != 1 || q.BrokerEpoch != s.im.Broker(1).Epoch || len(q.Partitions) != 1 {
				t.Fatalf("asks %+v", q)
			}
			asked++
		}
	}
	if asked < 9 || asked > 11 {
		t.Errorf("asked %d times in 10 s", asked)
	}
}

// Growth is bounded: so many partitions copy themselves at a time, and min.insync.replicas 2 comes with the last.
func TestGrowthIsBounded(t *testing.T) {
	s := zoned(t, "", "", "")
	assignment := make([][]int32, maxGrowing+10)
	for i := range assignment {
		assignment[i] = []int32{1, 2}
	}
	for _, name := range []string{"a", "b"} {
		if err := s.create(name, 0, 0, true, false, 1, assignment); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := s.run(10 * second); err != nil {
			t.Fatal(err)
		}
		if n := growing(s.im); n > maxGrowing {
			t.Fatalf("%d grow at a time", n)
		}
		for _, topic := range s.im.Topics() {
			for i := range topic.Partitions {
				if topic.MinInsync == 2 && len(topic.Partitions[i].Target()) < 3 {
					t.Fatalf("%s/%d: %s, with min.insync.replicas 2", topic.Name, i, line(&topic.Partitions[i]))
				}
			}
		}
		if err := s.sync(); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range s.im.Topics() {
		if topic.MinInsync != 2 || len(topic.Partitions[0].Replicas) != 3 {
			t.Errorf("%s: min %d, %s", topic.Name, topic.MinInsync, line(&topic.Partitions[0]))
		}
	}
}

// An operator's min.insync.replicas stays.
func TestGrowthLeavesAFixedMinInsync(t *testing.T) {
	s := zoned(t, "", "", "")
	if err := s.create("t", 0, 0, true, false, 1, [][]int32{{1, 2}}); err != nil {
		t.Fatal(err)
	}
	topic := s.im.Topic("t")
	if err := s.apply(&meta.AlterConfigs{ID: topic.ID, Expect: topic.Version, Set: map[string]string{minInsyncConfig: "1"}}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"begin", "wait 20s", "sync", "wait 20s"} {
		if err := s.step(step); err != nil {
			t.Fatal(err)
		}
	}
	if topic = s.im.Topic("t"); topic.MinInsync != 1 || len(topic.Partitions[0].Replicas) != 3 {
		t.Errorf("min %d, %s", topic.MinInsync, line(&topic.Partitions[0]))
	}
}

// What is proposed again for ever would be refused for ever: prefers knows what meta refuses.
func TestPrefers(t *testing.T) {
	s := zoned(t, "", "", "")
	if err := s.create("t", 0, 0, false, false, 1, [][]int32{{1, 2}}); err != nil {
		t.Fatal(err)
	}
	b1 := func() int64 { return s.im.Broker(1).Epoch }
	wanted := func(want bool) {
		t.Helper()
		if id, got := prefers(s.im, s.partition()); got != want || id != s.partition().Replicas[0] {
			t.Errorf("%s: broker %d wanted: %v", line(s.partition()), id, got)
		}
	}
	do := func(cmd meta.Command, step string) {
		t.Helper()
		var err error
		if cmd != nil {
			err = s.apply(cmd)
		}
		if step != "" {
			err = s.step(step)
		}
		if err != nil {
			t.Fatal(fmt.Errorf("%T %s: %w", cmd, step, err))
		}
	}
	wanted(false)           // it leads
	do(nil, "start 1")      // it starts anew, 2 leads
	wanted(false)           // it has shown nothing yet
	do(nil, "sync")         // it has
	wanted(true)            //
	do(nil, "replicas t 3") // it moves
	wanted(false)           //
	do(nil, "sync")         //
	wanted(s.partition().Leader != s.partition().Replicas[0])
	do(&meta.StopBroker{BrokerID: 1, BrokerEpoch: b1()}, "")
	wanted(s.partition().Replicas[0] != 1)
}

// Nor does one lead again that stops, though it is in sync: both stop, and the one that leads does so to its end.
func TestPrefersNoneThatStops(t *testing.T) {
	s := zoned(t, "", "")
	if err := s.create("t", 0, 0, false, false, 1, [][]int32{{1, 2}}); err != nil {
		t.Fatal(err)
	}
	if err := s.step("start 1"); err != nil { // 2 leads, and may not hand over to who has shown nothing yet
		t.Fatal(err)
	}
	for _, id := range []int32{2, 1} {
		if err := s.apply(&meta.StopBroker{BrokerID: id, BrokerEpoch: s.im.Broker(id).Epoch}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.step("sync"); err != nil {
		t.Fatal(err)
	}
	if p := s.partition(); p.Leader != 2 || !slices.Contains(p.ISR, 1) || len(p.Restarted) > 0 {
		t.Fatalf("not what is to be tested: %s", line(p))
	}
	if id, wanted := prefers(s.im, s.partition()); wanted {
		t.Errorf("%s: broker %d wanted", line(s.partition()), id)
	}
}

// A Step without news orders nothing and names a time to come, whatever the number of calls (C6).
func TestIdleClusterIsQuiet(t *testing.T) {
	s := zoned(t, "", "", "")
	if err := s.create("t", 8, 0, true, false, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for end := s.now + time.Hour; s.now < end; s.now += LANTiming.Renew {
		for _, b := range s.im.Brokers() {
			s.c.Heard(s.now, b.ID, b.Epoch)
		}
		if s.c.Next(s.now) > s.now {
			continue
		}
		steps++
		if o := s.c.Step(s.now, s.im); len(o.Commands) > 0 || len(o.Ask) > 0 {
			t.Fatalf("at %v: %+v", s.now, o)
		}
	}
	if steps > 30 {
		t.Errorf("%d steps in an idle hour", steps)
	}
}
