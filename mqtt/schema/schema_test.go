package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"
)

const vibrationJSON = `{
	"$schema": "http://json-schema.org/draft-07/schema#",
	"type": "object",
	"required": ["seq", "rms"],
	"properties": {
		"seq": {"type": "integer", "minimum": 0},
		"rms": {"type": "number"},
		"at": {"type": "string", "format": "date-time"},
		"unit": {"enum": ["mm/s", "g"]},
		"serial": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,8}$"}
	},
	"additionalProperties": false
}`

const vibrationAvro = `{"type": "record", "name": "Vibration", "namespace": "plants", "fields": [
	{"name": "seq", "type": "long"},
	{"name": "rms", "type": "double"},
	{"name": "unit", "type": {"type": "enum", "name": "Unit", "symbols": ["MMS", "G"]}},
	{"name": "note", "type": ["null", "string"], "default": null}
]}`

func mustCompile(t testing.TB, format Format, text string, refs ...Reference) *Version {
	t.Helper()
	v, err := Compile(Source{Subject: "vibration-value", ID: 7, Number: 3, Format: format, Text: text, References: refs})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wants compares an error with a part of its text, "" for none.
func wants(t testing.TB, what string, err error, part string) {
	t.Helper()
	if (err == nil) != (part == "") || err != nil && !strings.Contains(err.Error(), part) {
		t.Errorf("%s: got %v, want %q", what, err, part)
	}
}

func TestJSONPayloads(t *testing.T) {
	v := mustCompile(t, JSON, vibrationJSON)
	for payload, part := range map[string]string{
		`{"seq": 1, "rms": 0.25, "unit": "g", "serial": "AB-12", "at": "2026-11-30T10:00:00Z"}`: "",
		`{"seq": 1.0, "rms": 3}`:                             "", // an integer by value
		`{"seq": "1", "rms": 0.25}`:                          "/seq is string, not integer",
		`{"seq": -1, "rms": 0.25}`:                           "/seq: minimum",
		`{"seq": 1}`:                                         "missing property 'rms'",
		`{"seq": 1, "rms": 0, "x": 1}`:                       "additional properties 'x'",
		`{"seq": 1, "rms": 0, "unit": "kg"}`:                 "/unit: value must be one of",
		`{"seq": 1, "rms": 0, "serial": "ab-12"}`:            "/serial: 'ab-12' does not match pattern",
		`{"seq": 1, "rms": 0, "at": "yesterday"}`:            "/at: 'yesterday' is not valid date-time",
		`{"seq": 1, "rms": 1e999999999}`:                     "exponent is beyond ±400",
		`{"seq": 1, "rms": ` + strings.Repeat("9", 65) + `}`: "a number of 65 characters",
		`{"seq": 1, "rms": 0.25`:                             "not valid JSON",
		`{"seq": 1, "rms": 0.25} {}`:                         "not valid JSON",
		``:                                                   "not valid JSON",
		"\xff":                                               "not valid JSON",
		strings.Repeat("[", 33) + strings.Repeat("]", 33):    "nested deeper than 32",
	} {
		wants(t, payload, v.Check([]byte(payload)), part)
	}
	out, err := v.JSON(nil, []byte(`{"seq": 1, "rms": 3}`))
	if err != nil || string(out) != `{"seq": 1, "rms": 3}` {
		t.Errorf("%s, %v", out, err)
	}
}

func TestJSONSchemasThatAreRefused(t *testing.T) {
	deep := `{"type": "integer"}`
	for range 70 {
		deep = `{"items": ` + deep + `}`
	}
	doubling := `{"definitions": {"d0": {"type": "integer"}`
	for i := range 20 {
		doubling += fmt.Sprintf(`, "d%d": {"anyOf": [{"$ref": "#/definitions/d%d"}, {"$ref": "#/definitions/d%d"}]}`, i+1, i, i)
	}
	doubling += `}, "$ref": "#/definitions/d20"}`
	for name, c := range map[string]struct{ text, part string }{
		"refers to itself":       {`{"properties": {"child": {"$ref": "#"}}}`, "refers to itself at vibration-value#"},
		"refers to itself later": {`{"definitions": {"a": {"items": {"$ref": "#/definitions/b"}}, "b": {"items": {"$ref": "#/definitions/a"}}}, "$ref": "#/definitions/a"}`, "refers to itself"},
		"only a reference":       {`{"$ref": "#"}`, "refers to itself"},
		"dynamic":                {`{"$schema": "https://json-schema.org/draft/2020-12/schema", "$dynamicAnchor": "n", "properties": {"c": {"$dynamicRef": "#n"}}}`, "$dynamicRef"},
		"doubling":               {doubling, "a check would take too much"},
		"elsewhere":              {`{"$ref": "http://127.0.0.1:1/other.json"}`, "the registry does not list it"},
		"a file":                 {`{"$ref": "file:///etc/passwd"}`, "the registry does not list it"},
		"a metaschema elsewhere": {`{"$schema": "http://127.0.0.1:1/meta.json"}`, "the registry does not list it"},
		"no such part":           {`{"$ref": "#/definitions/none"}`, "none"},
		"no schema":              {`{"type": "colour"}`, "not a JSON Schema"},
		"no JSON":                {`{`, "not valid JSON"},
		"deep":                   {deep, "nested deeper than 64"},
		"great bound":            {`{"minimum": 1e999999999}`, "exponent is beyond"},
		"pattern":                {`{"pattern": "(a"}`, "pattern"},
		"look-ahead":             {`{"pattern": "(?=a)b"}`, "pattern"},
		"long pattern":           {`{"pattern": "` + strings.Repeat("a", 513) + `"}`, "513 bytes, more than 512"},
		"heavy one":              {`{"pattern": "(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa){1000}"}`, "a check would take too much"},
		"heavy pattern":          {`{"patternProperties": {"(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa){1000}": {}}}`, "a check would take too much"},
		"10 MB":                  {`{"description": "` + strings.Repeat("x", 10<<20) + `"}`, "bytes, more than 1048576"},
	} {
		_, err := Compile(Source{Subject: "vibration-value", Format: JSON, Text: c.text})
		if c.part == "" || err == nil {
			t.Errorf("%s: %v, want %q", name, err, c.part)
			continue
		}
		wants(t, name, err, c.part)
		if len(err.Error()) > maxReason+3 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the reason is no short line: %q", name, err)
		}
	}
}

