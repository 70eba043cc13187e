package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// statement is one line of the lists. Its key is "MQTT5 3.1.0-1".
type statement struct {
	key, role, phrase string
	reason            string // why it does not apply; empty = it does
}

// binding says whether a server has to meet it.
func (s *statement) binding() bool { return s.role != "client" && s.reason == "" }

var statementLine = regexp.MustCompile(`^(\d+\.\d+\.\d+-\d+) (server|client|both) ([^|]+?)(?: \| n/a: (.+))?$`)

func readStatements(dir string) ([]*statement, error) {
	var all []*statement
	seen := map[string]bool{}
	for _, list := range [][2]string{{"MQTT5", "mqtt5.txt"}, {"MQTT3", "mqtt311.txt"}} {
		b, err := os.ReadFile(filepath.Join(dir, list[1]))
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
			s := &statement{key: list[0] + " " + m[1], role: m[2], phrase: m[3], reason: m[4]}
			if seen[s.key] {
				return nil, fmt.Errorf("%s:%d: %s stands there twice", list[1], n, m[1])
			}
			seen[s.key] = true
			all = append(all, s)
		}
	}
	return all, nil
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

// readTests collects the annotations of every test file below mqtt/.
func (c *coverage) readTests(root, module string) error {
	return filepath.WalkDir(filepath.Join(root, "mqtt"), func(file string, d fs.DirEntry, err error) error {
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
		c.annotate(fset, f, path.Join(module, filepath.ToSlash(rel)))
		return nil
	})
}

func (c *coverage) annotate(fset *token.FileSet, f *ast.File, pkg string) {
	for _, group := range f.Comments {
		for _, comment := range group.List {
			keys, problem := parseAnnotation(comment.Text)
			at := fset.Position(comment.Pos())
			where := fmt.Sprintf("%s:%d", filepath.ToSlash(at.Filename), at.Line)
			if problem != "" {
				c.bad = append(c.bad, where+": "+problem)
			}
			if len(keys) == 0 {
				continue
			}
			name := enclosing(fset, f, comment)
			if name == "" {
				c.bad = append(c.bad, where+": the annotation belongs to no test")
				continue
			}
			for _, key := range keys {
				if c.byKey[key] == nil {
					c.bad = append(c.bad, where+": there is no statement "+key)
					continue
				}
				c.cite(key, test{pkg, name})
			}
		}
	}
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

// readResults takes the output of go test -json.
func (c *coverage) readResults(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		var e struct{ Action, Package, Test, ImportPath string }
		if len(line) > 1 && json.Unmarshal(line, &e) == nil {
			switch e.Action {
			case "pass", "skip":
				c.outcome[test{e.Package, e.Test}] = e.Action
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
