package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emicklei/proto"
)

const (
	maxProtoNesting = 64 // of braces in a schema
	maxFieldNumber  = 1<<29 - 1
	maxListed       = 1000 // required fields of a message, and ranges for extensions: a payload's fields are looked up in them one by one
	maxEnds         = 1000 // far more than a parser that comes to its end asks for
)

// protoChecker holds payloads to one message of a file. The others are there for frames that name them.
type protoChecker struct {
	message *protoMessage
	file    []*protoMessage // in the order of the file, which frames count by
}

// protoMessage is a message as far as its bytes are concerned.
type protoMessage struct {
	name     string // with its package
	closed   bool   // proto2: enumerations have no other values than theirs
	fields   map[int]*protoField
	required []int
	open     []proto.Range // of numbers that others may extend it by
	nested   []*protoMessage
}

type protoField struct {
	name     string
	kind     protoKind
	repeated bool
	message  *protoMessage // of kindMessage and kindGroup
	values   map[int]bool  // of kindEnum, nil where others are legal
}

// compileProtobuf makes one table of all that the files define. Imports that the registry does not list are no error by themselves: they may serve options only.
func compileProtobuf(src *Source) (checker, string, error) {
	l := linker{messages: map[string]*protoMessage{}, enums: map[string]map[int]bool{}, imports: map[string]bool{}}
	listed := map[string]bool{}
	for _, r := range src.References {
		if _, err := l.add(r.Name, r.Text); err != nil {
			return nil, "", fmt.Errorf("%s, to which it refers: %w", r.Name, err)
		}
		listed[r.Name] = true
	}
	file, err := l.add("", src.Text)
	if err != nil {
		return nil, "", err
	}
	for name, text := range wellKnown {
		if l.imports[name] && !listed[name] {
			if _, err := l.add(name, text); err != nil {
				return nil, "", err
			}
		}
	}
	if err := l.link(); err != nil {
		return nil, "", err
	}
	if len(file) == 0 {
		return nil, "", errors.New("it defines no message")
	}
	c := &protoChecker{file[0], file}
	indexes := []int{0}
	if src.Message != "" {
		if c.message, indexes = find(file, src.Message, nil); c.message == nil {
			return nil, "", fmt.Errorf("it defines no message %s", src.Message)
		}
	}
	return c, string(appendIndexes(nil, indexes)), nil
}

// find looks a message up by its name, with or without its package, and says by which indexes a frame names it.
func find(list []*protoMessage, name string, path []int) (*protoMessage, []int) {
	for i, m := range list {
		at := append(slices.Clone(path), i)
		if m.name == name || strings.HasSuffix(m.name, "."+name) {
			return m, at
		}
		if in, at := find(m.nested, name, at); in != nil {
			return in, at
		}
	}
	return nil, nil
}

// linker gathers definitions, then gives fields the types that they name.
type linker struct {
	messages map[string]*protoMessage
	enums    map[string]map[int]bool
	imports  map[string]bool
	pending  []func() error
}

// scope is where a definition stands.
type scope struct {
	path   string // package and messages around it, each with a dot behind it
	proto2 bool
}

// add parses a file and returns its messages.
func (l *linker) add(name, text string) ([]*protoMessage, error) {
	if !strings.ContainsAny(text, "{;") {
		return nil, errors.New("it is no text of a .proto file; what Python's serializer registers by itself is a descriptor in base64: register the text")
	}
	if nesting := braces(text); nesting > maxProtoNesting {
		return nil, fmt.Errorf("it is nested deeper than %d", maxProtoNesting)
	}
	p := proto.NewParser(&endingReader{Reader: strings.NewReader(text)})
	p.Filename(name)
	file, err := p.Parse()
	if err != nil {
		return nil, err
	}
	at := scope{proto2: true}
	for _, e := range file.Elements {
		switch e := e.(type) {
		case *proto.Syntax:
			if e.Value != "proto2" && e.Value != "proto3" {
				return nil, fmt.Errorf("its syntax %q is none of proto2, proto3", e.Value)
			}
			at.proto2 = e.Value == "proto2"
		case *proto.Edition:
			return nil, errors.New("editions are not taken; proto2 and proto3 are")
		case *proto.Package:
			at.path = e.Name + "."
		case *proto.Import:
			l.imports[e.Filename] = true
		}
	}
	return l.define(file.Elements, at, nil)
}

// endingReader stops a parser that goes on asking at the end of a text: its panic is an error at the edge. // S1
type endingReader struct {
	*strings.Reader
	ends int
}

func (r *endingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil {
		if r.ends++; r.ends > maxEnds {
			panic("it ends in the middle of a definition")
		}
	}
	return n, err
}

