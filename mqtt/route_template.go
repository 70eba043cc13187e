package mqtt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-io/weir/log"
)

// keyTemplate is a compiled key: literals and references in order.
type keyTemplate struct {
	parts []keyPart
}

type keyPartKind byte

const (
	partLiteral keyPartKind = iota
	partClient
	partTopic
	partCapture
	partUser
	partPayload
)

type keyPart struct {
	kind    keyPartKind
	text    string // literal, or the user property's name
	capture int
	path    []string // payload field, one name per level
}

const (
	maxTemplate  = 1024
	maxPathDepth = 16
)

// parseKeyTemplate compiles "{plant}/{machine}" and its like. "{{" and "}}" stand for the braces
// themselves.
func parseKeyTemplate(text string, captures []string, decodes bool) (keyTemplate, error) {
	var t keyTemplate
	if len(text) > maxTemplate {
		return t, fmt.Errorf("%d bytes, at most %d", len(text), maxTemplate)
	}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			t.parts = append(t.parts, keyPart{kind: partLiteral, text: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case (c == '{' || c == '}') && i+1 < len(text) && text[i+1] == c:
			literal.WriteByte(c)
			i += 2
		case c == '}':
			return t, fmt.Errorf("%q: '}' without '{'; write }} for the character", text)
		case c == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return t, fmt.Errorf("%q: '{' without '}'; write {{ for the character", text)
			}
			part, err := parseReference(text[i+1:i+end], captures, decodes)
			if err != nil {
				return t, err
			}
			flush()
			t.parts = append(t.parts, part)
			i += end + 1
		default:
			literal.WriteByte(c)
			i++
		}
	}
	flush()
	return t, nil
}

func parseReference(name string, captures []string, decodes bool) (keyPart, error) {
	switch {
	case name == "client":
		return keyPart{kind: partClient}, nil
	case name == "topic":
		return keyPart{kind: partTopic}, nil
	case strings.HasPrefix(name, "user."):
		if name == "user." {
			return keyPart{}, errors.New("{user.NAME}: the name is missing")
		}
		return keyPart{kind: partUser, text: name[len("user."):]}, nil
	case strings.HasPrefix(name, "payload."):
		path, err := parsePath(name, decodes)
		return keyPart{kind: partPayload, text: name, path: path}, err
	}
	for i, c := range captures {
		if c == name {
			return keyPart{kind: partCapture, capture: i}, nil
		}
	}
	return keyPart{}, fmt.Errorf("{%s} is unknown: use {client}, {topic}, {user.NAME}, {payload.FIELD} or a name that match captures (%s)",
		name, describeCaptures(captures))
}

func describeCaptures(captures []string) string {
	if len(captures) == 0 {
		return "it captures none"
	}
	return strings.Join(captures, ", ")
}

// parsePath splits payload.a.b; a payload that is not decoded has no fields.
func parsePath(name string, decodes bool) ([]string, error) {
	if !decodes {
		return nil, fmt.Errorf("{%s} needs decode: json or decode: cbor", name)
	}
	path := strings.Split(strings.TrimPrefix(name, "payload."), ".")
	if len(path) > maxPathDepth {
		return nil, fmt.Errorf("{%s}: %d levels, at most %d", name, len(path), maxPathDepth)
	}
	for _, p := range path {
		if p == "" {
			return nil, fmt.Errorf("{%s}: a field name is missing", name)
		}
	}
	return path, nil
}

// parseTimestamp accepts "" and exactly one payload reference.
func parseTimestamp(text string, decodes bool) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	name, begins := strings.CutPrefix(text, "{payload.")
	name, ends := strings.CutSuffix(name, "}")
	if !begins || !ends || strings.ContainsAny(name, "{}") {
		return nil, fmt.Errorf("%q: write \"{payload.FIELD}\", or leave it out for the receive time", text)
	}
	return parsePath("payload."+name, decodes)
}

// render builds the key. A key that is one single reference is returned as a view; anything else is
// put together in s.key. A key is never nil, so that it is never taken for Kafka's null key.
func (t *keyTemplate) render(s *RouteScratch, topic []byte, in *PublishInfo, value []byte) ([]byte, error) {
	if len(t.parts) == 1 && t.parts[0].kind == partClient && in.ClientID != nil {
		return in.ClientID, nil
	}
	key := s.key[:0]
	for i := range t.parts {
		p := &t.parts[i]
		switch p.kind {
		case partLiteral:
			key = append(key, p.text...)
		case partClient:
			key = append(key, in.ClientID...)
		case partTopic:
			key = append(key, topic...)
		case partCapture:
			c := s.captures[p.capture]
			key = append(key, topic[c[0]:c[1]]...)
		case partUser:
			v, ok := userProp(in.UserProps, p.text)
			if !ok {
				return nil, fmt.Errorf("%w: user property %q is missing", ErrPayload, p.text)
			}
			key = append(key, v...)
		case partPayload:
			v, err := s.payloadField(value, p.path)
			if err != nil {
				return nil, err
			}
			key = append(key, v...)
		}
	}
	if key == nil {
		key = make([]byte, 0, 64)
	}
	s.key = key
	return key, nil
}

// userProp is the first property of that name: MQTT 5 allows repeats and keeps their order.
func userProp(props []log.Header, name string) ([]byte, bool) {
	for i := range props {
		if string(props[i].Key) == name {
			return props[i].Value, true
		}
	}
	return nil, false
}
