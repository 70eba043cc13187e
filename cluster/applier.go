package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// partitionTable is what is open here, made from one Image; it does not change after it was published.
type partitionTable struct {
	self    int32 // this broker
	image   *meta.Image
	open    map[log.PartitionID]*Partition
	byLog   map[*log.Partition]*Partition // for onCommit
	offline map[log.PartitionID]error     // replicas that should be here, and why they cannot be used
}

func newPartitionTable(self int32, im *meta.Image) *partitionTable {
	return &partitionTable{
		self: self, image: im, open: map[log.PartitionID]*Partition{}, byLog: map[*log.Partition]*Partition{}, offline: map[log.PartitionID]error{},
	}
}

func (t *partitionTable) find(topic string, index int32) (*Partition, error) {
	mt := t.image.Topic(topic)
	if mt == nil || index < 0 || int(index) >= len(mt.Partitions) {
		return nil, fmt.Errorf("partition %.300s/%d: %w", topic, index, ErrUnknownTopic)
	}
	p, err := t.led(log.PartitionID{Topic: mt.ID, Index: index})
	if err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", topic, index, err)
	}
	return p, nil
}

// led finds a partition that this broker leads. The error names no partition: whoever asks knows it by name.
func (t *partitionTable) led(id log.PartitionID) (*Partition, error) {
	if p := t.open[id]; p != nil && t.leader(id) == t.self {
		return p, nil
	}
	if err := t.offline[id]; err != nil {
		return nil, err
	}
	return nil, ErrNotLeader
}

// leader is who leads a partition by the metadata.
func (t *partitionTable) leader(id log.PartitionID) int32 {
	mt := t.image.TopicByID(id.Topic)
	if mt == nil || id.Index < 0 || int(id.Index) >= len(mt.Partitions) {
		return meta.NoLeader
	}
	return mt.Partitions[id.Index].Leader
}

// offlineIn is the first reason why a partition of mt is offline.
func (t *partitionTable) offlineIn(mt *meta.Topic) error {
	for i := range mt.Partitions {
		if err := t.offline[log.PartitionID{Topic: mt.ID, Index: int32(i)}]; err != nil {
			return err
		}
	}
	return nil
}

