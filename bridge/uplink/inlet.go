package uplink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/weir-io/weir/log"
)

// Inlet is this cluster as what comes down meets it, in the name of one owner of the shard 0.
type Inlet interface {
	// Topic gives a topic's partitions, and makes the topic when there is none.
	Topic(name string) ([]InletPartition, error)
	// PartitionFor says where records with a key go, of so many partitions.
	PartitionFor(key []byte, partitions int) int
	// Retain makes a record the retained message of its MQTT topic, the header mqtt.topic, and calls done once that is committed.
	Retain(r *log.Record, done func(error))
}

// InletPartition is one of them.
type InletPartition interface {
	// Append takes a record and copies it; a nil error means that done will be called once, with nil when it is committed. It does not block. What an
	// earlier owner has on its way is not taken any more once a later one has settled.
	Append(r *log.Record, done func(error)) error
	// End is where the next record will stand, or before; 0 where there is no replica here.
	End() log.Offset
	// Settle waits until all that is in the log is committed, and answers where that ends.
	Settle() (log.Offset, error)
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
}

// arrival is a record on its way into this cluster.
type arrival struct {
	log.Record
	refused error // it can never be one
	retain  bool
	there   bool // it is committed here; whether it is retained as well nobody knows
}

// put has records committed, in order, and those retained that are to be. It returns when all are, or when one is not; then it is not known of the others.
func (d *down) put(ctx context.Context, all []arrival) error {
	results := make(chan error, 2*len(all))
	begun, taken, failed := 0, 0, error(nil)
	for i := range all {
		a := &all[i]
		err := a.refused
		if err == nil && !a.there {
			part := d.parts[d.f.Inlet.PartitionFor(a.Key, len(d.parts))]
			err = d.append(ctx, part, &a.Record, func(err error) { results <- err })
		}
		switch {
		case errors.Is(err, log.ErrTooLarge): // nor would the dead-letter topic take it
			a.Value = nil
			fallthrough
		case a.refused != nil:
			err = d.bury(ctx, a, err)
		case err == nil:
			if !a.there {
				begun, taken = begun+1, taken+1
			}
			if a.retain {
				begun++
				d.f.Inlet.Retain(&a.Record, func(err error) { results <- err })
			}
		}
		if err != nil {
			failed = err
			break
		}
	}
	wait, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { d.f.sleep(wait, lastAnswers); stop() })()
	for range begun { // all of them, or one could be in the log later that a look did not find
		select {
		case err := <-results:
			failed = cmp.Or(failed, err)
		case <-wait.Done():
			return context.Cause(ctx)
		}
	}
	if failed == nil {
		d.mu.Lock()
		d.taken += int64(taken)
		d.mu.Unlock()
	}
	return failed
}

// lastAnswers is how long an owner that ends waits for what it has begun.
const lastAnswers = 5 * time.Second

// append waits where the log is busy.
func (d *down) append(ctx context.Context, p InletPartition, r *log.Record, done func(error)) error {
	for {
		err := p.Append(r, done)
		if !errors.Is(err, log.ErrBusy) || ctx.Err() != nil {
			return err
		}
		d.f.sleep(ctx, 20*time.Millisecond)
	}
}

// bury puts what cannot come down into the dead-letter topic of the topic here.
func (d *down) bury(ctx context.Context, a *arrival, why error) error {
	r := a.Record
	r.Headers = append(slices.Clone(r.Headers), log.Header{Key: []byte("weir.uplink"), Value: []byte(d.f.Config.Name)}, log.Header{Key: []byte("weir.error"), Value: []byte(why.Error())})
	if err := d.f.DeadLetter(ctx, d.cfg.Topic+dlqSuffix, &r); err != nil {
		return fmt.Errorf("%w; and it cannot be put into the dead-letter topic: %w", why, err)
	}
	d.logger.Warn("a record cannot come down: it is in the dead-letter topic", "dead-letter topic", d.cfg.Topic+dlqSuffix, "error", why)
	d.f.told(func(s *figures) { s.deadLetters++ })
	return nil
}

// open finds the topic that gets the records.
func (d *down) open() (err error) {
	d.parts, err = d.f.Inlet.Topic(d.cfg.Topic)
	if err == nil && len(d.parts) == 0 {
		err = errors.New("it has no partitions")
	}
	if err != nil {
		return fmt.Errorf("topic %s here: %w", d.cfg.Topic, err)
	}
	return nil
}

// found looks up which records of the target came down behind what is stored: an owner of the shard may have had them committed and not have said so. What is
// appended from here on stands behind.
func (d *down) found() (map[int32]map[int64]bool, error) {
	found := map[int32]map[int64]bool{}
	via := []byte(d.f.via() + "/" + d.cfg.From + "/")
	for i, p := range d.parts {
		end, err := p.Settle()
		if err == nil {
			err = scan(p, d.state.Local[int32(i)], end, func(r *log.Record) {
				if len(r.Headers) < 2 || string(r.Headers[1].Key) != ViaHeader {
					return
				}
				rest, mine := bytes.CutPrefix(r.Headers[1].Value, via)
				partition, offset, _ := bytes.Cut(rest, []byte("/"))
				n, perr := strconv.ParseInt(string(partition), 10, 32)
				o, oerr := strconv.ParseInt(string(offset), 10, 64)
				if !mine || perr != nil || oerr != nil || o < d.state.Next[int32(n)] {
					return
				}
				if found[int32(n)] == nil {
					found[int32(n)] = map[int64]bool{}
				}
				found[int32(n)][o] = true
			})
		}
		if err != nil {
			return nil, fmt.Errorf("look for what came down in %s, partition %d: %w", d.cfg.Topic, i, err)
		}
	}
	return found, nil
}

// scan gives the records of a partition from an offset to another. What retention has taken is not there.
func scan(p InletPartition, from, end log.Offset, each func(*log.Record)) error {
	var records log.RecordReader
	var r log.Record
	var buf []byte
	for from < end {
		got, err := p.Read(from, readBytes, buf)
		if errors.Is(err, log.ErrOutOfRange) {
			from = begins(p, from, end)
			continue
		} else if err != nil {
			return err
		}
		if len(got) == 0 {
			return nil
		}
		for buf = got; len(got) > 0; {
			b, err := log.NextBatch(got, 0)
			if err != nil {
				return err
			}
			got, from = got[b.Size():], b.NextOffset()
			if b.IsControl() {
				continue
			}
			if err := records.Reset(b); err != nil {
				return err
			}
			for {
				more, err := records.Next(&r)
				if err != nil {
					return err
				}
				if !more {
					break
				}
				each(&r)
			}
		}
	}
	return nil
}

// begins finds the first offset from one on that can be read, up to another: where the log begins is known only where there is a replica.
func begins(p InletPartition, from, end log.Offset) log.Offset {
	return from + log.Offset(sort.Search(int(end-from), func(i int) bool {
		_, err := p.Read(from+log.Offset(i), 1, nil)
		return !errors.Is(err, log.ErrOutOfRange)
	}))
}
