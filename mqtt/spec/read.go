package spec

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Statement is one line of the lists. Its key is "MQTT5 3.1.0-1".
type Statement struct {
	Key, Role, Phrase string
	Reason            string // why it does not apply; empty = it does
}

// Binding says whether a server has to meet it.
func (s *Statement) Binding() bool { return s.Role != "client" && s.Reason == "" }

var statementLine = regexp.MustCompile(`^(\d+\.\d+\.\d+-\d+) (server|client|both) ([^|]+?)(?: \| n/a: (.+))?$`)

// Statements reads the lists of the module at root.
func Statements(root string) ([]*Statement, error) {
	var all []*Statement
	seen := map[string]bool{}
	for _, list := range [][2]string{{"MQTT5", "mqtt5.txt"}, {"MQTT3", "mqtt311.txt"}} {
		b, err := os.ReadFile(filepath.Join(root, "mqtt/spec", list[1]))
		if err != nil {
			return nil, err
		}
		n := 0
		for line := range strings.Lines(string(b)) {
			n++
			line = strings.TrimSuffix(line, "\n")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			m := statementLine.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("%s:%d: want 'id role phrase', role being server, client or both", list[1], n)
			}
			s := &Statement{Key: list[0] + " " + m[1], Role: m[2], Phrase: m[3], Reason: m[4]}
			if seen[s.Key] {
				return nil, fmt.Errorf("%s:%d: %s stands there twice", list[1], n, m[1])
			}
			seen[s.Key] = true
			all = append(all, s)
		}
	}
	return all, nil
}

// Test is a test function and the import path of its package.
type Test struct{ Package, Name string }

// Annotations is what the comments of the tests cite.
type Annotations struct {
	Cited map[string][]Test // by statement
	Bad   []string          // annotations that cannot stand, with their place
}

// ReadAnnotations collects the annotations of every test file below mqtt/ of the module at root.
func ReadAnnotations(root string, statements []*Statement) (*Annotations, error) {
	module, err := modulePath(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	a := &Annotations{Cited: map[string][]Test{}}
	known := map[string]bool{}
	for _, s := range statements {
		known[s.Key] = true
	}
	return a, filepath.WalkDir(filepath.Join(root, "mqtt"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, "_test.go") || strings.Contains(filepath.ToSlash(file), "mqtt/spec/") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		a.read(fset, f, path.Join(module, filepath.ToSlash(rel)), known)
		return nil
	})
}

func (a *Annotations) read(fset *token.FileSet, f *ast.File, pkg string, known map[string]bool) {
	for _, group := range f.Comments {
		for _, comment := range group.List {
			keys, problem := parseAnnotation(comment.Text)
			at := fset.Position(comment.Pos())
			where := fmt.Sprintf("%s:%d", filepath.ToSlash(at.Filename), at.Line)
			if problem != "" {
				a.Bad = append(a.Bad, where+": "+problem)
			}
			if len(keys) == 0 {
				continue
			}
			name := enclosing(fset, f, comment)
			if name == "" {
				a.Bad = append(a.Bad, where+": the annotation belongs to no test")
				continue
			}
			for _, key := range keys {
				if !known[key] {
					a.Bad = append(a.Bad, where+": there is no statement "+key)
					continue
				}
				if t := (Test{pkg, name}); !slices.Contains(a.Cited[key], t) {
					a.Cited[key] = append(a.Cited[key], t)
				}
			}
		}
	}
}

func modulePath(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("not the root of a module: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(path), nil
		}
	}
	return "", fmt.Errorf("%s names no module", file)
}

// enclosing names the test whose lines, doc comment included, the comment stands on.
func enclosing(fset *token.FileSet, f *ast.File, comment *ast.Comment) string {
	line := fset.Position(comment.Pos()).Line
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
			continue
		}
		first := fn.Pos()
		if fn.Doc != nil {
			first = fn.Doc.Pos()
		}
		if fset.Position(first).Line <= line && line <= fset.Position(fn.End()).Line {
			return fn.Name.Name
		}
	}
	return ""
}

var annotationToken = regexp.MustCompile(`\bMQTT[35]\b|\[MQTT-[^\]]*\]`)

// parseAnnotation gives the keys that a comment cites.
func parseAnnotation(text string) (keys []string, problem string) {
	version, ranged := "", false
	for len(text) > 0 {
		at := annotationToken.FindStringIndex(text)
		if at == nil {
			break
		}
		tok := text[at[0]:at[1]]
		rest := text[at[1]:]
		if !strings.HasPrefix(tok, "[") {
			version, text = tok, rest
			continue
		}
		if version == "" {
			return nil, tok + " lacks the version, MQTT5 or MQTT3"
		}
		id := strings.TrimSuffix(strings.TrimPrefix(tok, "[MQTT-"), "]")
		if ranged {
			last := strings.TrimPrefix(keys[len(keys)-1], version+" ")
			section, from, _ := strings.Cut(last, "-")
			section2, to, _ := strings.Cut(id, "-")
			a, err1 := strconv.Atoi(from)
			b, err2 := strconv.Atoi(to)
			if section != section2 || err1 != nil || err2 != nil || b <= a || b-a > 100 {
				return nil, fmt.Sprintf("%s to %s is no range", last, id)
			}
			for n := a + 1; n < b; n++ {
				keys = append(keys, fmt.Sprintf("%s %s-%d", version, section, n))
			}
		}
		keys = append(keys, version+" "+id)
		rest, ranged = strings.CutPrefix(rest, " to ")
		ranged = ranged && strings.HasPrefix(rest, "[MQTT-")
		text = rest
	}
	return keys, ""
}
