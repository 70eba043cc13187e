package kafka

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// sentinels lists the exported Err… variables of a room.
func sentinels(t *testing.T, dir, room string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(n.Name, "Err") {
						names = append(names, room+"."+n.Name)
					}
				}
			}
		}
	}
	return names
}

// TestEveryErrorHasACode: a sentinel without a row would reach clients as UNKNOWN_SERVER_ERROR.
func TestEveryErrorHasACode(t *testing.T) {
	want := append(sentinels(t, "../../cluster", "cluster"), sentinels(t, "../../log", "log")...)
	if len(want) < 20 {
		t.Fatalf("found %d sentinels only: %v", len(want), want)
	}
	have := make(map[string]bool)
	for _, c := range codes {
		have[c.name] = true
	}
	for _, name := range want {
		if !have[name] {
			t.Errorf("%s has no row in codes", name)
		}
	}
	for _, c := range codes {
		if got := codeOf(fmt.Errorf("wrapped: %w", c.err)); got != c.code {
			t.Errorf("%s: code %d, the table says %d: an earlier row matches", c.name, got, c.code)
		}
		if strings.HasPrefix(c.name, "cluster.") || strings.HasPrefix(c.name, "log.") {
			if !slices.Contains(want, c.name) {
				t.Errorf("%s has a row, but is no sentinel any more", c.name)
			}
		}
		if kerr.ErrorForCode(c.code) == kerr.UnknownServerError {
			t.Errorf("%s: %d is no code of Kafka", c.name, c.code)
		}
	}
	if got := codeOf(errors.New("something else")); got != errUnknownServerError {
		t.Errorf("an unknown error has code %d", got)
	}
	if codeOf(nil) != errNone {
		t.Error("no error has a code")
	}
}
