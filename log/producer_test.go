package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// producerBatchOf makes a batch of n records of a producer.
func producerBatchOf(id int64, epoch int16, sequence int32, n int, base Offset) Batch {
	var bb BatchBuilder
	bb.SetProducer(id, epoch, sequence)
	for range n {
		bb.Append(&Record{Value: []byte("v")})
	}
	return bytes.Clone(bb.Seal(base, 1))
}

func TestProducerCheck(t *testing.T) {
	table := newProducerTable(0)
	next := Offset(100)
	add := func(id int64, epoch int16, seq int32, n int) {
		b := producerBatchOf(id, epoch, seq, n, next)
		table.apply(b, 1000)
		next = b.NextOffset()
	}
	// Producer 1, epoch 3: seven batches of 10; the last five are remembered.
	for i := range int32(7) {
		add(1, 3, i*10, 10)
	}
	add(2, 0, math.MaxInt32-1, 2) // takes the last sequences before the wrap
	add(3, 0, 5, 1)
	tests := []struct {
		name     string
		id       int64
		epoch    int16
		sequence int32
		n        int
		first    Offset
		dup      bool
		err      error
	}{
		{name: "no producer", id: -1, epoch: -1, sequence: -1, n: 5},
		{name: "unknown may begin anywhere", id: 9, epoch: 4, sequence: 77, n: 1},
		{name: "next in order", id: 1, epoch: 3, sequence: 70, n: 10},
		{name: "gap", id: 1, epoch: 3, sequence: 71, n: 10, err: ErrOutOfOrderSequence},
		{name: "repeat of the last", id: 1, epoch: 3, sequence: 60, n: 10, first: 160, dup: true},
		{name: "repeat of the fifth last", id: 1, epoch: 3, sequence: 20, n: 10, first: 120, dup: true},
		{name: "repeat of a forgotten one", id: 1, epoch: 3, sequence: 10, n: 10, err: ErrOutOfOrderSequence},
		{name: "same start, other length", id: 1, epoch: 3, sequence: 60, n: 9, err: ErrOutOfOrderSequence},
		{name: "older epoch", id: 1, epoch: 2, sequence: 70, n: 1, err: ErrProducerFenced},
		{name: "older epoch, repeated", id: 1, epoch: 2, sequence: 60, n: 10, err: ErrProducerFenced},
		{name: "newer epoch from 0", id: 1, epoch: 4, sequence: 0, n: 1},
		{name: "newer epoch not from 0", id: 1, epoch: 4, sequence: 70, n: 1, err: ErrOutOfOrderSequence},
		{name: "wrap", id: 2, epoch: 0, sequence: 0, n: 1},
		{name: "past the wrap", id: 2, epoch: 0, sequence: 1, n: 1, err: ErrOutOfOrderSequence},
		{name: "began late, goes on", id: 3, epoch: 0, sequence: 6, n: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, dup, err := table.check(producerBatchOf(tt.id, tt.epoch, tt.sequence, tt.n, 0), Verified{Ended: NotVerified})
			if !errors.Is(err, tt.err) || dup != tt.dup || dup && first != tt.first {
				t.Errorf("first %v, duplicate %v, %v", first, dup, err)
			}
		})
	}
}

func TestProducerControlBatch(t *testing.T) {
	table := newProducerTable(0)
	table.apply(producerBatchOf(1, 0, 0, 3, 0), 0)
	var bb BatchBuilder
	bb.SetProducer(1, 2, -1)
	bb.SetFlags(AttrControl | AttrTransactional)
	bb.Append(&Record{Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 0}})
	marker := bytes.Clone(bb.Seal(3, 1))
	if _, dup, err := table.check(marker, Verified{Ended: NotVerified}); dup || err != nil {
		t.Fatalf("marker: %v, %v", dup, err)
	}
	table.apply(marker, 0)
	// The marker raised the epoch: the old instance is fenced, the new one begins at 0.
	if _, _, err := table.check(producerBatchOf(1, 0, 3, 1, 4), Verified{Ended: NotVerified}); !errors.Is(err, ErrProducerFenced) {
		t.Errorf("old epoch after the marker: %v", err)
	}
	if _, _, err := table.check(producerBatchOf(1, 2, 0, 1, 4), Verified{Ended: NotVerified}); err != nil {
		t.Errorf("new epoch after the marker: %v", err)
	}
}

