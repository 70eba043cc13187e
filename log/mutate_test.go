package log

import (
	"os"
	"os/exec"
	"testing"

	"github.com/weir-io/weir/internal/mutant"
)

// transactionMutations break guards of transactions against what comes late, or comes to nothing (P2).
var transactionMutations = []mutant.Mutation{
	{Rule: "verified", What: "a batch that comes late begins a transaction", File: "log/transaction.go", Pairs: []string{
		"	case last != v.Ended:", "	case last != v.Ended && !broken(\"verified\"):",
	}},
	{Rule: "started", What: "a marker that comes late ends the producer's next transaction", File: "log/transaction.go", Pairs: []string{
		"v.Started != p.started:", "v.Started != p.started && !broken(\"started\"):",
	}},
	{Rule: "coordinator", What: "a coordinator of an earlier term ends transactions", File: "log/transaction.go", Pairs: []string{
		"	case m.CoordinatorEpoch < p.coordinator:", "	case m.CoordinatorEpoch < p.coordinator && !broken(\"coordinator\"):",
	}},
	{Rule: "cut", What: "a marker that is cut has ended its transaction", File: "log/transaction.go", Pairs: []string{
		"	if t.lastMarker >= o {\n", "	if t.lastMarker >= o && !broken(\"cut\") {\n",
	}},
	{Rule: "doubt", What: "a marker from a snapshot counts before it is committed", File: "log/transaction.go", Pairs: []string{
		"	if hw <= t.doubt {\n		return 0", "	if hw <= t.doubt && !broken(\"doubt\") {\n		return 0",
	}},
	{Rule: "compact", What: "compaction goes past a transaction that is open", File: "log/transaction.go", Pairs: []string{
		"		if x.last < 0 || x.last >= limit {\n			return min(limit, x.first)", "		if (x.last < 0 || x.last >= limit) && !broken(\"compact\") {\n			return min(limit, x.first)",
	}},
	{Rule: "behind", What: "a batch becomes durable before what makes it right (J8)", File: "log/committer.go", Pairs: []string{
		"		if behind == nil {\n			return items, room, left", "		if behind == nil || broken(\"behind\") {\n			return items, room, left",
	}},
	{Rule: "governed", What: "a replica that knows nothing committed compacts all", File: "log/housekeep.go", Pairs: []string{
		"hw > 0 || p.governed.Load() {", "hw > 0 || p.governed.Load() && !broken(\"governed\") {",
	}},
}

// Each guard has a test that fails without it.
func TestBrokenGuardsOfTransactionsAreFound(t *testing.T) {
	if raceEnabled {
		t.Skip("once is enough, without the race detector")
	}
	binary := mutant.Build(t, "..", transactionMutations)
	for _, m := range append([]mutant.Mutation{{Rule: "none"}}, transactionMutations...) {
		t.Run(m.Rule, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), binary, "-test.run", "Transaction|Stable|MayBeCut|Behind", "-test.skip", "Broken")
			cmd.Env = append(os.Environ(), "WEIR_BREAK="+m.Rule)
			out, err := cmd.CombinedOutput()
			if found := err != nil; found != (m.Rule != "none") {
				t.Errorf("%s: found %v\n%.2000s", m.What, found, out)
			}
		})
	}
}
