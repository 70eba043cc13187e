package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// telemetry produces readings of devices in order: "a:0" is device a's number 0. An upper-case device sends CBOR.
func telemetry(t *testing.T, addr, topic string, readings ...string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, r := range readings {
		var seq int64
		device, n, _ := strings.Cut(r, ":")
		if _, err := fmt.Sscan(n, &seq); err != nil {
			t.Fatal(err)
		}
		value := firmwaresim.AppendPayload(nil, firmwaresim.JSON, seq, 1, nil)
		if device != strings.ToLower(device) {
			value = firmwaresim.AppendPayload(nil, firmwaresim.CBOR, seq, 1, nil)
		}
		rec := &kgo.Record{Key: []byte(device), Value: value}
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// audited runs the audit and returns its report and error.
func audited(t *testing.T, addr string, c auditCmd) (*auditReport, error) {
	t.Helper()
	g, out := testGlobals(t, addr)
	g.JSON = true
	if c.From == "" {
		c.From = "beginning"
	}
	if c.FirstSeq == 0 {
		c.FirstSeq = -1
	}
	runErr := c.Run(g)
	var rep auditReport
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		t.Fatalf("%v: %s (%v)", err, out, runErr)
	}
	return &rep, runErr
}

func TestAuditFindsGapsDuplicatesAndReorderings(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(3, "t"))
	telemetry(t, tl.addr, "t",
		"a:0", "a:1", "a:2", "B:0", "B:1", // clean
		"c:0", "c:3", "c:4", "c:9", // 1-2 and 5-8 missing
		"d:0", "d:1", "d:1", "d:0", // repeated
		"E:0", "E:2", "E:1", "E:3", // overtaken
		"f:1", // 0 missing
	)
	rep, err := audited(t, tl.addr, auditCmd{Topic: "t"})
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(), "7 sequence numbers missing in 3 gaps") {
		t.Errorf("verdict %v", err)
	}
	type figures struct {
		records, first, last, missing, dup, reordered int64
		gaps                                          string
	}
	want := map[string]figures{
		"a": {3, 0, 2, 0, 0, 0, ""},
		"B": {2, 0, 1, 0, 0, 0, ""},
		"c": {4, 0, 9, 6, 0, 0, "1-2,5-8"},
		"d": {4, 0, 1, 0, 2, 0, ""},
		"E": {4, 0, 3, 0, 0, 1, ""},
		"f": {1, 1, 1, 1, 0, 0, "0"},
	}
	for _, d := range rep.Devices {
		got := figures{d.Records, d.First, d.Last, d.Missing, d.Duplicates, d.Reordered, ranges(d.Gaps)}
		if got != want[d.Device] {
			t.Errorf("%s: %+v, want %+v", d.Device, got, want[d.Device])
		}
		delete(want, d.Device)
	}
	if len(want) > 0 || rep.Records != 18 {
		t.Errorf("not reported: %v; %d records", want, rep.Records)
	}
	if _, err := audited(t, tl.addr, auditCmd{Topic: "t", From: "end"}); err != nil {
		t.Errorf("nothing read, but %v", err)
	}
}

func TestAuditFromTheMiddleDoesNotMissTheBeginning(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	telemetry(t, tl.addr, "t", "a:0", "a:1", "a:2", "a:3")
	if rep, err := audited(t, tl.addr, auditCmd{Topic: "t", From: "2"}); err != nil || rep.Devices[0].First != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := audited(t, tl.addr, auditCmd{Topic: "t", From: "2", FirstSeq: 1}); exitCode(err) != exitFailed {
		t.Errorf("--first-seq 1: %v", err)
	}
}