func TestProducerLimits(t *testing.T) {
	table := newProducerTable(3)
	for id := range int64(5) {
		table.apply(producerBatchOf(id, 0, 0, 1, Offset(id)), 100*id)
	}
	if table.len() != 3 || table.forgotten != 2 {
		t.Errorf("%d producers, %d forgotten", table.len(), table.forgotten)
	}
	table.apply(producerBatchOf(2, 0, 1, 1, 5), 900) // was the oldest
	if n := table.expire(400); n != 1 || table.len() != 2 {
		t.Errorf("expired %d, left %d", n, table.len())
	}
	if _, dup, _ := table.check(producerBatchOf(2, 0, 1, 1, 0), Verified{Ended: NotVerified}); !dup {
		t.Error("producer 2 was touched last and must stay")
	}
}

// producerModel holds every batch ever appended; a table is right if it equals one fed with them all.
type producerModel []Batch

func (m producerModel) table() *producerTable {
	t := newProducerTable(0)
	for _, b := range m {
		t.apply(b, int64(b.BaseOffset()))
	}
	return t
}

func TestProducerModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var model producerModel
		table := newProducerTable(0)
		snapshots := [][]byte{table.encode(nil)}
		type position struct {
			epoch int16
			seq   int32
		}
		at := map[int64]position{}
		next := Offset(0)
		recount := func() {
			clear(at)
			next = 0
			for _, b := range model {
				at[b.ProducerID()] = position{b.ProducerEpoch(), addSequence(b.LastSequence(), 1)}
				next = b.NextOffset()
			}
		}
		for step := range 120 {
			switch rng.IntN(12) {
			default: // append what check calls fresh
				id := rng.Int64N(4)
				p := at[id]
				if rng.IntN(15) == 0 {
					p = position{epoch: p.epoch + 1}
				}
				b := producerBatchOf(id, p.epoch, p.seq, 1+rng.IntN(4), next)
				if _, dup, err := table.check(b, Verified{Ended: NotVerified}); dup || err != nil {
					t.Fatalf("seed %d step %d: %v, %v", seed, step, dup, err)
				}
				table.apply(b, int64(next))
				model = append(model, b)
			case 0: // truncate, from a snapshot if need be
				if len(model) == 0 {
					continue
				}
				cut := rng.IntN(len(model))
				o := model[cut].BaseOffset()
				model = model[:cut]
				if !table.truncateTo(o) {
					table = nil
					for i := len(snapshots) - 1; table == nil; i-- {
						s, err := decodeProducers(snapshots[i], 0)
						if err != nil {
							t.Fatal(err)
						}
						if s.next <= o {
							table = s
						}
					}
					for _, b := range model {
						if b.BaseOffset() >= table.next {
							table.apply(b, int64(b.BaseOffset()))
						}
					}
				}
				for len(snapshots) > 1 {
					if s, _ := decodeProducers(snapshots[len(snapshots)-1], 0); s.next <= o {
						break
					}
					snapshots = snapshots[:len(snapshots)-1]
				}
			case 1:
				snapshots = append(snapshots, table.encode(nil))
			case 2: // restart
				s, err := decodeProducers(table.encode(nil), 0)
				if err != nil {
					t.Fatal(err)
				}
				table = s
			}
			recount()
			compareTables(t, fmt.Sprintf("seed %d step %d", seed, step), table, model.table())
		}
	}
}

// compareTables compares what producers get to see, and the snapshots but for the flag that only
// says how exact a truncation would be and the times.
func compareTables(t *testing.T, where string, got, want *producerTable) {
	t.Helper()
	if got.len() != want.len() || got.next != want.next {
		t.Fatalf("%s: %d producers below %v, want %d below %v", where, got.len(), got.next, want.len(), want.next)
	}
	for id, w := range want.byID {
		g := got.byID[id]
		if g == nil || g.epoch != w.epoch || g.n != w.n || g.batches != w.batches && g.n == producerWindow {
			t.Fatalf("%s: producer %d is %+v, want %+v", where, id, g, w)
		}
		for i := range g.batches[:g.n] {
			if g.batches[i] != w.batches[i] {
				t.Fatalf("%s: producer %d batch %d is %+v, want %+v", where, id, i, g.batches[i], w.batches[i])
			}
		}
	}
}

