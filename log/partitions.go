package log

import (
	"errors"
	"fmt"
	"sort"
)

// Partition returns a partition, nil if there is none.
func (l *Log) Partition(id PartitionID) *Partition {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byID[id]
}

// Partitions returns all partitions, ordered by topic name, topic and index.
func (l *Log) Partitions() []*Partition {
	l.mu.RLock()
	out := make([]*Partition, 0, len(l.byID))
	for _, p := range l.byID {
		out = append(out, p)
	}
	l.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if a.topic != b.topic {
			return a.topic < b.topic
		}
		if a.id.Topic != b.id.Topic {
			return string(a.id.Topic[:]) < string(b.id.Topic[:])
		}
		return a.id.Index < b.id.Index
	})
	return out
}

// known is every partition that a checkpoint must name.
func (l *Log) known() []*Partition {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]*Partition(nil), l.all...)
}

func (l *Log) newPartition(id PartitionID, topic string, pid uint32, dir string) *Partition {
	p := &Partition{l: l, id: id, topic: topic, pid: pid, dir: dir}
	p.begun.Store(-1)
	p.config.Store(new(PartitionConfig{}.withDefaults()))
	p.segs.Store(new([]*segment))
	p.producers = newProducerTable(0)
	p.w.producers = newProducerTable(0)
	return p
}

// Create makes an empty partition; it is durable when this returns. ErrExists if there is one already.
func (l *Log) Create(id PartitionID, topic string, pc PartitionConfig) (*Partition, error) {
	if err := checkTopicName(topic); err != nil {
		return nil, err
	}
	if err := l.offline(); err != nil {
		return nil, err
	}
	l.creating.Lock()
	defer l.creating.Unlock()
	if l.Partition(id) != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, ErrExists)
	}
	if l.checkpointReserve() > int64(l.maxEntryBytes) {
		return nil, fmt.Errorf("create partition %s of %s: %d partitions are all that journal files of %d bytes can carry: %w",
			id, topic, l.count.Load(), l.cfg.JournalFileBytes, ErrTooLarge)
	}
	dir := partitionDir(l.cfg.Dir, id, topic)
	l.mu.Lock()
	p := l.newPartition(id, topic, l.nextPID, dir)
	l.nextPID++
	l.mu.Unlock()
	p.SetConfig(pc)
	if err := l.cfg.FS.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, err)
	}
	// The journal's definition makes the partition durable, with one sync instead of one for each file and
	// directory; the next checkpoint writes part.meta. A checkpoint that covers the definition must name
	// the partition, so it is known before it is defined.
	p.w.metaOld, p.w.dirNew = true, true
	l.mu.Lock()
	l.all = append(l.all, p)
	l.count.Store(int64(len(l.all)))
	l.mu.Unlock()
	done := make(chan error, 1)
	err := p.submit(item{p: p, typ: entryPartDef, payload: encodePartDef(nil, id, topic), durable: done})
	if err == nil {
		err = l.await(done)
	}
	if err != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, err)
	}
	l.mu.Lock()
	l.byID[id] = p
	l.mu.Unlock()
	return p, nil
}

// ErrExists: there is a partition of that id already.
var ErrExists = errors.New("partition exists")

// Delete removes a partition and its files. Its other methods answer ErrClosed from then on. It is durable
// when this returns: a crash before finishes the removal at the next start or leaves the partition whole.
func (l *Log) Delete(id PartitionID) error { return l.drop(id, 0) }

// drop removes a partition; with flagAside its files are put aside.
func (l *Log) drop(id PartitionID, flags uint8) error {
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	p := l.Partition(id)
	if p == nil {
		return nil
	}
	if err := l.offline(); err != nil {
		return err
	}
	applied := make(chan error, 1)
	p.mu.Lock()
	p.sealLocked()
	p.refuse = ErrClosed
	p.pending = append(p.pending, item{p: p, typ: entryPartDef, flags: flagGone | flags, payload: encodePartDef(nil, id, p.topic), applied: applied})
	p.markDirtyLocked()
	p.mu.Unlock()
	l.mu.Lock()
	delete(l.byID, id)
	l.mu.Unlock()
	if err := l.awaitHolding(applied); err != nil {
		return fmt.Errorf("delete partition %s of %s: %w", id, p.topic, err)
	}
	p.replaceSegments(func([]*segment) []*segment { return nil })
	if err := l.dropPartitionDir(p.dir, flags&flagAside != 0); err != nil {
		return fmt.Errorf("delete partition %s of %s: %w", id, p.topic, err)
	}
	l.mu.Lock()
	for i := range l.all {
		if l.all[i] == p {
			l.all = append(l.all[:i:i], l.all[i+1:]...)
			break
		}
	}
	l.count.Store(int64(len(l.all)))
	l.mu.Unlock()
	return nil
}
