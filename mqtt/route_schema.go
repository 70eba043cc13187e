package mqtt

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weir-io/weir/mqtt/schema"
)

// Routes with a schema. Payloads are held to the subject's latest version, or the one that the route names, before anything else is made of them. What is stored is:
//
//	frame: none        the payload untouched, or JSON where the route decodes
//	frame: confluent   the same behind Confluent's prefix, so that deserializers of central consumers find the schema
//	frame: device      the payload as it came: the device has put the prefix there, and is held to the version that it names; where the route decodes, JSON without it
//
// The payload is checked where it is decoded, on the connection's worker, from memory: the registry is asked in the background (R1). While a schema has never been
// had, the publish is held as for any passing reason (M8); with on_error: dead-letter it is held until the registry has been asked once, then it becomes a dead letter
// with the reason, since whoever asks for dead letters wants devices to go on.

// Schemas finds the schemas that routes name.
type Schemas interface {
	Subject(schema.Rule) *schema.Subject
}

// SchemaRules lists what routes say about schemas.
func (r *Router) SchemaRules() []schema.Rule { return r.rules }

// bind gives rules their schemas.
func (r *Router) bind(schemas Schemas) {
	for i := range r.routes {
		rt := &r.routes[i]
		if rt.rule == nil {
			continue
		}
		if !slices.Contains(r.rules, *rt.rule) {
			r.rules = append(r.rules, *rt.rule)
		}
		if schemas != nil {
			rt.schema = schemas.Subject(*rt.rule)
		}
	}
}

// compileSchema checks what a rule says about its schema.
func (rt *route) compileSchema(in *Route, fault func(field, format string, args ...any)) {
	wants := map[decodeMode]schema.Format{decodeJSON: schema.JSON, decodeCBOR: schema.JSON, decodeAvro: schema.Avro}[rt.decode]
	if in.Schema == nil {
		if rt.decode == decodeAvro {
			fault("decode", "%s needs a schema: name its subject, as in schema: {subject: NAME}", in.Decode)
		}
		return
	}
	rule := *in.Schema
	for _, err := range rule.Validate() {
		fault("schema", "%w", err)
	}
	if rule.Frame == "" {
		rule.Frame = schema.FrameNone
	}
	switch {
	case wants == "":
	case rule.Format == "":
		rule.Format = wants
	case rule.Format != wants:
		fault("decode", "%s makes no payloads for a schema of format %s", in.Decode, rule.Format)
	}
	if rt.decode == decodeAvro && rule.Frame == schema.FrameConfluent {
		fault("schema", "frame: confluent says that the value is %s, and decode: %s makes JSON of it: leave one of them out", rule.Format, in.Decode)
	}
	rt.rule = &rule
}

// version finds what a payload is held to, and the part of it that is.
func (rt *route) version(payload []byte) (*schema.Version, []byte, error) {
	if rt.rule == nil {
		return nil, payload, nil
	}
	if rt.schema == nil {
		return nil, nil, ErrNoSchema // S3
	}
	v, body, err := rt.schema.For(payload)
	switch {
	case err == nil:
		return v, body, nil
	case errors.Is(err, schema.ErrWaiting), errors.Is(err, schema.ErrOutage):
		return nil, nil, fmt.Errorf("%w: %w", ErrNoSchema, err)
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrPayload, err)
}

// check holds a message to its schema: JSON that was decoded, else the payload. What a schema decoded has been held to it already.
func (rt *route) check(v *schema.Version, payload, value []byte) error {
	switch {
	case v == nil || rt.decode == decodeAvro:
		return nil
	case rt.decode != decodeNone:
		payload = value
	}
	if err := rt.schema.Verdict(v, v.Check(payload)); err != nil {
		return fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return nil
}

// asJSON makes JSON of a payload by its schema.
func (rt *route) asJSON(v *schema.Version, dst, payload []byte) ([]byte, error) {
	value, err := v.JSON(dst, payload)
	if err := rt.schema.Verdict(v, err); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return value, nil
}

// waits tells whether a publish is held also where its route has dead letters: the registry has not been asked yet.
func waits(err error) bool { return errors.Is(err, schema.ErrWaiting) }
