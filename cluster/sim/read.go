package sim

import (
	"encoding/binary"
	"fmt"

	"github.com/weir-io/weir/log"
)

// record is one as it stands in a log.
type record struct {
	offset   log.Offset
	epoch    log.Epoch
	kind     recordKind
	producer int64 // -1: none
	value    string
}

// recordKind says what a record is to transactions.
type recordKind int8

const (
	plain recordKind = iota
	transactional
	commitMarker
	abortMarker
)

func (r record) String() string {
	return fmt.Sprintf("%d:%.40s@%d%s", r.offset, r.value, r.epoch, [...]string{"", " in a transaction", " commit", " abort"}[r.kind])
}

// marks says whether the record ends a transaction.
func (r record) marks() bool { return r.kind == commitMarker || r.kind == abortMarker }

// records takes batches apart, from an offset on, and says where they end.
func records(b []byte, from log.Offset) (all []record, end log.Offset, err error) {
	var reader log.RecordReader
	for end = from; len(b) > 0; {
		batch, err := log.NextBatch(b, 0)
		if err != nil {
			return nil, 0, err
		}
		b = b[batch.Size():]
		if err := batch.CheckCRC(); err != nil {
			return nil, 0, err
		}
		if err := reader.Reset(batch); err != nil {
			return nil, 0, err
		}
		for {
			var rec log.Record
			more, err := reader.Next(&rec)
			if err != nil {
				return nil, 0, err
			}
			if !more {
				break
			}
			if rec.Offset >= from {
				all = append(all, recordOf(batch, &rec))
			}
		}
		end = batch.NextOffset()
	}
	return all, end, nil
}

func recordOf(b log.Batch, rec *log.Record) record {
	r := record{offset: rec.Offset, epoch: b.LeaderEpoch(), producer: b.ProducerID(), value: string(rec.Value)}
	if rec.Key != nil {
		r.value = string(rec.Key) + "=" + r.value
	}
	switch {
	case b.IsControl() && len(rec.Key) >= 4:
		r.kind, r.value = abortMarker, fmt.Sprintf("producer %d epoch %d", b.ProducerID(), b.ProducerEpoch())
		if binary.BigEndian.Uint16(rec.Key[2:]) == 1 {
			r.kind = commitMarker
		}
	case b.IsTransactional():
		r.kind = transactional
	}
	return r
}

// logged reads a log from one offset up to another.
func logged(p *log.Partition, from, to log.Offset) (all []record, err error) {
	var buf []byte
	for from = max(from, p.LogStart()); from < to; {
		if buf, err = p.Read(from, to, 1<<16, buf); err != nil || len(buf) == 0 {
			return all, err
		}
		some, end, err := records(buf, from)
		if err != nil || end <= from {
			return all, err
		}
		all, from = append(all, some...), end
	}
	return all, nil
}
