package mutate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-io/weir/mqtt/spec"
)

// bench knows the module and which tests prove what.
type bench struct {
	root  string
	temp  string
	cited map[string][]spec.Test // by statement
	tests map[string]spec.Test   // annotated tests by short name, packet.TestSplit
}

func newBench(root, temp string) (*bench, error) {
	statements, err := spec.Statements(root)
	if err != nil {
		return nil, err
	}
	notes, err := spec.ReadAnnotations(root, statements)
	if err != nil {
		return nil, err
	}
	b := &bench{root: root, temp: temp, cited: notes.Cited, tests: map[string]spec.Test{}}
	for _, tests := range notes.Cited {
		for _, t := range tests {
			b.tests[path.Base(t.Package)+"."+t.Name] = t
		}
	}
	return b, nil
}

// testsOf gives the names of the tests that have to catch m, by package.
func (b *bench) testsOf(m *Mutation) (map[string][]string, error) {
	byPackage := map[string][]string{}
	for _, rule := range m.Rules {
		tests := b.cited[rule]
		if t, ok := b.tests[rule]; ok {
			tests = []spec.Test{t}
		}
		if len(tests) == 0 {
			return nil, fmt.Errorf("mutations.txt:%d: no test is annotated with %s", m.Line, rule)
		}
		for _, t := range tests {
			if !slices.Contains(byPackage[t.Package], t.Name) {
				byPackage[t.Package] = append(byPackage[t.Package], t.Name)
			}
		}
	}
	return byPackage, nil
}

// try applies m and returns the test that caught it, or why none did. The package of the changed file goes first:
// it is the cheapest to build, and one catch is enough.
func (b *bench) try(m *Mutation) (caught string, err error) {
	byPackage, err := b.testsOf(m)
	if err != nil {
		return "", err
	}
	text, err := m.apply(b.root)
	if err != nil {
		return "", err
	}
	overlay, err := b.overlay(m, text)
	if err != nil {
		return "", err
	}
	own := path.Dir(filepath.ToSlash(m.File))
	packages := slices.SortedFunc(maps.Keys(byPackage), func(x, y string) int {
		if a, z := strings.HasSuffix(x, "/"+own), strings.HasSuffix(y, "/"+own); a != z {
			return map[bool]int{true: -1, false: 1}[a]
		}
		return strings.Compare(x, y)
	})
	var asked []string
	for _, pkg := range packages {
		out, err := b.goTest(overlay, pkg, byPackage[pkg])
		if err != nil {
			return "", err
		}
		if caught, err = judge(out, byPackage[pkg]); caught != "" || err != nil {
			return caught, err
		}
		for _, name := range byPackage[pkg] {
			asked = append(asked, path.Base(pkg)+"."+name)
		}
	}
	return "", fmt.Errorf("survived %s", strings.Join(asked, ", "))
}

func (b *bench) overlay(m *Mutation, text string) (file string, err error) {
	changed := filepath.Join(b.temp, "changed.go")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(b.root, m.File): changed}})
	if err != nil {
		return "", err
	}
	file = filepath.Join(b.temp, "overlay.json")
	return file, errors.Join(os.WriteFile(changed, []byte(text), 0o644), os.WriteFile(file, list, 0o644))
}

// goTest runs exactly the named tests and gives the output of go test -json.
func (b *bench) goTest(overlay, pkg string, names []string) ([]byte, error) {
	args := []string{"test", "-json", "-vet=off", "-count=1", "-failfast", "-timeout=60s", "-overlay=" + overlay,
		"-run=^(" + strings.Join(names, "|") + ")$", pkg}
	rapid, err := b.usesRapid(pkg)
	if err != nil {
		return nil, err
	}
	if rapid {
		args = append(args, "-rapid.nofailfile") // a failure that is wanted leaves no seed in testdata
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // one set of builds in the cache, whatever the caller's
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && (!errors.As(err, &exit) || out.Len() == 0) {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out.Bytes(), nil
}

func (b *bench) usesRapid(pkg string) (bool, error) {
	_, below, ok := strings.Cut(pkg, "/mqtt")
	if !ok {
		return false, fmt.Errorf("%s is not below mqtt", pkg)
	}
	files, err := filepath.Glob(filepath.Join(b.root, "mqtt", below, "*_test.go"))
	if err != nil {
		return false, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		if bytes.Contains(text, []byte("\n\t\"pgregory.net/rapid\"\n")) {
			return true, nil
		}
	}
	return false, nil
}

// judge reads the output of go test -json. Only the failure of one of the named tests by its own word is a catch:
// it is an error when the build fails, when the program panics or is stopped for its time, or when a test did not
// run at all.
func judge(out []byte, names []string) (caught string, err error) {
	var text strings.Builder
	ran := map[string]bool{}
	failed := false
	for line := range bytes.Lines(out) {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		text.WriteString(e.Output)
		top, _, _ := strings.Cut(e.Test, "/")
		switch {
		case e.Action == "build-fail":
			return "", fmt.Errorf("does not build, which catches nothing:\n%s", text.String())
		case strings.HasPrefix(e.Output, "panic: test timed out"):
			return "", errors.New("ran out of time, which catches nothing")
		case strings.HasPrefix(e.Output, "panic: "), strings.HasPrefix(e.Output, "fatal error: "):
			return "", fmt.Errorf("ended the program, which catches nothing: %s", e.Output)
		case e.Action == "run":
			ran[top] = true
		case e.Action == "fail" && slices.Contains(names, top):
			caught = top
		case e.Action == "fail":
			failed = true
		}
	}
	if caught != "" {
		return caught, nil
	}
	for _, name := range names {
		if !ran[name] {
			return "", fmt.Errorf("%s did not run:\n%s", name, text.String())
		}
	}
	if failed {
		return "", fmt.Errorf("failed, but none of the tests did:\n%s", text.String())
	}
	return "", nil
}
