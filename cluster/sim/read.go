package sim

import (
	"fmt"

	"github.com/weir-io/weir/log"
)

// record is one as it stands in a log.
type record struct {
	offset log.Offset
	epoch  log.Epoch
	value  string
}

func (r record) String() string { return fmt.Sprintf("%d:%s@%d", r.offset, r.value, r.epoch) }

// records takes batches apart, from an offset on.
func records(b []byte, from log.Offset) (all []record, err error) {
	var reader log.RecordReader
	for len(b) > 0 {
		batch, err := log.NextBatch(b, 0)
		if err != nil {
			return nil, err
		}
		b = b[batch.Size():]
		if err := batch.CheckCRC(); err != nil {
			return nil, err
		}
		if err := reader.Reset(batch); err != nil {
			return nil, err
		}
		for {
			var rec log.Record
			more, err := reader.Next(&rec)
			if err != nil {
				return nil, err
			}
			if !more {
				break
			}
			if rec.Offset >= from {
				all = append(all, record{rec.Offset, batch.LeaderEpoch(), string(rec.Value)})
			}
		}
	}
	return all, nil
}

// logged reads a log from one offset up to another.
func logged(p *log.Partition, from, to log.Offset) (all []record, err error) {
	var buf []byte
	for from = max(from, p.LogStart()); from < to; {
		if buf, err = p.Read(from, to, 1<<16, buf); err != nil || len(buf) == 0 {
			return all, err
		}
		some, err := records(buf, from)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
		from = all[len(all)-1].offset + 1
	}
	return all, nil
}
