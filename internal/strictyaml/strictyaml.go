// Package strictyaml reads YAML files that people write: an unknown key is an error, and every error names the line and
// the key as the file spells them, never a Go type.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Decode overlays text on v, a pointer to a struct. A text of comments, or of nothing at all, changes nothing. The error is one line without the file's
// name: "line 3, routes[0].topc: unknown key".
func Decode(text []byte, v any) error {
	tokens := lexer.Tokenize(string(text))
	if err := checkDepth(tokens); err != nil {
		return err
	}
	if err := checkSingle(tokens); err != nil {
		return err
	}
	if saysNothing(text) { // the decoder would set all of v to zero
		return nil
	}
	err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(v)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	places := scan(text)
	var at yaml.Error
	if !errors.As(err, &at) {
		return placeless(err, places)
	}
	what := at.GetMessage()
	var unknown *yaml.UnknownFieldError
	var wrong *yaml.TypeError
	var node *yaml.UnexpectedNodeTypeError
	var overflow *yaml.OverflowError
	tk := at.GetToken()
	switch key, twice := strings.CutPrefix(what, "mapping key "); {
	case twice:
		key, _, _ = strings.Cut(key, " already")
		what = "the key " + key + " stands there twice: remove one"
	case errors.As(err, &unknown):
		what = "unknown key: remove it or correct its spelling"
	case errors.As(err, &wrong):
		what = fmt.Sprintf("%s is not %s", given(tk, kindOf(wrong.SrcType)), kindOf(wrong.DstType))
	case errors.As(err, &overflow):
		what = fmt.Sprintf("%s is too great", overflow.SrcNum)
	case errors.As(err, &node):
		what = fmt.Sprintf("it is %s, want %s", nodeKind(node.Actual), nodeKind(node.Expected))
	}
	if tk == nil || tk.Position == nil {
		return errors.New(what)
	}
	if key := places.keyOf(tk); key != "" {
		return fmt.Errorf("line %d, %s: %s", tk.Position.Line, key, what)
	}
	return fmt.Errorf("line %d: %s", tk.Position.Line, what)
}

// saysNothing: there is nothing but comments, and null.
func saysNothing(text []byte) bool {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return false
	}
	for _, d := range file.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType {
			return false
		}
	}
	return true
}

// maxDepth is how deep lists and mappings may stand in each other. The parser takes memory by the square of the depth:
// 20000 open brackets, 20 KB of text, cost 700 MB.
const maxDepth = 64

func checkDepth(tokens token.Tokens) error {
	depth, entries, line := 0, 0, 0
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, entries = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType: // "- - - x"
			entries++
		}
		if depth+entries > maxDepth {
			return fmt.Errorf("line %d: lists and mappings stand more than %d deep in each other", line, maxDepth)
		}
	}
	return nil
}

// checkSingle refuses a text of several documents: the decoder reads the first, which may be one of comments, and is silent about the others.
func checkSingle(tokens token.Tokens) error {
	begun, ended, directive := false, false, 0
	for _, tk := range tokens {
		switch line := tk.Position.Line; {
		case tk.Type == token.CommentType || line == directive:
		case tk.Type == token.DirectiveType:
			directive = line
		case tk.Type == token.DocumentEndType:
			begun, ended = true, true
		case ended || begun && tk.Type == token.DocumentHeaderType:
			return fmt.Errorf("line %d: a second document begins: write one, without --- in between", line)
		default:
			begun = true
		}
	}
	return nil
}

// given is the value as the file has it, or what kind of thing it is where that is long.
func given(tk *token.Token, kind string) string {
	if tk == nil || strings.HasSuffix(kind, "list") || strings.HasSuffix(kind, "mapping") {
		return kind
	}
	return strconv.Quote(tk.Value)
}

func kindOf(t reflect.Type) string {
	switch {
	case t == nil:
		return "a value"
	case t == reflect.TypeFor[time.Duration]():
		return "a duration: write one with a unit, as in 30s"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Pointer:
		return kindOf(t.Elem())
	}
	return "what belongs there"
}

func nodeKind(t ast.NodeType) string {
	switch t {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "empty"
	}
	return "a single value"
}

// placeless is for values that a type of ours or the standard library refuses: the decoder does not say where. Their errors
// quote the value; where it stands in the file once only, that is the place.
func placeless(err error, places *places) error {
	what := err.Error()
	if value, ok := strings.CutPrefix(what, "time: invalid duration "); ok {
		err = fmt.Errorf("%s is not a duration: write one with a unit, as in 30s", value)
	}
	for i := range places.scalars {
		s := &places.scalars[i]
		if !strings.Contains(what, strconv.Quote(s.value)) || s.value == "" {
			continue
		}
		for _, other := range places.scalars[i+1:] {
			if other.value == s.value {
				return err
			}
		}
		return fmt.Errorf("line %d, %s: %w", s.line, s.key, err)
	}
	return err
}

// WithLines puts the line before each fault that begins with a key of text, "routes[0].match: ...", as the checks that follow
// decoding say it.
func WithLines(text []byte, err error) error {
	lines := map[string]int{}
	for at, key := range scan(text).keys {
		if line, ok := lines[key]; !ok || at.Line < line {
			lines[key] = at.Line
		}
	}
	faults := strings.Split(err.Error(), "\n")
	for i, f := range faults {
		key, _, _ := strings.Cut(f, ": ")
		if line := lines[key]; line > 0 && key != "" {
			faults[i] = fmt.Sprintf("line %d, %s", line, f)
		}
	}
	return errors.New(strings.Join(faults, "\n"))
}

// places knows under which key each token of a file stands.
type places struct {
	keys    map[token.Position]string
	scalars []scalar
}

type scalar struct {
	value, key string
	line       int
}

func scan(text []byte) *places {
	p := &places{keys: map[token.Position]string{}}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return p // the decoder has said so, with the line
	}
	for _, d := range file.Docs {
		if d.Body != nil {
			ast.Walk(p, d.Body)
		}
	}
	return p
}

// Visit implements ast.Visitor.
func (p *places) Visit(n ast.Node) ast.Visitor {
	key := strings.TrimPrefix(strings.TrimPrefix(n.GetPath(), "$"), ".")
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		if pair, ok := n.(*ast.MappingValueNode); ok { // its own token is the colon
			tk = pair.Key.GetToken()
			key = strings.TrimPrefix(strings.TrimPrefix(pair.Key.GetPath(), "$"), ".")
		}
		if tk != nil && tk.Position != nil {
			p.keys[*tk.Position] = key
		}
		if s, ok := n.(ast.ScalarNode); ok && key != "" {
			p.scalars = append(p.scalars, scalar{fmt.Sprint(s.GetValue()), key, tk.Position.Line})
		}
	}
	return p
}

func (p *places) keyOf(tk *token.Token) string { return p.keys[*tk.Position] }
