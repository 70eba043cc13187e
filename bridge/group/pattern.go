package group

import (
	"regexp"
	"regexp/syntax"
)

// What a pattern may cost: its text, and how many steps its repetitions unfold
// into. Go's engine takes time in proportion to the product of that and a name's length.
const (
	maxPatternBytes = 512
	maxPatternSteps = 2000
)

// compilePattern reads a pattern of topic names in RE2's syntax, which Kafka
// uses too. The whole name has to match, as there.
func compilePattern(text string) (*regexp.Regexp, bool) {
	if len(text) > maxPatternBytes {
		return nil, false
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil || patternSteps(parsed) > maxPatternSteps {
		return nil, false
	}
	re, err := regexp.Compile(`\A(?:` + text + `)\z`)
	return re, err == nil
}

func patternSteps(re *syntax.Regexp) int {
	steps := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		steps = min(steps+patternSteps(sub), maxPatternSteps+1) // before it overflows
	}
	if re.Op == syntax.OpRepeat {
		steps *= max(re.Min, re.Max) + 1
	}
	return min(steps, maxPatternSteps+1)
}
