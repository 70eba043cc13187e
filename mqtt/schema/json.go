package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

const (
	maxSchemaNesting  = 64
	maxPayloadNesting = 32
	maxNumber         = 64     // characters
	maxExponent       = 400    // either way; a float64 ends at 308
	maxPattern        = 512    // bytes
	maxSchemaValues   = 10_000 // the library takes time by their square where they stand in one list
)

// jsonBase is where a schema without $id stands, so that references in it are relative to something. Nothing is ever asked there.
const jsonBase = "registry:///"

type jsonChecker struct {
	schema *jsonschema.Schema
	cost   int
}

func compileJSON(src *Source) (checker, error) {
	docs := references{}
	doc, values, err := parseJSON([]byte(src.Text), maxSchemaNesting)
	if err != nil {
		return nil, err
	}
	for _, r := range src.References {
		doc, n, err := parseJSON([]byte(r.Text), maxSchemaNesting)
		if err != nil {
			return nil, fmt.Errorf("%s, to which it refers: %w", r.Name, err)
		}
		docs[r.Name] = doc
		values += n
	}
	if values > maxSchemaValues {
		return nil, fmt.Errorf("it has %d values with all that it refers to, more than %d", values, maxSchemaValues)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.UseLoader(docs)
	engine := patterns{left: maxPatternSteps}
	defer func() { engine.done = true }()
	c.UseRegexpEngine(engine.compile)
	at := jsonBase + url.PathEscape(src.Subject)
	if err := c.AddResource(at, doc); err != nil {
		return nil, err
	}
	s, err := c.Compile(at)
	if err != nil {
		return nil, jsonError(err)
	}
	cost, err := costOf(s)
	if err != nil {
		return nil, err
	}
	return &jsonChecker{s, cost}, nil
}

// references are the schemas that may be referred to, by name. It is the library's only loader. // S2
type references map[string]any

// Load implements jsonschema.URLLoader. A name that is no URL is looked up relative to whatever refers to it; of several that fit, the longest is meant.
func (r references) Load(at string) (any, error) {
	if doc, ok := r[at]; ok {
		return doc, nil
	}
	best := ""
	for name := range r {
		if strings.HasSuffix(at, "/"+strings.TrimPrefix(name, "./")) && (len(name) > len(best) || len(name) == len(best) && name < best) {
			best = name
		}
	}
	if doc, ok := r[best]; ok {
		return doc, nil
	}
	return nil, fmt.Errorf("the registry does not list it among the schema's references, and nothing is loaded from elsewhere: %s", strings.TrimPrefix(at, jsonBase))
}

func (c *jsonChecker) check(payload []byte) error {
	v, size, err := parseJSON(payload, maxPayloadNesting)
	if err != nil {
		return err
	}
	if int64(c.cost)*int64(size) > maxWork {
		return fmt.Errorf("the schema's cost is %d, which allows for payloads of the size %d; this one's is %d", c.cost, maxWork/c.cost, size)
	}
	if err := c.schema.Validate(v); err != nil {
		return jsonError(err)
	}
	return nil
}

func (c *jsonChecker) toJSON(_, payload []byte) ([]byte, error) { return payload, c.check(payload) }

// parseJSON reads one JSON text whose nesting and numbers are within bounds: the library's arithmetic is exact, so that 1e1000000 takes a megabyte, and
// what it cannot parse it takes for a nil pointer. size is how much there is to check.
func parseJSON(text []byte, nesting int) (v any, size int, err error) {
	if jsonNesting(text) > nesting {
		return nil, 0, fmt.Errorf("it is nested deeper than %d", nesting)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, 0, fmt.Errorf("not valid JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("not valid JSON: there is more behind its end")
	}
	if !utf8.Valid(text) { // which the decoder replaces
		return nil, 0, errors.New("not valid JSON: not UTF-8")
	}
	size, err = sizeOf(v)
	return v, size, err
}

// jsonNesting is the deepest nesting of brackets outside of strings, whether the text is JSON or not.
func jsonNesting(text []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// sizeOf counts values, long strings more than once, and refuses numbers that are out of bounds.
func sizeOf(v any) (size int, err error) {
	size = 1
	add := func(v any) error {
		n, err := sizeOf(v)
		size += n
		return err
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			size += len(name) / 16
			if err := add(member); err != nil {
				return 0, err
			}
		}
	case []any:
		for _, item := range v {
			if err := add(item); err != nil {
				return 0, err
			}
		}
	case string:
		size += len(v) / 16
	case json.Number:
		return size, checkNumber(string(v))
	}
	return size, nil
}

func checkNumber(text string) error {
	if len(text) > maxNumber {
		return fmt.Errorf("a number of %d characters, more than %d", len(text), maxNumber)
	}
	if at := strings.IndexAny(text, "eE"); at >= 0 {
		if n, err := strconv.Atoi(text[at+1:]); err != nil || n > maxExponent || n < -maxExponent {
			return fmt.Errorf("a number whose exponent is beyond ±%d: %s", maxExponent, text)
		}
	}
	return nil
}

// jsonError is the first thing that the library found, with where it is.
func jsonError(err error) error {
	var invalid *jsonschema.ValidationError
	var patterns *jsonschema.InvalidRegexError
	var meta *jsonschema.SchemaValidationError
	switch {
	case errors.As(err, &meta):
		return fmt.Errorf("not a JSON Schema: %w", jsonError(meta.Err))
	case errors.As(err, &patterns):
		return fmt.Errorf("pattern %q: %w", patterns.Regex, patterns.Err)
	case !errors.As(err, &invalid):
		return err
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	if f, ok := invalid.ErrorKind.(*kind.Format); ok && f.Want == "regex" {
		return fmt.Errorf("/%s: no pattern that is taken: %w", strings.Join(invalid.InstanceLocation, "/"), f.Err)
	}
	where := "/" + strings.Join(invalid.InstanceLocation, "/")
	if t, ok := invalid.ErrorKind.(*kind.Type); ok {
		return fmt.Errorf("%s is %s, not %s", where, t.Got, strings.Join(t.Want, " or "))
	}
	return fmt.Errorf("%s: %s", where, invalid.ErrorKind.LocalizedString(english))
}
