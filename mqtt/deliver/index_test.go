package deliver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
	"pgregory.net/rapid"
)

func TestParseFilter(t *testing.T) {
	// MQTT5 [MQTT-4.7.3-2] [MQTT-4.7.3-3]; MQTT3 [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
	for in, want := range map[string][2]string{
		"a": {"", "a"}, "#": {"", "#"}, "+": {"", "+"}, "/": {"", "/"}, "a//b": {"", "a//b"}, "+/+/#": {"", "+/+/#"},
		"$SYS/#": {"", "$SYS/#"}, "$share/g/a/#": {"g", "a/#"}, "$share/g//": {"g", "/"}, "$SHARE/g/a": {"", "$SHARE/g/a"},
		"$shared/g": {"", "$shared/g"}, strings.Repeat("/", maxLevels-1): {"", strings.Repeat("/", maxLevels-1)},
	} {
		group, filter, err := ParseFilter(in)
		if err != nil || group != want[0] || filter != want[1] {
			t.Errorf("%q: %q %q %v", in, group, filter, err)
		}
	}
	for _, in := range []string{
		"", "a/#/b", "#/", "a#", "a+/b", "b/+a", "\xff", "a\x00", "$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a",
		"$share/g#/a", "$share/g/#/x", strings.Repeat("/", maxLevels), strings.Repeat("x", maxTopicBytes+1),
	} {
		if group, filter, err := ParseFilter(in); !errors.Is(err, ErrFilter) {
			t.Errorf("%.40q: %q %q %v, want ErrFilter", in, group, filter, err)
		}
	}
}

// matched lists the filters of one session that the index finds for a topic.
func matched(x *index, topic string) []string {
	out := []string{}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, sub := range x.match([]byte(topic), nil) {
		out = append(out, sub.filter)
	}
	slices.Sort(out)
	return out
}

func TestIndexMatchesLikeNaive(t *testing.T) {
	// MQTT5 [MQTT-3.3.2-3]; MQTT3 [MQTT-3.3.2-3] [MQTT-4.7.3-4]
	level := rapid.SampledFrom([]string{"a", "b", "", "$x", "ab"})
	filterOf := rapid.Custom(func(t *rapid.T) string {
		f := rapid.SliceOfN(rapid.OneOf(level, rapid.Just("+")), 0, 4).Draw(t, "levels")
		if len(f) == 0 || rapid.Bool().Draw(t, "rest") {
			f = append(f, "#")
		}
		return strings.Join(f, "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		var x index
		s := &session{}
		subs := map[string]*subscription{}
		for _, f := range rapid.SliceOfN(filterOf, 1, 12).Draw(t, "filters") {
			if f == "" {
				continue
			}
			sub := &subscription{s: s, filter: f}
			x.put(sub, subs[f])
			subs[f] = sub
		}
		for range 4 {
			topic := strings.Join(rapid.SliceOfN(level, 1, 5).Draw(t, "topic"), "/")
			if topic == "" {
				continue
			}
			want := []string{}
			for f := range subs {
				if naiveMatch(f, topic) {
					want = append(want, f)
				}
				if filterTakes(f, topic) != naiveMatch(f, topic) {
					t.Fatalf("filterTakes(%q, %q) is not naive", f, topic)
				}
			}
			slices.Sort(want)
			if d := cmp.Diff(want, matched(&x, topic)); d != "" {
				t.Fatalf("%q (-naive +index):\n%s", topic, d)
			}
		}
		for _, sub := range subs {
			x.remove(sub)
		}
		if !x.root.empty() {
			t.Fatal("the empty index has nodes")
		}
	})
}

func TestDollarTopics(t *testing.T) {
	// MQTT5 [MQTT-4.7.2-1]; MQTT3 [MQTT-4.7.2-1]
	var x index
	for _, f := range []string{"#", "+/x", "+/#", "$SYS/#", "$SYS/+", "$SYS"} {
		x.put(&subscription{s: &session{}, filter: f}, nil)
	}
	for topic, want := range map[string][]string{
		"$SYS/x": {"$SYS/#", "$SYS/+"}, "$SYS": {"$SYS", "$SYS/#"}, "$other/x": {}, "a/x": {"#", "+/#", "+/x"}, "a": {"#", "+/#"}, "a/$x": {"#", "+/#"},
	} {
		if d := cmp.Diff(want, matched(&x, topic)); d != "" {
			t.Errorf("%s: %s", topic, d)
		}
	}
}

// A hostile topic costs as many steps as the index is deep, not as it has levels itself.
func TestDeepTopicIsCheap(t *testing.T) {
	var x index
	x.put(&subscription{s: &session{}, filter: "+/+/#"}, nil)
	topic := []byte(strings.Repeat("/", maxTopicBytes))
	if n := testing.AllocsPerRun(10, func() {
		if len(x.match(topic, make([]*subscription, 0, 4))) != 1 {
			t.Fatal("no match")
		}
	}); n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestMatchCacheFollowsTheIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		c := newMatchCache(&x, rapid.IntRange(1, 6).Draw(t, "limit"))
		live := map[string]*subscription{}
		for range 40 {
			f := rapid.SampledFrom([]string{"t/0", "t/1", "t/+", "#", "t/2"}).Draw(t, "filter")
			switch {
			case rapid.Bool().Draw(t, "look"):
			case live[f] == nil:
				live[f] = &subscription{s: &session{seq: uint64(len(f))}, filter: f}
				x.put(live[f], nil)
			default:
				x.remove(live[f])
				delete(live, f)
			}
			topic := fmt.Sprintf("t/%d", rapid.IntRange(0, 9).Draw(t, "topic"))
			want, got := 0, 0
			for f := range live {
				if naiveMatch(f, topic) {
					want++
				}
			}
			for _, h := range c.lookup([]byte(topic)).hits {
				got += len(h.subs)
			}
			if got != want {
				t.Fatalf("%s has %d subscriptions, the cache says %d", topic, want, got)
			}
			if len(c.young) > c.limit || len(c.old) > c.limit {
				t.Fatalf("the cache holds %d + %d results, limit %d each", len(c.young), len(c.old), c.limit)
			}
		}
	})
}