// onImage runs on raft's apply goroutine.
func (b *Broker) onImage(*meta.Image) {
	b.images.Lock()
	close(b.images.changed)
	b.images.changed = make(chan struct{})
	b.images.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// onTake runs on the log's committer: followers get records while they are synced here (H2).
func (b *Broker) onTake(ps []*log.Partition) {
	byLog := b.table.Load().byLog
	for _, lp := range ps {
		if p := byLog[lp]; p != nil {
			p.feed()
		}
	}
}

// onCommit runs on the log's committer.
func (b *Broker) onCommit(ps []*log.Partition) {
	byLog := b.table.Load().byLog
	for _, lp := range ps {
		if p := byLog[lp]; p != nil {
			b.completer.add(p)
		}
	}
}

// OnRoom has fn called when the log takes records again that it had refused with log.ErrBusy: whoever holds some back
// need not ask again and again. fn runs on the completer goroutine and must not block; the last one given counts.
func (b *Broker) OnRoom(fn func()) { b.roomFn.Store(&fn) }

func (b *Broker) onRoom() {
	if fn := b.roomFn.Load(); fn != nil {
		b.completer.call(*fn)
	}
}

// reopenEvery is how often a partition that could not be opened for a passing reason is tried again.
const reopenEvery = 2 * time.Second

// applier brings the table in step with each new Image, and tries again what could not be opened.
func (b *Broker) applier(again bool) {
	for {
		if b.unsaved {
			b.saveIdentity()
		}
		var retry <-chan time.Time
		if again || b.unsaved {
			retry = time.After(reopenEvery)
		}
		select {
		case <-b.news:
		case <-retry:
		case <-b.closing:
			return
		}
		again = b.apply(again)
	}
}

// wanted is one partition of which the Image gives this broker a replica.
type wanted struct {
	id    log.PartitionID
	topic *meta.Topic
	meta.Partition
	state replica.State
}

// process is the broker epoch that the metadata knows of a replica.
func (w *wanted) process(id int32) int64 {
	for _, r := range w.state.Replicas {
		if r.ID == id {
			return r.Epoch
		}
	}
	return 0
}

// apply opens, configures and removes replicas until they are as the newest Image says, then publishes the table; with last, that is what the one
// before could not do. It answers whether something should be tried again. Only Open, before the applier exists, and the applier call it.
func (b *Broker) apply(last bool) (again bool) {
	old, im := b.table.Load(), b.node.Image()
	if im == old.image && len(old.offline) == 0 && !last {
		return false
	}
	next := newPartitionTable(b.id, im)
	var fresh, all []wanted
	ours := map[log.PartitionID]bool{}
	for _, t := range im.Topics() {
		for i, mp := range t.Partitions {
			if !slices.Contains(mp.Replicas, b.id) {
				continue
			}
			id := log.PartitionID{Topic: t.ID, Index: int32(i)}
			w := wanted{id, t, mp, stateOf(im, t, &mp)}
			all, ours[id] = append(all, w), true
			p := old.open[id]
			if b.refillable(&w) {
				if err := b.putAside(&w, p); err != nil {
					again = true
					b.cfg.Logger.Error("cannot put a damaged replica aside, trying again", "topic", t.Name, "partition", i, "error", err)
				} else {
					p = nil
				}
			}
			if p == nil {
				fresh = append(fresh, w)
			} else {
				next.keep(p)
			}
		}
	}
	var gone []*Partition
	for id, p := range old.open {
		if !ours[id] {
			gone = append(gone, p)
			p.stop(whyGone(im, id))
		}
	}
	again = b.openAll(fresh, next) || again
	b.noteOpened(im, next)
	for i := range all {
		if p := next.open[all[i].id]; p != nil {
			if err := b.assume(p, &all[i]); err != nil {
				again = true
				b.cfg.Logger.Error("cannot lead or follow a partition, trying again", "topic", p.topic, "partition", p.id.Index, "error", err)
			}
		}
	}
	b.publish(next)
	b.followAll(next)
	b.refilled(all)
	b.remove(gone)
	return again
}

// whyGone is why this broker has a replica no longer: its topic was deleted, or the replica moved, and who waits tries its new leader.
func whyGone(im *meta.Image, id log.PartitionID) error {
	if im.TopicByID(id.Topic) == nil {
		return ErrUnknownTopic
	}
	return ErrNotLeader
}

// assume gives a replica the role that the metadata says, unless it has it. What says that another process has this broker's identity gives that one the
// lead, and its epoch (A7). A broker that has failed takes on nothing any more (A6).
func (b *Broker) assume(p *Partition, w *wanted) error {
	s := settingsOf(w.topic)
	s.log.MaxMessageBytes = min(s.log.MaxMessageBytes, b.cfg.maxBatch())
	defer p.configure(s, w.state)
	leads := w.Leader == b.id && w.process(b.id) == b.epoch
	if p.log.Damaged() != "" || p.was(w.LeaderEpoch, leads) || b.Err() != nil {
		return nil
	}
	if leads {
		p.log.SetConfig(s.of(true))
		if w.LastUnclean == w.LeaderEpoch {
			b.duties.taken(w.id)
		}
		return p.lead(replica.Term{Self: b.id, Epoch: int32(w.LeaderEpoch), State: w.state})
	}
	p.follow(b.id, b.epoch, w.LeaderEpoch, w.LastUnclean > p.log.LastEpoch())
	return nil
}

// stop ends what every replica does.
func (t *partitionTable) stop(reason error) {
	for _, p := range t.open {
		p.stop(reason)
	}
}

func (t *partitionTable) keep(p *Partition) { t.open[p.id], t.byLog[p.log] = p, p }

// opening bounds how many partitions are opened at once: each costs a few syncs, which the disk does together.
const opening = 8

func (b *Broker) openAll(fresh []wanted, into *partitionTable) (again bool) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, opening)
	for _, w := range fresh {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p, err := b.openPartition(w)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				into.keep(p)
				return
			}
			into.offline[w.id] = fmt.Errorf("%w: %w", ErrOffline, err)
			again = again || !errors.Is(err, errLost)
			if before := b.table.Load().offline[w.id]; before == nil { // once, not at every try
				b.cfg.Logger.Error("partition is offline", "topic", w.topic.Name, "partition", w.id.Index, "error", err)
			}
		})
	}
	wg.Wait()
	return again
}