func TestProducerSnapshotRefuses(t *testing.T) {
	table := newProducerTable(0)
	for i := range int32(9) {
		table.apply(producerBatchOf(int64(i%3), 2, i, 1, Offset(i)), int64(i))
	}
	good := table.encode([]byte("before"))[len("before"):]
	again, err := decodeProducers(good, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.encode(nil), good) {
		t.Error("a decoded snapshot encodes to other bytes")
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := decodeProducers(bad, 0); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
		if _, err := decodeProducers(good[:i], 0); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	newer := bytes.Clone(good)
	newer[8] = producerVersion + 1
	if _, err := decodeProducers(newer, 0); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer version: %v", err)
	}
	if small, err := decodeProducers(good, 2); err != nil || small.len() != 2 {
		t.Errorf("a smaller limit: %v", err)
	}
}

func BenchmarkProducerCheckApply(b *testing.B) {
	table := newProducerTable(0)
	batch := producerBatchOf(1, 0, 0, 100, 0)
	table.apply(batch, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, dup, err := table.check(batch, Verified{Ended: NotVerified}); !dup || err != nil {
			b.Fatal(dup, err)
		}
		table.byID[1].n = 0
		table.apply(batch, 0)
	}
}

// fixProducerCRC makes the checksum of a snapshot right.
func fixProducerCRC(b []byte) {
	body := b[:len(b)-producerSuffixSize]
	binary.LittleEndian.PutUint32(b[len(body):], crc32.Checksum(body, castagnoli))
}

func putCRC(dst, b []byte) { binary.LittleEndian.PutUint32(dst, crc32.Checksum(b, castagnoli)) }

// P1: stamps of records are their clients', who may have no clock. A producer of old records is remembered over a crash like any other.
func TestProducerOfOldRecordsIsRemembered(t *testing.T) {
	disk, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(disk, "d", w))
	p := mustCreate(t, l, 0)
	if _, _, err := p.AppendBatch(producerBatchOf(7, 0, 0, 1, 0), 0); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	crashed := disk.CrashClone(1, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // from the journal, then from the snapshot of that start
		l = mustOpen(t, testConfig(crashed, "d", newCommits()))
		p = l.Partition(testID(0))
		l.expireProducers(p, true, time.Now())
		if first, again, err := p.AppendBatch(producerBatchOf(7, 0, 0, 1, 0), 0); first != 0 || !again || err != nil {
			t.Errorf("the batch sent again: offset %d, a repeat: %v, %v", first, again, err)
		}
		crashed = crashed.CrashClone(1, nil)
		_ = l.Close()
	}
}

// What a partition remembers of its producers can be looked at, within a bound.
func TestProducersOfAPartition(t *testing.T) {
	w := newCommits()
	l := mustOpen(t, testConfig(vfs.NewMem(), "data", w))
	defer l.Close()
	p := mustCreate(t, l, 0)
	for _, b := range []Batch{producerBatchOf(7, 0, 0, 3, 0), producerBatchOf(8, 2, 0, 1, 0), producerBatchOf(7, 0, 3, 1, 0), producerBatchOf(-1, -1, -1, 1, 0)} {
		if _, _, err := p.AppendBatch(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	all, more := p.Producers(2)
	if len(all) != 2 || more || all[0].ID != 8 || all[0].Epoch != 2 || all[0].LastSequence != 0 || all[1].ID != 7 || all[1].LastSequence != 3 || all[1].Touched <= 0 {
		t.Errorf("%+v, more %t", all, more)
	}
	if all, more := p.Producers(1); len(all) != 1 || !more {
		t.Errorf("of two, one at most: %+v, more %t", all, more)
	}
}
