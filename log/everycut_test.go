package log

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// everyCut is a disk that calls before, ahead of each change.
type everyCut struct {
	*vfs.Mem
	mu     sync.Mutex
	before func(op string)
	lazy   string // syncs of files that match do nothing
}

func (d *everyCut) at(op, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.before != nil {
		d.before(op + " " + name)
	}
}

func (d *everyCut) OpenFile(name string, flag int) (vfs.File, error) {
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		d.at("open", name)
	}
	f, err := d.Mem.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return everyCutFile{f, d}, nil
}

func (d *everyCut) Open(name string) (vfs.File, error) { return d.OpenFile(name, os.O_RDONLY) }

func (d *everyCut) Create(name string) (vfs.File, error) {
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}
func (d *everyCut) Remove(name string) error { d.at("remove", name); return d.Mem.Remove(name) }
func (d *everyCut) RemoveAll(name string) error {
	d.at("remove all", name)
	return d.Mem.RemoveAll(name)
}
func (d *everyCut) Rename(from, to string) error {
	d.at("rename", from)
	return d.Mem.Rename(from, to)
}
func (d *everyCut) MkdirAll(name string) error { d.at("mkdir", name); return d.Mem.MkdirAll(name) }
func (d *everyCut) SyncDir(name string) error {
	d.at("sync directory", name)
	return d.Mem.SyncDir(name)
}

type everyCutFile struct {
	vfs.File
	d *everyCut
}

func (f everyCutFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.at("write", f.Name())
	return f.File.WriteAt(b, at)
}
func (f everyCutFile) Truncate(n int64) error {
	f.d.at("truncate", f.Name())
	return f.File.Truncate(n)
}
func (f everyCutFile) Sync() error {
	f.d.at("sync", f.Name())
	if lazy, _ := filepath.Match(f.d.lazy, filepath.Base(f.Name())); lazy {
		return nil
	}
	return f.File.Sync()
}

// scripted is a small run that has everything transactions and compaction do to a disk, and what it may hold the log to at any moment.
type scripted struct {
	t *testing.T
	l *Log
	w *commits

	plain ledger // batches of transactions, some aborted, over several segments, with its oldest records deleted in between
	keyed struct {
		sync.Mutex
		p       *Partition
		entries []keyedEntry // by offset; markers are entries without key
	}
	doomed struct { // a topic that is deleted
		sync.Mutex
		p           *Partition
		asked, gone bool
	}
	seq map[string]int32
}

// keyedEntry is a record of the compacted topic.
type keyedEntry struct {
	key, value string
	producer   int64
	marker     bool
	commit     bool
}

var (
	scriptedPlain = PartitionConfig{SegmentBytes: 3 * kib, IndexIntervalBytes: 512}
	scriptedKeyed = PartitionConfig{Compact: true, SegmentBytes: 2 * kib, IndexIntervalBytes: 512, MinCleanableRatio: 0.01, DeleteRetention: 1}
)

func (s *scripted) run() error {
	for i, pc := range []PartitionConfig{scriptedPlain, scriptedKeyed, scriptedPlain} {
		p, err := s.l.Create(testID(int32(i)), "t", pc)
		if err != nil {
			return err
		}
		switch i {
		case 0:
			s.plain.mu.Lock()
			s.plain.p = p
			s.plain.mu.Unlock()
		case 1:
			s.keyed.Lock()
			s.keyed.p = p
			s.keyed.Unlock()
		case 2:
			s.doomed.Lock()
			s.doomed.p = p
			s.doomed.Unlock()
		}
	}
	for round := range 3 {
		for i := range 12 {
			id := int64(1 + i%3)
			if err := s.transaction(id, (round+i)%3 > 0, round*100+i); err != nil {
				return err
			}
		}
		if round == 0 {
			if _, err := s.doomed.p.Append(&Record{Value: []byte("doomed")}, 1); err != nil {
				return err
			}
		}
		for _, p := range []*Partition{s.plain.p, s.keyed.p} {
			s.w.wait(s.t, s.l, p, p.LogEnd())
			p.SetHighWatermark(p.LogEnd())
		}
		if err := errors.Join(s.l.checkpointPast(), flushSegments(s.l), s.l.compact(s.t.Context(), s.keyed.p)); err != nil {
			return err
		}
		start := s.plain.p.LogStart() + (s.plain.p.LogEnd()-s.plain.p.LogStart())/2 // in the middle of a transaction, as it comes
		s.plain.mu.Lock()
		s.plain.wanted = start
		s.plain.mu.Unlock()
		if err := s.plain.p.SetLogStart(start); err != nil {
			return err
		}
		s.plain.mu.Lock()
		s.plain.start = start
		s.plain.mu.Unlock()
	}
	s.doomed.Lock()
	s.doomed.asked = true
	s.doomed.Unlock()
	if err := s.l.Delete(s.doomed.p.id); err != nil {
		return err
	}
	s.doomed.Lock()
	s.doomed.gone = true
	s.doomed.Unlock()
	return s.l.Close()
}