func TestAuditAgainstALedger(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	telemetry(t, tl.addr, "t", "a:0", "a:1", "a:2", "b:0")
	write := func(devices ...firmwaresim.DeviceLedger) string {
		led := firmwaresim.Ledger{Devices: devices}
		path := filepath.Join(t.TempDir(), "ledger.json")
		if err := led.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	device := func(id string, acked int64) firmwaresim.DeviceLedger {
		d := firmwaresim.DeviceLedger{Device: id, Sent: acked, Acked: acked, LastSeq: acked - 1}
		d.AckedSeqs.AddRange(0, acked)
		return d
	}
	// Stored but not acked is fine: the ack was lost on the way.
	if rep, err := audited(t, tl.addr, auditCmd{Topic: "t", Ledger: write(device("a", 2), device("b", 1))}); err != nil || rep.Ledger.Acked != 3 {
		t.Errorf("%+v, %v", rep, err)
	}
	// Acked at the tail but not stored shows in no gap: only the ledger knows. So does a device of which nothing is left.
	rep, err := audited(t, tl.addr, auditCmd{Topic: "t", Ledger: write(device("a", 5), device("b", 1), device("gone", 2))})
	if exitCode(err) != exitFailed || rep.Ledger.Missing != 4 || !strings.Contains(err.Error(), "4 acked records are not in the topic") {
		t.Errorf("%+v, %v", rep.Ledger, err)
	}
	g, _ := testGlobals(t, tl.addr)
	if err := (&auditCmd{Topic: "t", From: "beginning", Ledger: "/nowhere"}).Run(g); exitCode(err) != exitUsage {
		t.Errorf("no ledger: %v", err)
	}
}

func TestAuditOfATopicWithoutSequences(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t", "empty"))
	tl.ok("k:hello\nk:{\"seq\":\"x\"}\nk:{\"seq\":-1}\n", "produce", "t", "--key-sep", ":")
	if rep, err := audited(t, tl.addr, auditCmd{Topic: "t"}); exitCode(err) != exitFailed || rep.NoSequence != 3 {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := audited(t, tl.addr, auditCmd{Topic: "empty"}); err != nil {
		t.Error(err)
	}
}

func TestAnInterruptedAuditIsNoSuccess(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t"))
	telemetry(t, tl.addr, "t", "a:0")
	g, _ := testGlobals(t, tl.addr)
	ctx, cancel := context.WithCancel(g.Ctx)
	cancel()
	g.Ctx = ctx
	if err := (&auditCmd{Topic: "t", From: "beginning", FirstSeq: -1}).Run(g); exitCode(err) != exitFailed {
		t.Errorf("interrupted: %v", err)
	}
}

func TestAuditTellsTheDeviceByHeaderBeforeKey(t *testing.T) {
	a := newAudit()
	for i, r := range []*kgo.Record{
		{Key: []byte("plant-1/m1"), Headers: []kgo.RecordHeader{{Key: "mqtt.topic", Value: []byte("x")}, {Key: "mqtt.client", Value: []byte("d1")}}},
		{Key: []byte("d1")},
		{},
	} {
		r.Value = firmwaresim.AppendPayload(nil, firmwaresim.CBOR, int64(i), 1, nil)
		if err := a.record(r); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.devices) != 1 || a.devices["d1"].records != 2 || a.withoutID != 1 {
		t.Errorf("%+v", a)
	}
}

func TestAuditTableNamesOnlyWhatMatters(t *testing.T) {
	a := newAudit()
	for d := range 60 {
		for _, seq := range []int64{0, 1, 2} {
			if d == 7 && seq == 1 {
				continue
			}
			r := &kgo.Record{Key: fmt.Appendf(nil, "dev-%d", d), Value: firmwaresim.AppendPayload(nil, firmwaresim.JSON, seq, 1, nil)}
			if err := a.record(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	g, out := testGlobals(t, "")
	if err := a.report("t", 0, nil).print(g, false); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"DEVICE  RECORDS  FIRST  LAST  MISSING  DUPLICATES  REORDERED  GAPS\n" +
		"dev-7         2      0     2        1           0          0     1\n" +
		"59 devices without findings (--all shows them)\n" +
		"179 records of 60 devices: 1 missing in 1 gaps, 0 duplicates, 0 reordered\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

func BenchmarkAuditRecord(b *testing.B) {
	for _, f := range []firmwaresim.Format{firmwaresim.JSON, firmwaresim.CBOR} {
		b.Run(f.String(), func(b *testing.B) {
			p, _ := firmwaresim.ParseProfile("thermostat")
			a := newAudit()
			r := &kgo.Record{Key: []byte("d")}
			b.ReportAllocs()
			for i := range b.N {
				r.Value = firmwaresim.AppendPayload(r.Value[:0], f, int64(i), 1, p.Read(nil, 1, 1, 1))
				if err := a.record(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzPayloadSeq(f *testing.F) {
	f.Add([]byte(`{"seq":3,"ts":1}`))
	f.Add([]byte("\xa1\x63seq\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		seq, ok := payloadSeq(b)
		if !ok {
			return
		}
		again, err := cbor.Marshal(map[string]int64{"seq": seq})
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := payloadSeq(again); !ok || got != seq {
			t.Errorf("%d became %d", seq, got)
		}
	})
}
