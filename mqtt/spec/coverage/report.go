package main

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

const gapsHead = "# Statements that bind a server and that no test proves yet. Generated; the aim is an empty list.\n"

type test struct{ pkg, name string }

// coverage joins statements, annotations and results.
type coverage struct {
	statements []*statement
	byKey      map[string]*statement
	cited      map[string][]test
	outcome    map[test]string // pass or skip
	bad        []string
}

func newCoverage(statements []*statement) *coverage {
	c := &coverage{statements: statements, byKey: map[string]*statement{}, cited: map[string][]test{}, outcome: map[test]string{}}
	for _, s := range statements {
		c.byKey[s.key] = s
	}
	return c
}

func (c *coverage) cite(key string, t test) {
	if !slices.Contains(c.cited[key], t) {
		c.cited[key] = append(c.cited[key], t)
	}
}

// problems lists what is wrong apart from gaps: bad annotations, failures, annotated tests that did not run.
func (c *coverage) problems() []string {
	out := slices.Clone(c.bad)
	told := map[test]bool{}
	for _, s := range c.statements {
		for _, t := range c.cited[s.key] {
			if c.outcome[t] != "pass" && !told[t] {
				told[t] = true
				out = append(out, fmt.Sprintf("%s.%s proves %s and others but did not run and pass", path.Base(t.pkg), t.name, s.key))
			}
		}
		if s.reason != "" && len(c.cited[s.key]) > 0 {
			out = append(out, s.key+" is declared not applicable, yet a test proves it")
		}
	}
	return out
}

func (c *coverage) gaps() (gaps []string) {
	for _, s := range c.statements {
		if s.binding() && len(c.cited[s.key]) == 0 {
			gaps = append(gaps, s.key+" "+s.phrase+"\n")
		}
	}
	return gaps
}

func (c *coverage) summary() string {
	binding, open, na := 0, len(c.gaps()), 0
	for _, s := range c.statements {
		if s.binding() {
			binding++
		}
		if s.reason != "" {
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
		version, id, _ := strings.Cut(s.key, " ")
		if version != title {
			title = version
			name := map[string]string{"MQTT5": "MQTT 5.0", "MQTT3": "MQTT 3.1.1"}[version]
			fmt.Fprintf(&b, "\n## %s\n\n| Statement | Binds | Reminder | Tests |\n| --- | --- | --- | --- |\n", name)
		}
		var names []string
		for _, t := range c.cited[s.key] {
			names = append(names, path.Base(t.pkg)+"."+t.name)
		}
		slices.Sort(names)
		tests := strings.Join(names, ", ")
		switch {
		case s.reason != "":
			tests = "does not apply: " + s.reason
		case tests == "" && s.role == "client":
			tests = "(the client's)"
		case tests == "":
			tests = "**none yet**"
		}
		fmt.Fprintf(&b, "| MQTT-%s | %s | %s | %s |\n", id, s.role, s.phrase, tests)
	}
	return b.Bytes()
}