// braces is the deepest nesting of braces and brackets, counted also in comments and strings: at least what the parser meets.
func braces(text string) int {
	depth, deepest := 0, 0
	for i := range len(text) {
		switch text[i] {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// define takes the messages and enumerations of a file or, with in, of a message with its fields.
func (l *linker) define(elements []proto.Visitee, at scope, in *protoMessage) (defined []*protoMessage, err error) {
	for _, e := range elements {
		switch e := e.(type) {
		case *proto.Message:
			if e.IsExtend {
				l.extend(e, at)
				continue
			}
			m, err := l.message(e.Name, e.Elements, at)
			if err != nil {
				return nil, err
			}
			defined = append(defined, m)
		case *proto.Enum:
			if err := l.enum(e, at); err != nil {
				return nil, err
			}
		case *proto.NormalField:
			err = l.field(in, at, e.Field, e.Repeated, e.Required)
		case *proto.MapField:
			err = l.mapField(in, at, e)
		case *proto.Oneof:
			var more []*protoMessage
			more, err = l.define(e.Elements, at, in)
			defined = append(defined, more...)
		case *proto.OneOfField:
			err = l.field(in, at, e.Field, false, false)
		case *proto.Group:
			m, err := l.message(e.Name, e.Elements, at)
			if err != nil {
				return nil, err
			}
			defined = append(defined, m)
			if err := in.put(e.Sequence, &protoField{name: strings.ToLower(e.Name), kind: kindGroup, repeated: e.Repeated, message: m}, e.Required); err != nil {
				return nil, err
			}
		case *proto.Extensions:
			if in == nil {
				continue
			}
			if in.open = append(in.open, e.Ranges...); len(in.open) > maxListed {
				return nil, fmt.Errorf("%s leaves %d ranges of numbers to extensions, more than %d", in.name, len(in.open), maxListed)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return defined, nil
}

func (l *linker) message(name string, elements []proto.Visitee, at scope) (*protoMessage, error) {
	m := &protoMessage{name: at.path + name, closed: at.proto2, fields: map[int]*protoField{}}
	if err := l.free(m.name); err != nil {
		return nil, err
	}
	l.messages[m.name] = m
	nested, err := l.define(elements, scope{m.name + ".", at.proto2}, m)
	m.nested = nested
	return m, err
}

func (l *linker) enum(e *proto.Enum, at scope) error {
	if err := l.free(at.path + e.Name); err != nil {
		return err
	}
	values := map[int]bool{}
	for _, v := range e.Elements {
		if v, ok := v.(*proto.EnumField); ok {
			values[v.Integer] = true
		}
	}
	if !at.proto2 {
		values = nil
	}
	l.enums[at.path+e.Name] = values
	return nil
}

func (l *linker) free(name string) error {
	_, enum := l.enums[name]
	if l.messages[name] != nil || enum {
		return fmt.Errorf("%s is defined twice", name)
	}
	return nil
}

// put gives a message a field.
func (m *protoMessage) put(number int, f *protoField, required bool) error {
	switch {
	case m == nil:
		return fmt.Errorf("field %s stands outside of a message", f.name)
	case number < 1 || number > maxFieldNumber:
		return fmt.Errorf("%s: field %s has the number %d", m.name, f.name, number)
	case m.fields[number] != nil:
		return fmt.Errorf("%s: fields %s and %s have the number %d", m.name, m.fields[number].name, f.name, number)
	}
	m.fields[number] = f
	if !required {
		return nil
	}
	if m.required = append(m.required, number); len(m.required) > maxListed {
		return fmt.Errorf("%s has more than %d required fields", m.name, maxListed)
	}
	return nil
}

func (l *linker) field(in *protoMessage, at scope, e *proto.Field, repeated, required bool) error {
	f := &protoField{name: e.Name, repeated: repeated}
	l.resolve(f, e.Type, at)
	return in.put(e.Sequence, f, required)
}

// mapField is, on the wire, a repeated message of a key and a value.
func (l *linker) mapField(in *protoMessage, at scope, e *proto.MapField) error {
	key, value := &protoField{name: "key"}, &protoField{name: "value"}
	l.resolve(key, e.KeyType, at)
	l.resolve(value, e.Type, at)
	entry := &protoMessage{name: at.path + e.Name, closed: at.proto2, fields: map[int]*protoField{1: key, 2: value}}
	return in.put(e.Sequence, &protoField{name: e.Name, kind: kindMessage, repeated: true, message: entry}, false)
}

// extend gives fields to a message that is defined elsewhere.
func (l *linker) extend(e *proto.Message, at scope) {
	l.pending = append(l.pending, func() error {
		m, _, _, err := l.lookUp(e.Name, at)
		if err != nil {
			return err
		}
		_, err = l.define(e.Elements, at, m)
		return err
	})
}

// resolve gives a field its type, once all are known.
func (l *linker) resolve(f *protoField, name string, at scope) {
	if kind, ok := protoKinds[name]; ok {
		f.kind = kind
		return
	}
	l.pending = append(l.pending, func() error {
		m, values, enum, err := l.lookUp(name, at)
		switch {
		case err != nil:
			return fmt.Errorf("field %s: %w", f.name, err)
		case enum:
			f.kind, f.values = kindEnum, values
		default:
			f.kind, f.message = kindMessage, m
		}
		return nil
	})
}

// lookUp finds a type from inside outwards.
func (l *linker) lookUp(name string, at scope) (m *protoMessage, values map[int]bool, enum bool, err error) {
	path := at.path
	if strings.HasPrefix(name, ".") {
		path, name = "", name[1:]
	}
	for {
		if m := l.messages[path+name]; m != nil {
			return m, nil, false, nil
		}
		if values, ok := l.enums[path+name]; ok {
			return nil, values, true, nil
		}
		if path == "" {
			return nil, nil, false, fmt.Errorf("%s is defined neither in the schema nor in what the registry lists among its references", name)
		}
		path = path[:strings.LastIndexByte(path[:len(path)-1], '.')+1]
	}
}

func (l *linker) link() error {
	for len(l.pending) > 0 { // extensions add to it
		next := l.pending[0]
		l.pending = l.pending[1:]
		if err := next(); err != nil {
			return err
		}
	}
	return nil
}