func TestReferencesAreLimited(t *testing.T) {
	many := make([]Reference, MaxReferences+1)
	for i := range many {
		many[i] = Reference{fmt.Sprint(i), "{}"}
	}
	large := strings.Repeat(" ", MaxText-2) + "{}"
	for part, refs := range map[string][]Reference{
		"it refers to 65 schemas, more than 64":                 many,
		"a, to which it refers, has 1048577 bytes":              {{"a", " " + large}},
		"it has 5242880 bytes with all that it refers to, more": {{"a", large}, {"b", large}, {"c", large}, {"d", large}},
	} {
		_, err := Compile(Source{Format: JSON, Text: large, References: refs})
		wants(t, "refused", err, part)
	}
}

// The cost of a schema limits the payload.
func TestJSONWorkIsBounded(t *testing.T) {
	v := mustCompile(t, JSON, `{"items": {"anyOf": [`+strings.Repeat(`{"type": "object", "required": ["a", "b"]},`, 1000)+`{"type": "integer"}]}}`)
	small, large := []byte("["+strings.Repeat("1,", 1000)+"1]"), []byte("["+strings.Repeat("1,", 100_000)+"1]")
	wants(t, "small", v.Check(small), "")
	wants(t, "large", v.Check(large), "the schema's cost is 3003")
	patterns := mustCompile(t, JSON, `{"items": {"format": "regex"}}`)
	heavy := func(times, count int) []byte {
		item := `"` + strings.Repeat("x{1000}", times) + `"`
		return []byte("[" + strings.Repeat(item+",", count-1) + item + "]")
	}
	wants(t, "a pattern", patterns.Check(heavy(5, 1)), "")
	wants(t, "a heavy pattern", patterns.Check(heavy(60, 1)), "a check would take too much")
	wants(t, "heavy patterns", patterns.Check(heavy(5, 3000)), "the schema's cost is 20")
	wants(t, "too large for any", v.Check(make([]byte, MaxPayload+1)), "a route with a schema takes 262144")
}

func TestJSONReferences(t *testing.T) {
	v := mustCompile(t, JSON, `{"$id": "https://plants.example/vibration.json", "properties": {"unit": {"$ref": "unit.json"}, "at": {"$ref": "https://plants.example/common/time.json"}}}`,
		Reference{"https://plants.example/common/time.json", `{"type": "integer"}`}, Reference{"unit.json", `{"enum": ["g"]}`})
	wants(t, "fits", v.Check([]byte(`{"unit": "g", "at": 1}`)), "")
	wants(t, "unit", v.Check([]byte(`{"unit": "x"}`)), "/unit")
	wants(t, "at", v.Check([]byte(`{"at": "x"}`)), "/at is string")
	bare := mustCompile(t, JSON, `{"properties": {"unit": {"$ref": "unit.json"}}}`, Reference{"unit.json", `{"enum": ["g"]}`})
	wants(t, "without $id", bare.Check([]byte(`{"unit": "x"}`)), "/unit")
	for range 20 { // whatever order they are looked at in
		two := mustCompile(t, JSON, `{"properties": {"unit": {"$ref": "common/unit.json"}}}`, Reference{"common/unit.json", `{"enum": ["g"]}`}, Reference{"unit.json", `{"enum": ["x"]}`})
		wants(t, "the longer name", two.Check([]byte(`{"unit": "x"}`)), "/unit")
	}
	_, err := Compile(Source{Format: JSON, Text: `{}`, References: []Reference{{"a", `{}`}, {"a", `true`}}})
	wants(t, "two of one name", err, `two different schemas`)
	_, err = Compile(Source{Format: JSON, Text: `{"$ref": "a.json"}`, References: []Reference{{"a.json", `{"items": {"$ref": "b.json"}}`}, {"b.json", `{"items": {"$ref": "a.json"}}`}}})
	wants(t, "across documents", err, "refers to itself")
}

