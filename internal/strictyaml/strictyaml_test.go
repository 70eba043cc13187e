package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

type size int64

func (s *size) UnmarshalText(b []byte) error { return fmt.Errorf("%q is not a size", b) }

type file struct {
	MQTT struct {
		Listen string        `yaml:"listen"`
		Most   int           `yaml:"max_connections"`
		Wait   time.Duration `yaml:"ack_timeout"`
		Room   size          `yaml:"room"`
		TLS    bool          `yaml:"tls"`
	} `yaml:"mqtt"`
	Routes []struct {
		Topic string            `yaml:"topic"`
		Set   map[string]string `yaml:"config"`
	} `yaml:"routes"`
	On bool `yaml:"on"`
}

func TestErrorsNameLineAndKey(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":          {"routes:\n  - topic: a\n    topc: b\n", "line 3, routes[0].topc: unknown key: remove it or correct its spelling"},
		"unknown top key":      {"mqqt: {}\n", "line 1, mqqt: unknown key: remove it or correct its spelling"},
		"text for a number":    {"mqtt:\n  max_connections: many\n", `line 2, mqtt.max_connections: "many" is not a whole number`},
		"too great":            {"mqtt:\n  max_connections: 99999999999999999999\n", `line 2, mqtt.max_connections: `},
		"list for a text":      {"routes:\n  - topic: [a]\n", "line 2, routes[0].topic: a list is not a text"},
		"number for a list":    {"routes: 5\n", "line 1, routes: it is a single value, want a list"},
		"number of no unit":    {"mqtt:\n  ack_timeout: 5\n", `line 2, mqtt.ack_timeout: "5" is not a duration: write one with a unit, as in 30s`},
		"duration":             {"mqtt:\n  listen: y\n  ack_timeout: x\n", `line 3, mqtt.ack_timeout: "x" is not a duration`},
		"value of our own":     {"mqtt:\n  room: 5XB\n", `line 2, mqtt.room: "5XB" is not a size`},
		"same value elsewhere": {"mqtt:\n  room: x\n  listen: x\n", `"x" is not a size`},
		"text for a truth":     {"on: maybe\n", `line 1, on: "maybe" is not true or false`},
		"key twice":            {"mqtt:\n  listen: a\nmqtt:\n  listen: b\n", `line 3: the key "mqtt" stands there twice: remove one`},
		"open bracket":         {"routes: [\n", "line 1: "},
		"list of lists":        {"routes:\n  - [a]\n", "line 2, routes[0]: it is a list, want a mapping"},
	} {
		err := Decode([]byte(c.text), new(file))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%s: got %v\nwant %s", name, err, c.want)
		}
	}
	for _, fine := range []string{"", "\n# nothing\n", "mqtt: {listen: a}\n"} {
		if err := Decode([]byte(fine), new(file)); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
}

func TestWithLines(t *testing.T) {
	text := "mqtt:\n  room: 5\nroutes:\n  - topic: a\n  - topic: b\n"
	err := WithLines([]byte(text), errors.Join(errors.New("routes[1].topic: b is taken"), errors.New("mqtt.ack_timeout: too long")))
	if want := "line 5, routes[1].topic: b is taken\nmqtt.ack_timeout: too long"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("routes:\n  - topic: a\n    topc: b\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) { _ = Decode(text, new(file)) })
}

// The parser's memory grows by the square of the depth: such a text is refused before it gets there.
func TestDepthIsBounded(t *testing.T) {
	for _, open := range []string{"[", "{a: ", "- "} {
		err := Decode([]byte("on: true\nx:\n "+strings.Repeat(open, 20_000)), new(file))
		if err == nil || !strings.HasPrefix(err.Error(), "line 3: lists and mappings stand more than 64 deep") {
			t.Errorf("%q: %v", open, err)
		}
	}
	var v any
	if err := Decode([]byte("x: "+strings.Repeat("[", maxDepth)+strings.Repeat("]", maxDepth)), &v); err != nil {
		t.Errorf("%d deep: %v", maxDepth, err)
	}
	if err := Decode([]byte(strings.Repeat("- [a]\n", 1000)), &v); err != nil {
		t.Errorf("a long list: %v", err)
	}
}

// A file of which everything is commented out is one that says nothing: what stood there before stays.
func TestTextOfCommentsChangesNothing(t *testing.T) {
	for _, text := range []string{"", "# a\n", "---\n", "---\n# a: 1\n", "~\n", "null"} {
		v := struct{ A int }{7}
		if err := Decode([]byte(text), &v); err != nil || v.A != 7 {
			t.Errorf("%q: %+v, %v", text, v, err)
		}
	}
	v := struct{ A struct{ B, C int } }{}
	v.A.B = 7
	if err := Decode([]byte("a:\n  # b: 1\n"), &v); err != nil || v.A.B != 7 {
		t.Errorf("a section of comments: %+v, %v", v, err)
	}
}

// A second document is not passed over in silence, nor one behind a first that says nothing.
func TestSecondDocumentIsRefused(t *testing.T) {
	for text, line := range map[string]int{
		"---\n# c\n---\na: 1\n": 3, "a: 1\n---\nb: 2\n": 2, "null\n---\na: 1\n": 2, "a: 1\n...\nb: 2\n": 3, "a: 1\n...\n---\nb: 2\n": 3, "a: 1\n---\n": 2, "---\n---\n": 2,
		"%YAML 1.2\n---\na: 1\n---\nb: 2\n": 4,
	} {
		v := struct{ A, B int }{7, 8}
		err := Decode([]byte(text), &v)
		if want := fmt.Sprintf("line %d: a second document begins: ", line); err == nil || !strings.HasPrefix(err.Error(), want) || v.A != 7 || v.B != 8 {
			t.Errorf("%q: %+v, %v, want %s", text, v, err, want)
		}
	}
	for _, text := range []string{"a: 1\n", "---\na: 1\n", "# c\n---\n# d\na: 1\n", "# c\n\n---\n\na: 1\n...\n# e\n", "--- # c\na: 1\n", "--- {a: 1}\n", "%YAML 1.2\n---\na: 1\n"} {
		v := struct{ A, B int }{7, 8}
		if err := Decode([]byte(text), &v); err != nil || v.A != 1 || v.B != 8 {
			t.Errorf("%q: %+v, %v", text, v, err)
		}
	}
	v := struct{ C, D string }{}
	if err := Decode([]byte("c: |\n  x\n  ---\n  y\nd: a --- b\n"), &v); err != nil || v.C != "x\n---\ny\n" || v.D != "a --- b" {
		t.Errorf("a text with dashes: %+v, %v", v, err)
	}
}