// Sessions on '#' are merged once, however many topics there are, and what the cache holds is bounded.
func TestMatchCacheSharesAndIsBounded(t *testing.T) {
	var x index
	for i := range 1000 {
		x.put(&subscription{s: &session{seq: uint64(i)}, filter: "#"}, nil)
	}
	c := newMatchCache(&x, 10_000)
	for i := range 5000 {
		if n := len(c.lookup(fmt.Append(nil, "t/", i)).hits); n != 1000 {
			t.Fatalf("%d hits", n)
		}
	}
	if c.weight != 1001 || len(c.sets) != 1 {
		t.Fatalf("%d hits of %d sets for one set of subscriptions", c.weight, len(c.sets))
	}
	for i := range 500 {
		x.put(&subscription{s: &session{seq: uint64(5000 + i)}, filter: fmt.Sprint("t/", i)}, nil)
	}
	most := 0
	for i := range 5000 {
		want := 1000
		if i < 500 {
			want = 1001
		}
		if n := len(c.lookup(fmt.Append(nil, "t/", i)).hits); n != want {
			t.Fatalf("t/%d has %d hits, want %d", i, n, want)
		}
		most = max(most, c.weight)
	}
	if most > maxHits+1002 {
		t.Fatalf("the cache held %d hits", most)
	}
}

func TestCursorCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Cursor
		if rapid.Bool().Draw(t, "known") {
			c.at = []place{}
		}
		for range rapid.IntRange(0, 8).Draw(t, "places") {
			id := log.PartitionID{Index: rapid.Int32Range(0, 12).Draw(t, "index")}
			id.Topic[rapid.IntRange(0, 15).Draw(t, "byte")] = rapid.Byte().Draw(t, "value")
			c.Set(id, log.Offset(rapid.Int64Range(0, 1<<62).Draw(t, "next")))
		}
		raw, err := c.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		var back Cursor
		if err := back.UnmarshalCBOR(raw); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, back, cmp.AllowUnexported(Cursor{}, place{})); d != "" || back.IsZero() != c.IsZero() {
			t.Fatalf("%x: %s", raw, d)
		}
	})
}