func TestAvroPayloads(t *testing.T) {
	v := mustCompile(t, Avro, vibrationAvro)
	good, err := avro.MustParse(vibrationAvro).Encode(map[string]any{"seq": int64(5), "rms": 0.5, "unit": "G", "note": "läuft"})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "good", v.Check(good), "")
	for n := range good {
		if err := v.Check(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes pass", n, len(good))
		}
	}
	wants(t, "more", v.Check(append(bytes.Clone(good), 0)), "1 bytes behind the value")
	bad := bytes.Clone(good)
	bad[1+8] = 8
	wants(t, "symbol", v.Check(bad), "enum index 4 out of range")
	wants(t, "text", v.Check(bytes.Replace(good, []byte("ä"), []byte("\xff\xff"), 1)), "not valid UTF-8")
	out, err := v.JSON([]byte("before "), good)
	if err != nil || string(out) != `before {"seq":5,"rms":0.5,"unit":"G","note":"läuft"}` {
		t.Errorf("%s, %v", out, err)
	}
}

// A recursive record is legal; what nests deeper than consumers of JSON take is not made JSON of.
func TestAvroRecursion(t *testing.T) {
	v := mustCompile(t, Avro, `{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}`)
	chain := func(n int) []byte { return append(bytes.Repeat([]byte{2}, n), 0) }
	wants(t, "shallow", v.Check(chain(20)), "")
	wants(t, "endless", v.Check(chain(100_000)), "recursion limit")
	if _, err := v.JSON(nil, chain(40)); err == nil || !strings.Contains(err.Error(), "nested deeper than 32") {
		t.Error(err)
	}
}

