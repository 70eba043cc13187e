package log

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// replicate copies what from has and to lacks, as a follower does; it begins anew where from has deleted what comes next.
func replicate(t *testing.T, from, to *Partition) {
	t.Helper()
	if start := from.LogStart(); start > to.LogEnd() {
		b, err := from.Read(start, from.Durable(), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if first, err := NextBatch(b, 0); err == nil {
			start = first.BaseOffset() // the log start may lie inside a batch
		}
		if err := to.Begin(start); err != nil {
			t.Fatal(err)
		}
	}
	for to.LogEnd() < from.Durable() {
		b, err := from.Read(max(to.LogEnd(), from.LogStart()), from.Durable(), 32*kib, nil)
		if err != nil || len(b) == 0 {
			t.Fatalf("read at %d of %d: %d bytes, %v", to.LogEnd(), from.Durable(), len(b), err)
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				t.Fatal(err)
			}
			b = b[batch.Size():]
			if batch.NextOffset() <= to.LogEnd() {
				continue // begins below where the follower reads on
			}
			if err := to.AppendReplica(batch); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// stored is every batch from offset on, without those that have no records.
func stored(t *testing.T, p *Partition, from Offset) (out []byte) {
	t.Helper()
	for from < p.Durable() {
		b, err := p.Read(from, p.Durable(), 32*kib, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			return out
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				t.Fatal(err)
			}
			if batch.Count() > 0 && batch.BaseOffset() >= from {
				out = append(out, batch...)
			}
			from = batch.NextOffset()
			b = b[batch.Size():]
		}
	}
	return out
}

func awaitDurable(t *testing.T, w *commits, p *Partition) {
	t.Helper()
	for {
		changed := w.changed()
		if p.Durable() == p.LogEnd() && p.DurableEpoch() == p.LastEpoch() {
			return
		}
		<-changed
	}
}

// A follower holds the bytes of its leader, through epochs, retention, truncations, power cuts and clean stops of its own; and what it
// says to be durable, the beginning of an epoch included, is there after a power cut (A2, A3, H1, T3, T5).
func TestFollowerHoldsWhatItsLeaderHas(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			lead, follow := newCommits(), newCommits()
			l := mustOpen(t, crashConfig(vfs.NewMem(), lead))
			defer l.Close()
			mem := vfs.NewMem()
			f := mustOpen(t, crashConfig(mem, follow))
			defer func() { f.Close() }()
			leader, follower := mustCreate(t, l, 1), mustCreate(t, f, 1)
			config := PartitionConfig{SegmentBytes: 12 * kib, IndexIntervalBytes: kib}
			leader.SetConfig(config)
			follower.SetConfig(config)
			epoch := Epoch(0)
			for i := range 150 {
				switch rng.IntN(12) {
				case 0:
					epoch += Epoch(1 + rng.IntN(3))
					if err := leader.BeginEpoch(epoch); err != nil {
						t.Fatal(err)
					}
				case 1: // retention at the leader
					if err := leader.SetLogStart(leader.LogStart() + Offset(rng.Int64N(int64(leader.Durable()-leader.LogStart())+1))); err != nil {
						t.Fatal(err)
					}
				case 2: // the follower was told to cut; it gets the same again
					if follower.LogEnd() > follower.LogStart() {
						if err := follower.Truncate(follower.LogStart() + Offset(rng.Int64N(int64(follower.LogEnd()-follower.LogStart())))); err != nil {
							t.Fatal(err)
						}
					}
				case 3:
					synced, entry := follower.Durable(), follower.DurableEpoch()
					disk := mem.CrashClone(rng.Float64(), rng)
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					mem = disk
					f = mustOpen(t, crashConfig(mem, follow))
					follower = f.Partition(testID(1))
					follower.SetConfig(config)
					if follower.Durable() < synced || follower.DurableEpoch() < entry {
						t.Fatalf("after a power cut %d in epoch %d, was %d in %d", follower.Durable(), follower.DurableEpoch(), synced, entry)
					}
				case 4, 5:
					replicate(t, leader, follower)
				default:
					for range 1 + rng.IntN(20) {
						value := bytes.Repeat([]byte{byte(i)}, rng.IntN(400))
						if _, err := leader.Append(&Record{Timestamp: int64(i), Value: value}, max(epoch, leader.LastEpoch(), 0)); err != nil {
							t.Fatal(err)
						}
					}
					awaitDurable(t, lead, leader)
				}
			}
			awaitDurable(t, lead, leader)
			replicate(t, leader, follower)
			awaitDurable(t, follow, follower)
			from := max(leader.LogStart(), follower.LogStart())
			if got, want := stored(t, follower, from), stored(t, leader, from); !bytes.Equal(got, want) {
				t.Errorf("from %d the follower has %d bytes, the leader %d", from, len(got), len(want))
			}
			for e := Epoch(0); e <= epoch; e++ {
				ge, go_ := follower.EpochEnd(e)
				we, wo := leader.EpochEnd(e)
				if go_ > from && wo > from && (ge != we || go_ != wo) && leader.LastEpoch() == follower.LastEpoch() {
					t.Errorf("epoch %d ends at %d/%d, at the leader at %d/%d", e, ge, go_, we, wo)
				}
			}
			for _, l := range []*Log{l, f} {
				if err := l.Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What a leader's compaction has left out is marked: a restart finds no hole, and reading goes on behind it.
func TestGapOfACompactedLeader(t *testing.T) {
	w := newCommits()
	mem := vfs.NewMem()
	l := mustOpen(t, testConfig(mem, "/d", w))
	p := mustCreate(t, l, 1)
	batch := func(base Offset, e Epoch, value string) Batch {
		var b BatchBuilder
		b.Append(&Record{Value: []byte(value)})
		return b.Seal(base, e)
	}
	for _, b := range []Batch{batch(3, 1, "three"), batch(4, 1, "four"), batch(1000, 5, "thousand")} {
		if err := p.AppendReplica(b); err != nil {
			t.Fatal(err)
		}
	}
	awaitDurable(t, w, p)
	if e, o := p.EpochEnd(1); e != 1 || o != 5 { // the gap belongs to what stands behind it
		t.Errorf("epoch 1 ends at %d/%d", e, o)
	}
	check := func() {
		t.Helper()
		var values []string
		var rr RecordReader
		for b := stored(t, p, 0); len(b) > 0; {
			batch, err := NextBatch(b, 0)
			if err == nil {
				err = rr.Reset(batch)
			}
			var r Record
			if err == nil {
				_, err = rr.Next(&r)
			}
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, string(r.Value))
			b = b[batch.Size():]
		}
		if fmt.Sprint(values) != "[three four thousand]" || p.LogEnd() != 1001 {
			t.Errorf("read %v up to %d", values, p.LogEnd())
		}
		if err := l.Check(); err != nil {
			t.Error(err)
		}
	}
	check()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(mem, "/d", w))
	defer l.Close()
	p = l.Partition(testID(1))
	if why := p.Damaged(); why != "" {
		t.Errorf("the gap looks like damage: %s", why)
	}
	check()
}

func TestAppendReplicaRefuses(t *testing.T) {
	l := mustOpen(t, testConfig(vfs.NewMem(), "/d", nil))
	defer l.Close()
	p := mustCreate(t, l, 1)
	batch := func(base Offset, e Epoch) Batch {
		var b BatchBuilder
		b.Append(&Record{Value: []byte("x")})
		return b.Seal(base, e)
	}
	if err := p.AppendReplica(batch(0, 3)); err != nil {
		t.Fatal(err)
	}
	bad := batch(1, 3)
	bad[len(bad)-1] ^= 1
	for name, c := range map[string]struct {
		b    Batch
		want error
	}{
		"flipped bit":     {bad, ErrCorrupt},
		"again":           {batch(0, 3), ErrOutOfRange},
		"an older epoch":  {batch(1, 2), ErrFenced},
		"without epoch":   {batch(1, -1), ErrCorrupt},
		"older, with gap": {batch(9, 2), ErrFenced},
	} {
		if err := p.AppendReplica(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if p.LogEnd() != 1 {
		t.Errorf("a refused batch moved the log end to %d", p.LogEnd())
	}
	if err := p.Begin(0); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("begin below the log end: %v", err)
	}
}
