// Command coverage holds the annotations of the MQTT tests against the list of statements in mqtt/spec. It
// reads the output of `go test -json ./mqtt/...` from standard input, in the module's root.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-io/weir/mqtt/spec"
)

const (
	gapsFile  = "mqtt/spec/gaps.txt"
	tableFile = "deploy/docs/mqtt-conformance.md"
)

func main() {
	update := flag.Bool("update", false, "rewrite "+gapsFile+" and "+tableFile)
	flag.Parse()
	if err := run(".", os.Stdin, *update, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string, results io.Reader, update bool, out io.Writer) error {
	statements, err := spec.Statements(root)
	if err != nil {
		return err
	}
	notes, err := spec.ReadAnnotations(root, statements)
	if err != nil {
		return err
	}
	cov := newCoverage(statements, notes)
	if err := cov.readResults(results); err != nil {
		return err
	}
	problems := cov.problems()
	gaps, table := cov.gaps(), cov.table()
	if update {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(tableFile)), 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(filepath.Join(root, gapsFile), []byte(gapsHead+strings.Join(gaps, "")), 0o644),
			os.WriteFile(filepath.Join(root, tableFile), table, 0o644)); err != nil {
			return err
		}
	}
	listed, err := readGaps(filepath.Join(root, gapsFile))
	if err != nil {
		return err
	}
	for _, g := range gaps {
		if !slices.Contains(listed, g) {
			problems = append(problems, "no test proves "+strings.TrimSpace(g))
		}
	}
	for _, g := range listed {
		if !slices.Contains(gaps, g) {
			problems = append(problems, gapsFile+" lists "+strings.TrimSpace(g)+", which is no gap: take the line out")
		}
	}
	if old, err := os.ReadFile(filepath.Join(root, tableFile)); err != nil || !bytes.Equal(old, table) {
		problems = append(problems, tableFile+" is out of date: make conformance UPDATE=-update")
	}
	if len(problems) > 0 {
		return fmt.Errorf("MQTT conformance:\n  %s", strings.Join(problems, "\n  "))
	}
	fmt.Fprintf(out, "MQTT conformance: %s\n", cov.summary())
	return nil
}

func readGaps(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var gaps []string
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#") {
			gaps = append(gaps, line)
		}
	}
	return gaps, nil
}
