package log

import (
	"errors"
	"testing"
	"time"
)

// BenchmarkOpenFullJournal starts a log whose journal is as full as it gets: the process was killed while no checkpoint
// came through. One op is one Open; all of the journal is verified, and written into segments again (J7).
func BenchmarkOpenFullJournal(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		cfg := Config{Dir: b.TempDir(), BallastBytes: -1}
		bytes := fillJournal(b, cfg)
		b.StartTimer()
		l, err := Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if r := l.Recovery(); r.Bytes < bytes*9/10 {
			b.Fatalf("%d bytes replayed of %d: the journal was not full", r.Bytes, bytes)
		}
		b.ReportMetric(float64(l.Recovery().Bytes)/(1<<20), "replayed-MiB")
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// fillJournal appends to 16 partitions until commits wait for a journal file, and lets go of the directory as a dead
// process does. It returns the bytes of batches in the journal.
func fillJournal(tb testing.TB, cfg Config) int64 {
	l, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ps := make([]*Partition, 16)
	for i := range ps {
		if ps[i], err = l.Create(testID(int32(i)), "t", PartitionConfig{}); err != nil {
			tb.Fatal(err)
		}
	}
	l.maintenance.Lock() // no checkpoint, and no new files but these
	for range l.cfg.JournalFiles {
		s, err := l.j.create(l.j.bytes, nil)
		if err != nil {
			tb.Fatal(err)
		}
		l.j.addFree(s)
	}
	r := benchRecord()
	for n := 0; l.Stats().JournalFull == 0; n++ {
		for range 200 {
			if _, err := ps[n%len(ps)].Append(&r, 1); errors.Is(err, ErrBusy) {
				time.Sleep(time.Millisecond)
				break
			} else if err != nil {
				tb.Fatal(err)
			}
		}
	}
	bytes := l.Stats().CommitBytes
	l.fail(errors.New("killed"))
	l.maintenance.Unlock()
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		tb.Fatal(err)
	}
	return bytes
}
