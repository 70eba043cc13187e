// Package mutant builds tests with rules of the product broken on purpose, in copies of its source that only this build sees: what a test is good for shows when a rule is
// broken and it says so.
package mutant

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Mutation breaks one rule in the code that the binary links.
type Mutation struct {
	Rule     string   // its name: WEIR_BREAK turns it on
	What     string   // is wrong then
	File     string   // below the module
	Pairs    []string // old and new text, in turn; each old one is there once. The new one asks broken("rule")
	Scripted bool     // chance brings it about too rarely: a schedule does
}

// switches is in each package that is broken.
const switches = "package %s\n\nimport \"os\"\n\nvar brokenRule = os.Getenv(\"WEIR_BREAK\")\n\nfunc broken(rule string) bool { return brokenRule == rule }\n"

// Build builds the tests of the package in the working directory, with all mutations in.
func Build(t *testing.T, root string, mutations []Mutation) (binary string) {
	root, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir, replace, texts := t.TempDir(), map[string]string{}, map[string]string{}
	for _, m := range mutations {
		if texts[m.File] == "" {
			b, err := os.ReadFile(filepath.Join(root, m.File))
			if err != nil {
				t.Fatal(err)
			}
			texts[m.File] = string(b)
		}
		for i := 0; i < len(m.Pairs); i += 2 {
			if n := strings.Count(texts[m.File], m.Pairs[i]); n != 1 {
				t.Fatalf("%s: %s: %q is there %d times: the mutation no longer fits the code", m.Rule, m.File, m.Pairs[i], n)
			}
			texts[m.File] = strings.Replace(texts[m.File], m.Pairs[i], m.Pairs[i+1], 1)
		}
		at := filepath.Dir(m.File)
		texts[filepath.Join(at, "broken.go")] = fmt.Sprintf(switches, filepath.Base(at))
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
