package main

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestParseTold(t *testing.T) {
	all, err := parseTold("120-218 filtered=50 thinned=49, 300-300 averaged=1, 400-409 thinned=1 full=9")
	if want := []toldSpan{{120, 219, 50, 49, 0, 0}, {300, 301, 0, 0, 1, 0}, {400, 410, 0, 1, 0, 9}}; err != nil || len(all) != 3 || all[2] != want[2] || all[0] != want[0] || all[1] != want[1] {
		t.Errorf("%v %v", all, err)
	}
	for _, text := range []string{"", "1-2", "2-1 filtered=1", "1-2 filtered=3", "1-2 filtered=-1", "1-2 lost=1", "-5-2 filtered=1", "0-9223372036854775807 filtered=1", "1-9000000000000 filtered=1",
		"1-2 filtered=9223372036854775807 thinned=9223372036854775807", "1 filtered=1", "1-2 filtered=1,3-4 filtered=1"} {
		if all, err := parseTold(text); err == nil {
			t.Errorf("%q: %v", text, all)
		}
	}
}

func TestOffsetSetAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	s, plain := offsetSet{}, map[int64]bool{}
	for range 60 {
		from := rng.Int64N(4 * pageOffsets)
		to := from + 1 + rng.Int64N([]int64{1, 70, 2 * pageOffsets}[rng.IntN(3)])
		s.add(from, to)
		for o := from; o < to; o++ {
			plain[o] = true
		}
		for range 200 {
			if o := rng.Int64N(7 * pageOffsets); s.has(o) != plain[o] {
				t.Fatalf("offset %d: %v", o, s.has(o))
			}
		}
	}
}

// A record that is missing among those that were left out, and a mean that is missing, are found by the counts.
func TestLeftOutIsNoLoss(t *testing.T) {
	c := newCarried()
	c.rules.tell(toldSpan{From: 10, To: 20, Filtered: 6, Averaged: 2}, 0)
	c.rules.tell(toldSpan{From: 10, To: 25, Filtered: 6, Averaged: 2}, 0) // an older cursor says it too
	if !c.rules.average(12, 2) || c.rules.average(12, 0) {
		t.Error("a mean that came twice")
	}
	expect := func(from, to int64) {
		for o := from; o < to; o++ {
			c.expect(o, 0, true, false)
		}
	}
	expect(10, 18)
	if c.missing.Count != 0 || c.rules.found != 8 || c.rules.unaccounted() != 0 {
		t.Errorf("%+v, %d", c.carriedCounts, c.rules.unaccounted())
	}
	expect(18, 20)
	if c.rules.unaccounted() != 2 {
		t.Errorf("two records more than the target was told: %d", c.rules.unaccounted())
	}
	expect(25, 27)
	if c.missing.Count != 2 {
		t.Errorf("missing %+v", c.missing)
	}
	c = newCarried()
	c.rules.tell(toldSpan{From: 0, To: 5, Averaged: 5}, 0)
	if c.rules.average(0, 3); c.rules.unaccounted() != 2 {
		t.Errorf("a mean of two is gone: %d", c.rules.unaccounted())
	}
	c = newCarried()
	c.rules.tell(toldSpan{From: 0, To: 100, Filtered: 90}, 95)
	if c.rules.claims != 5 {
		t.Errorf("of what the source has deleted %d are expected", c.rules.claims)
	}
}

func TestReducedPages(t *testing.T) {
	l := newLeftOut()
	for _, r := range []struct {
		at    int64
		list  string
		alone bool
	}{{5, "", true}, {6, "a,b", false}, {7, "", false}, {pageOffsets + 1, "a,b", true}, {pageOffsets + 2, "a,b", false}, {3 * pageOffsets, "c", true}, {3*pageOffsets + 1, "", false}} {
		if err := l.reduced(r.at, r.list, r.alone); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]string{5: "", 6: "a,b", 7: "", pageOffsets + 1: "a,b", pageOffsets + 2: "a,b", 2 * pageOffsets: "", 3 * pageOffsets: "c", 3*pageOffsets + 1: ""} {
		if got := l.fields(at); got != want {
			t.Errorf("offset %d: %q instead of %q", at, got, want)
		}
	}
	if l.pages[1].mixed != nil {
		t.Error("a page of one list takes a byte for each offset")
	}
}

func TestReduce(t *testing.T) {
	for value, want := range map[string]string{`{"b": [1, 2],"a":1.0}`: `{"a":1.0,"b":[1, 2]}`, `{"c":1}`: `{}`, ` {"a":1,"a":2}`: `{"a":2}`} {
		if got, err := reduce([]byte(value), "a,b"); err != nil || string(got) != want {
			t.Errorf("%s became %s, %v", value, got, err)
		}
	}
	in, _ := cbor.Marshal(map[string]any{"b": "x", "c": 1})
	var out map[string]any
	if got, err := reduce(in, "a,b"); err != nil || cbor.Unmarshal(got, &out) != nil || len(out) != 1 || out["b"] != "x" {
		t.Errorf("CBOR became %v, %v", out, err)
	}
	if _, err := reduce([]byte("no"), "a"); err == nil {
		t.Error("what is none was reduced")
	}
}

// What a device says of itself, before the origin, is no word of the uplink.
func TestOurs(t *testing.T) {
	r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: leftOutHeader, Value: []byte("0-99 filtered=100")}, {Key: originHeader}, {Key: fieldsHeader, Value: []byte("a")}}}
	if own := ours(r); len(own) != 1 || own[0].Key != fieldsHeader || len(r.Headers) != 2 {
		t.Errorf("%v, left %v", own, r.Headers)
	}
}

// Memory is bounded whatever a target says was left out, whole pages included.
func TestToldSpansAreBounded(t *testing.T) {
	const span = int64(maxCarriedPages) * pageOffsets
	at := origin{"telemetry", 0}
	v := verification{plan: &uplinkPlan{Cluster: "c"}, parts: map[origin]*carried{at: newCarried()}, starts: map[origin]int64{}}
	told := ""
	for i := range int64(9) {
		told += fmt.Sprintf(", %d-%d filtered=1", i*span, (i+1)*span-1)
	}
	r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: originHeader, Value: []byte("c/telemetry/0/9")}, {Key: leftOutHeader, Value: []byte(told[2:])}}}
	if _, err := v.tellRules("telemetry", r, ours(r)); err == nil || len(v.parts[at].rules.told) > 2*maxCarriedPages {
		t.Errorf("%d pages of a header, %v", len(v.parts[at].rules.told), err)
	}
	v = verification{parts: map[origin]*carried{at: newCarried()}, cursors: map[origin]confirmedOffsets{at: {}}}
	c := v.cursors[at]
	for i := range int64(9) {
		c.Left = append(c.Left, toldSpan{From: i * span, To: (i + 1) * span, Filtered: 1})
	}
	v.cursors[at] = c
	if err := v.tellCursors("telemetry"); err == nil || len(v.parts[at].rules.told) > 2*maxCarriedPages {
		t.Errorf("%d pages of a cursor, %v", len(v.parts[at].rules.told), err)
	}
}
