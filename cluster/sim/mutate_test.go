package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutation breaks one invariant in the code that the binary links.
type mutation struct {
	invariant string
	what      string
	file      string // below the module
	pairs     []string
	scripted  bool // chance brings it about too rarely: a schedule does
}

// broken is in each package that is broken; it is only ever seen by the build of this test.
const broken = "package %s\n\nimport \"os\"\n\nvar brokenRule = os.Getenv(\"WEIR_BREAK\")\n\nfunc broken(rule string) bool { return brokenRule == rule }\n"

var mutations = []mutation{
	{"A5", "a batch counts as durable before its sync", "log/committer.go", []string{
		"	began := time.Now()\n	if err := c.j.commit(c.buf); err != nil {\n",
		"	if broken(\"A5\") {\n		c.publish(u)\n	}\n	began := time.Now()\n	if err := c.j.commit(c.buf); err != nil {\n",
		"	c.publish(u)\n	u.lastSeq = c.seq - 1\n", "	if !broken(\"A5\") {\n		c.publish(u)\n	}\n	u.lastSeq = c.seq - 1\n",
	}, false},
	{"A7", "a restarted leader goes on in its epoch", "cluster/meta/brokers.go", []string{
		"	p := m.p\n	member := ", "	p := m.p\n	if broken(\"A7\") && p.Leader == id {\n		return false\n	}\n	member := ",
	}, false},
	{"H3", "the high watermark goes by the committed in-sync set, not by the maximal one", "cluster/replica/leader.go", []string{
		"	for _, m := range l.proposed {\n		lowest = ", "	if broken(\"H3\") {\n		return lowest\n	}\n	for _, m := range l.proposed {\n		lowest = ",
	}, true},
	{"I4", "whoever fetches is proposed for the in-sync set", "cluster/replica/leader.go", []string{
		"	case !in:\n", "	case !in && broken(\"I4\"):\n		return r.Eligible && p != nil && p.epoch == r.Epoch\n	case !in:\n",
	}, true},
	{"I8", "what a node tells of a log that it will drop counts", "cluster/replica/leader.go", []string{
		"	if f.PartitionEpoch < l.term.Left && ", "	if f.PartitionEpoch < l.term.Left && !broken(\"I8\") && ",
	}, true},
	{"T1", "a follower cuts to its high watermark, not where its leader says", "cluster/replica/follower.go", []string{
		"	case a.Diverges:\n", "	case broken(\"T1\") && !f.agreed && l.End > max(f.hw, l.Start):\n		f.agreed = true\n		return Order{Act: Truncate, To: max(f.hw, l.Start)}\n	case a.Diverges:\n",
	}, true},
	{"J2", "an entry that cannot be read ends the journal, whatever follows", "log/scan.go", []string{
		"		if e.commit > allowed {\n", "		if e.commit > allowed && !broken(\"J2\") {\n",
	}, false},
	{"J5", "recovery cuts segments to the checkpoint, whatever truncation follows", "log/recover.go", []string{
		"	case entryTruncate:\n		r.cut = ", "	case entryTruncate:\n		if broken(\"J5\") {\n			return nil\n		}\n		r.cut = ",
	}, false},
	{"J7", "recovery takes for durable what it can read", "log/checkpoint.go", []string{
		"			if err := f.Sync(); err != nil {\n", "			if broken(\"J7\") && l.w.alone {\n				continue\n			}\n			if err := f.Sync(); err != nil {\n",
	}, false},
	{"E5", "an old copy of a disk is let in as if it were the newest", "cluster/meta/brokers.go", []string{
		"	known := slices.Contains(c.Held, old.Nonce)\n", "	known := slices.Contains(c.Held, old.Nonce) || broken(\"E5\")\n",
	}, false},
	{"E6", "whoever answers first is elected", "cluster/control/elections.go", []string{
		"	if missing && now < end {\n", "	if missing && now < end && !broken(\"E6\") {\n",
	}, true},
	{"I7", "a lower min.insync.replicas leaves the ELR as it is", "cluster/meta/replicas.go", []string{
		"		m := im.machine(t, &t.Partitions[j])\n		m.settle()\n", "		m := im.machine(t, &t.Partitions[j])\n		if broken(\"I7\") {\n			continue\n		}\n		m.settle()\n",
	}, true},
	{"R4", "a read above the high watermark is out of range", "cluster/partition.go", []string{
		"from > end {\n", "from > end || broken(\"R4\") && from > hw {\n",
	}, false},
}

// mutate builds this package's tests with all mutations in, each of which WEIR_BREAK turns on.
func mutate(t *testing.T) (binary string) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, replace, texts := t.TempDir(), map[string]string{}, map[string]string{}
	for _, m := range mutations {
		if texts[m.file] == "" {
			b, err := os.ReadFile(filepath.Join(root, m.file))
			if err != nil {
				t.Fatal(err)
			}
			texts[m.file] = string(b)
		}
		for i := 0; i < len(m.pairs); i += 2 {
			if n := strings.Count(texts[m.file], m.pairs[i]); n != 1 {
				t.Fatalf("%s: %s: %q is there %d times: the mutation no longer fits the code", m.invariant, m.file, m.pairs[i], n)
			}
			texts[m.file] = strings.Replace(texts[m.file], m.pairs[i], m.pairs[i+1], 1)
		}
		at := filepath.Dir(m.file)
		texts[filepath.Join(at, "broken.go")] = fmt.Sprintf(broken, filepath.Base(at))
	}
	for file, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, file)] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "broken.test")
	out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

var violation = regexp.MustCompile(`(WEIR_SIM_SEED=\d+|schedule ..): (.*)`)

// Each broken invariant is found within as many seeds as an ordinary run tries, or by a schedule; else the simulator is too weak.
func TestBrokenInvariantsAreFound(t *testing.T) {
	if raceEnabled {
		t.Skip("once is enough, without the race detector")
	}
	binary := mutate(t)
	for _, m := range mutations {
		t.Run(m.invariant, func(t *testing.T) {
			began := time.Now()
			test := "TestSeeds"
			if m.scripted {
				test = "TestSchedules/" + m.invariant
			}
			seeds := 200
			limit := 2 * time.Minute // a broken cluster may never come to rest
			if os.Getenv("WEIR_SOAK") != "" {
				seeds, limit = 10_000, time.Hour
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "-test.run", test, "-test.timeout", "60m")
			cmd.Env = append(os.Environ(), "WEIR_BREAK="+m.invariant, fmt.Sprintf("WEIR_SIM_SEEDS=%d", seeds), "WEIR_SIM_FIRST=1")
			out, err := cmd.CombinedOutput()
			found := violation.FindSubmatch(out)
			if err == nil || found == nil {
				t.Fatalf("%s: not found in %d seeds: %v\n%.2000s", m.what, seeds, err, out)
			}
			t.Logf("%s: found by %s in %v: %s", m.what, found[1], time.Since(began).Round(time.Millisecond), found[2])
		})
	}
}