// transaction is one in both topics; that of producer 3 is left open for a while.
func (s *scripted) transaction(id int64, commit bool, n int) error {
	if err := s.end(id, commit); err != nil { // the one it had
		return err
	}
	for _, p := range []*Partition{s.plain.p, s.keyed.p} {
		_, ended := p.InTransaction(id, 0, false)
		var bb BatchBuilder
		at := fmt.Sprint(p.id, id)
		bb.SetProducer(id, 0, s.seq[at])
		bb.SetFlags(AttrTransactional)
		var values [][]byte
		for i := range 2 {
			r := Record{Key: fmt.Appendf(nil, "key-%d", (n+i)%7), Value: fmt.Appendf(nil, "%d-%d-%d %0100d", id, n, i, 0)}
			if n%5 == 4 && i == 0 && p == s.keyed.p {
				r.Value = nil
			}
			values = append(values, r.Value)
			bb.Append(&r)
			if p == s.keyed.p {
				s.keyed.Lock()
				s.keyed.entries = append(s.keyed.entries, keyedEntry{key: string(r.Key), value: string(r.Value), producer: id})
				s.keyed.Unlock()
			}
		}
		s.seq[at] += 2
		if p == s.plain.p {
			s.plain.submit(values, 1)
		}
		if _, _, err := p.AppendVerified(bb.Seal(0, 0), 1, Verified{Ended: ended}); err != nil {
			return err
		}
	}
	if id == 3 {
		return nil
	}
	return s.end(id, commit)
}

func (s *scripted) end(id int64, commit bool) error {
	for _, p := range []*Partition{s.plain.p, s.keyed.p} {
		if open, _ := p.InTransaction(id, 0, false); !open {
			continue
		}
		b := Marker{ProducerID: id, Commit: commit}.Batch(0)
		if p == s.plain.p {
			s.plain.submit([][]byte{{0, 0, 0, 0, 0, 0}}, 1)
		} else {
			s.keyed.Lock()
			s.keyed.entries = append(s.keyed.entries, keyedEntry{producer: id, marker: true, commit: commit})
			s.keyed.Unlock()
		}
		if _, _, err := p.AppendBatch(b, 1); err != nil {
			return err
		}
	}
	return nil
}

// scriptedPromise is what the log answers for at one moment.
type scriptedPromise struct {
	plain                *promise
	keyed                []keyedEntry
	keyedAcked           Offset
	doomed, asked, gone_ bool
}

func (s *scripted) promise() (pr scriptedPromise) {
	s.plain.mu.Lock()
	made := s.plain.p != nil
	s.plain.mu.Unlock()
	if made {
		p := s.plain.promise()
		pr.plain = &p
	}
	s.keyed.Lock()
	defer s.keyed.Unlock()
	if s.keyed.p != nil {
		pr.keyedAcked = s.keyed.p.Durable()
	}
	pr.keyed = slices.Clone(s.keyed.entries)
	s.doomed.Lock()
	defer s.doomed.Unlock()
	pr.doomed, pr.asked, pr.gone_ = s.doomed.p != nil, s.doomed.asked, s.doomed.gone
	return pr
}

// check opens a disk twice, and goes on writing on it the first time.
func (pr *scriptedPromise) check(disk *vfs.Mem) error {
	for again := range 2 {
		l, err := Open(testConfig(disk, "d", nil))
		if err != nil {
			return fmt.Errorf("start %d: %w", again, err)
		}
		if err := errors.Join(pr.look(l), l.Close()); err != nil {
			return fmt.Errorf("start %d: %w", again, err)
		}
	}
	return nil
}

func (pr *scriptedPromise) look(l *Log) error {
	if pr.plain != nil {
		if err := pr.plain.check(l.Partition(testID(0)), false); err != nil {
			return fmt.Errorf("plain: %w", err)
		}
	}
	if p := l.Partition(testID(1)); p != nil {
		p.SetConfig(scriptedKeyed)
		for pass := range 2 {
			if err := pr.lookKeyed(p); err != nil {
				return fmt.Errorf("compacted, pass %d: %w", pass, err)
			}
			p.SetHighWatermark(p.LogEnd())
			if err := l.compact(context.Background(), p); err != nil {
				return err
			}
		}
	} else if pr.keyedAcked > 0 {
		return errors.New("the compacted topic is gone")
	}
	switch p := l.Partition(testID(2)); {
	case p == nil && pr.doomed && !pr.asked:
		return errors.New("a topic is gone that nobody deleted")
	case p != nil && pr.gone_:
		return errors.New("a deleted topic is back")
	case p != nil && p.Damaged() != "":
		return fmt.Errorf("the deleted topic is damaged: %s", p.Damaged())
	}
	return nil
}

