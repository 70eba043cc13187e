package firmwaresim

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReadRecording(t *testing.T) {
	const noon = 1385985600000 // 2013-12-02 12:00:00 UTC
	for _, c := range []struct {
		name, csv string
		ts        []int64
		err       string
	}{
		{"date and time", "timestamp,value\n2013-12-02 12:00:00,73.5\n2013-12-02 12:05:00,74\n", []int64{noon, noon + 300_000}, ""},
		{"other columns and order", "site,value,timestamp\nx,1,2013-12-02T12:00:00Z\n", []int64{noon}, ""},
		{"seconds and milliseconds", "timestamp,value\n1385985600,1\n1385985600001,2\n", []int64{noon, noon + 1}, ""},
		{"no such column", "time,value\n1,1\n", nil, "want the columns timestamp and value"},
		{"clock set back", "timestamp,value\n1385985601,1\n1385985600,2\n", []int64{noon + 1000, noon}, ""},
		{"not a number", "timestamp,value\n1385985600,warm\n", nil, `line 2: value "warm" is not a number`},
		{"not a time", "timestamp,value\nnoon,1\n", nil, `line 2: timestamp "noon"`},
		{"empty", "timestamp,value\n", nil, "no rows"},
		{"nothing", "", nil, "no header line"},
	} {
		r, err := ReadRecording(strings.NewReader(c.csv))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || r.Len() != len(c.ts) {
			t.Errorf("%s: %v, %v", c.name, r, err)
			continue
		}
		for i, want := range c.ts {
			if ts, _ := r.At(i); ts != want {
				t.Errorf("%s: row %d at %d, want %d", c.name, i, ts, want)
			}
			if i > 0 && r.Gap(i) < 0 {
				t.Errorf("%s: would wait %v before row %d", c.name, r.Gap(i), i)
			}
		}
	}
}

// recording returns the path of a real recording kept beside the project, and ends the test where there is none.
func recording(t *testing.T, name string) string {
	t.Helper()
	for _, up := range []string{"../../shared", "../../../shared"} {
		if found, _ := filepath.Glob(filepath.Join(up, "data", "telemetry", name)); len(found) == 1 {
			return found[0]
		}
	}
	t.Skipf("the recording %s is not beside this checkout (../shared/data/telemetry): real telemetry is not tested here", name)
	return ""
}

func TestOpenRealRecording(t *testing.T) {
	r, err := OpenRecording(recording(t, "machine_temperature_system_failure.csv"))
	if err != nil {
		t.Fatal(err)
	}
	first, v := r.At(0)
	last, _ := r.At(r.Len() - 1)
	if r.Len() < 20_000 || time.UnixMilli(first).UTC().Format(time.DateTime) != "2013-12-02 21:15:00" || v != 73.96732207 {
		t.Errorf("%d rows from %d with %v", r.Len(), first, v)
	}
	if days := (last - first) / 86_400_000; days < 70 || days > 90 {
		t.Errorf("the recording spans %d days", days)
	}
}
