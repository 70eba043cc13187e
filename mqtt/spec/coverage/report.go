package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/weir-io/weir/mqtt/spec"
)

const gapsHead = "# Statements that bind a server and that no test proves yet. Generated; the aim is an empty list.\n"

// coverage joins statements, annotations and results.
type coverage struct {
	statements []*spec.Statement
	cited      map[string][]spec.Test
	outcome    map[spec.Test]string // pass or skip
	bad        []string
}

func newCoverage(statements []*spec.Statement, notes *spec.Annotations) *coverage {
	return &coverage{statements: statements, cited: notes.Cited, bad: notes.Bad, outcome: map[spec.Test]string{}}
}

// problems lists what is wrong apart from gaps: bad annotations, failures, annotated tests that did not run.
func (c *coverage) problems() []string {
	out := slices.Clone(c.bad)
	told := map[spec.Test]bool{}
	for _, s := range c.statements {
		for _, t := range c.cited[s.Key] {
			if c.outcome[t] != "pass" && !told[t] {
				told[t] = true
				out = append(out, fmt.Sprintf("%s.%s proves %s and others but did not run and pass", path.Base(t.Package), t.Name, s.Key))
			}
		}
		if s.Reason != "" && len(c.cited[s.Key]) > 0 {
			out = append(out, s.Key+" is declared not applicable, yet a test proves it")
		}
	}
	return out
}

func (c *coverage) gaps() (gaps []string) {
	for _, s := range c.statements {
		if s.Binding() && len(c.cited[s.Key]) == 0 {
			gaps = append(gaps, s.Key+" "+s.Phrase+"\n")
		}
	}
	return gaps
}

func (c *coverage) summary() string {
	binding, open, na := 0, len(c.gaps()), 0
	for _, s := range c.statements {
		if s.Binding() {
			binding++
		}
		if s.Reason != "" {
			na++
		}
	}
	return fmt.Sprintf("%d statements, %d bind a server, %d of these have a test that passed, %d have none, %d do not apply",
		len(c.statements), binding, binding-open, open, na)
}

// table is the generated page.
func (c *coverage) table() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# MQTT conformance\n\nGenerated from the annotations of the tests by `make conformance UPDATE=-update`; do not edit.\n")
	fmt.Fprintf(&b, "The wording is ours and only a reminder; the standards say what is meant.\n\n%s.\n", c.summary())
	title := ""
	for _, s := range c.statements {
		version, id, _ := strings.Cut(s.Key, " ")
		if version != title {
			title = version
			name := map[string]string{"MQTT5": "MQTT 5.0", "MQTT3": "MQTT 3.1.1"}[version]
			fmt.Fprintf(&b, "\n## %s\n\n| Statement | Binds | Reminder | Tests |\n| --- | --- | --- | --- |\n", name)
		}
		var names []string
		for _, t := range c.cited[s.Key] {
			names = append(names, path.Base(t.Package)+"."+t.Name)
		}
		slices.Sort(names)
		tests := strings.Join(names, ", ")
		switch {
		case s.Reason != "":
			tests = "does not apply: " + s.Reason
		case tests == "" && s.Role == "client":
			tests = "(the client's)"
		case tests == "":
			tests = "**none yet**"
		}
		fmt.Fprintf(&b, "| MQTT-%s | %s | %s | %s |\n", id, s.Role, s.Phrase, tests)
	}
	return b.Bytes()
}

// readResults takes the output of go test -json.
func (c *coverage) readResults(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		var e struct{ Action, Package, Test, ImportPath string }
		if len(line) > 1 && json.Unmarshal(line, &e) == nil {
			switch e.Action {
			case "pass", "skip":
				c.outcome[spec.Test{Package: e.Package, Name: e.Test}] = e.Action
			case "fail", "build-fail":
				c.bad = append(c.bad, strings.TrimSpace("failed: "+e.Package+e.ImportPath+" "+e.Test))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
