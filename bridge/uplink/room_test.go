package uplink

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// lastOfMinute is a lane that puts nearly nothing together where each record has a key of its own.
var lastOfMinute = &Thin{After: time.Hour, LastOver: time.Minute}

// chunkOf reads a log of batches with a hundred records of the value, each with a key of its own, through one lane into one commit.
func chunkOf(t *testing.T, thin *Thin, batches, room int, value []byte) *fakeTarget {
	t.Helper()
	l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{1}}, topic: "t"}
	for range batches {
		var b log.BatchBuilder
		for i := range 100 {
			b.Append(&log.Record{Key: fmt.Appendf(nil, "k%d", int(l.end)+i), Timestamp: 1, Value: value})
		}
		l.batches = append(l.batches, log.Batch(append([]byte(nil), b.Seal(l.end, 1)...)))
		l.end += 100
	}
	l.hw = l.end
	f := New(Options{Config: Config{Shards: 1, Lanes: []Lane{{Topics: []string{"*"}, Thin: thin}}}, Cluster: "edge"})
	f.squeeze.saw("there", 1000, 100)
	p := &part{f: f, log: l, rule: f.rules[0], remote: "there"}
	target := &fakeTarget{c: &centre{calm: true}}
	c := chunk{f: f, t: target, began: time.Now(), room: room, left: maxRecords, moved: map[*part][]Span{}, larger: func() {}}
	if err := c.read(t.Context(), p, Span{0, l.end}); err != nil {
		t.Fatal(err)
	}
	return target
}

// What thinning holds back is charged as the rest is: in bytes on the link. Charged in its own, a commit was full with a tenth of what the link takes, and the pace grew past it.
func TestThinnedRecordsAreChargedOnTheLink(t *testing.T) {
	value := bytes.Repeat([]byte("x"), 900)
	plain := chunkOf(t, nil, 20, 64<<10, value)
	thinned := chunkOf(t, lastOfMinute, 20, 64<<10, value)
	if n, of := len(thinned.records), len(plain.records); n < of*9/10 || n > of*11/10 {
		t.Errorf("%d records in a commit where they are thinned, %d where they are not", n, of)
	}
}

func TestThinnedRecordsOfACommitAreBounded(t *testing.T) {
	if target := chunkOf(t, lastOfMinute, 200, maxChunk, []byte("1")); len(target.records) > maxRecords+1 {
		t.Errorf("%d records in a commit, at most %d", len(target.records), maxRecords)
	}
}

// A commit that failed has taught nothing of what is in it: what shrank to nothing before may shrink no more, and all that is sent would be too much for the link, for ever.
func TestAFailureForgetsWhatCompressionLeft(t *testing.T) {
	var s squeeze
	s.saw("t", 1000, 1)
	if s.failed(); s.share("t") != 1 {
		t.Errorf("a share of %v is still believed", s.share("t"))
	}
}

// A record that came down is not carried, so it cannot stand for one of this cluster.
func TestWhatCameDownOutdatesNothingOnDisk(t *testing.T) {
	c := Config{Name: "u", Shards: 1, OnFull: onFullThin, Lanes: []Lane{{Topics: []string{"*"}, Thin: lastOfMinute}}, Down: []Down{{Topic: "t"}}}
	l := newScene().log
	l.topic = "t"
	l.putRecord(log.Record{Key: []byte("k"), Timestamp: 1000, Value: []byte("from here")})
	l.putRecord(log.Record{Key: []byte("k"), Timestamp: 2000, Value: []byte("from there"), Headers: []log.Header{{Key: []byte("mqtt.topic"), Value: []byte("x")}, {Key: []byte(ViaHeader), Value: []byte("edge/u/t/0/0")}}})
	for range 3 {
		l.putRecord(log.Record{Key: []byte("other"), Timestamp: time.Now().UnixMilli(), Value: []byte("young")})
	}
	l.thin(t, c.Thinner("t"))
	f := New(Options{Config: c, Cluster: "edge", Logger: slog.New(slog.DiscardHandler)})
	p := &part{f: f, log: l, rule: f.rules[0], downward: true}
	target := &fakeTarget{c: &centre{calm: true}}
	k := chunk{f: f, t: target, began: time.Now(), room: 1 << 20, moved: map[*part][]Span{}, larger: func() {}}
	if err := k.read(t.Context(), p, Span{0, l.end}); err != nil {
		t.Fatal(err)
	}
	if len(target.records) == 0 || string(target.records[0].Value) != "from here" {
		t.Errorf("the target gets %d records, and not the one of this cluster first", len(target.records))
	}
}
