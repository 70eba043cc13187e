package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// K2: a partition with more than twice as many keys as fit the map of a pass is compacted in several, each within the bound, while a producer goes on; at the end each
// key is there with what it was last set to, once below what no pass has seen.
func TestCompactionOfManyKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("600,000 keys")
	}
	const keys, perBatch = 600_000, 1000
	w := newCommits()
	cfg := testConfig(vfs.NewMem(), "d", w)
	cfg.JournalFileBytes = 4 * mib
	l := mustOpen(t, cfg)
	defer l.Close()
	topic := PartitionConfig{Compact: true, SegmentBytes: 256 * kib, MinCleanableRatio: 1e-9}
	p, err := l.Create(testID(0), "t", topic)
	if err != nil {
		t.Fatal(err)
	}
	last := make(map[uint32]Offset, keys) // of each key
	var bb BatchBuilder
	put := func(first, step uint32) error { // one batch of perBatch keys
		bb.Reset()
		for i := range uint32(perBatch) {
			var key [4]byte
			binary.BigEndian.PutUint32(key[:], (first+i*step)%keys)
			bb.Append(&Record{Timestamp: 1, Key: key[:], Value: []byte("v")})
		}
		base, _, err := p.AppendBatch(bb.Seal(0, 1), 1)
		for i := range uint32(perBatch) {
			last[(first+i*step)%keys] = base + Offset(i)
		}
		return err
	}
	for n := uint32(0); n < keys; n += perBatch {
		if err := put(n, 1); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	p.SetHighWatermark(p.LogEnd())
	if err := l.checkpointPast(); err != nil {
		t.Fatal(err)
	}

	ended := make(chan error, 1)
	go func() {
		for n := uint32(0); n < 300; n++ {
			changed := w.changed()
			if err := put(n*7919, 251); err != nil {
				ended <- err
				return
			}
			for end := p.LogEnd(); p.Durable() < end && l.Err() == nil; changed = w.changed() {
				<-changed
			}
			p.SetHighWatermark(p.Durable())
		}
		ended <- nil
	}()
	compact := func() { // up to what is closed when it begins
		t.Helper()
		segs := *p.segs.Load()
		for closed := segs[len(segs)-1].base; p.readCleaned() < closed; {
			if err := l.compact(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	compact()
	if n := l.CompactionStats().Passes; n < 3 {
		t.Errorf("%d passes", n)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := l.checkpointPast(); err != nil {
		t.Fatal(err)
	}
	compact()
	if got := l.CompactionStats(); got.MapBytes > compactMapBytes || got.MapBytes < compactMapBytes/2 || got.RecordsKept == got.RecordsRead {
		t.Errorf("%+v", got)
	}

	found := make(map[uint32]int, keys)
	if err := eachRecord(p, func(r *Record) {
		key := binary.BigEndian.Uint32(r.Key)
		if r.Offset == last[key] {
			found[key]++
		}
	}); err != nil {
		t.Fatal(err)
	}
	for key := range last {
		if found[key] != 1 {
			t.Fatalf("key %d was last set at offset %d, which is found %d times", key, last[key], found[key])
		}
	}
	if len(last) != keys {
		t.Errorf("%d keys", len(last))
	}
}

// eachRecord reads a partition from its start to its durable end.
func eachRecord(p *Partition, fn func(*Record)) error {
	var rr RecordReader
	for next := p.LogStart(); next < p.Durable(); {
		b, err := p.Read(next, p.Durable(), mib, nil)
		if err == nil && len(b) == 0 {
			err = errors.New("nothing")
		}
		if err != nil {
			return fmt.Errorf("at %d of %d: %w", next, p.Durable(), err)
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err == nil {
				err = rr.Reset(batch)
			}
			if err != nil {
				return err
			}
			next, b = batch.NextOffset(), b[len(batch):]
			for {
				var r Record
				ok, err := rr.Next(&r)
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				fn(&r)
			}
		}
	}
	return nil
}
