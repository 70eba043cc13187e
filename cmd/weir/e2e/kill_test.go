package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ledger is what weir-sim writes: per device what was sent, what was acknowledged, and the last sequence number.
type ledger struct {
	Devices []struct {
		Device    string     `json:"device"`
		Acked     int64      `json:"acked"`
		AckedSeqs [][2]int64 `json:"acked_seqs"` // half-open ranges
	} `json:"devices"`
}

// The promise itself: whatever moment the node is killed at, each reading that a device saw acknowledged is in the log
// afterwards. The log is read with kcat and compared with the fleet's own ledger. // A5, M1
func TestKillLosesNothingAcknowledged(t *testing.T) {
	needCommand(t, "kcat")
	kills, seed := 5, uint64(time.Now().UnixNano())
	if os.Getenv("WEIR_SOAK") != "" {
		kills = 200
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	n := startNode(t)
	report := filepath.Join(t.TempDir(), "ledger.json")
	fleet := exec.Command(bins.sim, "--broker", "mqtt://"+n.mqtt, "--devices", "20", "--profile", "thermostat",
		"--rate", "50/s", "--duration", fmt.Sprint(time.Duration(kills+2)*2*time.Second), "--seed", "1", "--report", report)
	out := &lockedBuffer{}
	fleet.Stdout, fleet.Stderr = out, out
	if err := fleet.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fleet.Wait() }()
	for range kills {
		select { // not synchronisation: the moment of death is random on purpose
		case <-time.After(time.Duration(500+rng.IntN(1500)) * time.Millisecond):
		case err := <-ended:
			t.Fatalf("the fleet ended early: %v\n%s", err, out)
		}
		n.kill()
		n.start()
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("the fleet: %v\n%s", err, out)
		}
	case <-time.After(time.Duration(kills)*4*time.Second + patience):
		_ = fleet.Process.Kill()
		t.Fatalf("the fleet does not end\n%s", out)
	}

	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var l ledger
	if err := json.Unmarshal(text, &l); err != nil {
		t.Fatal(err)
	}
	stored := map[string]map[int64]bool{}
	for _, line := range kcatRead(t, n, "telemetry", "%k %s") {
		key, value, _ := strings.Cut(line, " ")
		var reading struct{ Seq int64 }
		if err := json.Unmarshal([]byte(value), &reading); err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		if stored[key] == nil {
			stored[key] = map[int64]bool{}
		}
		stored[key][reading.Seq] = true
	}
	var acked int64
	for _, d := range l.Devices {
		acked += d.Acked
		for _, r := range d.AckedSeqs {
			for seq := r[0]; seq < r[1]; seq++ {
				if !stored[d.Device][seq] {
					t.Errorf("%s: reading %d was acknowledged and is not in the log", d.Device, seq)
				}
			}
		}
	}
	if acked < int64(kills)*100 {
		t.Errorf("only %d readings were acknowledged: the test proves nothing", acked)
	}
	t.Logf("%d kills, %d readings acknowledged, all of them in the log", kills, acked)
}