// What a moment has left beyond a place: where the place is short of it, and where it knows nothing.
func TestCursorBeyond(t *testing.T) {
	id := func(i int32) log.PartitionID { return log.PartitionID{Index: i} }
	cursor := func(at map[int32]log.Offset) (c Cursor) {
		for i, next := range at {
			c.Set(id(i), next)
		}
		return c
	}
	moment := cursor(map[int32]log.Offset{0: 10, 1: 10, 2: 10, 3: 10})
	place := cursor(map[int32]log.Offset{0: 9, 1: 10, 2: 11, 9: 1})
	if got, want := moment.Beyond(place), cursor(map[int32]log.Offset{0: 10, 3: 10}); !got.Equal(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := moment.Beyond(moment); !got.IsZero() {
		t.Errorf("%+v beyond itself", got)
	}
}

func TestCursorLower(t *testing.T) {
	var c Cursor
	a, b := log.PartitionID{Index: 1}, log.PartitionID{Index: 2}
	c.Set(a, 10)
	clone := c.Clone()
	c.Lower(a, 12)
	if next, _ := c.Next(a); next != 10 {
		t.Fatalf("Lower raised to %d", next)
	}
	c.Lower(a, 7)
	c.Lower(b, 3)
	if next, _ := c.Next(a); next != 7 {
		t.Fatalf("Lower left %d", next)
	}
	if next, ok := c.Next(b); !ok || next != 3 {
		t.Fatalf("Lower of an unknown partition left %d", next)
	}
	if next, _ := clone.Next(a); next != 10 || clone.Len() != 1 {
		t.Fatal("the clone moved too")
	}
}

func FuzzParseFilter(f *testing.F) {
	f.Add("$share/g/a/+/#", "a/b")
	f.Add("+/#", "$x")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		group, rest, err := ParseFilter(filter)
		if err != nil {
			if !errors.Is(err, ErrFilter) {
				t.Fatalf("%v is not ErrFilter", err)
			}
			return
		}
		if again, same, err := ParseFilter(rest); group == "" && (err != nil || same != rest || again != "") {
			t.Fatalf("%q parsed to %q, which does not parse the same: %v", filter, rest, err)
		}
		if !validTopic([]byte(topic)) {
			return
		}
		var x index
		sub := &subscription{s: &session{}, filter: rest}
		x.put(sub, nil)
		if got, want := len(x.match([]byte(topic), nil)) == 1, naiveMatch(rest, topic); got != want {
			t.Fatalf("%q matches %q: %v, want %v", rest, topic, got, want)
		}
		x.remove(sub)
		if !x.root.empty() {
			t.Fatal("nodes are left")
		}
	})
}

// The scanner reads what log's own reader reads, and never fails worse than with an error.
func FuzzScan(f *testing.F) {
	var bb log.BatchBuilder
	r := published("a/b", "payload", 1, HeaderClient, "c", HeaderExpiry, "17")
	bb.Append(&r)
	bb.Append(&log.Record{Key: []byte("k"), Value: nil})
	f.Add([]byte(bb.Seal(5, 0)))
	f.Fuzz(func(t *testing.T, chunk []byte) {
		var s scanner
		s.reset(chunk, 0)
		var r rawRecord
		var m Message
		first := log.Offset(-1)
		for n := 0; n < 10_000; n++ {
			ok, err := s.scan(&r)
			if err == nil && !ok {
				return
			}
			if err != nil {
				continue
			}
			if r.offset <= first {
				t.Fatalf("offset %d after %d", r.offset, first)
			}
			first = r.offset
			topic, _ := r.topic("log", nil)
			m.load(&r, log.PartitionID{}, topic, 0)
		}
	})
}

func TestScannerAgreesWithReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var bb log.BatchBuilder
		bb.SetCompression(log.Compression(rapid.IntRange(0, 4).Draw(t, "codec")))
		for i := range rapid.IntRange(1, 20).Draw(t, "records") {
			r := log.Record{Timestamp: rapid.Int64Range(0, 1<<50).Draw(t, "ts"), Key: rapid.SliceOf(rapid.Byte()).Draw(t, "key"), Value: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.Headers = append(r.Headers, log.Header{Key: []byte(rapid.String().Draw(t, "name")), Value: []byte(fmt.Sprint(i))})
			}
			bb.Append(&r)
		}
		b := bb.Seal(100, 0)
		var reader log.RecordReader
		if err := reader.Reset(b); err != nil {
			t.Fatal(err)
		}
		var s scanner
		s.reset(b, 0)
		for {
			var want log.Record
			var got rawRecord
			more, err := reader.Next(&want)
			if err != nil {
				t.Fatal(err)
			}
			ok, err := s.scan(&got)
			if err != nil || ok != more {
				t.Fatalf("scan: %v %v, reader: %v", ok, err, more)
			}
			if !more {
				break
			}
			if got.offset != want.Offset || got.timestamp != want.Timestamp || string(got.key) != string(want.Key) || (got.key == nil) != (want.Key == nil) ||
				string(got.value) != string(want.Value) || got.headerCount != len(want.Headers) {
				t.Fatalf("scan %+v, reader %+v", got, want)
			}
		}
		if s.position() != b.NextOffset() {
			t.Fatalf("position %d, want %d", s.position(), b.NextOffset())
		}
	})
}
