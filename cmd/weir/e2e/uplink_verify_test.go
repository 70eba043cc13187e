package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// verified is what `weir --json bridge verify` says.
type verified struct {
	Partitions []struct {
		Topic                                             string
		Partition                                         int32
		Records, Arrived, Older, Waiting, Dead, Reordered int64
		LeftOut                                           int64 `json:"left_out"`
		Filtered, Thinned, Averaged, Full                 int64
		Missing, Duplicates, Differing, Strange           struct {
			Count  int64
			Ranges [][2]int64
		}
	}
	Notes     []string
	Forgotten bool
}

// verify asks a node's uplink; ok is the exit.
func (n *node) verify(args ...string) (v verified, ok bool) {
	n.t.Helper()
	out, stderr, err := execute("", bins.weir, append([]string{"--bootstrap", n.kafka, "--json", "bridge", "verify", "central"}, args...)...)
	if jerr := json.Unmarshal([]byte(out), &v); jerr != nil {
		n.t.Fatalf("bridge verify: %v: %s%s", err, out, stderr)
	}
	return v, err == nil
}

// Verified is clean after a plain run, and names each fault that is put into the target: a record written again, one that says to be of an offset whose record is
// another, one that is gone.
func TestBridgeVerifyFindsFaults(t *testing.T) {
	t.Parallel()
	centre := startNode(t)
	edge := startEdge(t, centre.kafka, []string{"topics: [telemetry]"})
	edge.makeTopic("elsewhere")
	produceLines(t, edge.kafka, "telemetry", 0, 700)
	edge.awaitUplink("all is carried", carriedAll)
	v, ok := edge.verify()
	var records int64
	for _, p := range v.Partitions {
		records += p.Records
		if p.Arrived != p.Records || p.Waiting+p.Reordered != 0 {
			t.Errorf("%+v", p)
		}
	}
	if !ok || records != 700 || len(v.Notes) > 0 {
		t.Fatalf("a target that is whole: %v %+v", ok, v)
	}

	all := readTopic(t, centre.kafka, atCentre(t, "telemetry"), 700)
	at := all[0].Partition
	var mine []*kgo.Record
	for _, r := range all {
		if r.Partition == at {
			mine = append(mine, r)
		}
	}
	again := *mine[20]
	later := *mine[30] // comes first when the head is deleted below, and is another one
	later.Value = []byte("changed")
	stray := *mine[50] // as one of an aborted transaction would be
	stray.Headers = []kgo.RecordHeader{{Key: "weir.origin", Value: []byte(strings.TrimRight(header(mine[50], "weir.origin"), "0123456789") + "1000000")}}
	produceRecords(t, centre.kafka, &again, &later, &stray)
	offset := func(r *kgo.Record) (n int64) {
		text := header(r, "weir.origin")
		_, _ = fmt.Sscan(text[strings.LastIndex(text, "/")+1:], &n)
		return n
	}
	if v, ok = edge.verify(); ok {
		t.Error("twice: exit 0")
	}
	want := map[int64]bool{offset(mine[20]): true, offset(mine[30]): true}
	for _, p := range v.Partitions {
		for _, r := range p.Duplicates.Ranges {
			for o := r[0]; o < r[1]; o++ {
				if p.Partition != partitionOf(mine[20]) || !want[o] {
					t.Errorf("%s/%d offset %d is not there twice", p.Topic, p.Partition, o)
				}
				delete(want, o)
			}
		}
		if p.Missing.Count+p.Differing.Count > 0 || (p.Partition == partitionOf(mine[50])) != (p.Strange.Count == 1 && p.Strange.Ranges[0][0] == 1000000) {
			t.Errorf("%+v", p)
		}
	}
	if len(want) > 0 {
		t.Errorf("not found to be there twice: %v", want)
	}

	if _, err := kafkaAdmin(t, centre.kafka).DeleteRecords(t.Context(), beginAt(atCentre(t, "telemetry"), at, mine[40].Offset)); err != nil {
		t.Fatal(err)
	}
	if v, ok = edge.verify(); ok {
		t.Error("missing: exit 0")
	}
	for _, p := range v.Partitions {
		if p.Partition != partitionOf(mine[0]) {
			if p.Missing.Count+p.Duplicates.Count+p.Differing.Count > 0 {
				t.Errorf("%+v", p)
			}
			continue
		}
		if p.Missing.Count != 38 || p.Differing.Count != 1 || p.Differing.Ranges[0][0] != offset(mine[30]) || p.Duplicates.Count != 0 {
			t.Errorf("%+v", p)
		}
	}
	if len(v.Notes) != 1 || !strings.Contains(v.Notes[0], fmt.Sprintf("deleted what is before offset %d of %s", mine[40].Offset, atCentre(t, "telemetry"))) {
		t.Errorf("notes %q", v.Notes)
	}
	for args, want := range map[string]string{"--topic elsewhere": "carries no such topic", "--target 127.0.0.1:1": "refused"} {
		out, err := tryRun(t, "", bins.weir, append([]string{"--bootstrap", edge.kafka, "bridge", "verify", "central"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v %s", args, err, out)
		}
	}
	if _, err := kafkaAdmin(t, centre.kafka).DeleteTopic(t.Context(), "weir.uplinks"); err != nil {
		t.Fatal(err)
	}
	if v, _ = edge.verify(); !strings.Contains(strings.Join(v.Notes, "\n"), "no cursors of central") || !v.Forgotten {
		t.Errorf("without cursors at the target: notes %q", v.Notes)
	}
}

// partitionOf is the source's.
func partitionOf(r *kgo.Record) (p int32) {
	_, _ = fmt.Sscan(strings.Split(header(r, "weir.origin"), "/")[2], &p)
	return p
}

// beginAt is where a partition is to begin.
func beginAt(topic string, partition int32, offset int64) kadm.Offsets {
	o := kadm.Offsets{}
	o.Add(kadm.Offset{Topic: topic, Partition: partition, At: offset})
	return o
}
