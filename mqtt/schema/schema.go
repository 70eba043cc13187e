package schema

import (
	"errors"
	"fmt"
	"strings"
)

// Format is the language of a schema, by the name that routes use.
type Format string

const (
	Avro     Format = "avro"
	JSON     Format = "json"
	Protobuf Format = "protobuf"
)

// Limits of a schema and of what is held to it; doc.go says why.
const (
	MaxText       = 1 << 20   // bytes of one schema
	MaxTexts      = 4 << 20   // bytes of one with all that it refers to
	MaxReferences = 64        // that one refers to, also indirectly
	MaxDepth      = 8         // of references
	MaxPayload    = 256 << 10 // bytes
	maxReason     = 300       // bytes of a library's error that are passed on
)

// Reference is a schema that another one refers to by a name: a URL or file name (JSON Schema), a full name (Avro), an import's path (Protobuf).
type Reference struct {
	Name, Text string
}

// Source is a schema as a registry gives it. A reference stands before those that refer to it.
type Source struct {
	Subject    string
	ID         int32
	Number     int // version of the subject
	Format     Format
	Message    string // Protobuf: what bare payloads are, "" for the first of the file
	Text       string
	References []Reference
}

// checker is what one format's library makes of a schema.
type checker interface {
	// check says what is wrong with a payload.
	check(payload []byte) error
	// toJSON appends the payload to dst as JSON, or says what is wrong with it.
	toJSON(dst, payload []byte) ([]byte, error)
}

// Version is a compiled schema. It is immutable and safe for concurrent use.
type Version struct {
	Subject string
	ID      int32
	Number  int
	Format  Format
	checker checker
	indexes string // of the message, Protobuf only: what stands behind the id in a frame
}

// Compile makes a schema ready for use. Errors say what of it cannot be used.
func Compile(src Source) (v *Version, err error) {
	defer recovered(&err)
	if err := src.limits(); err != nil {
		return nil, err
	}
	v = &Version{Subject: src.Subject, ID: src.ID, Number: src.Number, Format: src.Format}
	switch src.Format {
	case JSON:
		v.checker, err = compileJSON(&src)
	case Avro:
		v.checker, err = compileAvro(&src)
	case Protobuf:
		v.checker, v.indexes, err = compileProtobuf(&src)
	default:
		err = fmt.Errorf("its type %q is none of avro, json, protobuf", src.Format)
	}
	if err != nil {
		return nil, shorten(err)
	}
	return v, nil
}

func (src *Source) limits() error {
	total := len(src.Text)
	if len(src.References) > MaxReferences {
		return fmt.Errorf("it refers to %d schemas, more than %d", len(src.References), MaxReferences)
	}
	names := map[string]string{}
	for _, r := range src.References {
		total += len(r.Text)
		if text, seen := names[r.Name]; seen && text != r.Text {
			return fmt.Errorf("two different schemas that it refers to are named %q", r.Name)
		}
		names[r.Name] = r.Text
		if len(r.Text) > MaxText {
			return fmt.Errorf("%s, to which it refers, has %d bytes, more than %d", r.Name, len(r.Text), MaxText)
		}
	}
	switch {
	case len(src.Text) > MaxText:
		return fmt.Errorf("it has %d bytes, more than %d", len(src.Text), MaxText)
	case total > MaxTexts:
		return fmt.Errorf("it has %d bytes with all that it refers to, more than %d", total, MaxTexts)
	}
	return nil
}

// Check says why a payload does not fit the schema, nil if it does.
func (v *Version) Check(payload []byte) (err error) {
	defer recovered(&err)
	if err := tooLarge(payload); err != nil {
		return err
	}
	return shorten(v.checker.check(payload))
}

// JSON appends a payload that fits the schema to dst as JSON; else the error says why it does not. For JSON Schema the payload is JSON itself.
func (v *Version) JSON(dst, payload []byte) (out []byte, err error) {
	defer recovered(&err)
	if err := tooLarge(payload); err != nil {
		return nil, err
	}
	out, err = v.checker.toJSON(dst, payload)
	return out, shorten(err)
}

func tooLarge(payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("it has %d bytes; a route with a schema takes %d", len(payload), MaxPayload)
	}
	return nil
}

// recovered makes an error of a library's panic: a schema or a payload that it does not stand is not worth a node. // S1
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = shorten(fmt.Errorf("the library cannot deal with it: %v", p))
	}
}

// shorten bounds an error's text, which goes into headers and logs and may quote the payload, and makes one line of it.
func shorten(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if len(text) <= maxReason && !strings.ContainsAny(text, "\r\n") {
		return err
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return errors.New(text)
}
