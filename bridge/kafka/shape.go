package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Requests are looked over before kmsg decodes them, because kmsg believes two kinds of
// counts: of tagged fields (eight bytes can keep it busy for two minutes) and of array
// elements, up to one per byte that is left, whatever an element takes. Both exist in
// flexible versions; in the others there are only arrays, which the limit on such frames
// covers.
//
// shapes says how the flexible versions of each request are laid out: fields in order,
// numbers for so many bytes, s for a compact string, y for compact bytes, * before an
// element for an array of it, ? before a structure that a byte says is there, and ( ) around the
// fields of a structure, which like the whole request ends with tagged fields. @3+ and @-3 bound the versions of a field. Every
// value may be null: what may not be is for the decoder and the handler to say.
var shapes = map[int16]string{
	2:  "4 1 *(s *(4 4 8)) 4@10+",
	3:  "*(16@10+ s) 1 1@-10 1",
	8:  "s 4 s s *(s@-9 16@10+ *(4 8 4 s))",
	9:  "s@-7 *(s *4)@-7 *(s s@9+ 4@9+ *(s@-9 16@10+ *4))@8+ 1@7+",
	10: "s@-3 1 *s@4+",
	11: "s 4 4 s s s *(s y) s@8+",
	12: "s 4 s s",
	13: "s *(s s s@5+)",
	14: "s 4 s s s@5+ s@5+ *(s y)",
	15: "*s 1",
	16: "*s@4+ *s@5+",
	18: "s s s@5+ 4@5+",
	19: "*(s 4 2 *(4 *4) *(s s)) 4 1",
	20: "*s@-5 *(s 16)@6+ 4",
	21: "*(s *(4 8)) 4",
	22: "s 4 8@3+ 2@3+",
	23: "4 *(s *(4 4 4))",
	24: "*(s 8 2 1 *(s *4))@4+ s@-3 8@-3 2@-3 *(s *4)@-3",
	25: "s 8 2 s",
	26: "s 8 2 1",
	27: "*(8 2 1 *(s *4) 4 1@2+)",
	28: "s s 8 2 4 s s *(s *(4 8 4 s))",
	29: "1 s 1 s s 1 1",
	30: "*(1 s 1 s s 1 1)",
	31: "*(1 s 1 s s 1 1)",
	32: "*(1 s *s) 1 1",
	33: "*(1 s *(s s)) 1",
	34: "*(s *(s *4))",
	35: "*(s *4)",
	36: "y",
	37: "*(s 4 *(*4)) 4 1",
	42: "*s",
	43: "1 *(s *4) 4",
	44: "*(1 s *(s 1 s)) 1",
	45: "4 1@1+ *(s *(4 *4))",
	46: "4 *(s *4)",
	48: "*(s 1 s) 1",
	49: "*(*(s s) *(s 8 1)) 1",
	50: "*(s)",
	51: "*(s 1) *(s 1 4 y y)",
	60: "1 1@1+ 1@2+",
	61: "*(s *4)",
	64: "4",
	65: "*s",
	66: "*s *8 8@1+",
	68: "s s 4 s s 4 *s s@1+ s *(16 *4)",
	69: "*s 1",
	74: "*1@1+",
	75: "*(s) 4 ?(s 4)",
}

// shape is one field.
type shape struct {
	kind     byte    // 'n' fixed, 's' string or bytes, '*' array, '(' structure, '?' structure or nothing
	size     int     // of 'n'
	of       []shape // the element of '*', the structure of '?', the fields of '('
	min, max int16   // versions that have it
}

var errShape = errors.New("counts and lengths do not fit the frame")

// check walks over a request and its tagged fields.
func (s *shape) check(body []byte, version int16) error {
	d := decoder{b: body}
	if s.skip(&d, version); d.bad {
		return errShape
	}
	return nil
}

func (s *shape) skip(d *decoder, version int16) {
	if version < s.min || version > s.max || d.bad {
		return
	}
	switch s.kind {
	case 'n':
		d.take(s.size)
	case 's':
		d.compact()
	case '*':
		element := &s.of[0]
		for range d.array(true, element.least(version)) {
			if element.skip(d, version); d.bad {
				return
			}
		}
	case '?':
		if b := d.take(1); !d.bad && b[0] != 0xff { // -1
			s.of[0].skip(d, version)
		}
	case '(':
		for i := range s.of {
			s.of[i].skip(d, version)
		}
		d.tags()
	}
}

// least is the smallest encoding in bytes.
func (s *shape) least(version int16) int {
	if version < s.min || version > s.max {
		return 0
	}
	switch s.kind {
	case 'n':
		return s.size
	case '(':
		n := 1
		for i := range s.of {
			n += s.of[i].least(version)
		}
		return n
	}
	return 1
}

// parseShape reads the notation of shapes.
func parseShape(text string) (*shape, error) {
	text = strings.NewReplacer("(", "( ", ")", " )", "*", "* ", "?", "? ").Replace("(" + text + ")")
	tokens := strings.Fields(text)
	s, rest, err := parseField(tokens)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%q is left over", rest)
	}
	if err != nil {
		return nil, fmt.Errorf("shape %q: %w", text, err)
	}
	return &s, nil
}

func parseField(tokens []string) (s shape, rest []string, err error) {
	if len(tokens) == 0 {
		return s, nil, errors.New("ends early")
	}
	token, rest := tokens[0], tokens[1:]
	s.max = never
	switch token[0] {
	case '*', '?':
		var of shape
		of, rest, err = parseField(rest)
		// The versions stand behind the element, and mean the array.
		s.kind, s.of, s.min, s.max = token[0], []shape{of}, of.min, of.max
		s.of[0].min, s.of[0].max = 0, never
		return s, rest, err
	case '(':
		s.kind = '('
		for len(rest) > 0 && rest[0][0] != ')' {
			var of shape
			if of, rest, err = parseField(rest); err != nil {
				return s, nil, err
			}
			s.of = append(s.of, of)
		}
		if len(rest) == 0 {
			return s, nil, errors.New("structure is not closed")
		}
		token, rest = rest[0], rest[1:]
		return s, rest, s.parseVersions(token[1:])
	}
	name, versions, bounded := strings.Cut(token, "@")
	if bounded {
		versions = "@" + versions
	}
	if name == "s" || name == "y" {
		s.kind = 's'
	} else {
		s.kind = 'n'
		if s.size, err = strconv.Atoi(name); err != nil {
			return s, nil, err
		}
	}
	return s, rest, s.parseVersions(versions)
}

// parseVersions reads "", "@3+" or "@-3".
func (s *shape) parseVersions(text string) error {
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(strings.Trim(text, "@+-"), 10, 16)
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(text, "@-"):
		s.max = int16(n)
	default:
		s.min = int16(n)
	}
	return nil
}
