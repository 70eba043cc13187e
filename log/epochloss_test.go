package log

import (
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// The power goes when a checkpoint has written part.meta and is not in the journal yet. The journal then cuts the log once more where it was cut before, below the
// log start that part.meta has: an epoch that goes over the cut must not be lost by that, or the log ends in records of no epoch. // A3, H1
func TestEpochOverACutSurvivesALogStartThatPassedIt(t *testing.T) {
	for name, regrow := range map[string]func(t *testing.T, p *Partition, w *commits, l *Log){
		"by records": func(t *testing.T, p *Partition, w *commits, l *Log) { appendN(t, l, w, p, 15, 2) },
		"by a gap": func(t *testing.T, p *Partition, w *commits, l *Log) {
			if err := p.Begin(20); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			w := newCommits()
			l := mustOpen(t, testConfig(mem, "/d", w))
			defer l.Close()
			p := mustCreate(t, l, 0)
			appendN(t, l, w, p, 10, 1)
			appendN(t, l, w, p, 10, 2)
			flushNow(t, l)
			if err := p.Truncate(15); err != nil {
				t.Fatal(err)
			}
			regrow(t, p, w, l)
			if err := p.SetLogStart(20); err != nil {
				t.Fatal(err)
			}
			var disk *vfs.Mem
			l.maintenance.Lock()
			err := l.checkpointNow(false, func(it item) error {
				disk = mem.CrashClone(0, nil)
				done := make(chan error, 1)
				it.durable = done
				l.c.submit(it)
				return l.await(done)
			})
			l.maintenance.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "/d"); err != nil || len(r.Damaged) > 0 {
				t.Errorf("inspection: %+v, %v", r.Damaged, err)
			}
			again := mustOpen(t, testConfig(disk, "/d", nil))
			defer again.Close()
			q := again.Partition(testID(0))
			if q.DurableEpoch() != p.DurableEpoch() || q.LogEnd() != p.LogEnd() || q.LogStart() != 20 {
				t.Errorf("log %d to %d, durable in epoch %d; it was 20 to %d in %d", q.LogStart(), q.LogEnd(), q.DurableEpoch(), p.LogEnd(), p.DurableEpoch())
			}
			e, end := p.EpochEnd(2)
			if qe, qend := q.EpochEnd(2); qe != e || qend != end {
				t.Errorf("epoch %d ends at %d, want %d at %d", qe, qend, e, end)
			}
			if err := again.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// appendN appends records of an epoch, each a batch of its own, and waits for them.
func appendN(t *testing.T, l *Log, w *commits, p *Partition, n int, e Epoch) {
	t.Helper()
	for range n {
		if _, err := p.Append(&Record{Value: []byte("v")}, e); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
}