// errLost: a log that has been open here before is gone.
var errLost = errors.New("its log is missing from the data directory: restore it from a backup, make it again empty with `weir repair`, or delete the topic")

func (b *Broker) openPartition(w wanted) (*Partition, error) {
	s := settingsOf(w.topic)
	lp := b.log.Partition(w.id)
	anew := lp == nil && slices.Contains(w.Damaged, b.id)
	if lp == nil {
		if w.Since <= b.ident.Opened && !slices.Contains(w.Damaged, b.id) && (slices.Contains(w.ISR, b.id) || slices.Contains(w.ELR, b.id)) {
			if len(w.Replicas) > 1 {
				b.duties.damaged(w.id, "its log is missing from the data directory") // others can fill it again (E7)
			}
			return nil, errLost
		}
		var err error
		if lp, err = b.log.Create(w.id, w.topic.Name, s.log); err != nil {
			return nil, err
		}
		if b.duties.spoils(w.id) { // else putAside has said so, or there was none before
			b.duties.anew(w.id, false)
		}
	}
	p := &Partition{b: b, id: w.id, topic: w.topic.Name, log: lp, done: b.completer, nowMS: b.nowMS, mono: b.mono, refusal: ErrNotLeader, epoch: -1, role: newIOLock()}
	lp.SetHighWatermark(lp.HighWatermark()) // as it was: retention and compaction go by it from the first moment on
	p.hw.Store(int64(lp.HighWatermark()))
	p.stable.Store(int64(lp.LastStable(lp.HighWatermark())))
	p.begunAnew = b.port != nil && (anew || b.log.HasAside(w.id, w.topic.Name))
	if limit := b.cfg.maxBatch(); s.log.MaxMessageBytes > limit && w.id.Index == 0 && w.topic.Configs[maxMessageBytes] != "" {
		b.cfg.Logger.Warn("the topic promises larger batches than this node takes: alter "+maxMessageBytes+", or make log.journal_file larger",
			"topic", w.topic.Name, maxMessageBytes, s.log.MaxMessageBytes, "limit", limit)
	}
	if why := lp.Damaged(); why != "" {
		// E7: it never leads. What is sound below the damage can still be read.
		b.cfg.Logger.Error("partition is damaged and takes no records", "topic", p.topic, "partition", p.id.Index, "error", why)
		p.refusal = fmt.Errorf("%w: its log is damaged: %s (see `weir inspect data`, then `weir repair`, on the stopped node)", ErrOffline, why)
		if len(w.Replicas) > 1 {
			b.duties.damaged(w.id, why)
		} else { // alone, what is durable is committed; among others only what was known to be (R1)
			p.hw.Store(int64(lp.Durable()))
			p.stable.Store(int64(lp.LastStable(lp.Durable())))
		}
	}
	return p, nil
}

// stateOf is what the metadata says of one partition, as its leader needs it.
func stateOf(im *meta.Image, t *meta.Topic, p *meta.Partition) replica.State {
	st := replica.State{PartitionEpoch: p.PartitionEpoch, Left: p.Left, ISR: p.ISR, MinInsync: p.MinInsync(t.MinInsync)}
	for _, id := range p.Replicas {
		r := replica.Replica{ID: id, Restarted: slices.Contains(p.Restarted, id)}
		if b := im.Broker(id); b != nil {
			r.Epoch, r.Eligible, r.Damaged = b.Epoch, !b.Fenced && !b.Stopping, slices.Contains(p.Damaged, id)
		}
		st.Replicas = append(st.Replicas, r)
	}
	return st
}

