package kafka

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

// simMutations break what transactions rest on (P2), once each. Guards against what comes so late that chance brings it about too rarely have mutations of their own in package log.
var simMutations = []mutant.Mutation{
	{Rule: "open", What: "what is open holds nothing up", File: "log/transaction.go", Pairs: []string{
		"	if len(t.unstable) > 0 {\n		return min(hw, t.unstable[0].first)", "	if len(t.unstable) > 0 && !broken(\"open\") {\n		return min(hw, t.unstable[0].first)",
	}},
	{Rule: "marker", What: "a marker counts before it is committed", File: "log/transaction.go", Pairs: []string{
		"t.unstable[ended].last < hw {", "(t.unstable[ended].last < hw || broken(\"marker\")) {",
	}},
	{Rule: "doubt", What: "a marker from a snapshot counts before it is committed", File: "log/transaction.go", Pairs: []string{
		"	if hw <= t.doubt {\n		return 0", "	if hw <= t.doubt && !broken(\"doubt\") {\n		return 0",
	}},
	{Rule: "aborted", What: "readers are not told what was aborted", File: "cluster/transaction.go", Pairs: []string{
		"p.log.Aborted(from, stable) // before", "abortedUnless(\"aborted\", p.log.Aborted(from, stable)) // before",
		"// ReadStable is", "func abortedUnless(rule string, all []log.AbortedTransaction) []log.AbortedTransaction {\n	if broken(rule) {\n		return nil\n	}\n	return all\n}\n\n// ReadStable is",
	}},
	{Rule: "term", What: "a marker that was sent in an earlier leader epoch is taken", File: "cluster/transaction.go", Pairs: []string{
		"[]Term{{p.id, epoch}}, told)", "[]Term{{p.id, epoch}}[:termsUnless(\"term\")], told)",
		"// notVerified is", "func termsUnless(rule string) int {\n	if broken(rule) {\n		return 0\n	}\n	return 1\n}\n\n// notVerified is",
	}, Scripted: true},
	{Rule: "stray", What: "a replica that missed a marker goes on without it", File: "cluster/fetcher.go", Pairs: []string{
		"	return first, first >= log.Offset(n.LogStart) && ", "	return first, !broken(\"stray\") && first >= log.Offset(n.LogStart) && ",
	}, Scripted: true},
	{Rule: "epoch", What: "what a producer asks with an earlier epoch is done", File: "bridge/txn/transaction.go", Pairs: []string{
		"	case p.Epoch != t.now.Epoch || p.Epoch >= MaxEpoch:", "	case (p.Epoch != t.now.Epoch || p.Epoch >= MaxEpoch) && !broken(\"epoch\"):",
	}},
	{Rule: "bump", What: "a producer of version 2 keeps its epoch from one transaction to the next", File: "bridge/txn/transaction.go", Pairs: []string{
		"		if r.Epoch++; r.Epoch >= MaxEpoch {", "		if r.Epoch += bump(\"bump\"); r.Epoch >= MaxEpoch {",
		"// endAgain answers", "func bump(rule string) int16 {\n	if broken(rule) {\n		return 0\n	}\n	return 1\n}\n\n// endAgain answers",
	}},
	{Rule: "stored", What: "a decision is answered before it is stored", File: "bridge/kafka/transactions_step.go", Pairs: []string{
		"func (c *transactions) wait(ctx context.Context, done <-chan int16) int16 {\n", "func (c *transactions) wait(ctx context.Context, done <-chan int16) int16 {\n	if broken(\"stored\") {\n		return errNone\n	}\n",
	}},
	{Rule: "all", What: "a transaction is over once one partition has its marker", File: "bridge/kafka/transactions_markers.go", Pairs: []string{
		"			left = append(left, parts[i])\n", "			if !broken(\"all\") {\n				left = append(left, parts[i])\n			}\n",
	}},
	{Rule: "offsets", What: "offsets of an aborted transaction are applied", File: "bridge/kafka/coordinator_pending.go", Pairs: []string{
		"		if commit && p.transactionOf == x {", "		if (commit || broken(\"offsets\")) && p.transactionOf == x {",
	}},
}

var simViolation = regexp.MustCompile(`(WEIR_SIM_SEED=\d+|schedule \w+): (.*)`)

// Each broken rule is found within as many seeds as an ordinary run tries, or by a schedule; else the simulation is too weak.
func TestBrokenTransactionsAreFound(t *testing.T) {
	if raceEnabled {
		t.Skip("once is enough, without the race detector")
	}
	binary := mutant.Build(t, "../..", simMutations)
	for _, m := range simMutations {
		t.Run(m.Rule, func(t *testing.T) {
			began := time.Now()
			test := "TestSimulatedTransactions$"
			if m.Scripted {
				test = "TestTransactionSchedules/" + m.Rule
			}
			seeds, limit := 200, 5*time.Minute
			if os.Getenv("WEIR_SOAK") != "" {
				seeds, limit = 10_000, time.Hour
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "-test.run", test, "-test.timeout", "60m")
			cmd.Env = append(os.Environ(), "WEIR_BREAK="+m.Rule, fmt.Sprintf("WEIR_SIM_SEEDS=%d", seeds), "WEIR_SIM_FIRST=1")
			out, err := cmd.CombinedOutput()
			found := simViolation.FindSubmatch(out)
			if err == nil || found == nil {
				t.Fatalf("%s: not found in %d seeds: %v\n%.2000s", m.What, seeds, err, out)
			}
			t.Logf("%s: found by %s in %v: %s", m.What, found[1], time.Since(began).Round(time.Millisecond), found[2])
		})
	}
}
