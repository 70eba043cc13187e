package dice

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// Build builds the tests of the package in the working directory with the overlay. The first time that takes as long as the whole of Go's library does. Where
// the toolchain is not known the test is skipped, and fails with CI=true.
func Build(t *testing.T) (binary string) {
	t.Helper()
	dir := t.TempDir()
	overlay, err := Overlay(dir)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "replay.test")
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

var hashLine = regexp.MustCompile(`seed \d+: \d+ events, .*, hash [0-9a-f]+`)

var took = regexp.MustCompile(` in [^,]+,`) // on this machine, this time

// Replays runs seeds of a simulator's test twice each, every time in a process of its own: what an earlier seed has left in pools is something that a trace can depend on. Two
// runs of a seed have the same trace, to the last line, and two seeds have not.
func Replays(t *testing.T, binary, test string, seeds int) {
	t.Helper()
	hash := func(seed int) string {
		cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^"+test+"$", "-test.v")
		cmd.Env = append(os.Environ(), fmt.Sprintf("WEIR_SIM_SEED=%d", seed), "WEIR_SIM_SEEDS=1")
		out, err := cmd.CombinedOutput()
		line := hashLine.Find(out)
		if err != nil || line == nil {
			t.Fatalf("seed %d: %v\n%.4000s", seed, err, out)
		}
		return took.ReplaceAllString(string(line), ",")
	}
	of := map[string]bool{}
	for seed := 1; seed <= seeds; seed++ {
		one, two := hash(seed), hash(seed)
		if one != two {
			t.Errorf("a seed does not replay: something that it does not decide has come in\n%s\n%s", one, two)
		}
		of[one] = true
	}
	if len(of) != seeds {
		t.Errorf("%d seeds have %d traces", seeds, len(of))
	}
}
