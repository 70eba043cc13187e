package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

func demoRecord(partition int32, offset, seq int64) *kgo.Record {
	return &kgo.Record{Partition: partition, Offset: offset, Key: []byte("sim-0"), Value: fmt.Appendf(nil, `{"seq":%d}`, seq)}
}

func demoLedger(acked int64) *firmwaresim.Ledger {
	d := firmwaresim.DeviceLedger{Device: "sim-0", Acked: acked, LastSeq: acked - 1}
	d.AckedSeqs.AddRange(0, acked)
	return &firmwaresim.Ledger{Devices: []firmwaresim.DeviceLedger{d}}
}

// A record that was acknowledged and that the group was not given is what a demo must not pass over.
func TestDemoTallyTellsWhatIsMissing(t *testing.T) {
	tally := newDemoTally("telemetry", map[int32]int64{0: 10})
	for i, seq := range []int64{7, 0, 1, 1, 3} { // 7 is of an earlier run; 1 was sent twice; 2 is lost
		tally.add(demoRecord(0, 9+int64(i), seq))
	}
	var out strings.Builder
	err := tally.close(&out, demoLedger(4), 2, 1, true)
	if exitCode(err) != exitFailed || !strings.Contains(fmt.Sprint(err), "1 acknowledged records are missing from topic telemetry") {
		t.Errorf("close: %v", err)
	}
	for _, want := range []string{"4 records acknowledged, 4 consumed, 1 acknowledged and missing, 1 duplicates.", "Nodes were gone 2 times, and were started again 1 time."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if err := tally.close(&out, demoLedger(4), 2, 1, false); err != nil || !strings.Contains(out.String(), "1 acknowledged and not read") {
		t.Errorf("close of a topic that was not read to its end: %v\n%s", err, out.String())
	}
	if missing, duplicates := tally.device("sim-0"); missing != 1 || duplicates != 1 {
		t.Errorf("device: %d missing, %d duplicates", missing, duplicates)
	}
}

// A group may be given records again after its coordinator has moved: they are no duplicates in the log.
func TestDemoTallyCountsARecordOnce(t *testing.T) {
	tally := newDemoTally("telemetry", nil)
	for i, offset := range []int64{0, 1, 0, 1, 2} {
		if again := i == 2 || i == 3; tally.add(demoRecord(3, offset, offset)) == again {
			t.Errorf("offset %d: taken for new: %v", offset, !again)
		}
	}
	if left := tally.below(map[int32]int64{3: 4, 5: 2}); left != 3 {
		t.Errorf("%d records are left to read, want 3", left)
	}
	var out strings.Builder
	if err := tally.close(&out, demoLedger(3), 0, 0, true); err != nil {
		t.Error(err)
	}
	if got, want := strings.TrimSpace(out.String()), "At the end: 3 records acknowledged, 3 consumed, 0 acknowledged and missing, 0 duplicates."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDemoPortsAvoidWhatIsInUse(t *testing.T) {
	first, err := demoPorts(demoMaxNodes)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{first[0].mqtt, first[2].gossip} {
		held, err := hold(addr)
		if err != nil {
			t.Skip("another process was faster: ", err)
		}
		for _, h := range held {
			defer h.Close()
		}
	}
	second, err := demoPorts(demoMaxNodes)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{first[0].mqtt: true, first[2].gossip: true}
	for _, a := range second {
		for _, addr := range []string{a.mqtt, a.kafka, a.http, a.gossip, a.raft} {
			if seen[addr] {
				t.Errorf("%s is given away twice", addr)
			}
			seen[addr] = true
		}
	}
}