// noteOpened makes durable, before any of them takes a record, that the partitions of im have been opened here.
func (b *Broker) noteOpened(im *meta.Image, next *partitionTable) {
	opened := uint64(0) // the newest of them; changes that add none write nothing
	for _, t := range im.Topics() {
		for _, p := range t.Partitions {
			opened = max(opened, p.Since)
		}
	}
	for id, err := range next.offline {
		if !errors.Is(err, errLost) {
			opened = min(opened, im.TopicByID(id.Topic).Partitions[id.Index].Since-1)
		}
	}
	if opened > b.ident.Opened {
		b.ident.Opened = opened
		b.saveIdentity()
	}
}

// saveIdentity is called by Open, then by the applier only. On a full disk it can wait: it makes losses noticed, it does not prevent
// them.
func (b *Broker) saveIdentity() {
	err := b.ident.save(b.cfg.FS, b.cfg.DataDir)
	b.unsaved = err != nil
	switch {
	case errors.Is(err, syscall.ENOSPC):
		b.cfg.Logger.Warn("no room for the node's identity, trying again later", "error", err)
	case err != nil:
		b.fail(err)
	}
}

// publish makes next what everybody sees, then tells topic watchers.
func (b *Broker) publish(next *partitionTable) {
	b.changes.Lock()
	defer b.changes.Unlock()
	b.metadataChanges.Add(int64(next.image.Version - b.table.Load().image.Version))
	b.counts.changed(b.id, b.table.Load().image, next.image)
	b.table.Store(next)
	b.duties.applied(next.image.Version)
	if err := b.Err(); err != nil { // fail may have looked at the table before, and missed what has begun to lead since
		next.stop(err)
	}
	for _, p := range next.open {
		b.completer.add(p) // commits between lead and here found no entry in byLog
	}
	close(b.applied)
	b.applied = make(chan struct{})
	for w := range b.watchers {
		w.fn(next.image)
	}
}

func (b *Broker) remove(gone []*Partition) {
	for _, p := range gone {
		if err := b.log.Delete(p.id); err != nil {
			b.cfg.Logger.Error("remove a log that this broker keeps no longer", "topic", p.topic, "partition", p.id.Index, "error", err)
		}
	}
}

// removeStrays deletes logs of topics that were deleted just before the last stop. The registration has shown that metadata and logs are of
// one age (E5), so no log is here that the metadata does not know yet.
func (b *Broker) removeStrays(im *meta.Image) error {
	for _, lp := range b.log.Partitions() {
		if t := im.TopicByID(lp.ID().Topic); t != nil && int(lp.ID().Index) < len(t.Partitions) && slices.Contains(t.Partitions[lp.ID().Index].Replicas, b.id) {
			continue
		}
		b.cfg.Logger.Info("removing a log that this broker keeps no longer", "topic", lp.Topic(), "partition", lp.ID().Index)
		if err := b.log.Delete(lp.ID()); err != nil {
			return err
		}
	}
	return nil
}

// topicWatcher is one WatchTopics.
type topicWatcher struct{ fn func(*meta.Image) }

// WatchTopics calls fn with the Image in force, before it returns, and with each later one, in order; some may be skipped. fn runs on the applier: it may
// look up partitions, but must not block, change topics, nor call WatchTopics or stop. After stop returned fn runs no more.
func (b *Broker) WatchTopics(fn func(*meta.Image)) (stop func()) {
	w := &topicWatcher{fn}
	b.changes.Lock()
	defer b.changes.Unlock()
	b.watchers[w] = struct{}{}
	fn(b.Image())
	return func() {
		b.changes.Lock()
		defer b.changes.Unlock()
		delete(b.watchers, w)
	}
}

// Partitions lists this broker's replicas, by topic and index.
func (b *Broker) Partitions() []*Partition {
	return slices.SortedFunc(maps.Values(b.table.Load().open), func(x, y *Partition) int {
		return cmp.Or(strings.Compare(x.topic, y.topic), cmp.Compare(x.id.Index, y.id.Index))
	})
}
