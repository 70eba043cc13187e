package schema

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// english is what the library's messages are printed in.
var english = message.NewPrinter(language.English)

const (
	maxCost = 1 << 16
	maxWork = 1 << 23 // cost times the payload's size
)

// costOf is how often the parts of a schema can be visited for one value, references followed. A value's members are visited by parts of their own, so that cost times
// the payload's size bounds a check: about a second of it. A schema that refers to itself has no such bound, and is refused by name.
func costOf(s *jsonschema.Schema) (int, error) {
	w := costs{done: map[*jsonschema.Schema]int{}, open: map[*jsonschema.Schema]bool{}}
	return w.of(s)
}

type costs struct {
	done map[*jsonschema.Schema]int
	open map[*jsonschema.Schema]bool
}

func (w *costs) of(s *jsonschema.Schema) (int, error) {
	if s == nil {
		return 0, nil
	}
	if cost, ok := w.done[s]; ok {
		return cost, nil
	}
	if w.open[s] {
		return 0, fmt.Errorf("it refers to itself at %s, and what a check would take has no bound", place(s))
	}
	if s.DynamicRef != nil || s.RecursiveRef != nil {
		return 0, fmt.Errorf("$dynamicRef and $recursiveRef are not taken: %s", place(s))
	}
	w.open[s] = true
	total := 1 + w.own(s)
	for _, part := range parts(s) {
		cost, err := w.of(part)
		if err != nil {
			return 0, err
		}
		if total += cost; total > maxCost {
			return 0, fmt.Errorf("a check would take too much: more than %d parts of the schema for one value, up to %s", maxCost, place(s))
		}
	}
	delete(w.open, s)
	w.done[s] = total
	return total, nil
}

// own is what a part costs by itself: values to compare with, names to look up, patterns to match.
func (w *costs) own(s *jsonschema.Schema) int {
	n := len(s.Required) + patternCost(s.Pattern)
	if s.Enum != nil {
		n += len(s.Enum.Values)
	}
	if s.Format != nil && s.Format.Name == "regex" {
		n += regexCost // the string is compiled
	}
	for re := range s.PatternProperties {
		n += patternCost(re)
	}
	for _, names := range s.DependentRequired {
		n += len(names)
	}
	return n
}

// pattern is a regular expression with the steps that each character of a text may take.
type pattern struct {
	*regexp.Regexp
	steps int
}

// patterns compiles those of one schema. It is the library's engine also for strings that have to be patterns (format: regex), which are checked from many goroutines.
type patterns struct {
	left int  // of maxPatternSteps, while the schema is compiled
	done bool // it is
}

const (
	maxSteps        = maxCost / 4 // of one pattern
	maxPatternSteps = 4 * maxCost // of all of a schema, which the library compiles twice
	regexCost       = maxCost / 32
)

// compile looks at the size of a pattern's program before it is made, since (x{1000}) takes a hundred times what it is long.
func (p *patterns) compile(text string) (jsonschema.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), maxPattern)
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	steps := stepsOf(tree)
	if steps > maxSteps {
		return nil, fmt.Errorf("a check would take too much: %d steps or so for each character, more than %d", steps, maxSteps)
	}
	if !p.done {
		if p.left -= steps; p.left < 0 {
			return nil, fmt.Errorf("a check would take too much: all patterns have more than %d steps for each character", maxPatternSteps)
		}
	}
	re, err := regexp.Compile(text)
	if err != nil || p.done {
		return pattern{re, steps}, err
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	return pattern{re, len(prog.Inst)}, nil
}

// stepsOf is about the length of a pattern's program, and at least half of it.
func stepsOf(re *syntax.Regexp) int {
	steps := 1
	if re.Op == syntax.OpLiteral {
		steps = len(re.Rune)
	}
	for _, sub := range re.Sub {
		steps = min(steps+stepsOf(sub), 1<<30)
	}
	if re.Op == syntax.OpRepeat {
		steps = min(steps*max(re.Min+1, re.Max), 1<<30)
	}
	return steps
}

func patternCost(re jsonschema.Regexp) int {
	if p, ok := re.(pattern); ok {
		return p.steps
	}
	return 0
}

func place(s *jsonschema.Schema) string { return strings.TrimPrefix(s.Location, jsonBase) }

// parts are the schemas that a schema applies to a value or its members.
func parts(s *jsonschema.Schema) (all []*jsonschema.Schema) {
	all = append(all, s.Ref, s.Not, s.If, s.Then, s.Else, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems, s.ContentSchema)
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, s.PrefixItems} {
		all = append(all, list...)
	}
	for _, byName := range []map[string]*jsonschema.Schema{s.Properties, s.DependentSchemas} {
		for _, part := range byName {
			all = append(all, part)
		}
	}
	for _, part := range s.PatternProperties {
		all = append(all, part)
	}
	for _, part := range s.Dependencies {
		all = append(all, anyPart(part)...)
	}
	for _, part := range []any{s.AdditionalProperties, s.AdditionalItems, s.Items} {
		all = append(all, anyPart(part)...)
	}
	return all
}

func anyPart(part any) []*jsonschema.Schema {
	switch part := part.(type) {
	case *jsonschema.Schema:
		return []*jsonschema.Schema{part}
	case []*jsonschema.Schema:
		return part
	}
	return nil
}
