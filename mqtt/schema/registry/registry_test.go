package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-io/weir/mqtt/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// double is a registry that the test writes: it answers as Confluent's API does.
type double struct {
	*httptest.Server
	requests atomic.Int64

	mu       sync.Mutex
	subjects map[string][]map[string]any // versions, from 1
	down     bool
	nextID   int
}

func startDouble(t *testing.T) *double {
	d := &double{subjects: map[string][]map[string]any{}}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

type ref struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

func (d *double) add(subject, format, text string, refs ...ref) (id int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextID++
	v := map[string]any{"subject": subject, "id": d.nextID, "version": len(d.subjects[subject]) + 1, "schema": text}
	if format != "AVRO" {
		v["schemaType"] = format
	}
	if refs != nil {
		v["references"] = refs
	}
	d.subjects[subject] = append(d.subjects[subject], v)
	return int32(d.nextID)
}

func (d *double) setDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.requests.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		panic(http.ErrAbortHandler)
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	parts[1], _ = url.PathUnescape(parts[1])
	versions := d.subjects[parts[1]]
	if len(versions) == 0 {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"error_code": 40401, "message": "Subject '%s' not found."}`, parts[1])
		return
	}
	if len(parts) == 3 {
		numbers := []int{}
		for i := range versions {
			numbers = append(numbers, i+1)
		}
		_ = json.NewEncoder(w).Encode(numbers)
		return
	}
	number := len(versions)
	if parts[3] != "latest" {
		_, _ = fmt.Sscan(parts[3], &number)
	}
	if number > len(versions) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(versions[number-1])
}

// start runs a registry that asks d until the test ends.
func start(t *testing.T, d *double) *Registry {
	t.Helper()
	r := New(Config{URL: d.URL, Refresh: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	r.pace = pace{again: 5 * time.Millisecond, longest: 20 * time.Millisecond, early: time.Millisecond}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

// until waits for what the asking goroutine brings about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// knows waits until payloads of s are held to that version.
func knows(t *testing.T, s *schema.Subject, number int) *schema.Version {
	t.Helper()
	var v *schema.Version
	until(t, fmt.Sprintf("version %d", number), func() bool {
		v, _, _ = s.For(nil)
		return v != nil && v.Number == number
	})
	return v
}

// fails waits for an outage with that reason.
func fails(t *testing.T, s *schema.Subject, reason string) {
	t.Helper()
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("last: %v", err)
		}
	}()
	until(t, reason, func() bool {
		_, _, err = s.For(nil)
		return errors.Is(err, schema.ErrOutage) && strings.Contains(err.Error(), reason)
	})
}

func TestSubjectFollowsTheLatestVersion(t *testing.T) {
	d := startDouble(t)
	r := start(t, d)
	s := r.Subject(schema.Rule{Subject: "plants/vibration-value", Frame: schema.FrameNone})
	pinned := r.Subject(schema.Rule{Subject: "plants/vibration-value", Version: 1, Frame: schema.FrameNone})
	fails(t, s, "the registry answers 404: Subject 'plants/vibration-value' not found.")
	id := d.add("plants/vibration-value", "JSON", `{"type": "integer"}`)
	if v := knows(t, s, 1); v.ID != id || v.Format != schema.JSON || v.Check([]byte(`"x"`)) == nil {
		t.Errorf("%+v", v)
	}
	d.add("plants/vibration-value", "JSON", `{"type": "string"}`)
	if v := knows(t, s, 2); v.Check([]byte(`"x"`)) != nil {
		t.Error("version 2 is not held to its own schema")
	}
	knows(t, pinned, 1)

	d.add("plants/vibration-value", "JSON", `{"type": "colour"}`)
	errs := r.Stats().Errors
	until(t, "the fault to be seen", func() bool { return r.Stats().Errors > errs+2 })
	knows(t, s, 2) // R3
	if got := r.Stats(); got.Subjects != 2 || got.Unknown != 0 || got.Requests == 0 {
		t.Errorf("%+v", got)
	}
}

func TestOutage(t *testing.T) {
	d := startDouble(t)
	d.add("a", "AVRO", `"int"`)
	r := start(t, d)
	s := r.Subject(schema.Rule{Subject: "a", Format: schema.Avro, Frame: schema.FrameNone})
	knows(t, s, 1)
	d.setDown(true)
	errs := r.Stats().Errors
	until(t, "the outage", func() bool { return r.Stats().Errors > errs+2 })
	knows(t, s, 1)
	late := r.Subject(schema.Rule{Subject: "b", Frame: schema.FrameNone})
	fails(t, late, "the registry cannot be reached")
	if got := r.Stats(); got.Unknown != 1 || got.Age <= 0 {
		t.Errorf("%+v", got)
	}
	d.add("a", "AVRO", `"long"`)
	d.add("b", "AVRO", `"int"`)
	d.setDown(false)
	knows(t, s, 2)
	knows(t, late, 1)
}

// While the registry is away one request a round finds that out, however many subjects there are. // R2
func TestOutageIsAskedAboutOnce(t *testing.T) {
	d := startDouble(t)
	d.setDown(true)
	r := New(Config{URL: d.URL, Refresh: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	for i := range 100 {
		r.Subject(schema.Rule{Subject: fmt.Sprint("s", i)})
	}
	r.round(t.Context())
	r.client.http.CloseIdleConnections()
	if n := r.Stats().Requests; n != 1 {
		t.Errorf("%d requests", n)
	}
	if n := r.Stats().Errors; n != 100 {
		t.Errorf("%d subjects were told", n)
	}
}

func TestFramesOfDevices(t *testing.T) {
	d := startDouble(t)
	var ids []int32
	for i := range schema.MaxVersions + 2 {
		ids = append(ids, d.add("a", "JSON", fmt.Sprintf(`{"maximum": %d}`, i)))
	}
	r := start(t, d)
	s := r.Subject(schema.Rule{Subject: "a", Frame: schema.FrameDevice})
	frame := func(id int32) []byte { return (&schema.Version{ID: id}).AppendFrame(nil) }
	verdict := func(id int32) (v *schema.Version, err error) {
		until(t, "a verdict", func() bool {
			v, _, err = s.For(frame(id))
			return !errors.Is(err, schema.ErrWaiting)
		})
		return v, err
	}
	for i, id := range ids {
		v, err := verdict(id)
		if i < 2 && (err == nil || errors.Is(err, schema.ErrOutage)) || i >= 2 && (err != nil || v.Number != i+1) {
			t.Errorf("version %d: %v %v", i+1, v, err)
		}
	}
	id := d.add("a", "JSON", `{"maximum": 100}`)
	until(t, "a version registered since", func() bool { v, _, _ := s.For(frame(id)); return v != nil && v.ID == id })
}

func TestReferences(t *testing.T) {
	d := startDouble(t)
	d.add("unit", "AVRO", `{"type": "enum", "name": "Unit", "symbols": ["G"]}`)
	d.add("point", "AVRO", `{"type": "record", "name": "Point", "fields": [{"name": "u", "type": "Unit"}]}`, ref{"Unit", "unit", 1})
	d.add("line", "AVRO", `{"type": "record", "name": "Line", "fields": [{"name": "a", "type": "Point"}, {"name": "u", "type": "Unit"}]}`, ref{"Point", "point", 1}, ref{"Unit", "unit", 1})
	d.add("tail", "AVRO", `"int"`, ref{"head", "head", 1})
	d.add("head", "AVRO", `"int"`, ref{"tail", "tail", 1})
	d.add("itself", "JSON", `{"$ref": "i"}`, ref{"i", "itself", 1})
	d.add("mixed", "JSON", `{}`, ref{"unit", "unit", 1})
	d.add("missing", "JSON", `{}`, ref{"none", "none", 1})
	d.add("unversioned", "JSON", `{}`, ref{"unit", "unit", -1})
	d.add("large", "JSON", `{"description": "`+strings.Repeat("x", 10<<20)+`"}`)
	d.add("largish", "JSON", `{"description": "`+strings.Repeat("x", 2<<20)+`"}`)
	d.add("odd", "XML", `<xml/>`)
	for i := range 12 {
		var refs []ref
		if i > 0 {
			refs = []ref{{"r", fmt.Sprint("deep", i-1), 1}}
		}
		d.add(fmt.Sprint("deep", i), "JSON", `{}`, refs...)
	}
	var wide []ref
	for i := range 70 {
		d.add(fmt.Sprint("leaf", i), "JSON", `{}`)
		wide = append(wide, ref{fmt.Sprint("leaf", i), fmt.Sprint("leaf", i), 1})
	}
	d.add("wide", "JSON", `{}`, wide...)
	r := start(t, d)
	v := knows(t, r.Subject(schema.Rule{Subject: "line", Frame: schema.FrameNone}), 1)
	if err := v.Check([]byte{0, 0}); err != nil {
		t.Error(err)
	}
	for subject, reason := range map[string]string{
		"tail":        "its references are cyclic: tail v1 → head v1 → tail v1",
		"itself":      "its references are cyclic: itself v1 → itself v1",
		"mixed":       "it is json and refers to unit v1, which is avro",
		"missing":     "none v1, to which it refers: the registry answers 404",
		"unversioned": "it refers to unit without a version",
		"large":       "more than 4194304 bytes; a schema may have 1048576",
		"largish":     "version 1: it has 2097171 bytes, more than 1048576",
		"odd":         "its type \"xml\"",
		"deep11":      "more than 8 deep",
		"wide":        "refers to more than 64 schemas",
	} {
		fails(t, r.Subject(schema.Rule{Subject: subject, Frame: schema.FrameNone}), reason)
	}
	fails(t, r.Subject(schema.Rule{Subject: "unit", Message: "Unit", Frame: schema.FrameNone}), "version 1 is avro, and the route names a message of it")
	d.add("geo.proto", "PROTOBUF", `syntax = "proto3"; package geo; message Point { float x = 1; }`)
	d.add("track", "PROTOBUF", `syntax = "proto3"; import "geo.proto"; message Head {} message Track { repeated geo.Point points = 1; }`, ref{"geo.proto", "geo.proto", 1})
	track := knows(t, r.Subject(schema.Rule{Subject: "track", Message: "Track", Frame: schema.FrameNone}), 1)
	if err := track.Check([]byte("\x0a\x00")); err != nil || string(track.AppendFrame(nil)[5:]) != "\x02\x02" {
		t.Errorf("%v, %q", err, track.AppendFrame(nil))
	}
	fails(t, r.Subject(schema.Rule{Subject: "unit", Format: schema.JSON, Frame: schema.FrameNone}), "version 1 is avro, and the route says json")
}

func TestOddAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status       int
		body, reason string
	}{
		"a page":     {200, "<html>", "does schemas.registry name the right path?"},
		"a list":     {200, "[]", "does schemas.registry name the right path?"},
		"a redirect": {301, "", "the registry answers Moved Permanently"},
		"an error":   {500, `{"message": "` + strings.Repeat("x", 1000) + `"}`, "the registry answers 500: xxx"},
		"forbidden":  {401, `{"message": "User cannot access the resource."}`, "the registry answers 401: User cannot"},
		"negative":   {200, `{"id": -1, "version": 1, "schema": "\"int\""}`, "the registry gives it the id -1"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != "weir" || password != "secret" {
				t.Error("no credentials")
			}
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		r := New(Config{URL: s.URL + "/", Username: "weir", Password: "secret", Refresh: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		subject := r.Subject(schema.Rule{Subject: "a", Frame: schema.FrameNone})
		r.round(t.Context())
		if _, _, err := subject.For(nil); err == nil || !strings.Contains(err.Error(), c.reason) || len(err.Error()) > 500 {
			t.Errorf("%s: %v", name, err)
		}
		r.client.http.CloseIdleConnections()
		s.Close()
	}
}

// An answer without an end is not read to its end. // R4
func TestAnswersAreCut(t *testing.T) {
	sent, ended := 0, make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		for chunk := make([]byte, 1<<20); sent < 256<<20; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	r := New(Config{URL: s.URL, Refresh: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	subject := r.Subject(schema.Rule{Subject: "a", Frame: schema.FrameNone})
	r.round(t.Context())
	r.client.http.CloseIdleConnections()
	<-ended
	if _, _, err := subject.For(nil); !errors.Is(err, schema.ErrOutage) || sent > 64<<20 {
		t.Errorf("%v, and %d bytes were sent", err, sent)
	}
}

func TestRetain(t *testing.T) {
	d := startDouble(t)
	r := New(Config{URL: d.URL, Refresh: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	one, two := schema.Rule{Subject: "a"}, schema.Rule{Subject: "b"}
	kept := r.Subject(one)
	if r.Subject(one) != kept || r.Subject(two) == kept {
		t.Error("equal rules share a subject, others do not")
	}
	r.Retain([]schema.Rule{one})
	if r.Stats().Subjects != 1 || r.Subject(one) != kept {
		t.Errorf("%+v", r.Stats())
	}
}
