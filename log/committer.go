package log

import (
	"sync"
	"sync/atomic"
	"time"
)

// commitsAhead is how many commits may be durable and not yet with their segments, of MaxUnwrittenBytes together. The segment
// writer waits for the file system at times (a write may have to wait for what the file system commits itself, and the first
// segments of many partitions for their names), and acks, which need the journal only, are not to wait with it.
const commitsAhead = 256

// commit is what one fdatasync makes durable, on its way to the segment writer.
type commit struct {
	items   []item
	bytes   int64 // in the journal
	lastSeq uint64
	do      func() // instead of items: run this between commits, on the segment writer's goroutine
}

// several says whether more than one record is in it.
func (u *commit) several() bool {
	records := 0
	for i := range u.items {
		if c := u.items[i].chunk; c != nil {
			if records += c.batch.Count(); records > 1 {
				return true
			}
		}
	}
	return false
}

// committer is the only writer and syncer of the journal (A4, A5). Appends leave their batches with their
// partition and mark it dirty; one goroutine takes all that is waiting, writes it with one pwrite and makes
// it durable with one fdatasync.
type committer struct {
	l *Log
	j *journal

	mu      sync.Mutex
	dirty   []*Partition
	control []item // entries of no partition
	closing bool

	idle   atomic.Bool   // the goroutine waits for wake
	wake   chan struct{} // work or closing
	enough chan struct{} // uncommitted bytes passed CommitEnough

	out  chan *commit // to the segment writer
	free chan *commit // back from it

	// goroutine only
	batch    []*Partition // dirty ones being taken
	left     []*Partition // taken in part
	buf      []byte
	done     []*Partition // for OnCommit
	seq      uint64       // next sequence
	number   uint64       // next commit
	pace     pacer
	timer    *time.Timer
	took     time.Duration // by the last commit's write and sync
	together bool          // it held several records
	synced   int64         // commits written
	charged  int64         // syncs by others that pace knows of
	sealed   bool          // the last entry is a SEAL, or there is nothing to seal
	starved  atomic.Bool   // waiting for a journal file
	began    atomic.Int64  // time since started at which the commit under way began, 0 if none (E9)
}

func (c *committer) markDirty(p *Partition) {
	c.mu.Lock()
	c.dirty = append(c.dirty, p)
	c.mu.Unlock()
	c.poke()
}

