package mutate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mutation is one entry of mutations.txt.
type Mutation struct {
	Line  int      // of the entry
	Rules []string // statements ("MQTT5 3.1.0-1") or tests ("packet.TestSplit")
	What  string
	File  string // from the module's root
	Hunks []Hunk
}

// Hunk is one replacement.
type Hunk struct{ Before, After string }

func (m *Mutation) String() string { return strings.Join(m.Rules, ", ") + ": " + m.What }

// parse reads the list.
func parse(text string) ([]*Mutation, error) {
	var all []*Mutation
	var m *Mutation
	bad := func(n int, what string) ([]*Mutation, error) { return nil, fmt.Errorf("mutations.txt:%d: %s", n, what) }
	for i, line := range strings.Split(text, "\n") {
		n := i + 1
		kind, rest := "", line
		if line != "" {
			kind, rest = line[:1], line[1:]
		}
		switch {
		case kind == "" || kind == "#":
		case kind == "=":
			rules, what, ok := strings.Cut(strings.TrimSpace(rest), ": ")
			if !ok {
				return bad(n, "want '= STATEMENT, STATEMENT: what is broken'")
			}
			m = &Mutation{Line: n, Rules: strings.Split(rules, ", "), What: what}
			all = append(all, m)
		case m == nil:
			return bad(n, "a line before the first entry")
		case m.File == "":
			m.File, m.Hunks = line, []Hunk{{}}
		case kind == "~":
			m.Hunks = append(m.Hunks, Hunk{})
		case kind == "-" || kind == "+" || kind == " ":
			h := &m.Hunks[len(m.Hunks)-1]
			if kind != "+" {
				h.Before += rest + "\n"
			}
			if kind != "-" {
				h.After += rest + "\n"
			}
		default:
			return bad(n, "a line begins with '=', '-', '+', a space, '~' or '#'")
		}
	}
	for _, m := range all {
		if len(m.Hunks) == 0 {
			return bad(m.Line, "the entry changes nothing")
		}
		for _, h := range m.Hunks {
			if h.Before == "" || h.Before == h.After {
				return bad(m.Line, "a hunk needs lines that stand there now, and has to change something")
			}
		}
	}
	return all, nil
}

// apply gives the file's text with the rule broken.
func (m *Mutation) apply(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return "", err
	}
	text := string(b)
	for _, h := range m.Hunks {
		places := find(text, h.Before)
		if len(places) != 1 {
			return "", fmt.Errorf("mutations.txt:%d: these lines stand in %s %d times, want once:\n%s", m.Line, m.File, len(places), h.Before)
		}
		text = text[:places[0]] + h.After + text[places[0]+len(h.Before):]
	}
	return text, nil
}

// find gives every place of lines in text, also where they overlap.
func find(text, lines string) (places []int) {
	for at := 0; at < len(text); {
		if strings.HasPrefix(text[at:], lines) {
			places = append(places, at)
		}
		end := strings.IndexByte(text[at:], '\n')
		if end < 0 {
			break
		}
		at += end + 1
	}
	return places
}
