package sim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/weir-io/weir/internal/mutant"
)

var mutations = []mutant.Mutation{
	{Rule: "A5", What: "a batch counts as durable before its sync", File: "log/committer.go", Pairs: []string{
		"	began := time.Now()\n	if err := c.j.commit(c.buf); err != nil {\n",
		"	if broken(\"A5\") {\n		c.publish(u)\n	}\n	began := time.Now()\n	if err := c.j.commit(c.buf); err != nil {\n",
		"	c.publish(u)\n	u.lastSeq = c.seq - 1\n", "	if !broken(\"A5\") {\n		c.publish(u)\n	}\n	u.lastSeq = c.seq - 1\n",
	}},
	{Rule: "A7", What: "a restarted leader goes on in its epoch", File: "cluster/meta/brokers.go", Pairs: []string{
		"	p := m.p\n	member := ", "	p := m.p\n	if broken(\"A7\") && p.Leader == id {\n		return false\n	}\n	member := ",
	}},
	{Rule: "H3", What: "the high watermark goes by the committed in-sync set, not by the maximal one", File: "cluster/replica/leader.go", Pairs: []string{
		"	for _, m := range l.proposed {\n		lowest = ", "	if broken(\"H3\") {\n		return lowest\n	}\n	for _, m := range l.proposed {\n		lowest = ",
	}, Scripted: true},
	{Rule: "I4", What: "whoever fetches is proposed for the in-sync set", File: "cluster/replica/leader.go", Pairs: []string{
		"	case !in:\n", "	case !in && broken(\"I4\"):\n		return r.Eligible && p != nil && p.epoch == r.Epoch\n	case !in:\n",
	}, Scripted: true},
	{Rule: "I8", What: "what a node tells of a log that it will drop counts", File: "cluster/replica/leader.go", Pairs: []string{
		"	if f.PartitionEpoch < l.term.Left && ", "	if f.PartitionEpoch < l.term.Left && !broken(\"I8\") && ",
	}, Scripted: true},
	{Rule: "T1", What: "a follower cuts to its high watermark, not where its leader says", File: "cluster/replica/follower.go", Pairs: []string{
		"	case a.Diverges:\n", "	case broken(\"T1\") && !f.agreed && l.End > max(f.hw, l.Start):\n		f.agreed = true\n		return Order{Act: Truncate, To: max(f.hw, l.Start)}\n	case a.Diverges:\n",
	}, Scripted: true},
	{Rule: "J2", What: "an entry that cannot be read ends the journal, whatever follows", File: "log/scan.go", Pairs: []string{
		"		if e.commit > allowed {\n", "		if e.commit > allowed && !broken(\"J2\") {\n",
	}},
	{Rule: "J5", What: "recovery cuts segments to the checkpoint, whatever truncation follows", File: "log/recover.go", Pairs: []string{
		"	case entryTruncate:\n		r.cut = ", "	case entryTruncate:\n		if broken(\"J5\") {\n			return nil\n		}\n		r.cut = ",
	}},
	{Rule: "J7", What: "recovery takes for durable what it can read", File: "log/checkpoint.go", Pairs: []string{
		"			if err := f.Sync(); err != nil {\n", "			if broken(\"J7\") && l.w.alone {\n				continue\n			}\n			if err := f.Sync(); err != nil {\n",
	}},
	{Rule: "E5", What: "an old copy of a disk is let in as if it were the newest", File: "cluster/meta/brokers.go", Pairs: []string{
		"	known := slices.Contains(c.Held, old.Nonce)\n", "	known := slices.Contains(c.Held, old.Nonce) || broken(\"E5\")\n",
	}},
	{Rule: "E6", What: "whoever answers first is elected", File: "cluster/control/elections.go", Pairs: []string{
		"	if missing && now < end {\n", "	if missing && now < end && !broken(\"E6\") {\n",
	}, Scripted: true},
	{Rule: "I7", What: "a lower min.insync.replicas leaves the ELR as it is", File: "cluster/meta/replicas.go", Pairs: []string{
		"		m := im.machine(t, &t.Partitions[j])\n		m.settle()\n", "		m := im.machine(t, &t.Partitions[j])\n		if broken(\"I7\") {\n			continue\n		}\n		m.settle()\n",
	}, Scripted: true},
	{Rule: "R4", What: "a read above the high watermark is out of range", File: "cluster/partition.go", Pairs: []string{
		"from > end {\n", "from > end || broken(\"R4\") && from > hw {\n",
	}},
}

var violation = regexp.MustCompile(`(WEIR_SIM_SEED=\d+|schedule ..): (.*)`)

// Each broken invariant is found within as many seeds as an ordinary run tries, or by a schedule; else the simulator is too weak.
func TestBrokenInvariantsAreFound(t *testing.T) {
	if raceEnabled {
		t.Skip("once is enough, without the race detector")
	}
	binary := mutant.Build(t, "../..", mutations)
	for _, m := range mutations {
		t.Run(m.Rule, func(t *testing.T) {
			began := time.Now()
			test := "TestSeeds"
			if m.Scripted {
				test = "TestSchedules/" + m.Rule
			}
			seeds := 200
			limit := 2 * time.Minute // a broken cluster may never come to rest
			if os.Getenv("WEIR_SOAK") != "" {
				seeds, limit = 10_000, time.Hour
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "-test.run", test, "-test.timeout", "60m")
			cmd.Env = append(os.Environ(), "WEIR_BREAK="+m.Rule, fmt.Sprintf("WEIR_SIM_SEEDS=%d", seeds), "WEIR_SIM_FIRST=1")
			out, err := cmd.CombinedOutput()
			found := violation.FindSubmatch(out)
			if err == nil || found == nil {
				t.Fatalf("%s: not found in %d seeds: %v\n%.2000s", m.What, seeds, err, out)
			}
			t.Logf("%s: found by %s in %v: %s", m.What, found[1], time.Since(began).Round(time.Millisecond), found[2])
		})
	}
}
