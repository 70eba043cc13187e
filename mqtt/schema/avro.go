package schema

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/twmb/avro"
)

type avroChecker struct{ schema *avro.Schema }

// compileAvro parses the references first: each defines the names that those behind it use.
func compileAvro(src *Source) (checker, error) {
	var names avro.SchemaCache
	for _, r := range src.References {
		if _, err := names.Parse(r.Text); err != nil {
			return nil, fmt.Errorf("%s, to which it refers: %w", r.Name, err)
		}
	}
	s, err := names.Parse(src.Text)
	if err != nil {
		return nil, err
	}
	if err := checkAvroCost(s.Root()); err != nil {
		return nil, err
	}
	return &avroChecker{s}, nil
}

func (c *avroChecker) check(payload []byte) error {
	_, err := c.decode(payload)
	return err
}

// decode reads the whole payload, which has to be one value and nothing else.
func (c *avroChecker) decode(payload []byte) (v any, err error) {
	rest, err := c.schema.Decode(payload, &v, avro.AliasInput())
	if err != nil {
		return nil, avroError(err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes behind the value", len(rest))
	}
	return v, checkText(v)
}

// avroError is the reason without the Go types that the library speaks of.
func avroError(err error) error {
	var at *avro.SemanticError
	if errors.As(err, &at) && at.Err != nil {
		if at.Field != "" && len(at.Field) < 100 { // of a recursive record it may be as long as the payload
			return fmt.Errorf("field %s: %w", at.Field, avroError(at.Err))
		}
		return avroError(at.Err)
	}
	return err
}

// checkText refuses strings that are not UTF-8: the library lets them pass, consumers' libraries do not.
func checkText(v any) error {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return errors.New("a string is not valid UTF-8")
		}
	case []any:
		for _, item := range v {
			if err := checkText(item); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, member := range v {
			if !utf8.ValidString(key) {
				return errors.New("a key of a map is not valid UTF-8")
			}
			if err := checkText(member); err != nil {
				return err
			}
		}
	}
	return nil
}

// toJSON writes unions plainly, as the value alone, and bytes as Avro's JSON has them.
func (c *avroChecker) toJSON(dst, payload []byte) ([]byte, error) {
	v, err := c.decode(payload)
	if err != nil {
		return nil, err
	}
	out, err := c.schema.AppendEncodeJSON(dst, v)
	if err != nil {
		return nil, err
	}
	if jsonNesting(out[len(dst):]) > maxPayloadNesting {
		return nil, fmt.Errorf("it is nested deeper than %d", maxPayloadNesting)
	}
	return out, nil
}