// lookKeyed compares what a reader of committed records sees with the newest committed record of each key.
func (pr *scriptedPromise) lookKeyed(p *Partition) error {
	end := p.Durable()
	if why := p.Damaged(); why != "" || end < pr.keyedAcked || int(end) > len(pr.keyed) {
		return fmt.Errorf("damaged %q, durable end %d, acked %d of %d", why, end, pr.keyedAcked, len(pr.keyed))
	}
	stable := p.LastStable(end)
	want, open := map[string]string{}, map[int64][]keyedEntry{}
	first := map[int64]Offset{}
	type set struct {
		value string
		at    Offset
	}
	newest := map[string]set{}
	lso := end
	for o, e := range pr.keyed[:end] {
		if !e.marker {
			if len(open[e.producer]) == 0 {
				first[e.producer] = Offset(o)
			}
			open[e.producer] = append(open[e.producer], e)
			continue
		}
		delete(open, e.producer)
	}
	for id := range open {
		lso = min(lso, first[id])
	}
	if stable != lso {
		return fmt.Errorf("stable below %d, want %d", stable, lso)
	}
	clear(open)
	at := map[int64][]Offset{}
	for o, e := range pr.keyed[:end] {
		if !e.marker {
			open[e.producer] = append(open[e.producer], e)
			at[e.producer] = append(at[e.producer], Offset(o))
			continue
		}
		for i, x := range open[e.producer] {
			if o := at[e.producer][i]; e.commit && o < stable && newest[x.key].at <= o {
				newest[x.key] = set{x.value, o}
			}
		}
		delete(open, e.producer)
		delete(at, e.producer)
	}
	for k, v := range newest {
		if v.value != "" {
			want[k] = v.value
		}
	}
	got, err := committedTable(p, stable)
	if err == nil && !maps.Equal(want, got) {
		err = fmt.Errorf("table below %d of %d is %.400v, want %.400v", stable, end, got, want)
	}
	return err
}

// committedTable is what a reader of committed records makes of a partition below its last stable offset.
func committedTable(p *Partition, stable Offset) (map[string]string, error) {
	table := map[string]string{}
	aborted := p.Aborted(0, stable)
	var rr RecordReader
	for next := p.LogStart(); next < stable; {
		b, err := p.Read(next, stable, 4*kib, nil)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 { // compaction has taken what was left
			return table, nil
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				return nil, err
			}
			b, next = b[len(batch):], batch.NextOffset()
			if batch.IsControl() || slices.ContainsFunc(aborted, func(a AbortedTransaction) bool {
				return a.ProducerID == batch.ProducerID() && a.First <= batch.BaseOffset() && batch.BaseOffset() < a.Last
			}) {
				continue
			}
			if err := rr.Reset(batch); err != nil {
				return nil, err
			}
			for {
				var r Record
				ok, err := rr.Next(&r)
				if err != nil {
					return nil, err
				}
				if !ok {
					break
				}
				if table[string(r.Key)] = string(r.Value); r.Value == nil {
					delete(table, string(r.Key))
				}
			}
		}
	}
	return table, nil
}

// The power goes at each single write, sync, rename and removal of a run with transactions that are committed and aborted over several segments, compaction of
// what was aborted and of markers, snapshots of producers, deletion of records and of a topic; of what was not synced nothing, half or all is left. (A5, J1–J7, K1, P2)
func TestPowerCutAtEveryChange(t *testing.T) {
	stride := 1
	if raceEnabled || testing.Short() {
		stride = 23
	}
	if err := powerCutAtEveryChange(t, stride, ""); err != nil {
		t.Fatal(err)
	}
}

// The test above sees what it should: where syncs of one kind of file do nothing it finds a broken promise.
func TestPowerCutAtEveryChangeNeedsSyncs(t *testing.T) {
	for _, lazy := range []string{"*.wal", "*.log", "*.clean*", "part.meta*"} {
		t.Run(lazy, func(t *testing.T) {
			err := powerCutAtEveryChange(t, 3, lazy)
			if err == nil {
				t.Errorf("syncs of %s do nothing and no power cut shows it", lazy)
			}
			t.Log(err)
		})
	}
}

func powerCutAtEveryChange(t *testing.T, stride int, lazy string) (broken error) {
	w := newCommits()
	disk := &everyCut{Mem: vfs.NewMem(), lazy: lazy}
	s := &scripted{t: t, w: w, seq: map[string]int32{}, plain: ledger{cut: -1}}
	cuts := 0
	disk.before = func(op string) {
		cuts++
		if s.l == nil || cuts%stride != 0 || broken != nil {
			return
		}
		pr := s.promise()
		for i, keep := range []float64{0, 0.5, 1} {
			if err := pr.check(disk.CrashClone(keep, newRand(uint64(cuts)))); err != nil && broken == nil {
				broken = fmt.Errorf("cut %d, before %s, disk %d: %w", cuts, op, i, err)
			}
		}
	}
	l := mustOpen(t, testConfig(disk, "d", w))
	disk.mu.Lock() // the log makes changes of its own by now
	s.l = l
	disk.mu.Unlock()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if passes := s.l.CompactionStats(); cuts < 300 || passes.Passes < 3 || passes.RecordsKept >= passes.RecordsRead {
		t.Errorf("%d changes, compaction %+v: the script has lost what it is for", cuts, passes)
	}
	return broken
}