func TestAvroSchemasThatAreRefused(t *testing.T) {
	wide := `{"type": "record", "name": "W", "fields": [{"name": "n", "type": "null"}`
	for i := range 499 {
		wide += fmt.Sprintf(`, {"name": "n%d", "type": "null"}`, i)
	}
	within := `{"type": "record", "name": "A0", "fields": [{"name": "f", "type": "null"}]}`
	for i := range 8 { // of 10^8 values
		within = fmt.Sprintf(`{"type": "record", "name": "A%d", "fields": [{"name": "f", "type": %s}`, i+1, within)
		for k := range 9 {
			within += fmt.Sprintf(`, {"name": "f%d", "type": "A%d"}`, k, i)
		}
		within += `]}`
	}
	for name, c := range map[string]struct {
		text, part string
		refs       []Reference
	}{
		"unknown name":        {`{"type": "record", "name": "A", "fields": [{"name": "b", "type": "B"}]}`, "B", nil},
		"no JSON":             {`{`, "", nil},
		"10 MB":               {`{"type": "string", "doc": "` + strings.Repeat("x", 10<<20) + `"}`, "more than 1048576", nil},
		"deep":                {strings.Repeat(`{"type":"array","items":`, 5000) + `"int"` + strings.Repeat("}", 5000), "", nil},
		"nulls":               {`{"type": "array", "items": "null"}`, "take no bytes", nil},
		"wide":                {wide + `]}`, "record W has 501 values in 0 bytes", nil},
		"wide, by name":       {`{"type": "record", "name": "x.A", "fields": [{"name": "f", "type": ` + strings.Replace(wide, `"W"`, `"fW", "aliases": []`, 1) + `, {"name": "b", "type": "boolean"}]}}, {"name": "g", "type": {"type": "array", "items": "fW"}}]}`, "record x.fW has 502 values in 1 bytes", nil},
		"nothing, many times": {within, "record A1 has 21 values in 0 bytes", nil},
		"within itself":       {`{"type": "record", "name": "A", "fields": [{"name": "a", "type": "A"}]}`, "is within itself", nil},
		"a bad one":           {`"int"`, "common, to which it refers", []Reference{{"common", `{"type": "nothing"}`}}},
	} {
		_, err := Compile(Source{Format: Avro, Text: c.text, References: c.refs})
		if err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
	v := mustCompile(t, Avro, `{"type": "record", "name": "A", "fields": [{"name": "b", "type": "x.B"}]}`, Reference{"x.B", `{"type": "fixed", "name": "B", "namespace": "x", "size": 2}`})
	wants(t, "by reference", v.Check([]byte{1, 2}), "")
}

// Schemas at the limit of their size are compiled in bounded time, whatever they are made of. // S1
func TestCompilingIsBounded(t *testing.T) {
	many := func(item string) string { return strings.Repeat(item+",", (MaxText-100)/(len(item)+1)-1) + item }
	var fields, props strings.Builder
	repetitions := func(times, patterns int) string {
		item := `{"pattern":"` + strings.Repeat("x{1000}", times) + `"}`
		return `{"anyOf":[` + strings.Repeat(item+",", patterns-1) + item + `]}`
	}
	for i := 0; fields.Len() < MaxText-200; i++ {
		fmt.Fprintf(&fields, `{"name":"f%d","type":"int"},`, i)
	}
	for i := 0; props.Len() < MaxText-200; i++ {
		fmt.Fprintf(&props, `"p%d":{"type":"integer"},`, i)
	}
	numbered := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < MaxText-200; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	values := func(text string) string { return "[" + strings.Repeat(text+",", 4900) + text + "]" }
	for name, src := range map[string]Source{
		"values":       {Format: JSON, Text: `{"anyOf":` + values(`{"type":"integer"}`) + `}`},
		"repetitions":  {Format: JSON, Text: repetitions(5, 1500)},
		"longer ones":  {Format: JSON, Text: repetitions(60, 300)},
		"alternatives": {Format: JSON, Text: `{"anyOf":[` + many(`{"type":"integer"}`) + `]}`},
		"properties":   {Format: JSON, Text: `{"properties":{` + props.String() + `"p":{}}}`},
		"patterns":     {Format: JSON, Text: `{"anyOf":` + values(`{"pattern":"((a{30}){30}b|c){1}"}`) + `}`},
		"enum":         {Format: JSON, Text: `{"enum":[` + many(`1`) + `]}`},
		"union":        {Format: Avro, Text: `[` + many(`"int"`) + `]`},
		"fields":       {Format: Avro, Text: `{"type":"record","name":"R","fields":[` + fields.String() + `{"name":"f","type":"int"}]}`},
		"messages":     {Format: Protobuf, Text: numbered("message M%d{int32 a=1;repeated M0 b=2;}")},
		"names":        {Format: Protobuf, Text: `package a.b.c.d.e.f.g.h; message Z{}` + numbered(" message M%[1]d{N%[1]d a=1;} message N%[1]d{}")},
		"repeated":     {Format: Protobuf, Text: `message M{` + strings.Repeat("repeated ", MaxText/9-10)},
		"brackets":     {Format: Avro, Text: strings.Repeat("[", MaxText)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		_, err := Compile(src)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		t.Logf("%s: %v, %.100v", name, took, err)
		if took > 20*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 1<<30 {
			t.Errorf("%s took %d MiB", name, bytes>>20)
		}
	}
}

// FuzzCompile: no schema, and no payload held to one, does more than fail.
func FuzzCompile(f *testing.F) {
	f.Add(vibrationJSON, []byte(`{"seq": 1, "rms": 2}`))
	f.Add(vibrationAvro, []byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(orderProto, []byte{8, 2, 0x12, 1, 'a'})
	f.Add(meterProto, []byte{8, 1, 0x12, 2, 8, 1})
	f.Add(`{"multipleOf": 0.1}`, []byte(`0.3`))
	f.Add(`{"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}`, []byte{2, 2, 0})
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		for _, format := range []Format{JSON, Avro, Protobuf} {
			v, err := Compile(Source{Subject: "s", Format: format, Text: text})
			if err != nil {
				continue
			}
			_ = v.Check(payload)
			if format == Protobuf {
				if at, body, err := v.named(payload); err == nil {
					_ = at.Check(body)
				}
				continue
			}
			if out, err := v.JSON(nil, payload); err == nil && !json.Valid(out) {
				t.Fatalf("%s made %q of %q, which is no JSON", format, out, payload)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	payload, err := avro.MustParse(vibrationAvro).Encode(map[string]any{"seq": int64(5), "rms": 0.5, "unit": "G", "note": nil})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		format  Format
		text    string
		payload []byte
	}{
		{JSON, vibrationJSON, []byte(`{"seq": 1, "rms": 0.25, "unit": "g", "serial": "AB-12", "at": "2026-11-30T10:00:00Z"}`)},
		{Avro, vibrationAvro, payload},
		{Protobuf, orderProto, []byte("\x08\x05\x12\x03abc\x18\x01\x18\x02")},
	} {
		v := mustCompile(b, c.format, c.text)
		b.Run(string(c.format), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Check(c.payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
