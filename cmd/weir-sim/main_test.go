package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// open is a hook that lets everyone do everything.
type open struct{ mochi.HookBase }

func (open) Provides(b byte) bool                                     { return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck }
func (open) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (open) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func standin(t *testing.T) string {
	t.Helper()
	srv := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := srv.AddHook(new(open), nil); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := srv.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return "mqtt://" + tcp.Address()
}

func sim(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestRunReportsEachDevice(t *testing.T) {
	broker := standin(t)
	report := filepath.Join(t.TempDir(), "ledger.json")
	code, out, errOut := sim(t, "--broker", broker, "--devices", "3", "--profile", "vibration", "--format", "cbor", "--rate", "50/s", "--duration", "200ms", "--report", report)
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) != 6 || !strings.HasPrefix(lines[0], "DEVICE") || !strings.HasPrefix(lines[1], "sim-vibration-0") || !strings.HasPrefix(lines[4], "total") {
		t.Fatalf("exit %d\n%s\n%s", code, out, errOut)
	}
	first, err := firmwaresim.ReadLedger(report)
	if err != nil {
		t.Fatal(err)
	}
	if tot := first.Totals(); tot.Acked == 0 || tot.Acked != tot.Sent || first.Format != "cbor" {
		t.Errorf("%+v", tot)
	}

	// Resuming goes on with each device's numbers.
	code, out, errOut = sim(t, "--broker", broker, "--devices", "3", "--profile", "vibration", "--rate", "50/s", "--duration", "100ms", "--resume", report, "--json")
	var second firmwaresim.Ledger
	if err := json.Unmarshal([]byte(out), &second); err != nil || code != 0 {
		t.Fatalf("exit %d, %v\n%s", code, err, errOut)
	}
	for i, d := range second.Devices {
		if lo, _ := d.AckedSeqs.Bounds(); lo != first.Devices[i].LastSeq+1 {
			t.Errorf("%s went on with %d after %d", d.Device, lo, first.Devices[i].LastSeq)
		}
	}
}

func TestReplayRunsToTheEndOfTheRecording(t *testing.T) {
	csv := filepath.Join(t.TempDir(), "r.csv")
	if err := os.WriteFile(csv, []byte("timestamp,value\n2014-01-01 00:00:00,1\n2014-01-01 00:05:00,2\n2014-01-01 00:10:00,3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := sim(t, "--broker", standin(t), "--devices", "2", "--replay", csv, "--speed", "10000x", "-q")
	if f := strings.Fields(out); code != 0 || len(f) < 11 || f[9] != "6" || f[10] != "6" {
		t.Errorf("exit %d\n%s\n%s", code, out, errOut)
	}
}

func TestWrongUse(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"toaster", []string{"--profile", "toaster"}},
		{"--devices 0", []string{"--devices", "0"}},
		{`rate "fast"`, []string{"--rate", "fast"}},
		{"--speed 0x", []string{"--speed", "0x"}},
		{"--duplicates few", []string{"--duplicates", "few"}},
		{"want a share between 0 and 1", []string{"--duplicates", "200%"}},
		{"no-such-file", []string{"--replay", "no-such-file"}},
		{"no-such-file", []string{"--resume", "no-such-file"}},
		{`scheme "http"`, []string{"--broker", "http://x:1"}},
		{"unknown flag", []string{"--nope"}},
	} {
		code, _, errOut := sim(t, c.args...)
		if code != exitUsage || !strings.Contains(errOut, c.want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%v: exit %d, %q", c.args, code, errOut)
		}
	}
	code, _, errOut := sim(t, "--broker", "mqtt://127.0.0.1:1", "--devices", "1", "--rate", "100/s", "--duration", "50ms", "--drain", "50ms")
	if code != exitFailed || !strings.Contains(errOut, "weir serve") {
		t.Errorf("no broker: exit %d, %q", code, errOut)
	}
	if code, out, _ := sim(t, "--help"); code != 0 || !strings.Contains(out, "gps-tracker, energy-meter") {
		t.Errorf("help: exit %d\n%s", code, out)
	}
}
