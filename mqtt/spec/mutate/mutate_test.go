package mutate

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T) (*bench, []*Mutation) {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBench(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("mutations.txt")
	if err != nil {
		t.Fatal(err)
	}
	all, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return b, all
}

// The list fits the code as it is: each place is found once, and each rule has an annotated test.
func TestTheListFitsTheCode(t *testing.T) {
	b, all := load(t)
	for _, m := range all {
		if _, err := m.apply(b.root); err != nil {
			t.Error(err)
		}
		if _, err := b.testsOf(m); err != nil {
			t.Error(err)
		}
	}
	if len(all) < 40 {
		t.Errorf("%d mutations are left", len(all))
	}
}

// sampleSize is how many mutations an ordinary run of the tests tries: a second or two each.
const sampleSize = 5

// choose draws a sample, with the seed if one is wanted, or takes those that hold the wanted words, or all.
func choose(t *testing.T, all []*Mutation, want string) []*Mutation {
	seed, err := strconv.ParseUint(want, 10, 64)
	switch {
	case want == "all":
		return all
	case want == "":
		seed = uint64(time.Now().UnixNano())
	case err != nil:
		all = slices.DeleteFunc(all, func(m *Mutation) bool { return !strings.Contains(m.File+" "+m.String(), want) })
		if len(all) == 0 {
			t.Fatalf("WEIR_MUTATE=%s: want all, the number of a draw, or words of entries", want)
		}
		return all
	}
	t.Logf("WEIR_MUTATE=%d", seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(sampleSize, len(all))]
}

// A broken rule makes a test fail that claims to prove it.
func TestMutationsAreCaught(t *testing.T) {
	if out, err := exec.Command("go", "env", "GOHOSTARCH").Output(); err != nil {
		t.Fatalf("go env: %v", err)
	} else if strings.TrimSpace(string(out)) != runtime.GOARCH {
		return // once is enough, on the machine's own architecture
	}
	b, all := load(t)
	all = choose(t, all, os.Getenv("WEIR_MUTATE"))
	for _, m := range all {
		start := time.Now()
		caught, err := b.try(m)
		if err != nil {
			t.Errorf("mutations.txt:%d: %s\n%s: %v", m.Line, m, m.File, err)
			continue
		}
		t.Logf("%s (%s, %v)", m, caught, time.Since(start).Round(100*time.Millisecond))
	}
}

func TestParse(t *testing.T) {
	all, err := parse("# head\n\n= MQTT5 1.0.0-1, packet.TestA: what: is broken\nmqtt/a.go\n \tkeep\n-\told\n+\tnew\n~\n-\tgone\n")
	if err != nil {
		t.Fatal(err)
	}
	m := all[0]
	if len(all) != 1 || m.String() != "MQTT5 1.0.0-1, packet.TestA: what: is broken" || m.File != "mqtt/a.go" || m.Line != 3 ||
		len(m.Hunks) != 2 || m.Hunks[0] != (Hunk{"\tkeep\n\told\n", "\tkeep\n\tnew\n"}) || m.Hunks[1] != (Hunk{"\tgone\n", ""}) {
		t.Errorf("%+v", m)
	}
	for _, in := range []string{"-x", "= no colon", "= a: b", "= a: b\nf.go", "= a: b\nf.go\n-x\n+x", "= a: b\nf.go\n+x", "= a: b\nf.go\n*x"} {
		if _, err := parse(in); err == nil {
			t.Errorf("%q is no list", in)
		}
	}
}

func TestApplyWantsThePlaceOnce(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("x\n\ta()\n\t\ta()\n\tb()\n\tb()\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for before, want := range map[string]string{"\ta()\n": "x\nnew\n\t\ta()\n\tb()\n\tb()\n", "\tb()\n": "", "\tc()\n": "", "\t\ta()\n\tb()\n": "x\n\ta()\nnew\n\tb()\n"} {
		m := &Mutation{File: "a.go", Hunks: []Hunk{{before, "new\n"}}}
		if got, err := m.apply(root); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", before, got, err)
		}
	}
}

// What counts as a catch, told from the words of go test.
func TestJudge(t *testing.T) {
	const run, failA = `{"Action":"run","Test":"TestA"}` + "\n", `{"Action":"fail","Test":"TestA"}` + "\n"
	const failAll = `{"Action":"fail"}` + "\n"
	for name, c := range map[string]struct {
		out    string
		caught string
		bad    bool
	}{
		"caught":           {run + failA + failAll, "TestA", false},
		"by a subtest":     {run + `{"Action":"fail","Test":"TestA/sub"}` + "\n", "TestA", false},
		"survived":         {run + `{"Action":"pass","Test":"TestA"}` + "\n", "", false},
		"does not build":   {`{"Action":"build-output","Output":"x.go:1"}` + "\n" + `{"Action":"build-fail"}` + "\n" + failAll, "", true},
		"panic":            {run + `{"Action":"output","Test":"TestA","Output":"panic: nil\n"}` + "\n" + failA + failAll, "", true},
		"time-out":         {run + `{"Action":"output","Test":"TestA","Output":"panic: test timed out after 1m\n"}` + "\n" + failA, "", true},
		"nothing ran":      {`{"Action":"pass"}` + "\n", "", true},
		"another's fault":  {run + failAll, "", true},
		"a skip is no run": {"", "", true},
	} {
		caught, err := judge([]byte(c.out), []string{"TestA"})
		if caught != c.caught || (err != nil) != c.bad {
			t.Errorf("%s: caught %q, %v", name, caught, err)
		}
	}
}