func (c *committer) poke() {
	if c.idle.Load() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// submit queues an entry that belongs to no partition.
func (c *committer) submit(it item) {
	c.mu.Lock()
	c.control = append(c.control, it)
	c.mu.Unlock()
	c.poke()
}

// run commits until stop is asked for and everything is committed, or until the first error, which is kept
// for good (A6).
func (c *committer) run() {
	defer close(c.l.finished)
	c.timer = time.NewTimer(time.Hour) // set anew for each wait
	defer c.timer.Stop()
	c.charged = c.l.syncs.Load() - c.synced // those of recovery are past
	for c.wait() {
		c.linger()
		u := <-c.free
		if !c.l.w.awaitRoom() {
			return
		}
		u.items = c.take(u.items[:0])
		if len(u.items) == 0 {
			c.free <- u
			continue
		}
		if err := c.commit(u); err != nil {
			c.l.fail(err)
			for i := range u.items {
				u.items[i].answer(err)
			}
			return
		}
	}
}

// wait returns when there is work, false when closing and all is done.
func (c *committer) wait() bool {
	var idle <-chan time.Time
	for {
		c.idle.Store(true)
		c.mu.Lock()
		work := len(c.dirty)+len(c.control)+len(c.left) > 0
		closing := c.closing
		c.mu.Unlock()
		if work || closing {
			c.idle.Store(false)
			c.timer.Stop()
			return work
		}
		if !c.sealed && idle == nil {
			c.timer.Reset(c.l.cfg.SealAfter)
			idle = c.timer.C
		}
		select {
		case <-c.wake:
		case <-idle:
			// Nothing came for a while: say so behind the last commit, once (J2).
			c.submit(item{typ: entrySeal, base: Offset(c.number - 1)})
		case <-c.l.failed:
			c.idle.Store(false)
			return false
		}
	}
}

// take collects at most CommitMaxBytes of what waits; control entries go last, behind the data appended
// before them. A CHECKPOINT is a commit of its own, since it may use space that others may not.
func (c *committer) take(items []item) []item {
	if it, ok := c.takeCheckpoint(); ok {
		return append(items, it)
	}
	c.mu.Lock()
	c.batch, c.dirty = append(append(c.batch[:0], c.left...), c.dirty...), c.dirty[:0]
	control := c.control
	c.control = nil
	c.mu.Unlock()
	c.left = c.left[:0]
	room := c.l.cfg.CommitMaxBytes
	second := c.l.seconds()
	for _, p := range c.batch {
		if room <= 0 {
			c.left = append(c.left, p)
			continue
		}
		var left bool
		items, room, left = takeFrom(p, items, room, second)
		if left {
			c.left = append(c.left, p)
		}
	}
	clear(c.batch)
	return append(items, control...)
}

// takeFrom takes what p has, as far as there is room. J8: before an entry that goes behind another partition's it takes all that this one has; what does not fit is for the next commit, and
// the entry with it. Entries go behind what was appended before them only, so that this ends.
func takeFrom(p *Partition, items []item, room int, second int64) (_ []item, roomLeft int, left bool) {
	for {
		from := len(items)
		var behind *Partition
		items, left, behind = p.take(items, room, second)
		for i := from; i < len(items); i++ {
			room -= entrySize(items[i].size())
		}
		if behind == nil {
			return items, room, left
		}
		more := true
		if room > 0 {
			items, room, more = takeFrom(behind, items, room, second)
		}
		if more {
			p.waitBehind(behind)
			return items, room, true
		}
	}
}

// commit makes one commit durable and hands it to the segment writer.
func (c *committer) commit(u *commit) error {
	if err := c.write(u); err != nil {
		return err
	}
	c.l.w.ahead.Add(u.bytes)
	c.out <- u
	return nil
}

// write writes and syncs one commit, then publishes it. A5: nothing is published before the sync has returned.
func (c *committer) write(u *commit) error {
	c.began.Store(int64(time.Since(started)))
	defer c.began.Store(0)
	if err := c.makeRoom(u); err != nil {
		return err
	}
	c.encode(u)
	c.announce(u)
	began := time.Now()
	if err := c.j.commit(c.buf); err != nil {
		return err
	}
	c.took, c.together = time.Since(began), u.several()
	c.number++
	c.synced++
	u.bytes = int64(len(c.buf))
	c.l.stats.commits.Add(1)
	c.l.stats.commitBytes.Add(int64(len(c.buf)))
	if cap(c.buf) > 4*c.l.cfg.CommitMaxBytes {
		c.buf = nil // one huge batch should not stay for good
	}
	c.publish(u)
	u.lastSeq = c.seq - 1
	return nil
}

// commitAlone commits one entry while the goroutine does not run: in recovery and at Close.
func (c *committer) commitAlone(it item) error {
	return c.write(&commit{items: []item{it}})
}

// finish lets the goroutine end once everything is committed.
func (c *committer) finish() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// makeRoom goes to the next journal file when this one cannot hold the commit, and waits for a checkpoint
// to free one when all are in use. The space a checkpoint needs is kept back from everything else: it is
// what makes room again.
func (c *committer) makeRoom(u *commit) error {
	size := c.l.checkpointReserve()
	if u.items[0].typ == entryCheckpoint {
		size = 0
	}
	for i := range u.items {
		size += int64(entrySize(u.items[i].size()))
	}
	for c.j.left() < size {
		err := c.j.begin(c.seq, false)
		if err == nil {
			c.l.keeper.poke() // make the next spare file, see whether a checkpoint is due
			continue
		}
		if err != errJournalFull {
			return err
		}
		if err := c.awaitFile(); err != nil {
			return err
		}
	}
	return nil
}

// awaitFile returns when a journal file may have become free. The checkpoint that frees it is committed
// meanwhile, ahead of the commit that waits.
func (c *committer) awaitFile() error {
	c.l.stats.journalFull.Add(1)
	c.starved.Store(true)
	defer c.starved.Store(false)
	c.l.keeper.demand()
	for {
		c.idle.Store(true)
		it, ok := c.takeCheckpoint()
		if ok {
			c.idle.Store(false)
			u := <-c.free
			u.items = append(u.items[:0], it)
			return c.commit(u)
		}
		select {
		case <-c.j.room:
			c.idle.Store(false)
			return nil
		case <-c.wake:
		case <-c.l.failed:
			return c.l.Err()
		}
	}
}

// takeCheckpoint removes a waiting CHECKPOINT from the control entries.
func (c *committer) takeCheckpoint() (item, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, it := range c.control {
		if it.typ == entryCheckpoint {
			c.control = append(c.control[:i:i], c.control[i+1:]...)
			return it, true
		}
	}
	return item{}, false
}

// encode lays the entries out in buf: sequence numbers without gaps (J1), the commit number in each, the end
// marked.
func (c *committer) encode(u *commit) {
	buf := c.buf[:0]
	for i := range u.items {
		it := &u.items[i]
		e := entry{seq: c.seq, salt: c.j.cur.salt, commit: c.number, typ: it.typ, flags: it.flags, epoch: it.epoch, base: it.base, payload: it.payload}
		if it.p != nil {
			e.pid = it.p.pid
		}
		if it.chunk != nil {
			e.payload = it.chunk.batch
			e.count = uint32(it.chunk.batch.Count())
		}
		if i == len(u.items)-1 {
			e.flags |= flagCommitEnd
		}
		at := len(buf)
		buf = appendEntry(buf, &e)
		sealEntry(buf[at:], len(e.payload))
		c.seq++
		c.sealed = it.typ == entrySeal
	}
	c.buf = buf
}

// moved lists a partition for OnCommit. Its entries stand together in a commit.
func (c *committer) moved(p *Partition) {
	if n := len(c.done); n == 0 || c.done[n-1] != p {
		c.done = append(c.done, p)
	}
}

// announce tells who reads ahead of the disk what can be read now.
func (c *committer) announce(u *commit) {
	if c.l.cfg.OnTake == nil {
		return
	}
	c.done = c.done[:0]
	for i := range u.items {
		if u.items[i].chunk != nil {
			c.moved(u.items[i].p)
		}
	}
	if len(c.done) > 0 {
		c.l.cfg.OnTake(c.done)
	}
}

// publish advances the durable end of each partition and tells who waits.
func (c *committer) publish(u *commit) {
	c.done = c.done[:0]
	var taken, ofBatches int64
	for i := range u.items {
		it := &u.items[i]
		if it.typ == entryEpoch {
			it.p.publishEpoch(it.epoch)
			c.moved(it.p)
		}
		if it.chunk != nil {
			taken += it.chunk.counted
			if it.chunk.pool == &copiedChunks {
				ofBatches += it.chunk.counted
			}
			if i+1 == len(u.items) || u.items[i+1].p != it.p || u.items[i+1].chunk == nil {
				it.p.publish(it.chunk.next)
				c.moved(it.p)
			}
		}
		if it.durable != nil {
			it.durable <- nil
			it.durable = nil
		}
	}
	c.l.taken(taken, ofBatches)
	if c.l.cfg.OnCommit != nil && len(c.done) > 0 {
		c.l.cfg.OnCommit(c.done)
	}
}

// answer tells whoever waits for the entry that it failed.
func (it *item) answer(err error) {
	if it.durable != nil {
		it.durable <- err
	}
	if it.applied != nil {
		it.applied <- err
	}
}
